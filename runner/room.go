package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// defaultObjective is how long a job may wait, unless a policy says so, before what is reserved to
// visitors does not hold it back any more.
var defaultObjective = &policy.Objective{Wait: 10 * time.Minute}

// overdueInterval is the time between two searches for a job that has waited that long.
const overdueInterval = time.Second

// seats counts the tasks that are being claimed and for which room is kept at the servers, because
// nothing is claimed that no server could take.
type seats struct {
	// limited is set while servers have limits, or pools; otherwise nothing is counted.
	limited bool
	// rows are by where tasks may run, in the order of their first mention. The first one is that of the
	// servers that belong to no pool, and the only one where there are no pools.
	rows []*seatRow
	// objectives are the policies that say how long jobs may wait, and least is the shortest time.
	objectives *policy.Set
	least      time.Duration
}

// seatRow is that for the tasks of one class.
type seatRow struct {
	class upstream.Class
	taken int
	// overdue is whether a job has waited for long, as it was at overdueAt.
	overdue   bool
	overdueAt time.Time
	// shutSince is since when jobs that could start have found no room; zero while there is some, or none
	// could. Dates of rows can be anything, and what waited for long can be a job that is paused.
	shutSince time.Time
}

// configure makes a row for each class that policies name. What is known of one that stays is kept.
func (s *seats) configure(limited bool, policies []policy.Policy) {
	old := s.rows
	s.limited, s.rows = limited, nil
	add := func(c upstream.Class) {
		if s.row(c) != nil {
			return
		}
		for _, r := range old {
			if r.class == c {
				s.rows = append(s.rows, r)
				return
			}
		}
		s.rows = append(s.rows, &seatRow{class: c})
	}
	add(upstream.Class{})
	s.objectives, s.least = nil, defaultObjective.Wait
	for i := range policies {
		if p := policies[i].Pool; p != nil {
			add(upstream.Class(*p))
		}
		if o := policies[i].Objective; o != nil {
			s.objectives, s.least = policy.Compile(policies), min(s.least, o.Wait)
		}
	}
	for _, r := range s.rows {
		r.overdueAt = time.Time{}
	}
}

// objective returns how long the jobs of a database in a channel may wait.
func (s *seats) objective(channel, database string) *policy.Objective {
	if o := s.objectives.Objective(channel, database); o != nil {
		return o
	}
	return defaultObjective
}

// row returns that of a class, nil if no policy names that.
func (s *seats) row(c upstream.Class) *seatRow {
	for _, r := range s.rows {
		if r.class == c {
			return r
		}
	}
	return nil
}

// gated returns the row of the tasks that have to pass a gate of the tree.
func (s *seats) gated(gate string) *seatRow {
	for _, r := range s.rows {
		if r.class.String() == gate {
			return r
		}
	}
	return s.rows[0]
}

func (s *seats) take(t *task, r *seatRow) {
	if s.limited {
		t.seat = r
		r.taken++
	}
}

func (s *seats) leave(t *task) {
	if t.seat != nil {
		t.seat.taken--
		t.seat = nil
	}
}

// pools reports whether some jobs run on the servers of pools.
func (s *seats) pools() bool { return len(s.rows) > 1 }

// rowOf returns the row of a job that the scheduler has chosen; the first one where there are no pools.
func (e *engine) rowOf(key channels.Key) *seatRow {
	if !e.seats.pools() {
		return e.seats.rows[0]
	}
	return e.seats.gated(e.tree.Gate(key))
}

// classOf says where a job may run.
func (e *engine) classOf(key channels.Key) upstream.Class { return e.rowOf(key).class }

// room returns how many jobs a pass may start.
func (e *engine) room(now time.Time) int {
	if e.seats.pools() {
		e.rooms(now)
		// The gates of the tree bound it. A pass is needed even if all are shut: until it is done, the tree
		// has something pending, and the engine would come back at once, and again.
		return passLimit
	}
	row := e.seats.rows[0]
	if !e.seats.limited {
		row.shutSince = time.Time{}
		return passLimit
	}
	room := e.pool.Room("")
	free := room.Free - row.taken
	row.shut(free <= 0 && e.due(now), now)
	if free <= 0 && e.yields(row, row.taken, room, now) {
		return 1
	}
	return min(max(free, 0), passLimit)
}

