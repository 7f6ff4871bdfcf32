package channels

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
)

// reference is docs/contract.md 2 written down as directly as possible, and slow: recursion over
// the whole tree, sets and sorting. It is what Manager is compared with.
type reference struct {
	root      *refChannel
	jobs      map[Key]*refJob
	suspended map[string]bool
	shares    Shares
	rooms     map[string]Room
}

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
		return limits{cfg.Capacity, cfg.Throttle.Microseconds(), cfg.Sequential, cfg.Paused}
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
			c.children = append(c.children, newRefChannel(c, full[:end]))
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
	return c.limits.capacity == 0 || len(c.running) < c.limits.capacity
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

func (c *refChannel) pop(now int64) *refJob {
	for j := range c.queue {
		if j.ETA != 0 && j.ETA <= now {
			j.due = true
		}
	}
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
	var jobs []*refJob
	for c.hasCapacity() && (limit <= 0 || len(jobs) < limit) {
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
			keys = append(keys, j.Key)
		}
		if m.shares == nil || !slices.ContainsFunc(m.all(), (*refChannel).pending) || limit > 0 && len(keys) >= limit {
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
		old, wanted := c.limits, c.wanted(byName[c])
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
			wanted.throttle > old.throttle || wanted.capacity != 0 && len(c.running) > wanted.capacity {
			strict = append(strict, c)
		}
	}
	for _, j := range m.jobs {
		recall := slices.ContainsFunc(strict, func(c *refChannel) bool { return c.running[j] })
		if j.state == Pending && recall {
			m.removeEverywhere(j)
			j.channel.queue[j] = true
		}
	}
	return nil
}

// status leaves out channels that neither a job nor the configuration needs.
func (m *reference) status() []string {
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
	var lines []string
	for c := range needed {
		lines = append(lines, Status{
			FullName: c.name, Configured: c.configured, Capacity: c.limits.capacity,
			Queued: len(c.queue), Running: len(c.running), Failed: len(c.failed),
		}.String())
	}
	slices.Sort(lines)
	return lines
}
