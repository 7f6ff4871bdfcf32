package channels

import "time"

// clock is what the passes have told of the time. Rates count by how long it takes, whatever is done
// to the clocks of the system meanwhile; windows follow these.
type clock struct {
	last   time.Time     // of the last pass
	wall   int64         // the same, in microseconds
	passed time.Duration // between the passes, in all
	drift  time.Duration // between the two when that was last compared
}

// clockStep is by how much the clocks of the system have to be set for times that were computed to be
// computed anew. Slewing is followed by the monotonic clock, too, and is none.
const clockStep = 20 * time.Millisecond

// advance takes in the time of a pass. It reports whether the clocks have been set since the last one,
// or there was none.
func (k *clock) advance(now time.Time) (stepped bool) {
	if !k.last.IsZero() {
		k.passed += max(now.Sub(k.last), 0) // by the monotonic clock, if both times have its reading
	}
	first := k.last.IsZero()
	k.last, k.wall = now, now.UnixMicro()
	drift := time.Duration(k.wall)*time.Microsecond - k.passed
	if off := drift - k.drift; first || off > clockStep || off < -clockStep {
		k.drift = drift
		return true
	}
	return false
}

// steady is the time by which rates count, in microseconds.
func (k *clock) steady() int64 { return k.passed.Microseconds() }

// wallAt returns when it will be that late, in microseconds.
func (k *clock) wallAt(steady int64) int64 { return k.wall + steady - k.steady() }

// advanceClock tells the tree the time. Where the system's clocks have been set, what was computed of them
// is computed anew.
func (m *Manager) advanceClock(now time.Time) {
	if m.clock.advance(now) {
		m.recompute()
	}
}
