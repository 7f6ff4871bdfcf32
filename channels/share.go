package channels

import (
	"fmt"
	"slices"
)

// Per is what a share counts separately.
type Per uint8

// PerCompany counts the jobs of each company of each database, PerDatabase those of each database.
// The finer one is the greater one.
const (
	PerNothing Per = iota
	PerDatabase
	PerCompany
)

var perNames = [...]string{PerNothing: "", PerDatabase: "database", PerCompany: "company"}

// String returns "database" or "company", and nothing for PerNothing.
func (p Per) String() string { return perNames[p] }

// Share is what the jobs of one database may have of a channel, beside its own limits.
type Share struct {
	// Limit is how many jobs of one key the channel may have let pass that are not done. Jobs found
	// running count, even above it. Jobs over the limit are passed by. Default: 0, none.
	Limit int
	// Per says what is a key for Limit.
	Per Per
	// Burst lets a key exceed its limit as long as no job of a key below its own limit could go
	// instead.
	Burst bool
	// Fair says between whom the channel is shared fairly, by the time for which their jobs run: whose
	// jobs have taken least goes first. Priority and eta hold among the jobs of one key. Only a channel
	// with limits, or root, can be shared so. Default: the channel's order alone decides.
	Fair Per
	// Serialize names the set of channels that the channel belongs to, and in which at most one job of
	// an identity key runs at once. What is below a channel belongs to its set. Explanations name it.
	// Default: empty, there is none.
	Serialize string
	// Gate names what else has to have room for a job of the channel: see [Manager.SetRooms]. Default:
	// that of the channel above.
	Gate string
	// Source names the limit in explanations.
	Source string
	// Rate limits how many jobs of the database start in a time. Others pass those that wait for it.
	// Default: nil, it is not limited. RateSource names it in explanations.
	Rate       *Rate
	RateSource string
}

// Shares says which share the jobs of a database have in a channel. Its answers must not change.
type Shares interface {
	// Share returns it, by the full name of the channel; the zero value if there is none.
	Share(channel, db string) Share
	// Shared reports whether jobs of any database may have one with Limit or Rate.
	Shared(channel string) bool
	// Fair reports whether jobs of any database may have one with Fair.
	Fair(channel string) bool
}

// SetShares replaces all shares, at any time; nil means that there are none. No job is lost, and
// what runs stays counted. Jobs that wait above their own channel go back to it. Rates begin without
// tokens. It visits every job.
func (m *Manager) SetShares(s Shares) {
	back := m.gather()
	for _, c := range m.root.tree(nil) {
		c.tolls = nil
	}
	m.tollsResting.empty(m.clock.now)
	m.given = s
	m.shares = m.effective()
	m.scatter(back)
}

// gather takes all jobs out of the ready queues, by their own channels, and forgets everything that
// counts for shares. Only scatter may follow, or a change of limits first.
func (m *Manager) gather() map[*channel][]*record {
	back := make(map[*channel][]*record)
	for _, c := range m.root.tree(nil) {
		list, _ := c.ready.split(func(*record) bool { return true })
		for _, r := range list {
			own := r.home.channel
			for p := own; p != c; p = p.parent {
				p.running--
			}
			r.location = inOwnQueue
			back[own] = append(back[own], r)
		}
		c.ready.shared, c.tallies = nil, nil
		c.floors, c.floor = nil, floor{}
	}
	m.gatherTolls()
	m.fair = 0
	m.turned = m.turned[:0]
	return back
}

// scatter is the end of what gather has begun.
func (m *Manager) scatter(back map[*channel][]*record) {
	all := m.root.tree(nil)
	for _, c := range all {
		m.share(c)
	}
	for _, d := range m.dbs {
		for _, h := range d.homes {
			h.shares = m.sharesOf(h)
			h.scope, h.gate = scopeOf(h.shares), m.gateOf(h.shares)
		}
		d.identities.regroup()
	}
	if m.shares != nil {
		m.recount()
	}
	for own, list := range back {
		own.ready.take(list)
	}
	slices.SortFunc(all, func(a, b *channel) int { return b.depth - a.depth })
	for _, c := range all {
		m.settle(c, c)
	}
}

