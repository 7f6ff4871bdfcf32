package channels

import "time"

// clock is the time as the owner of a tree has told it last. All trees of a [Forest] share one. Rates
// and fair shares count by how long it takes, whatever is done to the clocks of the system meanwhile;
// windows follow these.
type clock struct {
	last  time.Time
	wall  int64 // the same, in microseconds
	now   int64 // how long it has been told, in microseconds: the steady clock
	rest  time.Duration
	drift int64 // between the two when that was last compared
	// schedules are what windows mean at present, by the first of them: many channels may have the same.
	schedules map[*Window]schedule
}

// schedule is which of some windows is in force, from when it was found out until another one may be,
// in microseconds; changes is whether it will.
type schedule struct {
	window      *Window
	from, until int64
	changes     bool
}

// clockStep is by how much the clocks of the system have to be set for times that were computed to be
// computed anew, in microseconds. The monotonic clock follows when they are slewed.
const clockStep = int64(20 * time.Millisecond / time.Microsecond)

// set takes in the time. The steady clock goes by the monotonic one if the times have its reading.
func (k *clock) set(now time.Time) {
	if k.last.IsZero() {
		k.drift = never / 2
	} else {
		k.rest += max(now.Sub(k.last), 0)
		k.now += k.rest.Microseconds()
		k.rest %= time.Microsecond
	}
	k.last, k.wall = now, now.UnixMicro()
}

// stepped reports whether the clocks of the system have been set since it was asked last, or there was
// no time then.
func (k *clock) stepped() bool {
	drift := k.wall - k.now
	if off := drift - k.drift; -clockStep <= off && off <= clockStep {
		return false
	}
	k.drift = drift
	clear(k.schedules)
	return true
}

// schedule returns that of some windows, of which there is at least one.
func (k *clock) schedule(windows []Window) schedule {
	s, ok := k.schedules[&windows[0]]
	if ok && s.from <= k.wall && k.wall < s.until {
		return s
	}
	now := time.UnixMicro(k.wall)
	at, changes := nextChange(windows, now)
	s = schedule{window: inForce(windows, now), from: k.wall, until: at.UnixMicro(), changes: changes}
	if k.schedules == nil {
		k.schedules = make(map[*Window]schedule)
	}
	k.schedules[&windows[0]] = s
	return s
}

// wallAt returns when it will be that late by the steady clock, in microseconds.
func (k *clock) wallAt(steady int64) int64 { return k.wall + steady - k.now }

// Observe tells the time at which the changes that follow were seen: fair shares count how long jobs
// run, and a status shows what windows and rates mean then. Next tells it, too.
func (m *Manager) Observe(now time.Time) { m.clock.set(now) }

// Observe is [Manager.Observe], for every tree.
func (f *Forest) Observe(now time.Time) { f.clock.set(now) }

// advanceClock tells the tree the time of a pass. Where the system's clocks have been set, what was
// computed of them is computed anew.
func (m *Manager) advanceClock(now time.Time) {
	m.clock.set(now)
	if m.clock.stepped() {
		m.recompute()
	}
}

// advanceClock tells all trees the time of a pass.
func (f *Forest) advanceClock(now time.Time) {
	f.clock.set(now)
	if !f.clock.stepped() {
		return
	}
	if f.shared != nil {
		f.shared.recompute()
		return
	}
	for _, t := range f.trees {
		t.recompute()
		f.settle(t)
	}
}
