package runner

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

func (e *engine) addDatabase(d driver.Database) {
	db := &database{Database: d, pause: e.controls.pause(d.Name, "")}
	e.databases.byName[d.Name] = db
	e.tree.Suspend(d.Name)
	e.startSession(db)
}

// dropDatabases forgets databases. Tasks whose requests are open live on: when the database comes back
// under the same name, they are found again.
func (e *engine) dropDatabases(which func(*database) bool) {
	for name, db := range e.databases.byName {
		if !which(db) {
			continue
		}
		e.stopSession(db)
		e.databases.drop(db)
		if e.forget(name); !e.anyJob(name) {
			e.tree.RemoveDB(name)
		}
		e.log().Info("database is not served any more", zap.String("database", name))
	}
}

// forget removes everything of a database from memory, except tasks with an open request, whose slots
// stay taken until it ends.
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
	s := e.newSession(db)
	db.session, db.cancel = s, cancel
	e.spawn("session", func() { s.Run(ctx) })
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

// lose takes the jobs of a database out of the queues. Running ones keep their slots. What was being
// claimed has not been sent, so its slots are free for other databases; how the claim ended is found
// by the next snapshot. It returns how many these were.
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
			t.watch()
		case phaseOpen, phaseWatched:
		}
	}
	return claiming
}

// sessionState takes in how far a session is.
func (e *engine) sessionState(db *database, state session.State, detail string) {
	switch state {
	case session.Connecting:
		e.databases.setState(db, DatabaseConnecting, detail)
	case session.Standby:
		e.databases.setState(db, DatabaseStandby, detail)
	case session.Unreachable:
		e.databases.setState(db, DatabaseUnreachable, detail)
	case session.Lost, session.Changed:
		if e.lose(db) > 0 {
			e.databases.claimsLost(db)
		}
		if state == session.Changed {
			e.databases.setState(db, DatabaseConnecting, "")
		} else {
			e.databases.setState(db, DatabaseUnreachable, detail)
		}
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
		e.databases.setState(db, DatabaseUndetected, fp.Description)
		e.forget(db.Name)
		e.tree.Withhold(db.Name)
	case driver.Unhealthy:
		e.databases.setState(db, DatabaseUnhealthy, fp.Description)
	case driver.Neutralized:
		e.databases.setState(db, DatabaseNeutralized, fp.Description)
		e.forget(db.Name)
		e.tree.Withhold(db.Name)
	case driver.Healthy:
	}
}

// snapshotBegin, snapshotRows and snapshotEnd take a snapshot in.
func (e *engine) snapshotBegin(db *database) {
	if !db.known {
		e.databases.setState(db, DatabaseLoading, "")
	}
	db.repairs = nil
	e.tree.BeginSnapshot(db.Name)
}

// snapshotRows applies rows whose memory is used again.
func (e *engine) snapshotRows(db *database, rows []driver.Row) {
	set := e.tree.SetFromSnapshot
	for i := range rows {
		if e.applyRow(&rows[i], 0, set) && db.known {
			db.repairs = append(db.repairs, rows[i].UUID)
		}
	}
}

func (e *engine) snapshotEnd(db *database, named map[string]struct{}) {
	for _, key := range e.tree.Stale(db.Name) {
		if e.applyGone(key) {
			db.repairs = append(db.repairs, key.UUID)
		}
	}
	e.notes.emit(Event{Kind: EventResynced, Database: db.Name, Count: len(db.repairs)})
	if db.known {
		e.notes.repaired(db, named)
		return
	}
	e.databases.ready(db)
}
