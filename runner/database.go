package runner

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// strikesLimit is how many requests in a row may end without their jobs
	// having been run before the whole database is held back.
	strikesLimit = 3
	// holdFirst and holdLimit bound the time a database is held back.
	holdFirst = time.Second
	holdLimit = 30 * time.Second
	// snapshotWait bounds how long a session waits for the engine to take rows.
	snapshotWait = time.Minute
)

// database is what the engine knows of one database.
type database struct {
	driver.Database
	session *session
	cancel  context.CancelFunc

	state       DatabaseState
	detail      string
	fingerprint driver.Fingerprint
	// known is true while the session's snapshot has been applied and its
	// connection lives.
	known bool

	// strikes counts requests that ended without running their job, in a row.
	strikes   int
	heldUntil time.Time
	yielding  bool
	// repairs collects the jobs that the present snapshot changed.
	repairs []string
}

// serving reports whether jobs of the database may be claimed.
func (db *database) serving() bool {
	return db.known && db.heldUntil.IsZero()
}

// leading implements overseer.
func (e *engine) leading(yes bool, holder string) {
	e.mail.post(func() {
		was, before := e.leader, e.leaderDetail
		e.leader, e.leaderDetail = yes, holder
		switch {
		case yes && !was:
			e.log().Info("leading this runner", zap.String("runner", e.config().Name))
		case !yes && holder != "" && (was || before != holder):
			e.log().Info("master election lost: could not acquire master runner lock, standing by",
				zap.String("runner", e.config().Name), zap.String("holder", holder))
		}
		if !yes && holder != "" {
			e.dropDatabases(func(*database) bool { return true })
		}
	})
}

// unreachable implements overseer. The sessions live on: as long as they hold
// the databases' own locks, nobody else can claim. But without the leader lock
// another node may lead, so nothing new is started.
func (e *engine) unreachable(err error) {
	e.mail.post(func() {
		detail := err.Error()
		if e.leader || e.leaderDetail != detail {
			e.log().Error("maintenance connection lost, starting no jobs until it is back",
				zap.String("runner", e.config().Name), zap.Error(err))
		}
		e.leader, e.leaderDetail = false, detail
	})
}

// discovered implements overseer.
func (e *engine) discovered(dbs []driver.Database) {
	e.mail.post(func() {
		if !e.leader || e.stopping {
			return
		}
		e.dropDatabases(func(db *database) bool { return !slices.Contains(dbs, db.Database) })
		for _, d := range dbs {
			if e.databases[d.Name] == nil {
				e.addDatabase(d)
			}
		}
	})
}

// busy implements overseer: whoever drops, renames or copies a database needs
// it for himself.
func (e *engine) busy(names []string) {
	e.mail.post(func() {
		for name, db := range e.databases {
			yield := slices.Contains(names, name)
			if yield == db.yielding {
				continue
			}
			db.yielding = yield
			if yield {
				e.log().Info("leaving a database that is being dropped, renamed or copied", zap.String("database", name))
				e.stopSession(db)
				e.setState(db, DatabaseYielding, "")
			} else {
				e.startSession(db)
			}
		}
	})
}

func (e *engine) addDatabase(d driver.Database) {
	db := &database{Database: d}
	e.databases[d.Name] = db
	e.tree.Suspend(d.Name)
	e.startSession(db)
}

// dropDatabases forgets databases. Tasks whose requests are open live on: when
// the database comes back under the same name, they are found again.
func (e *engine) dropDatabases(which func(*database) bool) {
	for name, db := range e.databases {
		if !which(db) {
			continue
		}
		e.stopSession(db)
		delete(e.databases, name)
		delete(e.held, db)
		e.forget(name)
		e.log().Info("database is not served any more", zap.String("database", name))
	}
}

// forget removes everything of a database from memory, except tasks with an
// open request, whose places stay taken until it ends.
func (e *engine) forget(name string) {
	var gone []channels.Key
	for job := range e.tree.Jobs(name) {
		if t := e.tasks[job.Key]; t == nil || t.phase != phaseOpen {
			gone = append(gone, job.Key)
		}
	}
	for _, key := range gone {
		delete(e.tasks, key)
		delete(e.delays, key)
		e.tree.Remove(key)
	}
}

func (e *engine) startSession(db *database) {
	ctx, cancel := context.WithCancel(e.ctx)
	s := newSession(db.Database, e.config, e)
	db.session, db.cancel = s, cancel
	e.spawn("session", func() {
		// A panic ends one connection, not the service of the database.
		for ctx.Err() == nil && !safely(e.log, "session", func() { s.run(ctx) }) {
			s.out.sessionLost(s, errors.New("panic"))
			sleep(ctx, reconnectLimit)
		}
	})
}

// stopSession ends the session; what it still has to say is not heard.
func (e *engine) stopSession(db *database) {
	if db.cancel == nil {
		return
	}
	db.cancel()
	e.lose(db)
	db.session, db.cancel = nil, nil
}

// lose takes the jobs of a database out of the queues. Running ones keep their
// places; what was being claimed is found by the next snapshot.
func (e *engine) lose(db *database) {
	db.known = false
	e.tree.Suspend(db.Name)
	for key, t := range e.tasks {
		if key.DB != db.Name {
			continue
		}
		switch t.phase {
		case phaseClaiming, phaseUnclaiming, phaseAsked:
			t.phase = phaseWatched
			t.since = time.Now()
		case phaseOpen, phaseWatched:
		}
	}
}

