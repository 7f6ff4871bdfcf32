package channels

import (
	"maps"
	"time"
)

// tolls are what jobs of each database have left of their rate in one channel.
type tolls struct {
	m    *Manager
	of   map[string]*tally // by database, each with a toll
	due  heap[*tally, dueOrder]
	many int // so many are looked through for those that say nothing
}

// toll is the rate of the jobs of one database in one channel. Its tally counts the jobs that the
// channel has let pass. While there is no token for one more, others pass those that wait.
type toll struct {
	bucket bucket
	active int   // of the jobs that have passed, those that root has let pass, too
	shut   bool  // there is no token for one more
	due    int64 // when there will be, by the steady clock; never: when jobs that have passed start
	index  int   // in the heap; -1 while it is open, or none waits
}

// dueOrder is the order by the time of the next token.
type dueOrder struct{}

func (dueOrder) before(a, b *tally) bool   { return a.toll.due < b.toll.due }
func (dueOrder) moved(t *tally, index int) { t.toll.index = index }

// tollsFirst is how many databases a channel has tolls of before it looks for those that say nothing.
const tollsFirst = 1000

// resting are the buckets of what jobs do not need any more, and since when a bucket that is not known
// has been filling.
type resting struct {
	of    map[restingKey]bucket
	since int64 // by the steady clock
}

// restingKey is the full name of a channel, and the database if the rate is one for each.
type restingKey struct{ channel, db string }

// restingLimit bounds them.
const restingLimit = 2 * NamesInAll

// empty forgets all of them: buckets begin anew.
func (p *resting) empty(now int64) { p.of, p.since = nil, now }

// put remembers a bucket, unless one that is not known has as many tokens. If there are too many of them,
// none is remembered.
func (p *resting) put(k restingKey, b bucket, now int64) {
	if p.like(b, now) {
		return
	}
	if len(p.of) >= restingLimit {
		maps.DeleteFunc(p.of, func(_ restingKey, b bucket) bool { return p.like(b, now) })
		if len(p.of) >= restingLimit/2 {
			p.empty(now)
			return
		}
	}
	if p.of == nil {
		p.of = make(map[restingKey]bucket)
	}
	p.of[k] = b
}

// take returns a bucket with what is left of its tokens.
func (p *resting) take(k restingKey, rate Rate, now int64) bucket {
	b, ok := p.of[k]
	if !ok {
		return newBucket(rate, p.since)
	}
	delete(p.of, k)
	return b.become(rate, now)
}

// like reports whether a bucket has as many tokens as one that is not known.
func (p *resting) like(b bucket, now int64) bool {
	fresh := newBucket(b.rate, p.since)
	fresh.refill(now)
	b.refill(now)
	return b.level == fresh.level
}

// tollOf returns the toll of a job in a channel that is its own or above; nil if it has none there.
func (c *channel) tollOf(r *record) *tally {
	rate := r.home.shares[c.depth].Rate
	if rate == nil {
		return nil
	}
	p, db := c.tolls, r.home.db.name
	t := p.of[db]
	if t == nil {
		p.sweep()
		now := p.m.clock.now
		t = &tally{channel: c, toll: &toll{due: never, bucket: p.m.tollsResting.take(restingKey{c.name, db}, *rate, now), index: -1}}
		if p.of == nil {
			p.of = make(map[string]*tally)
		}
		p.of[db] = t
		p.m.weigh(t)
	}
	return t
}

// tollKnown is tollOf for a read.
func (c *channel) tollKnown(r *record) *tally {
	if c.tolls == nil || r.home.shares[c.depth].Rate == nil {
		return nil
	}
	return c.tolls.of[r.home.db.name]
}

// sweep forgets tolls that say nothing, when there are many more than before.
func (p *tolls) sweep() {
	if len(p.of) < p.many {
		return
	}
	maps.DeleteFunc(p.of, func(_ string, t *tally) bool {
		return t.running == 0 && len(t.waiting) == 0 && p.m.tollsResting.like(t.toll.bucket, p.m.clock.now)
	})
	p.many = 2*len(p.of) + tollsFirst
}

// charge is what it means for the rate of its database that a channel has let a job pass, or takes it off.
func (m *Manager) charge(c *channel, r *record, by int) {
	if t := c.tollOf(r); t != nil {
		t.running += by
		m.weigh(t)
	}
}

// toll counts a job that runs for the rate of its database, or takes it off: how many more may pass stays
// what it is.
func (c *channel) toll(r *record, by int) {
	if t := c.tollOf(r); t != nil {
		t.running += by
		t.toll.active += by
	}
}

// pay gives tokens to the rate of the database of a job, or takes them, and counts the job among those that
// root has let pass, too, or does not.
func (m *Manager) pay(c *channel, r *record, active, tokens int) {
	if m.shares == nil {
		return
	}
	if t := c.tollOf(r); t != nil {
		t.toll.active += active
		t.toll.bucket.refill(m.clock.now)
		t.toll.bucket.add(tokens)
		m.weigh(t)
	}
}

// weigh finds out whether there is a token for one more job. If that has changed, the queues know at
// once; what else follows is left to turn.
func (m *Manager) weigh(t *tally) {
	g := t.toll
	g.bucket.refill(m.clock.now)
	if shut := t.room() <= 0; shut != g.shut {
		g.shut = shut
		room := 1
		if shut {
			room = -1
		}
		m.shift(t, room)
	}
	m.schedule(t)
}