// rooms tells the tree how many jobs of each class may start. Those that run on the same servers now share
// the room of the first of their classes.
func (e *engine) rooms(now time.Time) {
	rows := e.seats.rows
	rooms := make([]channels.Room, len(rows))
	taken := make(map[string]int, len(rows)) // by the pool that serves the row now
	gates := make(map[string]string, len(rows))
	for i, row := range rows {
		serving, gate := e.pool.Serving(row.class), row.class.String()
		rooms[i].Gate = gate
		if first, ok := gates[serving]; ok {
			rooms[i].Of = first
		} else {
			gates[serving] = gate
		}
		taken[serving] += row.taken
	}
	reserved := make([]upstream.Room, len(rows))
	for i, row := range rows {
		if rooms[i].Of == "" {
			reserved[i] = e.pool.Room(row.class.Pool)
			rooms[i].Free = max(reserved[i].Free-taken[row.class.Pool], 0)
		}
	}
	e.tree.SetRooms(rooms)
	for i, row := range rows {
		if rooms[i].Of != "" {
			continue
		}
		shut := rooms[i].Free == 0 && reserved[i].Visited
		if row.shut(shut && e.waits(rooms, i), now); shut && e.yields(row, taken[row.class.Pool], reserved[i], now) {
			rooms[i].Free = 1
			e.tree.SetRooms(rooms)
		}
	}
}

// waits reports whether only the lack of room at one gate, or at those that share its room, keeps a job
// waiting.
func (e *engine) waits(rooms []channels.Room, at int) bool {
	for i := range rooms {
		if (i == at || rooms[i].Of == rooms[at].Gate) && e.tree.Waits(rooms[i].Gate) {
			return true
		}
	}
	return false
}

// yields reports whether a job may have what is reserved to visitors: when one has waited for long, one
// at a time, so that only such a job runs.
func (e *engine) yields(row *seatRow, taken int, room upstream.Room, now time.Time) bool {
	since := row.shutSince
	return room.Reserved > 0 && room.Jobs+taken == 0 && !since.IsZero() && now.Sub(since) >= e.seats.least && e.overdue(row, now)
}

// shut notes whether jobs that could start find no room.
func (r *seatRow) shut(shut bool, now time.Time) {
	switch {
	case !shut:
		r.shutSince = time.Time{}
	case r.shutSince.IsZero():
		r.shutSince = now
	}
}

// due reports whether a pass would start something.
func (e *engine) due(now time.Time) bool {
	at := e.tree.Wakeup()
	return e.tree.Pending() || !at.IsZero() && !at.After(now)
}

// overdue reports whether too many jobs have been ready for too long, while none found room.
func (e *engine) overdue(r *seatRow, now time.Time) bool {
	if !r.overdueAt.IsZero() && now.Sub(r.overdueAt) < overdueInterval {
		return r.overdue
	}
	r.overdue, r.overdueAt = false, now
	type count struct{ late, all int }
	counts := make(map[*policy.Objective]count)
	objectives := make(map[[2]string]*policy.Objective)
	e.tree.Waiting(now, func(w channels.Waiting) {
		if e.seats.pools() && e.pool.Serving(e.seats.gated(w.Gate).class) != r.class.Pool {
			return
		}
		of := [2]string{w.Channel, w.DB}
		o := objectives[of]
		if o == nil {
			o = e.seats.objective(w.Channel, w.DB)
			objectives[of] = o
		}
		c := counts[o]
		c.all++
		if now.Sub(w.Since) >= o.Wait && now.Sub(r.shutSince) >= o.Wait {
			c.late++
		}
		counts[o] = c
	})
	for o, c := range counts {
		r.overdue = r.overdue || o.Missed(c.late, c.all)
	}
	return r.overdue
}

// roomAt is when a pass that is due at a moment, zero for none, can start something: that moment while
// there is room. Otherwise something is told when there may be, unless it is visitors who leave.
func (e *engine) roomAt(pass, now time.Time) time.Time {
	if e.seats.pools() {
		if later := now.Add(upstream.RecheckInterval); e.crowded() && (pass.IsZero() || later.Before(pass)) {
			return later
		}
		return pass
	}
	if pass.IsZero() || e.room(now) > 0 {
		return pass
	}
	if later := now.Add(upstream.RecheckInterval); pass.Before(later) {
		return later
	}
	return pass
}

// crowded reports whether jobs wait for room that visitors may have taken.
func (e *engine) crowded() bool {
	for _, row := range e.seats.rows {
		if r := e.pool.Room(e.pool.Serving(row.class)); r.Visited && r.Free == 0 && e.tree.Gated(row.class.String()) {
			return true
		}
	}
	return false
}