// recount counts the jobs that run.
func (m *Manager) recount() {
	for _, d := range m.dbs {
		running := 0
		for _, h := range d.homes {
			running += h.states[Enqueued] + h.states[Started]
		}
		if running == 0 {
			continue
		}
		d.each(func(r *record) bool {
			if r.location == inRunning {
				for c := r.home.channel; c != nil; c = c.parent {
					m.tally(c, r, 1)
					m.account(c, r, 1)
					c.toll(r, 1)
					c.keep(r, 1)
				}
				running--
			}
			return running > 0
		})
	}
}

// share decides whether the queue of a channel, which is empty, has a heap for each key. One that
// lets everything pass needs none: what comes through it is decided about further up.
func (m *Manager) share(c *channel) {
	if m.shares == nil {
		return
	}
	c.lay()
	scarce := c.parent == nil || c.restricts() || c.floors != nil
	shared := m.shares.Shared(c.name)
	if scarce || shared {
		c.ready.shared = newSharedQueue(c)
	}
	if shared && c.tolls == nil {
		c.tolls = &tolls{m: m, many: tollsFirst}
	}
	if scarce && m.shares.Fair(c.name) {
		c.ready.shared.fair = newFairness()
		m.fair++
	}
}

// restricts reports whether a channel by its limits, or rules, may keep jobs that others would let pass.
func (c *channel) restricts() bool { return c.holds() || c.throttle != 0 || c.sequential }

// holds reports whether what a job occupies that the channel has let pass may be missing to others: a
// slot, or a token. It must not change while jobs have passed, unless by gather.
func (c *channel) holds() bool { return c.capacity != 0 || c.ruling != nil }

// level is what shares mean for the jobs of one home in one of the channels from root to its own.
type level struct {
	Share
	// grain is by what the queue has to tell jobs apart: the finest of what limits here and above.
	grain Per
}

// sharesOf returns the shares of the jobs of a home, by the depth of the channel; nil if there are
// none.
func (m *Manager) sharesOf(h *home) []level {
	if m.shares == nil {
		return nil
	}
	levels := make([]level, h.channel.depth+1)
	for c := h.channel; c != nil; c = c.parent {
		levels[c.depth].Share = m.shares.Share(c.name, h.db.name)
	}
	grain := PerNothing
	for i := range levels {
		if levels[i].Limit > 0 {
			grain = max(grain, levels[i].Per)
		}
		if levels[i].Rate != nil {
			grain = max(grain, PerDatabase)
		}
		levels[i].grain = max(grain, levels[i].Fair)
	}
	return levels
}

// shareKey is what shares count separately: a database or one of its companies. The zero key stands for
// all jobs that nothing tells apart.
type shareKey struct {
	db      *database
	company int32
	group   *group // of jobs with one identity key; nil: they are told apart by the others alone
	gate    *gate  // nil: none
	// child is the channel with a minimum through which jobs have come to the queue; nil: it has none.
	child *channel
}

func (r *record) keyPer(per Per) shareKey {
	switch per {
	case PerDatabase:
		return shareKey{db: r.home.db}
	case PerCompany:
		return shareKey{db: r.home.db, company: r.home.db.companies.of(r.company)}
	default:
		return shareKey{}
	}
}

// name returns the key as people know it.
func (k shareKey) name(per Per) string {
	if per == PerCompany {
		if k.company == 0 {
			return "jobs of database " + k.db.name + " without a company"
		}
		if k.company == otherCompanies {
			return fmt.Sprintf("the companies of database %s beyond %d", k.db.name, CompaniesPerDatabase)
		}
		return fmt.Sprintf("company %d of database %s", k.company, k.db.name)
	}
	return "database " + k.db.name
}

// sharedQueue is the ready queue of a channel with a heap of jobs for each key, and heaps of those
// keys that may go.
type sharedQueue struct {
	channel *channel
	keys    map[shareKey]*keyQueue
	lanes   heap[*lane, laneOrder]
	only    lane      // the one of all keys, unless fair is set
	fair    *fairness // nil: jobs go by their order alone
	jobs    int
	passed  int // how many of the jobs are over a limit
}

func newSharedQueue(c *channel) *sharedQueue {
	return &sharedQueue{channel: c, keys: make(map[shareKey]*keyQueue), only: lane{index: -1}}
}

