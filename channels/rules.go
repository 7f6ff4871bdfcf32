package channels

import (
	"math"
	"time"
)

// Rules are what holds for the jobs of a channel beyond its configuration. They count for what is
// below the channel, too. The zero value is no rule.
type Rules struct {
	// Windows are capacities for certain times, of which the first counts that is open. While none is,
	// the channel has its own capacity. A sequential channel runs no more than one job all the same.
	Windows []Window
	// Rate limits how many jobs start in a time. Default: nil, that is not limited.
	Rate *Rate
	// WindowsOf and RateOf name the policies that say so, for people.
	WindowsOf, RateOf string
}

func (r *Rules) empty() bool { return len(r.Windows) == 0 && r.Rate == nil }

// ruling is what rules mean for a channel at present. Channels without rules have none.
type ruling struct {
	Rules

	clock *clock
	// window is the one in force, nil if none is. until is when another one may be, in microseconds,
	// and changes whether it will.
	window  *Window
	until   int64
	changes bool
	bucket  bucket
}

// Govern sets the rules of all channels, also of those that only jobs will make, by their full names.
// The rules of a channel must not depend on anything else. What has a new rate begins without tokens,
// unless it had some of another rate. It has to follow Configure no more than precede it.
func (m *Manager) Govern(rules func(channel string) Rules) {
	var back map[*channel][]*record
	if m.shares != nil {
		back = m.gather() // what restricts, and what jobs occupy, may change
	}
	m.rules = rules
	clear(m.clock.schedules)
	m.resting.empty(m.clock.now)
	for _, c := range m.root.tree(nil) {
		m.govern(c)
	}
	if back != nil {
		m.scatter(back)
	}
}

// EmptyBuckets takes the tokens of all rates, at a time: what has started before is not known.
func (m *Manager) EmptyBuckets(now time.Time) {
	m.advanceClock(now)
	m.empty()
}

func (m *Manager) empty() {
	m.resting.empty(m.clock.now)
	for c := range m.governed {
		if c.ruling.Rate != nil {
			c.ruling.bucket = newBucket(*c.ruling.Rate, m.clock.now)
		}
	}
	// Only now: what is called back may be let pass again.
	m.callBack(m.reserving())
	m.emptyTolls()
	for c := range m.governed {
		m.settle(c, c)
	}
}

// reserving returns the channels with a rate that have let jobs pass which have not started.
func (m *Manager) reserving() map[*channel]struct{} {
	strict := make(map[*channel]struct{})
	for c := range m.governed {
		if c.ruling.Rate != nil && c.running > c.active {
			strict[c] = struct{}{}
		}
	}
	if m.shares == nil {
		return strict
	}
	for _, c := range m.root.tree(nil) {
		if c.reservesTolls() {
			strict[c] = struct{}{}
		}
	}
	return strict
}

// govern gives a channel its rules.
func (m *Manager) govern(c *channel) {
	if m.rules == nil {
		return
	}
	rules := m.rules(c.name)
	if rules.empty() {
		if c.ruling != nil {
			c.ruling = nil
			delete(m.governed, c)
			m.tightened(c)
		}
		return
	}
	g := &ruling{Rules: rules, clock: m.clock, until: never}
	if len(rules.Windows) > 0 {
		g.until = math.MinInt64 // not known: the next pass finds it out
		if !m.clock.last.IsZero() {
			g.find()
		}
	}
	if rules.Rate != nil {
		g.bucket = m.bucketOf(c, *rules.Rate)
	}
	c.ruling = g
	m.governed[c] = struct{}{}
	m.tightened(c)
}

// bucketOf returns what is left of the tokens of a channel.
func (m *Manager) bucketOf(c *channel, rate Rate) bucket {
	steady := m.clock.now
	if c.ruling != nil && c.ruling.Rate != nil {
		return c.ruling.bucket.become(rate, steady)
	}
	return m.resting.take(restingKey{channel: c.name}, rate, steady)
}

// ungovern forgets the rules of a channel that goes, and remembers how many tokens it has left.
func (m *Manager) ungovern(c *channel) {
	g := c.ruling
	if g == nil {
		return
	}
	c.ruling = nil
	delete(m.governed, c)
	if g.Rate != nil {
		m.resting.put(restingKey{channel: c.name}, g.bucket, m.clock.now)
	}
	m.settle(c, c)
}

// recompute finds out anew what follows from the system's clocks, after they have been set.
func (m *Manager) recompute() {
	for c := range m.governed {
		if len(c.ruling.Windows) > 0 {
			c.ruling.until = math.MinInt64
		}
		m.reopen(c)
		m.settle(c, c)
	}
	m.recomputeTolls()
}

