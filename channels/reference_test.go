package channels

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// reference is docs/contract.md 2 written down as directly as possible, and slow: recursion over
// the whole tree, sets and sorting. It is what Manager is compared with.
type reference struct {
	root      *refChannel
	jobs      map[Key]*refJob
	suspended map[string]bool
	shares    Shares
	rooms     map[string]Room

	// With rules: what they are, the time of the last pass, how long has passed by a clock that never
	// goes back, and when buckets were empty that are new, both in microseconds.
	rules           map[string]Rules
	now             int64
	steady, emptied int64

	// The levels of the rates per database, by channel and database; those that are missing have been
	// filling since then.
	tolls      map[[2]string]*refToll
	tollsSince int64
}

type refToll struct{ level, filled int64 }

type refJob struct {
	Job
	state   State
	channel *refChannel
	due     bool // its eta has come and was consumed
}

type refChannel struct {
	m          *reference
	name       string
	parent     *refChannel
	children   []*refChannel
	limits     limits
	configured bool
	defaults   limits

	queue, running, failed map[*refJob]bool
	pausedUntil            int64

	percent int
	rules   Rules
	window  *Window
	level   int64 // of the bucket, in tokens times microseconds of the period
	filled  int64 // when it was that full
}

func newReference() *reference {
	m := &reference{root: newRefChannel(nil, "root"), jobs: map[Key]*refJob{}, suspended: map[string]bool{}}
	m.root.m = m
	return m
}

func newRefChannel(parent *refChannel, name string) *refChannel {
	c := &refChannel{
		name: name, parent: parent,
		queue: map[*refJob]bool{}, running: map[*refJob]bool{}, failed: map[*refJob]bool{},
	}
	c.limits = c.wanted(nil)
	if parent != nil {
		c.m = parent.m
	}
	return c
}

func (c *refChannel) wanted(cfg *Config) limits {
	switch {
	case cfg != nil:
		return limits{capacity: cfg.Capacity, throttle: cfg.Throttle.Microseconds(), sequential: cfg.Sequential, paused: cfg.Paused, min: cfg.Min}
	case c.parent == nil:
		return limits{capacity: 1}
	default:
		return c.parent.defaults
	}
}

func (m *reference) channel(name string) *refChannel {
	c := m.root
	full := Normalize(name)
	for i := len("root"); i < len(full); {
		end := len(full)
		if dot := strings.Index(full[i+1:], "."); dot >= 0 {
			end = i + 1 + dot
		}
		found := slices.IndexFunc(c.children, func(o *refChannel) bool { return o.name == full[:end] })
		if found < 0 {
			child := newRefChannel(c, full[:end])
			child.rules = m.rules[child.name]
			child.filled = m.emptied
			child.window = m.inForce(child)
			c.children = append(c.children, child)
			m.refill()
			found = len(c.children) - 1
		}
		c, i = c.children[found], end
	}
	return c
}

func (m *reference) all() []*refChannel {
	var list []*refChannel
	var add func(*refChannel)
	add = func(c *refChannel) {
		list = append(list, c)
		for _, child := range c.children {
			add(child)
		}
	}
	add(m.root)
	return list
}

// sorted returns all jobs; what is drawn from it can be drawn again.
func (m *reference) sorted() []*refJob { return slices.SortedFunc(maps.Values(m.jobs), refOrder) }

func (m *reference) removeEverywhere(j *refJob) {
	for _, c := range m.all() {
		delete(c.queue, j)
		delete(c.running, j)
		delete(c.failed, j)
	}
}

func (m *reference) remove(k Key) bool {
	j := m.jobs[k]
	if j == nil {
		return false
	}
	m.removeEverywhere(j)
	delete(m.jobs, k)
	return true
}