// setState logs transitions only.
func (e *engine) setState(db *database, state DatabaseState, detail string) {
	if db.state == state && (db.detail == detail || state == DatabaseConnecting) {
		return
	}
	if state == DatabaseConnecting && db.state != DatabaseReady {
		return // a further attempt is no news
	}
	db.state, db.detail = state, detail
	fields := []zap.Field{zap.String("database", db.Name), zap.String("detail", detail)}
	switch state {
	case DatabaseUnreachable:
		e.log().Warn("database cannot be reached", fields...)
	case DatabaseUnhealthy:
		e.log().Error("database cannot be served: "+detail, fields[0])
	case DatabaseStandby:
		e.log().Info("master election lost: could not acquire master runner lock on "+db.Name, fields...)
	case DatabaseReady:
		e.log().Info("queue job runner ready for db "+db.Name, fields[0])
	case DatabaseConnecting, DatabaseUndetected, DatabaseLoading, DatabaseHeld, DatabaseYielding:
		e.log().Debug("database is "+state.String(), fields...)
	}
}

// postFor posts f unless the session has been replaced by the time it runs.
func (e *engine) postFor(s *session, f func(db *database)) {
	e.mail.post(func() {
		if db := e.databases[s.db.Name]; db != nil && db.session == s {
			f(db)
		}
	})
}

// sessionState implements listener.
func (e *engine) sessionState(s *session, state DatabaseState, detail string) {
	e.postFor(s, func(db *database) { e.setState(db, state, detail) })
}

// fingerprinted implements listener.
func (e *engine) fingerprinted(s *session, fp driver.Fingerprint) {
	e.postFor(s, func(db *database) {
		db.fingerprint = fp
		switch fp.Health {
		case driver.Undetected:
			e.setState(db, DatabaseUndetected, fp.Description)
			e.forget(db.Name)
		case driver.Unhealthy:
			e.setState(db, DatabaseUnhealthy, fp.Description)
		case driver.Healthy:
		}
	})
}

// sessionLost implements listener.
func (e *engine) sessionLost(s *session, err error) {
	e.postFor(s, func(db *database) {
		e.lose(db)
		detail := "stopped"
		if err != nil {
			detail = err.Error()
		}
		e.setState(db, DatabaseUnreachable, detail)
	})
}

// syncBegin implements listener.
func (e *engine) syncBegin(s *session) {
	e.postFor(s, func(db *database) {
		if !db.known {
			e.setState(db, DatabaseLoading, "")
		}
		db.repairs = nil
		e.tree.BeginSync(db.Name)
	})
}

// syncRows implements listener. It returns when the engine has taken the rows
// but one chunk, so that a large snapshot does not fill the mailbox.
func (e *engine) syncRows(ctx context.Context, s *session, rows []driver.Row) {
	taken := make(chan struct{})
	if !e.mail.post(func() {
		defer close(taken)
		if db := e.databases[s.db.Name]; db != nil && db.session == s {
			e.applySnapshot(db, rows)
		}
	}) {
		return
	}
	t := time.NewTimer(snapshotWait)
	defer t.Stop()
	select {
	case <-taken:
	case <-ctx.Done():
	case <-t.C:
	}
}

// syncEnd implements listener.
func (e *engine) syncEnd(s *session, told map[string]struct{}) {
	e.postFor(s, func(db *database) {
		for _, key := range e.tree.Stale(db.Name) {
			if e.applyGone(key, 0) {
				db.repairs = append(db.repairs, key.UUID)
			}
		}
		if db.known {
			e.reportRepairs(db, told)
			return
		}
		e.makeReady(db)
	})
}

// reportRepairs tells of jobs that a full read put right although a
// notification should have. That is a sign of a mistake somewhere.
func (e *engine) reportRepairs(db *database, told map[string]struct{}) {
	missed := slices.DeleteFunc(db.repairs, func(uuid string) bool {
		_, ok := told[uuid]
		return ok
	})
	db.repairs = nil
	if len(missed) > 0 {
		e.log().Warn("a full read repaired what no notification had told", zap.String("database", db.Name),
			zap.Int("jobs", len(missed)), zap.String("first", missed[0]))
	}
}

// makeReady lets the jobs of a database run.
func (e *engine) makeReady(db *database) {
	db.known, db.repairs = true, nil
	if db.heldUntil.IsZero() {
		e.tree.Resume(db.Name)
		e.setState(db, DatabaseReady, "")
	} else {
		e.setState(db, DatabaseHeld, db.detail)
	}
	if e.allReady() {
		e.log().Info("database connections ready", zap.Int("databases", e.countReady()))
	}
}

// allReady reports whether no database is on its way any more.
func (e *engine) allReady() bool {
	for _, db := range e.databases {
		if db.state == DatabaseConnecting || db.state == DatabaseLoading {
			return false
		}
	}
	return true
}

func (e *engine) countReady() (n int) {
	for _, db := range e.databases {
		if db.state == DatabaseReady {
			n++
		}
	}
	return n
}

// strike counts a request that ended without its job having been run. When that
// happens to one job after the other, the reason is not the jobs: the database
// is held back for a while.
func (e *engine) strike(db *database) {
	db.strikes++
	if db.strikes < strikesLimit || !db.heldUntil.IsZero() {
		return
	}
	hold := backoff{first: holdFirst, limit: holdLimit, attempts: db.strikes - strikesLimit}
	d := hold.next()
	db.heldUntil = time.Now().Add(d)
	e.held[db] = struct{}{}
	e.tree.Suspend(db.Name)
	e.setState(db, DatabaseHeld, "Odoo answered without running the last jobs")
	e.log().Warn("Odoo answers but does not run the jobs of a database, holding them back",
		zap.String("database", db.Name), zap.Duration("for", d))
}

// unhold lets the jobs of a held database run again.
func (e *engine) unhold(db *database) {
	db.heldUntil = time.Time{}
	delete(e.held, db)
	if db.known {
		e.tree.Resume(db.Name)
		e.setState(db, DatabaseReady, "")
	}
}
