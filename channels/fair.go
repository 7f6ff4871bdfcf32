package channels

import (
	"fmt"
	"time"
)

// Fair queueing by start times (Goyal, Vin and Cheng, 1996) decides whose turn it is: the lane that has
// the earliest start, in virtual time, which is busy time that was used or is expected to be. When a
// job starts, its lane is charged with the mean of what its jobs have taken, and when it ends, with the
// difference to what it took.
const (
	// firstCharge is the mean of a queue of which no job has ended yet.
	firstCharge = int64(time.Second / time.Microsecond)
	// leastCharge is that of a job that takes no time: or a lane with many of them would go on for ever.
	leastCharge = int64(time.Millisecond / time.Microsecond)
	// weight is how much one job counts in a mean: one part of so many.
	weight = 8
	// lanesFirst is how many lanes there are when those are forgotten for the first time that matter no
	// more.
	lanesFirst = 1000
)

// lane holds the keys of a queue that take a turn together, by their best jobs. In a fair queue there
// is one for each key of the share.
type lane struct {
	open  heap[*keyQueue, keyOrder]
	index int // in the queue's lanes
	// What follows is of fair queues only.
	name    laneName
	start   int64 // in virtual time
	mean    int64 // of what its jobs have taken, 0 if none has ended
	running int
	queues  int // that name it, also those that a limit holds back
}

// laneName says whose lane it is. The zero value is that of all whom no share names.
type laneName struct {
	per     Per
	db      string
	company int32
}

func (n laneName) String() string {
	if n.per == PerNothing {
		return "the other databases"
	}
	return shareKey{db: &database{name: n.db}, company: n.company}.name(n.per)
}

// laneOrder is the order of lanes by turns. What is over a limit with a burst comes last.
type laneOrder struct{}

func (laneOrder) before(a, b *lane) bool {
	x, y := a.open.first(), b.open.first()
	if a.start != b.start && (x.over > 0) == (y.over > 0) {
		return a.start < b.start
	}
	return keyOrder{}.before(x, y)
}
func (laneOrder) moved(l *lane, index int) { l.index = index }

// fairness is what a fair queue knows beyond its jobs.
type fairness struct {
	lanes   map[laneName]*lane
	virtual int64 // the start of the lane that had the last turn
	latest  int64 // the latest start of all
	mean    int64 // of all jobs that have ended
	charges map[*record]charge
	sweepAt int // so many lanes
}

// charge is what a job that has left the queue has cost its lane so far.
type charge struct {
	lane   *lane
	amount int64
	began  int64 // when root let it pass, by the steady clock; unbegun: not yet
}

const unbegun = -1

func newFairness() *fairness {
	return &fairness{lanes: make(map[laneName]*lane), mean: firstCharge, charges: make(map[*record]charge), sweepAt: lanesFirst}
}

// laneNameOf says whose lane in the queue a job takes.
func (q *sharedQueue) laneNameOf(r *record) (n laneName) {
	if q.fair == nil {
		return n
	}
	n.per = r.home.shares[q.channel.depth].Fair
	if n.per != PerNothing {
		n.db = r.home.db.name
	}
	if n.per == PerCompany {
		n.company = r.home.db.companies.of(r.company)
	}
	return n
}

// laneOf returns the lane of a job in the queue.
func (q *sharedQueue) laneOf(r *record) *lane {
	if q.fair == nil {
		return &q.only
	}
	n := q.laneNameOf(r)
	l := q.fair.lanes[n]
	if l == nil {
		q.fair.sweep()
		l = &lane{index: -1, name: n, start: q.fair.virtual}
		q.fair.lanes[n] = l
	}
	return l
}

// sweep forgets lanes that owe nothing and have no jobs, when there are many more than before.
func (f *fairness) sweep() {
	if len(f.lanes) < f.sweepAt {
		return
	}
	for n, l := range f.lanes {
		if l.running == 0 && l.queues == 0 && l.start <= f.virtual {
			delete(f.lanes, n)
		}
	}
	f.sweepAt = 2*len(f.lanes) + lanesFirst
}

// arrange brings a lane to its place. One that has had nothing to start begins at the present: having
// been idle earns nothing.
func (q *sharedQueue) arrange(l *lane) {
	if q.fair != nil && l.index < 0 {
		l.start = max(l.start, q.fair.virtual)
	}
	arrange(&q.lanes, l, l.index, l.open.len() > 0)
}

// move changes the start of a lane.
func (q *sharedQueue) move(l *lane, by int64) {
	l.start += by
	q.fair.latest = max(q.fair.latest, l.start)
	if l.index >= 0 {
		q.lanes.fix(l.index)
	}
}

// account is what it means for the fair queue of a channel that it has let a job pass, or takes one
// off.
func (m *Manager) account(c *channel, r *record, by int) {
	q := c.ready.shared
	if q == nil || q.fair == nil {
		return
	}
	if by > 0 {
		l := q.laneOf(r)
		amount := l.mean
		if amount == 0 {
			amount = q.fair.mean
		}
		ch := charge{lane: l, amount: max(amount, leastCharge), began: unbegun}
		if r.location == inRunning {
			ch.began = m.clock.now
		}
		q.fair.charges[r] = ch
		l.running++
		q.move(l, ch.amount)
		return
	}
	ch, ok := q.fair.charges[r]
	if !ok {
		return
	}
	delete(q.fair.charges, r)
	ch.lane.running--
	took := int64(0)
	if ch.began != unbegun {
		took = max(m.clock.now-ch.began, leastCharge)
		ch.lane.mean = mean(ch.lane.mean, took)
		q.fair.mean = mean(q.fair.mean, took)
	}
	q.move(ch.lane, took-ch.amount)
	if c.running == 0 && q.jobs == 0 {
		q.fair.virtual = q.fair.latest // nobody waits: nobody owes anybody anything
	}
}

func mean(old, took int64) int64 {
	if old == 0 {
		return took
	}
	return old + (took-old)/weight
}

// clockIn notes that root has let a job pass.
func (m *Manager) clockIn(r *record) {
	if m.fair == 0 {
		return
	}
	for c := r.home.channel; c != nil; c = c.parent {
		if q := c.ready.shared; q != nil && q.fair != nil {
			if ch, ok := q.fair.charges[r]; ok {
				ch.began = m.clock.now
				q.fair.charges[r] = ch
			}
		}
	}
}

// Turns says how many keys have their turns in a fair channel before the one of a job.
type Turns struct {
	// Channel is the full name of the channel that is shared.
	Channel string
	// Key names whose turn the job waits for.
	Key string
	// Before is how many others, who wait too, have used less busy time.
	Before int
}

// String says it as a part of a reason.
func (t *Turns) String() string {
	return fmt.Sprintf("%s before the one of %s", count(t.Before, "turn of another comes", "turns of others come"), t.Key)
}

// turns returns the turns before the one of a job in the queue of the channel; nil if that is not fair.
func (c *channel) turns(r *record) *Turns {
	q := c.ready.shared
	if q == nil || q.fair == nil {
		return nil
	}
	name := q.laneNameOf(r)
	t := &Turns{Channel: c.name, Key: name.String()}
	own := q.fair.lanes[name]
	for _, l := range q.lanes.items {
		if l != own && (own == nil || own.index < 0 || laneOrder{}.before(l, own)) {
			t.Before++
		}
	}
	return t
}