func (m *reference) set(j Job, s State) {
	switch s {
	case Unknown:
		return
	case Done, Cancelled, WaitDependencies:
		m.remove(j.Key)
		return
	}
	old, c := m.jobs[j.Key], m.channel(j.Channel)
	if old != nil {
		now := j
		now.Channel = old.Channel
		eta := old.ETA
		if old.due {
			eta = 0
		}
		if old.channel != c || old.Job != now || s == Pending && eta != j.ETA {
			m.remove(j.Key)
			old = nil
		}
	}
	if old == nil {
		old = &refJob{Job: j, channel: c}
		m.jobs[j.Key] = old
	}
	old.state = s
	switch {
	case s == Failed:
		m.removeEverywhere(old)
		c.failed[old] = true
	case s.Running():
		m.removeEverywhere(old)
		for ; c != nil; c = c.parent {
			c.running[old] = true
		}
	case m.suspended[j.DB]:
		m.removeEverywhere(old)
	case !c.queue[old]:
		m.removeEverywhere(old)
		old.due = false
		c.queue[old] = true
	}
	m.sendBack()
}

func (m *reference) suspend(db string, suspended bool) {
	if m.suspended[db] == suspended {
		return
	}
	m.suspended[db] = suspended
	for k, j := range m.jobs {
		if k.DB == db && j.state == Pending {
			m.set(j.Job, Pending)
		}
	}
}

func (c *refChannel) hasCapacity() bool {
	if c.limits.paused || c.limits.sequential && len(c.failed) > 0 {
		return false
	}
	return len(c.running) < c.slots()
}

// slots, affords and what follows until run is what rules mean.
func (c *refChannel) slots() int {
	switch {
	case c.window != nil && c.limits.sequential:
		return min(c.window.Capacity, 1)
	case c.window != nil:
		return c.window.Capacity
	case c.limits.capacity == 0:
		return 1 << 40
	}
	return c.limits.capacity
}

func (c *refChannel) affords(more int) bool {
	if c.rules.Rate == nil {
		return true
	}
	reserved := 0
	for j := range c.running {
		if j.state == Pending {
			reserved++
		}
	}
	return c.level >= int64(reserved+more)*c.rules.Rate.Period.Microseconds()
}

func (c *refChannel) bucketSize() int64 {
	return int64(max(c.rules.Rate.Burst, 1)) * c.rules.Rate.Period.Microseconds()
}

// refill adds what a bucket has got in the meantime.
func (m *reference) refill() {
	for _, c := range m.all() {
		if c.rules.Rate != nil {
			c.level = min(c.level+(m.steady-c.filled)*int64(c.rules.Rate.Starts), c.bucketSize())
		}
		c.filled = m.steady
	}
}

// toll returns the level of the rate of a database in a channel.
func (c *refChannel) toll(db string, rate *Rate) *refToll {
	m := c.m
	k := [2]string{c.name, db}
	l := m.tolls[k]
	if l == nil {
		if m.tolls == nil {
			m.tolls = make(map[[2]string]*refToll)
		}
		l = &refToll{filled: m.tollsSince}
		m.tolls[k] = l
	}
	size := int64(max(rate.Burst, 1)) * rate.Period.Microseconds()
	l.level = min(l.level+(m.steady-l.filled)*int64(rate.Starts), size)
	l.filled = m.steady
	return l
}

func (c *refChannel) rateOf(j *refJob) *Rate {
	if c.m.shares == nil {
		return nil
	}
	return c.m.shares.Share(c.name, j.DB).Rate
}

// tolled reports whether the database of a job lacks a token for one more job than have passed.
func (c *refChannel) tolled(j *refJob) bool {
	rate := c.rateOf(j)
	if rate == nil {
		return false
	}
	need := int64(1)
	for o := range c.running {
		if o.state == Pending && o.DB == j.DB {
			need++
		}
	}
	return c.toll(j.DB, rate).level < need*rate.Period.Microseconds()
}

func (m *reference) addTokens(j *refJob, n int64) {
	for c := j.channel; c != nil; c = c.parent {
		if rate := c.rateOf(j); rate != nil {
			l := c.toll(j.DB, rate)
			l.level = min(l.level+n*rate.Period.Microseconds(), int64(max(rate.Burst, 1))*rate.Period.Microseconds())
		}
		if c.rules.Rate != nil {
			c.level = min(c.level+n*c.rules.Rate.Period.Microseconds(), c.bucketSize())
		}
	}
}

// inForce knows no window before the first pass.
func (m *reference) inForce(c *refChannel) *Window {
	if m.now == 0 {
		return nil
	}
	return inForce(c.rules.Windows, time.UnixMicro(m.now))
}

