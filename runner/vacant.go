package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// A job that is committed while slots are free is read, chosen and claimed: two statements. Where
// nothing but its row could keep it from starting, the session of the only database is granted to
// claim it along with the read. The grant is for one job, and while it is used nothing else is
// scheduled, so no channel exceeds its capacity. Whatever changes goes through the engine's loop,
// which withdraws the grant first: before it takes in what has happened, so that nothing is claimed
// on the word of what held before.

// grant lets the session claim what it reads next, if that could only be started.
func (e *engine) grant() {
	if e.granted != nil || len(e.databases.byName) != 1 || !e.dispatchable() {
		return
	}
	cfg := e.config()
	if len(cfg.Policies) > 0 || len(e.delays) > 0 || len(e.setbacks.of) > 0 || e.seats.limited ||
		!cfg.Driver.Capabilities().VacantClaims {
		return
	}
	for _, db := range e.databases.byName {
		if db.serving() && e.tree.Vacant(db.Name) {
			e.granted = db
			db.session.Grant(func(uuid string) bool {
				return cfg.Exchanges.Lookup(channels.Key{DB: db.Name, UUID: uuid}) != nil
			})
		}
	}
}

// withdraw takes the grant back, unless it is being used. It waits for nothing.
func (e *engine) withdraw() {
	if e.granted != nil && e.granted.session.Withdraw() {
		e.granted = nil
	}
}

// claiming returns the job that a session claims by a grant, and since when; zero if none does.
func (e *engine) claiming() (key channels.Key, since time.Time) {
	if e.granted == nil {
		return key, since
	}
	key.UUID, since = e.granted.session.Claiming()
	if key.UUID != "" {
		key.DB = e.granted.Name
	}
	return key, since
}

// claims reports whether one does.
func (e *engine) claims() bool {
	key, _ := e.claiming()
	return key.UUID != ""
}

// forgetGrant ends a grant with its session. It returns how many claims are lost.
func (e *engine) forgetGrant(db *database) int {
	if e.granted != db {
		return 0
	}
	e.granted = nil
	if db.session == nil || db.session.Withdraw() {
		return 0
	}
	uuid, since := db.session.Claiming()
	db.session.Answered()
	e.loseClaim(db, uuid, since)
	return 1
}

// vacant takes in what became of a grant. What was claimed has the slot that was free, and goes the
// way of what the scheduler has chosen. A job that is a task already has one, and claimGot knows what
// becomes of it. It may be another job than the one that was read, if a trigger of others has changed
// the row.
func (e *engine) vacant(db *database, v session.Vacant) {
	_, since := db.session.Claiming()
	e.granted = nil
	db.session.Answered()
	e.rowsRead(db, v.Reading)
	for _, attempt := range v.Got {
		job, state, _ := e.tree.Lookup(attempt.Key)
		if state != channels.Pending || e.tasks[attempt.Key] != nil {
			continue // it is not what has been read, so it has no slot, and is put back
		}
		e.tasks[attempt.Key] = &task{phase: phaseClaiming, chosen: since, granted: true}
		e.tree.Set(job, channels.Enqueued)
		db.useful = time.Now()
	}
	e.claimed(db, session.Claims{Got: v.Got})
}