// reopen lets a channel have the window that is in force now.
func (m *Manager) reopen(c *channel) {
	g := c.ruling
	if g == nil || g.until > m.clock.wall {
		return
	}
	before := g.window
	g.find()
	if g.window != before {
		m.tightened(c)
	}
}

// tightened brings jobs back that a channel has let pass, if it might not let them pass any more, and
// tells those below it that have a part of its capacity.
func (m *Manager) tightened(c *channel) {
	changed := make(map[*channel]limits)
	m.spread(c, changed)
	strict := make(map[*channel]struct{})
	for child, old := range changed {
		if child.stricter(old) {
			strict[child] = struct{}{}
		}
	}
	if c.running > c.active && (c.running > c.slots() || !c.ruling.affords(c, 0)) {
		strict[c] = struct{}{}
	}
	m.callBack(strict)
	for child := range changed {
		m.settle(child, child)
	}
	m.settle(c, c)
}

// find finds the window that is in force at the time of the clock.
func (g *ruling) find() {
	s := g.clock.schedule(g.Windows)
	g.window, g.until, g.changes = s.window, s.until, s.changes
}

// slots is how many jobs may run in the channel and below it now.
func (c *channel) slots() int {
	if c.ruling != nil && c.ruling.window != nil {
		return c.bounded(c.ruling.window.Capacity)
	}
	if c.capacity == 0 {
		return math.MaxInt
	}
	return c.capacity
}

// bounded is a capacity of a rule as far as the channel may have it.
func (c *channel) bounded(capacity int) int {
	if c.sequential {
		capacity = min(capacity, 1)
	}
	if c.ceiling != 0 {
		capacity = min(capacity, c.ceiling)
	}
	return capacity
}

// affords reports whether there is a token for one more job to pass. Jobs that have passed and have not
// started will need theirs.
func (c *channel) affords() bool {
	return c.ruling == nil || c.ruling.affords(c, 1)
}

func (g *ruling) affords(c *channel, more int) bool {
	if g == nil || g.Rate == nil {
		return true
	}
	g.bucket.refill(g.clock.now)
	return g.bucket.has(c.running - c.active + more)
}

// begin counts a job that starts, in its channel and all above, and takes the tokens for it.
func (m *Manager) begin(r *record) {
	for c := r.home.channel; c != nil; c = c.parent {
		c.active++
		m.pay(c, r, 1, -1)
		if g := c.ruling; g != nil && g.Rate != nil {
			g.bucket.refill(g.clock.now)
			g.bucket.add(-1)
			m.settle(c, c) // a bucket that was full begins to fill
		}
	}
}

// Refund gives the tokens back that a job took when Next returned it: nothing was started. It comes
// before the Set that says so.
func (m *Manager) Refund(k Key) {
	r := m.known(k)
	if r == nil || len(m.governed) == 0 && m.shares == nil {
		return
	}
	for c := r.home.channel; c != nil; c = c.parent {
		m.pay(c, r, 0, 1)
		if g := c.ruling; g != nil && g.Rate != nil {
			g.bucket.refill(g.clock.now)
			g.bucket.add(1)
		}
	}
	m.settle(r.home.channel, m.root)
}

// times adds when the rules of a channel need a pass to when it needs one anyway.
func (g *ruling) times(c *channel, timer, wake int64) (newTimer, newWake int64) {
	if c.pausedUntil == 0 && c.hasCapacity() && !g.affords(c, 1) {
		due := int64(never) // when those start that have passed
		if next := c.running - c.active + 1; next <= g.bucket.rate.Burst {
			due = g.clock.wallAt(g.bucket.due(next))
		}
		switch {
		case c.ready.len() > 0:
			timer, wake = min(timer, due), due
		case wake != never:
			wake = max(wake, due)
		}
	}
	return min(timer, g.until), min(wake, g.until)
}

// Govern is [Manager.Govern], of all trees: rules are asked for with the name of the tree's database,
// which is empty in a tree of all databases.
func (f *Forest) Govern(rules func(db, channel string) Rules) {
	f.rules = rules
	if f.shared != nil {
		f.govern(f.shared, "")
		return
	}
	for _, t := range f.trees {
		f.govern(t.Manager, t.name)
		f.settle(t)
	}
}

func (f *Forest) govern(m *Manager, db string) {
	if rules := f.rules; rules != nil {
		m.Govern(func(channel string) Rules { return rules(db, channel) })
	}
}

// EmptyBuckets is [Manager.EmptyBuckets].
func (f *Forest) EmptyBuckets(now time.Time) {
	f.advanceClock(now)
	if f.shared != nil {
		f.shared.empty()
		return
	}
	for _, t := range f.trees {
		t.empty()
		f.settle(t)
	}
}

// Refund is [Manager.Refund].
func (f *Forest) Refund(k Key) {
	if m := f.find(k.DB); m != nil {
		m.Refund(k)
		f.settle(f.trees[k.DB])
	}
}