// advance tells it the time and lets windows open and shut.
func (m *reference) advance(now int64) {
	if m.now != 0 {
		m.steady += max(now-m.now, 0)
	}
	m.now = now
	m.refill()
	m.recall(m.shift(true))
}

// shift finds the windows in force, and the capacities that are a part of another one. It returns the
// channels that have let more pass than they may now.
func (m *reference) shift(windows bool) (strict []*refChannel) {
	for _, c := range m.all() {
		before := c.slots()
		if windows {
			c.window = m.inForce(c)
		}
		if c.percent != 0 {
			c.limits.capacity = max(c.parent.slots()*c.percent/100, 1)
		}
		if c.slots() != before && len(c.running) > c.slots() {
			strict = append(strict, c)
		}
	}
	return strict
}

func (m *reference) recall(strict []*refChannel) {
	for _, j := range m.jobs {
		recall := slices.ContainsFunc(strict, func(c *refChannel) bool { return c.running[j] })
		if j.state == Pending && recall {
			m.removeEverywhere(j)
			j.channel.queue[j] = true
		}
	}
}

// govern keeps the tokens of those channels that jobs or the configuration need.
func (m *reference) govern(rules map[string]Rules) {
	m.rules, m.emptied = rules, m.steady
	needed := m.needed()
	for _, c := range m.all() {
		old := c.rules
		c.rules = rules[c.name]
		c.window = m.inForce(c)
		switch {
		case c.rules.Rate == nil || old.Rate == nil || !needed[c]:
			c.level = 0
		case *c.rules.Rate != *old.Rate:
			tokens := max(c.level, 0) / old.Rate.Period.Microseconds()
			c.level = min(tokens*c.rules.Rate.Period.Microseconds(), c.bucketSize())
		}
	}
	m.shift(false)
	var strict []*refChannel
	for _, c := range m.all() {
		if len(c.running) > c.slots() || !c.affords(0) {
			strict = append(strict, c)
		}
	}
	m.recall(strict)
}

func (m *reference) empty() {
	m.emptied = m.steady
	m.tolls, m.tollsSince = nil, m.steady
	var strict []*refChannel
	for _, c := range m.all() {
		for o := range c.running {
			if o.state == Pending && c.rateOf(o) != nil {
				strict = append(strict, c)
				break
			}
		}
		if c.rules.Rate != nil {
			c.level = 0
			strict = append(strict, c)
		}
	}
	m.recall(strict)
}

func (m *reference) refund(k Key) {
	if j := m.jobs[k]; j != nil {
		m.addTokens(j, 1)
	}
}

func refOrder(a, b *refJob) int {
	_, canonicalA := parseUUID(a.UUID)
	_, canonicalB := parseUUID(b.UUID)
	odd := 0
	if canonicalA != canonicalB {
		odd = 1
		if canonicalA {
			odd = -1
		}
	}
	return cmp.Or(
		cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Created, b.Created), cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.DB, b.DB), odd, cmp.Compare(a.UUID, b.UUID))
}

func refETAOrder(a, b *refJob) int { return cmp.Or(cmp.Compare(a.ETA, b.ETA), refOrder(a, b)) }

// split returns the ready jobs and those with a future eta, best first.
func (c *refChannel) split() (ready, waiting []*refJob) {
	for j := range c.queue {
		if j.ETA == 0 || j.due {
			ready = append(ready, j)
		} else {
			waiting = append(waiting, j)
		}
	}
	slices.SortFunc(ready, refOrder)
	slices.SortFunc(waiting, refETAOrder)
	return ready, waiting
}

// expire makes the jobs ready whose eta has come.
func (c *refChannel) expire(now int64) {
	for j := range c.queue {
		if j.ETA != 0 && j.ETA <= now {
			j.due = true
		}
	}
}

func (c *refChannel) pop(now int64) *refJob {
	c.expire(now)
	ready, waiting := c.split()
	ready = c.allowed(ready)
	if len(ready) == 0 || c.limits.sequential && len(waiting) > 0 && refOrder(waiting[0], ready[0]) < 0 {
		return nil
	}
	delete(c.queue, ready[0])
	return ready[0]
}

