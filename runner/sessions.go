package runner

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

func (e *engine) addDatabase(d driver.Database, young bool) {
	db := &database{Database: d, young: young, servedUntil: time.Now(), pause: e.controls.pause(d.Name, "")}
	e.databases.byName[d.Name] = db
	e.tree.Suspend(d.Name)
	e.reserve(db)
	e.startSession(db)
}

// dropDatabases forgets databases. Tasks whose requests are open live on: when the database comes back
// under the same name, they are found again. So do those that may be executing without one if the
// name is in the list of databases: that is another database, in which they may have begun.
func (e *engine) dropDatabases(which func(*database) bool, list ...driver.Database) {
	for name, db := range e.databases.byName {
		if !which(db) {
			continue
		}
		e.stopSession(db)
		e.databases.drop(db)
		replaced := slices.ContainsFunc(list, func(d driver.Database) bool { return d.Name == name })
		if e.forget(name, replaced); !e.anyJob(name) {
			e.tree.RemoveDB(name)
		}
		e.log().Info("database is not served any more", zap.String("database", name))
	}
}

// forget removes everything of a database from memory, except tasks with an open request, whose slots
// stay taken until it ends. If the database may come back as what it is, tasks that may be executing
// without a request of ours stay, too, and what is known of those that are not.
func (e *engine) forget(name string, comesBack bool) {
	var kept []string
	for key, t := range e.tasks {
		switch {
		case key.DB != name:
		case t.phase == phaseOpen || comesBack && t.phase == phaseWatched:
			kept = append(kept, key.UUID)
		case t.phase == phaseParked && comesBack:
		default:
			t.span.leave()
			delete(e.tasks, key)
			e.seats.leave(t)
			if !t.unseen() {
				delete(e.handover.closed, key)
			}
		}
	}
	e.tree.RemoveAllBut(name, kept)
	e.forgetDelays(name)
}

// forgetDelays forgets the pauses of jobs that the tree does not know any more.
func (e *engine) forgetDelays(db string) {
	for key := range e.delays {
		if key.DB == db && !e.knows(key) {
			delete(e.delays, key)
		}
	}
}

// forgetSetbacks forgets the setbacks of those jobs. Only a snapshot that leaves them out allows that.
func (e *engine) forgetSetbacks(db string) {
	for key := range e.setbacks.of {
		if key.DB == db && !e.knows(key) {
			e.setbacks.forget(key)
		}
	}
}

// knows reports whether a job waits, has failed, or is a task.
func (e *engine) knows(key channels.Key) bool {
	_, _, known := e.tree.Lookup(key)
	return known || e.tasks[key] != nil
}

// tasksOf returns the tasks of a database, by uuid.
func (e *engine) tasksOf(db *database) (uuids []string) {
	for key := range e.tasks {
		if key.DB == db.Name {
			uuids = append(uuids, key.UUID)
		}
	}
	return uuids
}

// retire is forget for a database that still exists, and in which nothing may run now. What executes
// keeps its slot as long as something is learnt of it, and then for [mysteryLimit].
func (e *engine) retire(db *database) {
	e.forget(db.Name, true)
	db.reserved, db.read, db.count = nil, false, nil
	e.tree.Withhold(db.Name)
}

func (e *engine) anyJob(name string) bool {
	for range e.tree.Jobs(name) {
		return true
	}
	return false
}

func (e *engine) startSession(db *database) {
	ctx, cancel := context.WithCancel(e.ctx)
	s := e.newSession(db)
	db.session, db.cancel = s, cancel
	e.connections.queue.Hasten(s, e.urgency(db))
	e.spawn("session", func() { s.Run(ctx) })
}

// stopSession ends the session; what it still has to say is not heard.
func (e *engine) stopSession(db *database) {
	e.forgetSleep(db)
	e.forgetGrant(db)
	if db.cancel == nil {
		return
	}
	db.cancel()
	db.session, db.cancel = nil, nil
}

// lose lets go of what was under way in a database. Running jobs keep their slots. What was being
// claimed has not been sent, so its slots are free for other databases; how the claim ended is found
// by the next connection. It returns how many these were.
func (e *engine) lose(db *database) (claiming int) {
	claiming = e.forgetGrant(db)
	for key, t := range e.tasks {
		if key.DB != db.Name {
			continue
		}
		switch t.phase {
		case phaseClaiming:
			claiming++
			e.loseClaim(db, key.UUID, t.chosen)
			delete(e.tasks, key)
			e.refund(key, t)
			e.seats.leave(t)
			e.requeue(key)
		case phaseUnclaiming, phaseAsked, phaseWatched:
			e.rest(key, t)
			if t.phase == phaseWatched {
				e.expire(db, key, t, time.Now()) // it may be there again at each scan, and tell nothing
			}
		case phaseOpen, phaseParked:
		}
	}
	return claiming
}

// loseClaim remembers a claim of which it is not known whether it was made.
func (e *engine) loseClaim(db *database, uuid string, ordered time.Time) {
	if !db.fingerprint.Unguarded || e.leadership.alone(ordered) {
		db.loseClaim(uuid, ordered)
	}
}

// step takes in what happened to a database, and what that means for its tasks.
func (e *engine) step(db *database, what step, detail string) {
	if !e.databases.step(db, what, detail) {
		return
	}
	delete(e.rotation.resting, db)
	e.remain(db)
	if db.session != nil {
		e.connections.queue.Hasten(db.session, e.urgency(db)) // for the next connection
	}
	if claiming := e.lose(db); claiming > 0 && what != stepYield && what != stepChange && what != stepSleep && what != stepLeave {
		e.databases.claimsLost(db)
	}
}

