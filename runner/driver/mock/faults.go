package mock

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Faults are what is wrong with one database. The zero value is a good day.
type Faults struct {
	// OpenErr is returned by OpenSession.
	OpenErr error
	// Fingerprint is reported instead of a healthy one.
	Fingerprint *driver.Fingerprint
	// FingerprintErr, LockErr, ChannelsErr, SnapshotErr, ReadErr, ClaimErr, InspectErr, RescueErr, StopErr,
	// AccountErr, CountErr and UpgradingErr are returned by the method of that name, and UnclaimErr by
	// Unclaim and FailUnclaimed, which then do nothing. The session survives unless the error is a
	// [driver.ErrLost].
	FingerprintErr, LockErr, ChannelsErr, SnapshotErr, ReadErr, ClaimErr, InspectErr, RescueErr, StopErr, AccountErr error
	CountErr, UpgradingErr, UnclaimErr                                                                               error
	// StopDenied is a role that may not signal the backends of others.
	StopDenied bool
	// LoseAfterStop carries the next Stop out but loses the connection before the result arrives. It
	// resets itself.
	LoseAfterStop bool
	// SnapshotErrAfter lets a failing snapshot yield that many rows first.
	SnapshotErrAfter int
	// ProbeErr is returned by Probe, as a lost connection.
	ProbeErr error
	// HangClaim blocks Claim until its context ends, and claims nothing.
	HangClaim bool
	// LoseAfterClaim commits the next claim but loses the connection before the result arrives. It
	// resets itself.
	LoseAfterClaim bool
	// SlowClaim is how long a claim takes before it is committed, and again before its result arrives.
	SlowClaim time.Duration
	// Slow is how long the result of any statement takes to arrive: what it tells is that much older.
	Slow time.Duration
	// Late is how long notifications take to arrive. Their order stays.
	Late time.Duration
	// Locked reports whether another session has locked the row of a job, so that whatever changes rows
	// leaves it out; see [Rows]. It must not call the world.
	Locked func(*Job) bool
	// Frozen is a half-open connection: calls block until their context ends and lose the session,
	// and Wait hears nothing.
	Frozen bool
	// Deaf is a lost registration: notifications stop, which Probe notices.
	Deaf bool
}

// Rows selects the rows of those jobs, for [Faults].
func Rows(uuids ...string) func(*Job) bool {
	return func(j *Job) bool { return slices.Contains(uuids, j.UUID) }
}

// locks reports whether the row of a job is locked.
func (f *Faults) locks(j *Job) bool { return f.Locked != nil && f.Locked(j) }

// UpstreamFaults are what is wrong with one upstream, by name.
type UpstreamFaults struct {
	// CheckErr is returned by Check.
	CheckErr error
	// RefuseN refuses that many requests with status 503.
	RefuseN int
	// CutN breaks that many requests after they were read; the job is not started.
	CutN int
	// FailBeforeSend fails that many requests before anything is sent; a negative number fails all.
	FailBeforeSend int
	// Hang accepts requests and does nothing. They break when it ends.
	Hang bool

	// resume is closed when Hang ends.
	resume chan struct{}
	// killed is closed when the server dies; nil if nothing runs there.
	killed chan struct{}
}

// killedBy is closed when the server dies.
func (f *UpstreamFaults) killedBy() <-chan struct{} {
	if f.killed == nil {
		f.killed = make(chan struct{})
	}
	return f.killed
}

// CrashServer kills all workers of an upstream at once. Others take their place.
func (w *World) CrashServer(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f := w.upstream(name); f.killed != nil {
		close(f.killed)
		f.killed = nil
	}
}

// Fault changes what is wrong with a database.
func (w *World) Fault(db string, change func(*Faults)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.database(db)
	change(&d.faults)
	for s := range d.sessions {
		s.signal()
	}
}

// become changes what is found in a database. What its workers do stays the same.
func (f *Faults) become(fp driver.Fingerprint) {
	fp.Locks = f.Fingerprint == nil || f.Fingerprint.Locks
	fp.Unguarded = f.Fingerprint != nil && f.Fingerprint.Unguarded
	f.Fingerprint = &fp
}