// schedule has a pass come when there is a token, if a job waits for it.
func (m *Manager) schedule(t *tally) {
	g := t.toll
	due := int64(never)
	if next := g.passed(t) + 1; g.shut && len(t.waiting) > 0 && next <= g.bucket.rate.Burst {
		due = g.bucket.due(next)
	}
	if due == g.due && g.index >= 0 == (due != never) {
		return
	}
	g.due = due
	arrange(&t.channel.tolls.due, t, g.index, due != never)
	m.turned = append(m.turned, t) // the channel's timer is derived from it
}

// passed is how many jobs have passed the channel that root has not let pass.
func (g *toll) passed(t *tally) int { return t.running - g.active }

// tokens is how many more jobs may pass.
func (g *toll) tokens(t *tally) int { return int(g.bucket.level/g.bucket.token()) - g.passed(t) }

// openTolls lets jobs go whose databases have tokens again.
func (m *Manager) openTolls(c *channel) {
	for p := c.tolls; p != nil && p.due.len() > 0 && p.due.first().toll.due <= m.clock.now; {
		m.weigh(p.due.first())
	}
}

// times adds when tokens come to when a channel needs a pass anyway.
func (p *tolls) times(c *channel, timer, wake int64) (newTimer, newWake int64) {
	if p == nil || p.due.len() == 0 {
		return timer, wake
	}
	due := p.m.clock.wallAt(p.due.first().toll.due)
	if c.pausedUntil == 0 && c.hasCapacity() {
		wake = min(wake, due)
	}
	return min(timer, due), wake
}

// gatherTolls forgets who waits and what has passed, because scatter counts that anew. Tokens stay.
func (m *Manager) gatherTolls() {
	for _, c := range m.root.tree(nil) {
		if c.tolls == nil {
			continue
		}
		c.tolls.due = heap[*tally, dueOrder]{}
		for _, t := range c.tolls.of {
			t.running, t.waiting = 0, nil
			t.toll.active, t.toll.index, t.toll.due = 0, -1, never
		}
	}
}

// restTolls remembers the tokens of a channel that goes.
func (m *Manager) restTolls(c *channel) {
	if c.tolls == nil {
		return
	}
	for db, t := range c.tolls.of {
		m.tollsResting.put(restingKey{c.name, db}, t.toll.bucket, m.clock.now)
	}
	c.tolls = nil
}

// emptyTolls takes all tokens. Jobs that have passed and wait further up must have been called back.
func (m *Manager) emptyTolls() {
	m.tollsResting.empty(m.clock.now)
	if m.shares == nil {
		return
	}
	for _, c := range m.root.tree(nil) {
		if c.tolls == nil {
			continue
		}
		for _, t := range c.tolls.of {
			t.toll.bucket = newBucket(t.toll.bucket.rate, m.clock.now)
			m.weigh(t)
		}
		m.settle(c, c)
	}
}

// recomputeTolls derives anew what follows from the system's clock.
func (m *Manager) recomputeTolls() {
	if m.shares == nil {
		return
	}
	for _, c := range m.root.tree(nil) {
		if c.tolls != nil {
			m.settle(c, c)
		}
	}
}

// reservesTolls reports whether jobs have passed the channel that will need tokens.
func (c *channel) reservesTolls() bool {
	if c.tolls == nil {
		return false
	}
	for _, t := range c.tolls.of {
		if t.toll.passed(t) > 0 {
			return true
		}
	}
	return false
}

// shutFor returns a toll of the channel, or of one above, that has no token for a job in the queue of the
// channel, after those of its database that go before it, and how many these are. It returns nil if
// each has one.
func (c *channel) shutFor(r *record) (t *tally, ahead int) {
	if c.ready.shared == nil {
		return nil, 0
	}
	counted := false
	for p := c; p != nil; p = p.parent {
		t := p.tollKnown(r)
		if t == nil {
			continue
		}
		if !counted {
			ahead, counted = c.aheadInDatabase(r), true
		}
		t.toll.bucket.refill(p.tolls.m.clock.now)
		if t.toll.tokens(t) < ahead+1 {
			return t, ahead
		}
	}
	return nil, 0
}

// tollShut reports whether the database of a job has no token in the channel, or one above.
func (c *channel) tollShut(r *record) bool {
	for ; c != nil; c = c.parent {
		if t := c.tollKnown(r); t != nil && t.toll.shut {
			return true
		}
	}
	return false
}

// aheadInDatabase counts the jobs of the job's database that go before it in the queue of the channel, up
// to a limit.
func (c *channel) aheadInDatabase(r *record) (ahead int) {
	budget := explainLimit
	visit := func(o *record) bool {
		if !o.before(r) {
			return false
		}
		ahead++
		return true
	}
	for _, k := range c.ready.shared.keys {
		if k.len() > 0 && k.first().home.db == r.home.db {
			explore(k.free.items, &budget, visit)
			explore(k.held.items, &budget, visit)
		}
	}
	return ahead
}

// tolled fills in that the database of the job has no token.
func (e *Explanation) tolled(t *tally, ahead int, source string) {
	g := t.toll
	e.Reason, e.Channel, e.Policy, e.Rate = ReasonRate, t.channel.name, source, &g.bucket.rate
	e.Until = time.UnixMicro(t.channel.tolls.m.clock.wallAt(g.bucket.due(g.passed(t) + 1 + ahead))).UTC()
}

// describe fills in how many databases wait for tokens, and until when the first of them does.
func (p *tolls) describe(s *Status) {
	if p == nil || len(p.of) == 0 {
		return
	}
	s.Rates = true
	for _, t := range p.of {
		if t.toll.shut && len(t.waiting) > 0 {
			s.Rated++
		}
	}
	if p.due.len() > 0 {
		s.RatedUntil = time.UnixMicro(p.m.clock.wallAt(p.due.first().toll.due)).UTC()
	}
}