// keyQueue holds the ready jobs of one key in the queue of one channel.
type keyQueue struct {
	queue *sharedQueue
	key   shareKey
	lane  *lane
	// held are the jobs that occupy slots, or tokens, of channels further down, free the others.
	free, held heap[*record, readyOrder]
	hurdles    []hurdle
	shut       int // how many limits of its hurdles are reached that hold it back
	over       int // how many are reached that only let others go first
	passed     int // how many of its jobs count in that of the queue
	index      int // in the lane
}

// hurdle is one of the tallies that decide about a keyQueue, and where in its list that is.
type hurdle struct {
	tally *tally
	at    int
}

// keyOrder is the order of keys by their best jobs. Those over a limit with a burst come last.
type keyOrder struct{}

func (keyOrder) before(a, b *keyQueue) bool {
	if (a.over > 0) != (b.over > 0) {
		return b.over > 0
	}
	return a.first().before(b.first())
}
func (keyOrder) moved(k *keyQueue, index int) { k.index = index }

func (k *keyQueue) len() int { return k.free.len() + k.held.len() }

func (k *keyQueue) first() *record {
	if k.held.len() == 0 || k.free.len() > 0 && k.free.first().before(k.held.first()) {
		return k.free.first()
	}
	return k.held.first()
}

func (q *sharedQueue) first() *record { return q.lanes.first().open.first().first() }

func (q *sharedQueue) keyOf(r *record) shareKey {
	k := r.keyPer(r.home.shares[q.channel.depth].grain)
	k.group, k.gate, k.child = r.group(), r.home.gate, q.channel.floored(r)
	return k
}

func (q *sharedQueue) push(r *record) {
	k := q.keys[q.keyOf(r)]
	if k == nil {
		k = q.open(r)
	}
	k.heapOf(r).push(r)
	q.jobs++
	k.arrange()
}

func (q *sharedQueue) remove(r *record) {
	k := q.keys[q.keyOf(r)]
	k.heapOf(r).remove(int(r.index))
	q.jobs--
	k.arrange()
}

func (q *sharedQueue) split(wanted func(*record) bool) (out []*record) {
	for _, k := range q.keys {
		held, _ := k.held.split(wanted)
		free, _ := k.free.split(wanted)
		out = append(append(out, held...), free...)
		q.jobs -= len(held) + len(free)
		k.arrange()
	}
	return out
}

// heapOf returns the heap of a job that is, or will be, in this queue.
func (k *keyQueue) heapOf(r *record) *heap[*record, readyOrder] {
	c := r.home.channel
	for range r.location {
		if c.holds() || r.home.shares[c.depth].Rate != nil {
			return &k.held
		}
		c = c.parent
	}
	return &k.free
}

// open begins the queue of the key of a job.
func (q *sharedQueue) open(r *record) *keyQueue {
	k := &keyQueue{queue: q, key: q.keyOf(r), lane: q.laneOf(r), index: -1}
	for c := q.channel; c != nil; c = c.parent {
		if t := c.tallyOf(r); t != nil {
			t.join(k)
		}
		if t := c.tollOf(r); t != nil {
			t.join(k)
		}
		if c.parent == nil && k.key.group != nil {
			c.tallyOfGroup(k.key.group).join(k)
		}
		if c.parent == nil && k.key.gate != nil {
			c.tallyOfGate(k.key.gate).join(k)
		}
	}
	q.keys[k.key] = k
	k.lane.queues++
	return k
}

// arrange brings what is derived of a key up to date after its jobs or hurdles have changed.
func (k *keyQueue) arrange() {
	k.pass()
	if k.len() == 0 && k.index < 0 {
		k.close()
		return
	}
	was := k.index >= 0
	arrange(&k.lane.open, k, k.index, k.len() > 0 && k.shut == 0 && !k.barred())
	k.queue.arrange(k.lane)
	if is := k.index >= 0; is != was {
		k.opened(is)
	}
	if k.len() == 0 {
		k.close()
	}
}

// pass counts its jobs among those that others pass, if a limit holds them back.
func (k *keyQueue) pass() {
	n := 0
	if k.shut > 0 {
		n = k.len()
	}
	k.queue.passed += n - k.passed
	k.passed = n
}

// close forgets the queue of a key without jobs.
func (k *keyQueue) close() {
	k.lane.queues--
	delete(k.queue.keys, k.key)
	for i := range k.hurdles {
		k.hurdles[i].tally.leave(k, i)
	}
	k.hurdles = nil
}
