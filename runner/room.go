package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// waitObjective is how long a job may wait before what is reserved to visitors does not hold it back
// any more.
const waitObjective = 10 * time.Minute

// overdueInterval is the time between two searches for a job that has waited that long.
const overdueInterval = time.Second

// seats counts the tasks that are being claimed and for which room is kept at the servers, because
// nothing is claimed that no server could take.
type seats struct {
	// limited is set while servers have limits; otherwise nothing is counted.
	limited bool
	taken   int
	// overdue is whether a job has waited for long, as it was at overdueAt.
	overdue   bool
	overdueAt time.Time
	// shutSince is since when jobs that could start have found no room; zero while there is some, or none
	// could. Dates of rows can be anything, and what waited for long can be a job that is paused.
	shutSince time.Time
}

func (s *seats) take(t *task) {
	if s.limited {
		t.seated = true
		s.taken++
	}
}

func (s *seats) leave(t *task) {
	if t.seated {
		t.seated = false
		s.taken--
	}
}

// room returns how many jobs a pass may start.
func (e *engine) room(now time.Time) int {
	if !e.seats.limited {
		e.seats.shutSince = time.Time{}
		return passLimit
	}
	room := e.pool.Room()
	free := room.Free - e.seats.taken
	e.seats.shut(free <= 0 && e.due(now), now)
	if free <= 0 && e.yields(room, now) {
		return 1
	}
	return min(max(free, 0), passLimit)
}

// yields reports whether a job may have what is reserved to visitors: when one has waited for long, one
// at a time, so that only such a job runs.
func (e *engine) yields(room upstream.Room, now time.Time) bool {
	since := e.seats.shutSince
	return room.Reserved > 0 && room.Jobs+e.seats.taken == 0 && !since.IsZero() && now.Sub(since) >= waitObjective && e.overdue(now)
}

// shut notes whether jobs that could start find no room.
func (s *seats) shut(shut bool, now time.Time) {
	switch {
	case !shut:
		s.shutSince = time.Time{}
	case s.shutSince.IsZero():
		s.shutSince = now
	}
}

// due reports whether a pass would start something.
func (e *engine) due(now time.Time) bool {
	at := e.tree.Wakeup()
	return e.tree.Pending() || !at.IsZero() && !at.After(now)
}

// overdue reports whether a job has been ready for too long.
func (e *engine) overdue(now time.Time) bool {
	s := &e.seats
	if !s.overdueAt.IsZero() && now.Sub(s.overdueAt) < overdueInterval {
		return s.overdue
	}
	s.overdue, s.overdueAt = false, now
	for _, since := range e.tree.Oldest(now) {
		s.overdue = s.overdue || now.Sub(since) >= waitObjective
	}
	return s.overdue
}

// roomAt is when a pass that is due at a moment can start something: that moment while there is room.
// Otherwise something is told when there may be, unless it is visitors who leave.
func (e *engine) roomAt(pass, now time.Time) time.Time {
	if e.room(now) > 0 {
		return pass
	}
	if later := now.Add(upstream.RecheckInterval); pass.Before(later) {
		return later
	}
	return pass
}