func (c *refChannel) run(now int64, limit int) []*refJob {
	for _, child := range c.children {
		for _, j := range child.run(now, 0) {
			c.queue[j] = true
		}
	}
	if c.pausedUntil != 0 {
		if now < c.pausedUntil {
			return nil
		}
		c.pausedUntil = 0
	}
	if c.hasCapacity() {
		c.expire(now) // whether or not there is a token
	}
	var jobs []*refJob
	for c.hasCapacity() && c.affords(1) && (limit <= 0 || len(jobs) < limit) {
		j := c.pop(now)
		if j == nil {
			break
		}
		c.running[j] = true
		jobs = append(jobs, j)
		if c.parent == nil {
			c.m.spend(j)
		}
		if c.limits.throttle != 0 {
			c.pausedUntil = now + c.limits.throttle
			break
		}
	}
	c.m.sendBack()
	return jobs
}

func (m *reference) next(now int64, limit int) []Key {
	var keys []Key
	for {
		for _, j := range m.root.run(now, max(limit-len(keys), 0)) {
			j.state = Enqueued
			m.addTokens(j, -1)
			keys = append(keys, j.Key)
		}
		if m.shares == nil && !m.minimums() || !slices.ContainsFunc(m.all(), (*refChannel).pending) || limit > 0 && len(keys) >= limit {
			return keys
		}
	}
}

// wakeup returns 0 for none.
func (c *refChannel) wakeup() int64 {
	if !c.hasCapacity() {
		return 0
	}
	if c.pausedUntil != 0 {
		return c.pausedUntil
	}
	var times []int64
	if _, waiting := c.split(); len(waiting) > 0 {
		times = append(times, waiting[0].ETA)
	}
	for _, child := range c.children {
		if w := child.wakeup(); w != 0 {
			times = append(times, w)
		}
	}
	if len(times) == 0 {
		return 0
	}
	return slices.Min(times)
}

func (m *reference) configure(cfgs []Config) error {
	for _, cfg := range cfgs {
		if cfg.Sequential && cfg.Capacity != 1 {
			return errors.New("sequential")
		}
	}
	for _, c := range m.all() {
		c.configured, c.defaults = false, limits{}
	}
	byName := map[*refChannel]*Config{}
	for _, cfg := range cfgs {
		c := m.channel(cfg.Name)
		c.configured, byName[c] = true, &cfg
		c.defaults = limits{capacity: cfg.CapacityDefault, sequential: cfg.SequentialDefault}
	}
	var strict []*refChannel
	for _, c := range m.all() {
		c.percent = 0
		old, wanted := c.limits, c.wanted(byName[c])
		if cfg := byName[c]; cfg != nil && cfg.Percent != 0 {
			c.percent = cfg.Percent
			wanted.capacity = max(c.parent.slots()*c.percent/100, 1)
		}
		if old == wanted {
			continue
		}
		if wanted.throttle == 0 {
			c.pausedUntil = 0
		} else if c.pausedUntil != 0 {
			c.pausedUntil += wanted.throttle - old.throttle
		}
		c.limits = wanted
		if wanted.paused && !old.paused || wanted.sequential && !old.sequential ||
			wanted.throttle > old.throttle || len(c.running) > c.slots() {
			strict = append(strict, c)
		}
	}
	m.recall(strict)
	return nil
}

// status leaves out channels that neither a job nor the configuration needs.
func (m *reference) status() []string {
	var lines []string
	for c := range m.needed() {
		lines = append(lines, Status{
			FullName: c.name, Configured: c.configured, Capacity: c.limits.capacity,
			Queued: len(c.queue), Running: len(c.running), Failed: len(c.failed),
		}.String())
	}
	slices.Sort(lines)
	return lines
}

func (m *reference) needed() map[*refChannel]bool {
	needed := map[*refChannel]bool{m.root: true}
	need := func(c *refChannel) {
		for ; c != nil; c = c.parent {
			needed[c] = true
		}
	}
	for _, c := range m.all() {
		if c.configured {
			need(c)
		}
	}
	for _, j := range m.jobs {
		need(j.channel)
	}
	return needed
}