// copied reports whether the database is a copy for trials.
func (db *database) copied() bool { return db.fingerprint().Health == driver.Neutralized }

// changed tells whether the database is still what the session has found, as far as that is checked
// without examining it anew: whether the application is there, with lock rows or without, and whether
// the database is a copy for trials.
func (s *session) changed() error {
	switch now := s.db.fingerprint(); {
	case s.db.copied():
		return fmt.Errorf("%w: it was neutralized", driver.ErrChanged)
	case now.Health == driver.Undetected, now.Locks != s.found.Locks, now.Version != s.found.Version && now.Version != "":
		return fmt.Errorf("%w: the add-on was changed", driver.ErrChanged)
	}
	return nil
}

// Undetected makes a database one without the application.
func (w *World) Undetected(db string) {
	w.Fault(db, func(f *Faults) {
		f.become(driver.Fingerprint{Health: driver.Undetected, Description: "the add-on is not installed"})
	})
}

// Neutralized makes a database a copy for trials.
func (w *World) Neutralized(db string) {
	w.Fault(db, func(f *Faults) {
		f.become(driver.Fingerprint{Health: driver.Neutralized, Description: "a copy for trials", Generation: Generation})
	})
}

// Unhealthy makes a database one that cannot be served.
func (w *World) Unhealthy(db, why string) {
	w.Fault(db, func(f *Faults) {
		f.become(driver.Fingerprint{Health: driver.Unhealthy, Description: why, Generation: Generation})
	})
}

// WithoutLocks makes a database one whose workers keep no lock rows.
func (w *World) WithoutLocks(db string) {
	w.Fault(db, func(f *Faults) {
		f.Fingerprint = &driver.Fingerprint{Health: driver.Healthy, Description: "ready", Generation: "mock"}
	})
}

// Unguarded makes a database one whose workers keep no lock rows, and do not notice two requests
// for one job.
func (w *World) Unguarded(db string) {
	w.Fault(db, func(f *Faults) {
		f.Fingerprint = &driver.Fingerprint{Health: driver.Healthy, Description: "ready", Generation: "mock", Unguarded: true}
	})
}

// UpstreamFault changes what is wrong with the upstream of that name.
func (w *World) UpstreamFault(name string, change func(*UpstreamFaults)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.upstream(name)
	resume, killed := f.resume, f.killed
	change(f)
	f.killed = killed
	if f.resume = resume; f.Hang && resume == nil {
		f.resume = make(chan struct{})
	} else if !f.Hang && resume != nil {
		close(resume)
		f.resume = nil
	}
}

func (w *World) upstream(name string) *UpstreamFaults {
	if w.upstreams[name] == nil {
		w.upstreams[name] = &UpstreamFaults{}
	}
	return w.upstreams[name]
}

// LoseSession terminates every session of a database; their locks are free.
func (w *World) LoseSession(db string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loseSessions(w.database(db))
}

func (w *World) loseSessions(db *database) {
	for s := range db.sessions {
		s.lose()
	}
}

// LoseClusters terminates every maintenance connection; leader locks are free.
func (w *World) LoseClusters() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.clusters {
		c.lose()
	}
}

// Down stops PostgreSQL: every connection is lost and no new one is made.
func (w *World) Down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = errors.New("connection refused")
	for _, db := range w.databases {
		w.loseSessions(db)
	}
	for c := range w.clusters {
		c.lose()
	}
}

// Up starts PostgreSQL again.
func (w *World) Up() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = nil
}

// LockHeldBy lets a foreign runner hold the lock of a database; an empty holder gives it back. A
// session that has the lock loses it without being told.
func (w *World) LockHeldBy(db, holder string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.database(db)
	d.foreign = holder
	if holder != "" {
		d.holder = nil
	}
}

// LeadHeldBy lets a foreign node hold a leader lock; an empty holder gives it back. A cluster
// connection that has the lock loses it without being told.
func (w *World) LeadHeldBy(key int64, holder string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.foreign, key)
	if holder != "" {
		w.foreign[key] = holder
		delete(w.leaders, key)
	}
}