// sessionState takes in how far a session is.
func (e *engine) sessionState(db *database, state session.State, detail string) {
	switch state {
	case session.Connecting:
		e.step(db, stepConnect, "")
	case session.Waiting:
		e.step(db, stepWait, detail)
	case session.Settling:
		e.step(db, stepSettle, detail)
	case session.Standby:
		e.step(db, stepStandby, detail)
	case session.Unreachable, session.Lost:
		e.step(db, stepFail, detail)
	case session.Changed:
		e.step(db, stepChange, "")
	}
}

// fingerprinted takes in what the driver has found in a database.
func (e *engine) fingerprinted(db *database, fp driver.Fingerprint) {
	for _, warning := range fp.Warnings {
		if !slices.Contains(db.fingerprint.Warnings, warning) {
			e.log().Warn(warning, zap.String("database", db.Name))
		}
	}
	db.fingerprint = fp
	switch fp.Health {
	case driver.Undetected:
		e.step(db, stepUndetected, fp.Description)
		e.retire(db)
	case driver.Unhealthy:
		e.step(db, stepUnhealthy, fp.Description)
	case driver.Neutralized:
		e.step(db, stepNeutralized, fp.Description)
		e.retire(db)
	case driver.Healthy:
	}
}

// running takes in the jobs that occupy slots, which count from now on, however long the snapshot takes.
func (e *engine) running(db *database, rows []driver.Row) {
	if db.fingerprint.Health == driver.Neutralized {
		e.retired(db, rows)
		return
	}
	e.unreserve(db)
	for i := range rows {
		e.applyRow(&rows[i], 0, e.tree.Set)
	}
	for _, key := range e.notAmong(db, rows) {
		t := e.tasks[key]
		t.row, t.absent = nil, true // what its row says, a read will tell
		e.rest(key, t)
	}
	db.counted = true
}

// notAmong returns the tasks that are watched in a database, and are not among the rows of all that
// run there.
func (e *engine) notAmong(db *database, rows []driver.Row) (keys []channels.Key) {
	runs := make(map[string]struct{}, len(rows))
	for i := range rows {
		runs[rows[i].UUID] = struct{}{}
	}
	for key, t := range e.tasks {
		if _, ok := runs[key.UUID]; key.DB == db.Name && t.phase == phaseWatched && !ok {
			keys = append(keys, key)
		}
	}
	return keys
}

// retired takes in what still runs in a neutralized database. What does not any more is over as far as
// it concerns us.
func (e *engine) retired(db *database, rows []driver.Row) {
	for _, key := range e.notAmong(db, rows) {
		e.unserve(key, e.tasks[key])
	}
}

// snapshotBegin, snapshotRows and snapshotEnd take a snapshot in.
func (e *engine) snapshotBegin(db *database) {
	if e.step(db, stepLoad, ""); !db.stage.known() {
		db.open = e.config().Exchanges.OpenOf(db.Name)
	}
	db.repairs = nil
	e.tree.BeginSnapshot(db.Name)
}

// snapshotRows applies rows whose memory is used again.
func (e *engine) snapshotRows(db *database, rows []driver.Row) {
	set := e.tree.SetFromSnapshot
	e.inheriting = db.open
	defer func() { e.inheriting = nil }()
	for i := range rows {
		if e.applyRow(&rows[i], 0, set) && db.stage.known() {
			db.repair(rows[i].UUID)
		}
	}
}

func (e *engine) snapshotEnd(db *database, named map[string]struct{}, keys driver.Keys) {
	e.unreserve(db) // what was reserved after it had told what runs, because this process has come to lead once more
	// Tasks among these have ended meanwhile, or were deleted: their rows tell which.
	ended, gone := e.tree.RemoveStale(db.Name, e.tasksOf(db), repairsLimit)
	for _, key := range gone {
		db.repair(key.UUID)
	}
	if len(gone) > 0 {
		e.forgetDelays(db.Name)
		e.forgetSetbacks(db.Name)
	}
	db.open, db.keys = nil, keys
	e.tree.EndSnapshot(db.Name)
	e.notes.emit(Event{Kind: EventResynced, Database: db.Name, Count: len(db.repairs)})
	db.accountAgain()
	e.forgetClosed(db)
	if db.stage.known() {
		e.databases.derive(db)
		e.askEnded(db, ended)
		e.notes.repaired(db, named)
		e.sweep(db)
		return
	}
	for key, t := range e.tasks {
		if key.DB != db.Name || t.phase != phaseParked {
			continue
		}
		db.hidden = db.hidden || t.expired
		if !slices.Contains(ended, key) {
			ended = append(ended, key) // the tree has forgotten it, at the end of an earlier snapshot
		}
	}
	for _, key := range ended {
		if e.tasks[key].phase == phaseParked {
			e.shelve(key) // or it would be in the queues
		}
	}
	e.databases.ready(db)
	e.rotation.hurry()
	db.lostClaims = nil
	e.askEnded(db, ended)
	e.sweep(db)
	e.scanAt = time.Time{} // what is known of parked tasks can be put to use
}

// askEnded has the rows of tasks read that a snapshot did not contain.
func (e *engine) askEnded(db *database, ended []channels.Key) {
	for _, key := range ended {
		t := e.tasks[key]
		switch t.phase {
		case phaseOpen:
			db.session.Read(key.UUID)
		case phaseWatched, phaseParked:
			e.ask(db, key, t)
		case phaseClaiming, phaseUnclaiming, phaseAsked:
		}
	}
}
