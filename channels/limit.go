package channels

import (
	"fmt"
	"slices"
)

// tally counts the jobs of one key that one channel has let pass, against the limit of its share.
type tally struct {
	channel *channel
	key     shareKey
	limit   int
	burst   bool
	running int
	toll    *toll     // nil: it is a limit
	waiting []waiting // in the queues that it decides about: that of its channel, and those below
}

// waiting is a keyQueue of a tally, and which of its hurdles that is.
type waiting struct {
	queue  *keyQueue
	hurdle int
}

func (t *tally) reached() bool {
	if t.toll != nil {
		return t.toll.shut
	}
	return t.running >= t.limit
}

// room is how many more jobs may pass.
func (t *tally) room() int {
	if t.toll != nil {
		return t.toll.tokens(t)
	}
	return t.limit - t.running
}

// tallyOf returns the tally of a job in a channel that is its own or above; nil if it has no limit
// there.
func (c *channel) tallyOf(r *record) *tally {
	s := &r.home.shares[c.depth]
	if s.Limit <= 0 {
		return nil
	}
	k := r.keyPer(s.Per)
	t := c.tallies[k]
	if t == nil {
		if c.tallies == nil {
			c.tallies = make(map[shareKey]*tally)
		}
		t = &tally{channel: c, key: k, limit: s.Limit, burst: s.Burst}
		c.tallies[k] = t
	}
	return t
}

// occupy adds a job to those that a channel has let pass, or takes it off.
func (m *Manager) occupy(c *channel, r *record, by int) {
	c.running += by
	if m.shares != nil {
		m.tally(c, r, by)
		m.account(c, r, by)
		m.charge(c, r, by)
		c.keep(r, by)
	}
}

// run adds a job to those that a channel and root have let pass, or takes it off.
func (m *Manager) run(c *channel, r *record, by int) {
	c.running += by
	c.active += by
	if m.shares != nil {
		m.tally(c, r, by)
		m.account(c, r, by)
		c.toll(r, by)
		c.keep(r, by)
	}
}

// tally is what that means for the limits of its keys. When one is reached, or not any more, the queues
// know at once; what else follows is left to turn.
func (m *Manager) tally(c *channel, r *record, by int) {
	if c.parent == nil {
		m.serialize(r, by)
	}
	if t := c.tallyOf(r); t != nil {
		m.add(t, by)
	}
}

func (m *Manager) add(t *tally, by int) {
	was := t.reached()
	if t.running += by; t.reached() != was {
		m.shift(t, -by)
	}
	t.forget()
}

// shift tells the queues that a tally is reached, or is not any more: room is how much more it has.
func (m *Manager) shift(t *tally, room int) {
	m.turned = append(m.turned, t)
	for _, w := range t.waiting {
		w.queue.count(t, room)
		w.queue.arrange()
	}
}

// count adds a hurdle to those that are shut, or takes one off: room is how much more a tally has.
func (k *keyQueue) count(t *tally, room int) {
	if t.burst {
		k.over -= room
	} else {
		k.shut -= room
	}
}

func (t *tally) join(k *keyQueue) {
	if t.toll != nil {
		m := t.channel.tolls.m
		m.weigh(t) // while none waited, no pass came for a token
		defer m.schedule(t)
	}
	k.hurdles = append(k.hurdles, hurdle{tally: t, at: len(t.waiting)})
	t.waiting = append(t.waiting, waiting{queue: k, hurdle: len(k.hurdles) - 1})
	if t.reached() {
		k.count(t, -1)
	}
}

func (t *tally) leave(k *keyQueue, at int) {
	i, last := k.hurdles[at].at, len(t.waiting)-1
	moved := t.waiting[last]
	t.waiting[i] = moved
	moved.queue.hurdles[moved.hurdle].at = i
	t.waiting[last] = waiting{}
	t.waiting = t.waiting[:last]
	t.forget()
}

// forget drops a tally that counts nothing and decides about nothing.
func (t *tally) forget() {
	if t.toll != nil {
		t.channel.tolls.m.schedule(t)
		return
	}
	if t.running == 0 && len(t.waiting) == 0 {
		delete(t.channel.tallies, t.key)
	}
}

// turn does what follows when limits have been reached, or are not reached any more. Jobs that
// occupy slots of channels further down, and would wait here for their own kind, go back to their own
// channels: what is over its limit is not in the way of others.
func (m *Manager) turn() {
	for len(m.turned) > 0 {
		t := m.turned[len(m.turned)-1]
		m.turned = m.turned[:len(m.turned)-1]
		for _, w := range slices.Clone(t.waiting) {
			k := w.queue
			for k.shut > 0 && k.held.len() > 0 {
				m.sendBack(k)
			}
			m.settle(k.queue.channel, k.queue.channel)
		}
		if t.toll != nil {
			m.settle(t.channel, t.channel) // whose timer it is
		}
	}
}

// sendBack brings a job that occupies slots further down back to its own channel.
func (m *Manager) sendBack(k *keyQueue) {
	c, r := k.queue.channel, k.held.first()
	own := r.home.channel
	c.ready.remove(r)
	for p := own; p != c; p = p.parent {
		m.occupy(p, r, -1)
	}
	r.location = inOwnQueue
	own.ready.push(r)
	m.settle(own, c)
}

