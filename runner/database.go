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
	// strikesLimit is how many different jobs in a row may not have been run by
	// their requests before the whole database is held back.
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

	// struck are the last different jobs whose requests ended without running
	// them, with no other request in between, and holds counts how often the
	// database was held back for that.
	struck []string
	holds  int
	// claimsLost counts connections in a row that were lost while claiming.
	claimsLost int
	heldUntil  time.Time
	heldWhy    string
	// complaint is what was logged last about the connection.
	complaint string
	yielding  bool
	// pause is set while somebody has paused the database.
	pause *Pause
	// misconfigured says why the database's own channel tree lets nothing run.
	misconfigured string
	// unreadable is set when that is because its configuration cannot be read.
	unreadable bool
	// repairs collects the jobs that the present snapshot changed.
	repairs []string
}

// serving reports whether jobs of the database may be claimed.
func (db *database) serving() bool {
	return db.known && db.heldUntil.IsZero() && db.pause == nil
}

// leading implements overseer.
func (e *engine) leading(yes bool, holder string) {
	e.mail.post(func() {
		was, before := e.leader, e.leaderDetail
		e.leader, e.leaderDetail, e.leaderKnown = yes, holder, yes || holder != ""
		switch {
		case yes && !was:
			e.log().Info("leading this runner")
			e.emit(Event{Kind: EventLeaderChanged, Detail: leadingDetail})
		case !yes && holder != "" && (was || before != holder):
			e.log().Info("master election lost: could not acquire master runner lock, standing by",
				zap.String("holder", holder))
			e.emit(Event{Kind: EventLeaderChanged, Detail: holder})
		}
		if !yes && holder != "" {
			e.settledIn, e.settleBy = false, time.Time{}
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
				zap.Error(err))
		}
		if e.leader {
			e.emit(Event{Kind: EventLeaderChanged, Detail: detail})
		}
		e.leader, e.leaderDetail, e.leaderKnown = false, detail, false
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
		if e.settleBy.IsZero() {
			e.settleBy = time.Now().Add(settleWait)
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
	db := &database{Database: d, pause: e.controls.pause(d.Name, "")}
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
		if e.forget(name); !e.anyJob(name) {
			e.tree.RemoveDB(name)
		}
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
		if t := e.tasks[key]; t != nil {
			t.span.leave()
			delete(e.tasks, key)
		}
		delete(e.delays, key)
		e.tree.Remove(key)
	}
}

func (e *engine) anyJob(name string) bool {
	for range e.tree.Jobs(name) {
		return true
	}
	return false
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
// places. What was being claimed has not been sent, so its places are free for
// other databases; how the claim ended is found by the next snapshot. It returns
// how many these were.
func (e *engine) lose(db *database) (claiming int) {
	db.known = false
	e.tree.Suspend(db.Name)
	for key, t := range e.tasks {
		if key.DB != db.Name {
			continue
		}
		switch t.phase {
		case phaseClaiming:
			claiming++
			delete(e.tasks, key)
			e.requeue(key)
		case phaseUnclaiming, phaseAsked:
			t.phase = phaseWatched
			t.since = time.Now()
		case phaseOpen, phaseWatched:
		}
	}
	return claiming
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
	e.noteState(db)
	fields := []zap.Field{zap.String("database", db.Name), zap.String("detail", detail)}
	switch state {
	case DatabaseUnreachable:
		if db.complaint != detail {
			e.log().Warn("database cannot be reached", fields...)
		}
		db.complaint = detail
	case DatabaseUnhealthy:
		e.log().Log(db.severity(detail), "database cannot be served: "+detail, fields[0])
	case DatabaseStandby:
		e.log().Info("master election lost: could not acquire master runner lock on "+db.Name, fields...)
	case DatabaseReady:
		db.complaint = ""
		e.log().Info("queue job runner ready for db "+db.Name, fields[0])
	case DatabaseNeutralized:
		e.log().Info(detail, fields[0])
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
		for _, warning := range fp.Warnings {
			if !slices.Contains(db.fingerprint.Warnings, warning) {
				e.log().Warn(warning, zap.String("database", db.Name))
			}
		}
		db.fingerprint = fp
		switch fp.Health {
		case driver.Undetected:
			e.setState(db, DatabaseUndetected, fp.Description)
			e.forget(db.Name)
			e.tree.Withhold(db.Name)
		case driver.Unhealthy:
			e.setState(db, DatabaseUnhealthy, fp.Description)
		case driver.Neutralized:
			e.setState(db, DatabaseNeutralized, fp.Description)
			e.forget(db.Name)
			e.tree.Withhold(db.Name)
		case driver.Healthy:
		}
	})
}

// sessionLost implements listener.
func (e *engine) sessionLost(s *session, err error) {
	e.postFor(s, func(db *database) {
		if e.lose(db) > 0 && db.heldUntil.IsZero() {
			// Its turn would come again and again at the expense of others.
			e.hold(db, db.claimsLost, "the last jobs could not be claimed")
			db.claimsLost++
		}
		if errors.Is(err, errChanged) {
			e.setState(db, DatabaseConnecting, "")
			return
		}
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
// before these, so that a large snapshot does not fill the mailbox, and is read
// while the engine works. It reports whether the engine has.
func (e *engine) syncRows(ctx context.Context, s *session, rows []driver.Row) (earlier bool) {
	earlier = true
	if s.taken != nil {
		t := time.NewTimer(snapshotWait)
		defer t.Stop()
		select {
		case <-s.taken:
		case <-ctx.Done():
			earlier = false
		case <-t.C:
			earlier = false
		}
	}
	taken := make(chan struct{})
	s.taken = taken
	if !e.mail.post(func() {
		defer close(taken)
		if db := e.databases[s.db.Name]; db != nil && db.session == s {
			e.applySnapshot(db, rows)
		}
	}) {
		close(taken)
	}
	return earlier
}

// syncEnd implements listener.
func (e *engine) syncEnd(s *session, told map[string]struct{}) {
	e.postFor(s, func(db *database) {
		for _, key := range e.tree.Stale(db.Name) {
			if e.applyGone(key) {
				db.repairs = append(db.repairs, key.UUID)
			}
		}
		e.emit(Event{Kind: EventResynced, Database: db.Name, Count: len(db.repairs)})
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
		e.emit(Event{Kind: EventResyncRepaired, Database: db.Name, Count: len(missed)})
		e.log().Warn("a full read repaired what no notification had told", zap.String("database", db.Name),
			zap.Int("jobs", len(missed)), zap.String("first", missed[0]))
	}
}

// makeReady lets the jobs of a database run.
func (e *engine) makeReady(db *database) {
	db.known, db.repairs = true, nil
	e.open(db)
	if e.allReady() {
		e.log().Info("database connections ready", zap.Int("databases", e.countReady()))
	}
}

// open lets the jobs of a database into the queues whose rows are known, unless
// something speaks against it, and says so.
func (e *engine) open(db *database) {
	e.resume(db)
	switch {
	case !db.heldUntil.IsZero():
		e.setState(db, DatabaseHeld, db.heldWhy)
	case db.misconfigured != "":
		e.setState(db, DatabaseUnhealthy, db.misconfigured)
	default:
		e.setState(db, DatabaseReady, "")
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

// settling reports whether some database may still tell of jobs that run.
func (e *engine) settling() bool {
	for _, db := range e.databases {
		if db.state == DatabaseConnecting || db.state == DatabaseLoading || db.state == DatabaseStandby {
			return true
		}
	}
	return false
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
// happens to different jobs one after the other, the reason is not the jobs: the
// database is held back for a while.
func (e *engine) strike(db *database, uuid string) {
	db.struck = append(slices.DeleteFunc(db.struck, func(s string) bool { return s == uuid }), uuid)
	if len(db.struck) > strikesLimit {
		db.struck = slices.Delete(db.struck, 0, 1)
	}
	if len(db.struck) < strikesLimit || !db.heldUntil.IsZero() {
		return
	}
	e.hold(db, db.holds, "the last requests ended without their jobs having been run")
	db.holds++
}

// hold keeps the jobs of a database back for a while that grows with the number
// of times that this has been necessary.
func (e *engine) hold(db *database, times int, why string) {
	pause := backoff{first: holdFirst, limit: holdLimit, attempts: times}
	d := pause.next()
	db.heldUntil, db.heldWhy = time.Now().Add(d), why
	e.held[db] = struct{}{}
	e.tree.Suspend(db.Name)
	e.setState(db, DatabaseHeld, why)
	e.log().Warn("holding back the jobs of a database", zap.String("database", db.Name),
		zap.String("reason", why), zap.Duration("for", d))
}

// unhold lets the jobs of a held database run again.
func (e *engine) unhold(db *database) {
	db.heldUntil = time.Time{}
	delete(e.held, db)
	if db.known {
		e.open(db)
	}
}
