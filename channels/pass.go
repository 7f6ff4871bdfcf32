package channels

import (
	"slices"
	"time"
)

// Next does one scheduling pass (docs/contract.md 2.2): it returns the jobs to start now, best
// first. They count as running from now on; a job that could not be started is given back with Set.
//
// A limit above 0 bounds the number of jobs; the rest is left for the next call, and Pending
// reports true meanwhile. What a pass costs depends on the channels in which something changed or
// became due, not on how many there are. If very many jobs become due at once, a pass is as if it
// were a little earlier, and Wakeup asks for the next one.
func (m *Manager) Next(now time.Time, limit int) []Key {
	due := dueLimit
	m.advanceClock(now)
	return m.next(now, limit, &due)
}

// dueLimit bounds the jobs that a pass makes ready because their eta has come.
const dueLimit = 2000

// next is Next. It takes the jobs that have become due off what is left of their bound.
func (m *Manager) next(now time.Time, limit int, due *int) []Key {
	t := now.UnixMicro()
	keys := m.climb(t, limit, due)
	// Limits that were reached may have sent jobs back, so that others go instead of them.
	for m.shares != nil && m.dirtyCount > 0 && (limit <= 0 || len(keys) < limit) {
		left := 0
		if limit > 0 {
			left = limit - len(keys)
		}
		keys = append(keys, m.climb(t, left, due)...)
	}
	return keys
}

// climb lets jobs pass once, from the deepest channels to root.
func (m *Manager) climb(t int64, limit int, due *int) []Key {
	for *due > 0 && m.timers.len() > 0 && m.timers.first().timer <= t {
		m.expire(m.timers.first(), t, due)
	}
	// Deepest first: what a channel yields goes one level up, so a level is complete when the one
	// below is done.
	for depth := len(m.dirty) - 1; depth > 0; depth-- {
		for len(m.dirty[depth]) > 0 {
			c := m.dirty[depth][len(m.dirty[depth])-1]
			m.advance(c, t)
		}
	}
	return m.start(t, limit)
}

// Pending reports whether a pass would move or start a job that is ready. Jobs with an eta and
// throttled channels do not count before their time has come and a pass has seen it: ask Wakeup
// too.
func (m *Manager) Pending() bool { return m.dirtyCount > 0 }

// Wakeup returns the time of the next pass that is needed even if nothing changes, or the zero time
// if there is none (docs/contract.md 2.6). It can be in the past: then a pass is due.
func (m *Manager) Wakeup() time.Time {
	if m.root.wake == never {
		return time.Time{}
	}
	return time.UnixMicro(m.root.wake).UTC()
}

// expire ends a throttle pause that is over, opens and shuts windows, and makes the jobs ready whose
// eta has come.
func (m *Manager) expire(c *channel, now int64, due *int) {
	m.reopen(c)
	m.openTolls(c)
	if c.pausedUntil <= now {
		c.pausedUntil = 0
	}
	if c.pausedUntil == 0 && c.hasCapacity() {
		for ; *due > 0 && c.eta.len() > 0 && c.eta.first().eta <= now; *due-- {
			r := c.eta.pop()
			r.location = inOwnQueue
			c.ready.push(r)
		}
	}
	m.settle(c, c)
}

// advance moves the jobs that a channel yields into its parent's queue.
func (m *Manager) advance(c *channel, now int64) {
	if !c.restricts() && c.ready.shared == nil {
		for _, r := range c.ready.items {
			r.location++
		}
		c.running += c.ready.len()
		c.parent.ready.merge(&c.ready.heap)
	} else {
		for c.canYield() {
			r := m.yield(c, now)
			r.location++
			c.parent.ready.push(r)
		}
	}
	m.settle(c, c.parent)
}

// start takes the jobs that root yields.
func (m *Manager) start(now int64, limit int) []Key {
	var keys []Key
	for m.root.canYield() && (limit <= 0 || len(keys) < limit) {
		r := m.yield(m.root, now)
		r.location = inRunning
		m.begin(r)
		m.clockIn(r)
		m.spend(r)
		r.home.count(r.state, -1)
		r.home.count(Enqueued, 1)
		r.state = Enqueued
		keys = append(keys, r.key())
	}
	if len(keys) > 0 {
		m.settle(m.root, m.root)
	}
	return keys
}

// yield takes the best job out of the queue, counts it and begins the pause that a throttle asks
// for.
func (m *Manager) yield(c *channel, now int64) *record {
	r := c.ready.pop()
	m.occupy(c, r, 1)
	if c.throttle != 0 {
		c.pausedUntil = now + c.throttle
	}
	return r
}

// settle brings what is derived of a channel up to date after its queues, counts or limits have
// changed, and of all above it that this concerns: at least up to top, the highest channel that was
// changed itself.
func (m *Manager) settle(c, top *channel) {
	m.turn()
	reached := false
	for c != nil {
		changed := m.derive(c)
		reached = reached || c == top
		if reached && !changed {
			return
		}
		c = c.parent
	}
}

// derive computes timer, wake-up contribution and dirtiness of one channel. It reports whether the
// contribution changed, which concerns the parent.
func (m *Manager) derive(c *channel) (changed bool) {
	if c.floors != nil {
		c.shut()
	}
	if c.parent != nil && c.parent.floors != nil {
		changed = c.parent.lift(c)
	}
	timer, wake := int64(never), int64(never)
	if c.hasCapacity() {
		if c.eta.len() > 0 {
			timer = c.eta.first().eta
		}
		wake = timer
		if c.wakes.len() > 0 {
			wake = min(wake, c.wakes.first().wake)
		}
		if c.pausedUntil != 0 {
			wake = c.pausedUntil
		}
	}
	if c.pausedUntil != 0 {
		timer = c.pausedUntil // even without capacity: the pause has to end
	}
	if c.ruling != nil {
		timer, wake = c.ruling.times(c, timer, wake)
	}
	timer, wake = c.tolls.times(c, timer, wake)
	if timer != c.timer {
		c.timer = timer
		arrange(&m.timers, c, c.timerIndex, timer != never)
	}
	m.mark(c, c.canYield())
	if wake == c.wake {
		return changed
	}
	c.wake = wake
	if c.parent != nil {
		arrange(&c.parent.wakes, c, c.wakeIndex, wake != never)
	}
	return true
}

// mark enters a channel into the dirty set or takes it out.
func (m *Manager) mark(c *channel, dirty bool) {
	if dirty == (c.dirtyIndex >= 0) {
		return
	}
	if dirty {
		for len(m.dirty) <= c.depth {
			m.dirty = append(m.dirty, nil)
		}
		c.dirtyIndex = len(m.dirty[c.depth])
		m.dirty[c.depth] = append(m.dirty[c.depth], c)
		m.dirtyCount++
		return
	}
	level := m.dirty[c.depth]
	last := level[len(level)-1]
	level[c.dirtyIndex] = last
	last.dirtyIndex = c.dirtyIndex
	m.dirty[c.depth] = slices.Delete(level, len(level)-1, len(level))
	c.dirtyIndex = -1
	m.dirtyCount--
}