// hurdleOf returns a tally, of the channel or one above, whose limit is reached and holds the job back in
// the queue of this channel; nil if none does.
func (c *channel) hurdleOf(r *record) *tally {
	for ; c != nil; c = c.parent {
		if t := c.tallyKnown(r); t != nil && !t.burst && t.reached() {
			return t
		}
	}
	return nil
}

// held reports whether a limit that is reached, a job with the same identity key, or a gate holds a job
// back in the queue of the channel.
func (c *channel) held(r *record) bool {
	g, gate := r.group(), r.home.gate
	return c.hurdleOf(r) != nil || g != nil && len(g.running) > 0 || gate != nil && !gate.open()
}

// tallyKnown is tallyOf for a read.
func (c *channel) tallyKnown(r *record) *tally {
	if s := &r.home.shares[c.depth]; s.Limit > 0 {
		return c.tallies[r.keyPer(s.Per)]
	}
	return nil
}

// ShareUse is a limit, and how much of it is used.
type ShareUse struct {
	// Channel is the full name of the channel that has the limit.
	Channel string
	// Key names the database, or the company, whose jobs it counts.
	Key string
	// Limit is how many may run at once, Running how many the channel has let pass.
	Limit, Running int
	// Source is that of the [Share].
	Source string
	// Blocker is the job with the same identity key that runs, or goes first, where that is what holds
	// back; then there is no Key.
	Blocker Key
}

// String says it as a reason.
func (u *ShareUse) String() string {
	s := fmt.Sprintf("%s has %d of at most %d at once in channel %s", u.Key, u.Running, u.Limit, u.Channel)
	switch {
	case u.Blocker != Key{} && u.Running > 0:
		s = fmt.Sprintf("job %s, which has the same identity key, runs", u.Blocker)
	case u.Blocker != Key{}:
		s = fmt.Sprintf("job %s, which has the same identity key, goes first", u.Blocker)
	}
	if u.Source != "" {
		s += fmt.Sprintf(" (%s)", u.Source)
	}
	return s
}

func (t *tally) use(r *record) *ShareUse {
	s := &r.home.shares[t.channel.depth]
	return &ShareUse{Channel: t.channel.name, Key: t.key.name(s.Per), Limit: t.limit, Running: t.running, Source: s.Source}
}

// limitOf returns the limit that holds a job back in the queue of the channel, or will when the jobs of
// its key have gone that go before it; nil if none does.
func (c *channel) limitOf(r *record) *ShareUse {
	if c.ready.shared == nil {
		return nil
	}
	if t := c.hurdleOf(r); t != nil {
		return t.use(r)
	}
	if use := c.serialized(r); use != nil {
		return use
	}
	t := c.tallyKnown(r)
	if t == nil || t.burst {
		return nil
	}
	ahead, budget := 0, explainLimit
	before := func(o *record) bool {
		if o.before(r) && c.tallyKnown(o) == t {
			ahead++
		}
		return o.before(r)
	}
	for _, w := range t.waiting {
		if w.queue.queue.channel == c {
			explore(w.queue.free.items, &budget, before)
			explore(w.queue.held.items, &budget, before)
		}
	}
	if t.running+ahead < t.limit {
		return nil
	}
	return t.use(r)
}

// limited fills in that a limit is the reason.
func (e *Explanation) limited(u *ShareUse) {
	e.Reason, e.Share, e.Channel = ReasonLimit, u, u.Channel
	if u.Blocker != (Key{}) {
		e.Reason, e.Blocker = ReasonSerialized, u.Blocker
	}
}

// competitors is that of the channel for the jobs in its queue: of each key as many as its limits leave
// room for. Those that come through a channel with a minimum are counted by that, too.
func (q *sharedQueue) competitors(r *record, budget *int) (ahead int, floored map[*channel]int, best *record) {
	best = r
	own, lane := q.keyOf(r), q.laneNameOf(r)
	for _, k := range q.keys {
		if k.lane.name != lane || k.shut > 0 && k.key != own {
			continue
		}
		before, room := 0, k.room()
		visit := func(o *record) bool {
			if !o.before(r) {
				return false
			}
			before++
			if o.before(best) {
				best = o
			}
			return k.key == own || before < room
		}
		explore(k.free.items, budget, visit)
		explore(k.held.items, budget, visit)
		if k.key != own {
			before = min(before, room)
		}
		ahead += before
		if k.key.child != nil {
			if floored == nil {
				floored = make(map[*channel]int)
			}
			floored[k.key.child] += before
		}
	}
	return ahead, floored, best
}

// room returns how many more jobs of the key its limits let pass.
func (k *keyQueue) room() int {
	room := maxRoom
	for _, g := range k.hurdles {
		if !g.tally.burst {
			room = min(room, g.tally.room())
		}
	}
	return max(room, 0)
}

// maxRoom is more than any limit leaves.
const maxRoom = 1 << 30

// passedBy returns how many jobs of the queue are over their limits.
func (q *queue) passedBy() int {
	if q.shared == nil {
		return 0
	}
	return q.shared.passed
}
