package runner

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// Slot is a slot that a job holds, with what justifies that, for tests.
type Slot struct {
	channels.Key
	// Because is the justification; empty is none.
	Because string
	// Limit bounds how long the justification may last, since Since; 0 is no bound.
	Limit time.Duration
	Since time.Time
}

// Audit is what a test may know of the engine.
type Audit struct {
	Slots []Slot
	// Faults are contradictions between the tree, the tasks and the stages.
	Faults []string
	// Startable is set when something that could start does not.
	Startable bool
	// Leading is set when this engine leads and starts jobs; Tasks and Parked count tasks.
	Leading       bool
	Tasks, Parked int
	// Ready are the databases whose jobs may be claimed.
	Ready map[string]bool
}

// Audit names what justifies each slot.
func (r *Runner) Audit(ctx context.Context) (a Audit, err error) {
	err = r.ask(ctx, func(e *engine) { a = e.audit(time.Now()) })
	return a, err
}

func (e *engine) audit(now time.Time) (a Audit) {
	a.Leading, a.Tasks = e.leadership.leading && e.leadership.settled, len(e.tasks)
	a.Startable = e.dispatchable() && e.tree.Pending() && e.room(now) > 0 && !e.claims()
	taken := 0
	for _, row := range e.seats.rows {
		taken += row.taken
	}
	if kept := e.keepsRoom(); taken != kept {
		a.Faults = append(a.Faults, fmt.Sprintf("room is kept for %d tasks, and %d are being claimed", taken, kept))
	}
	a.Ready = map[string]bool{}
	reserved := map[channels.Key]*database{}
	for name, db := range e.databases.byName {
		a.Ready[name] = db.serving()
		for _, key := range db.reserved {
			reserved[key] = db
		}
	}
	for key, t := range e.tasks {
		_, state, ok := e.tree.Lookup(key)
		if t.phase == phaseParked {
			a.Parked++
			if ok && state.Running() {
				a.Faults = append(a.Faults, fmt.Sprintf("%s is parked and has a slot", key))
			}
			continue
		}
		if t.expired && !ok || state == channels.Failed && (t.phase == phaseAsked || t.phase == phaseUnclaiming || t.freed) {
			continue // it cannot be read, was parked or has given way
		}
		if !ok || !state.Running() {
			a.Faults = append(a.Faults, fmt.Sprintf("%s is %s and has no slot", key, phaseNames[t.phase]))
			continue
		}
		if t.freed {
			a.Faults = append(a.Faults, fmt.Sprintf("%s has given its slot to others and has it", key))
		}
		a.Slots = append(a.Slots, e.slot(key, t, now))
	}
	held := 0
	for _, s := range e.occupied() {
		held += s.Jobs
	}
	for key, db := range reserved {
		a.Slots = append(a.Slots, Slot{Key: key, Because: "reserved for a job of the former leader", Limit: mysteryLimit + 2*scanInterval, Since: db.reservedAt})
	}
	if held != len(a.Slots) {
		a.Faults = append(a.Faults, fmt.Sprintf("%d slots are taken, by %d tasks and reservations: %+v", held, len(a.Slots), a.Slots))
	}
	return a
}

// keepsRoom counts the tasks for which room is kept.
func (e *engine) keepsRoom() (n int) {
	for _, t := range e.tasks {
		if t.seat != nil && t.phase == phaseClaiming {
			n++
		}
	}
	return n
}

// overSince is since when a task is to give way after [mysteryLimit], which is now if that is not known. One
// whose database is back does so at the next scan.
func overSince(db *database, t *task, now time.Time) time.Time {
	switch {
	case t.over.IsZero() || db == nil:
		return now
	case t.over.Before(db.entered.Add(servedLeast - mysteryLimit)):
		return db.entered.Add(servedLeast - mysteryLimit)
	}
	return t.over
}

// slot says what justifies the slot of a task, in the words of the evidence.
func (e *engine) slot(key channels.Key, t *task, now time.Time) Slot {
	db := e.databases.get(key.DB)
	s := Slot{Key: key, Since: t.since}
	switch t.phase {
	case phaseClaiming:
		s.Because, s.Limit, s.Since = "it is being claimed", time.Minute, t.chosen
		return s
	case phaseUnclaiming, phaseAsked:
		s.Because, s.Limit, s.Since = "its row is being read or put back", mysteryLimit+2*scanInterval, overSince(db, t, now)
		if db == nil || !db.stage.known() {
			s.Because = ""
		}
		return s
	case phaseOpen:
		s.Because = "its request is open"
		return s
	case phaseWatched, phaseParked:
	}
	ev := e.evidence(db, t, now)
	f := ev.judge()
	known := db != nil && db.stage.known()
	switch {
	case known && f != mayExecute && f != undecided:
		// The next scan does something about it.
		s.Because, s.Limit, s.Since = "found to be over, to be put back by the next scan", mysteryLimit+2*scanInterval, overSince(db, t, now)
	case f == undecided:
		s.Because = "a request for it may wait where a second one would not be noticed"
	case !known && ev.concluded() && !e.delays[key].stray && (f == idle || f == unstarted):
		s.Because = ""
	case !known:
		s.Because, s.Limit = "it may execute in a database that cannot be read", mysteryLimit+2*scanInterval
		if db != nil && db.servedUntil.After(s.Since) {
			s.Since = db.servedUntil
		}
	case ev.locks && (ev.row == rowStarted || ev.row == rowEnqueued):
		s.Because, s.Limit = "its row says that it runs, and inspections decide", mysteryLimit+2*scanInterval
		if db.lockedSince.IsZero() {
			s.Limit = 0
		} else if db.lockedSince.After(s.Since) {
			s.Since = db.lockedSince
		}
	case ev.row == rowStarted:
		s.Because = "its row says that it runs"
	case ev.row == rowEnqueued && !ev.dated:
		s.Because = "its row is enqueued by another program"
	case ev.row == rowEnqueued:
		s.Because, s.Limit = "its row is enqueued, and a request may be on its way", lostGrace+2*scanInterval
	case ev.row == rowMystery:
		s.Because, s.Limit = "its row is in a state that is not known", mysteryLimit+2*scanInterval
		if t.mystery.After(s.Since) {
			s.Since = t.mystery
		}
	}
	return s
}
