package channels

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// shareList is a list of shares of which the first counts that names a channel and a database. A name
// can end with a star.
type shareList []namedShare

type namedShare struct {
	channel, db string
	share       Share
}

func (l shareList) Share(channel, db string) Share {
	for _, s := range l {
		if globbed(s.channel, channel) && globbed(s.db, db) {
			return s.share
		}
	}
	return Share{}
}

func (l shareList) Shared(channel string) bool {
	return slices.ContainsFunc(l, func(s namedShare) bool {
		return (s.share.Limit > 0 || s.share.Rate != nil) && globbed(s.channel, channel)
	})
}

func (l shareList) Fair(channel string) bool {
	return slices.ContainsFunc(l, func(s namedShare) bool { return s.share.Fair != PerNothing && globbed(s.channel, channel) })
}

func globbed(glob, name string) bool {
	prefix, star := strings.CutSuffix(glob, "*")
	return name == glob || star && strings.HasPrefix(name, prefix)
}

var drawShares = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) namedShare {
	return namedShare{
		channel: rapid.SampledFrom([]string{"root", "root*", "root.*", "root.A*", "root.A.x", "root.S*", "root.B"}).Draw(t, "channel"),
		db:      rapid.SampledFrom([]string{"*", "*", "one", "t*"}).Draw(t, "database"),
		share: Share{
			Limit:     rapid.SampledFrom([]int{0, 1, 1, 2, 3}).Draw(t, "limit"),
			Per:       rapid.SampledFrom([]Per{PerDatabase, PerCompany}).Draw(t, "per"),
			Burst:     rapid.IntRange(0, 3).Draw(t, "burst") == 0,
			Serialize: rapid.SampledFrom([]string{"", "", "one", "two"}).Draw(t, "serialize"),
			Gate:      rapid.SampledFrom([]string{"", "", "", "x", "y"}).Draw(t, "gate"),
		},
	}
}), 1, 4)

func (s *comparison) share(t *rapid.T) {
	var shares Shares
	if rapid.IntRange(0, 5).Draw(t, "shares") > 0 {
		shares = shareList(drawShares.Draw(t, "list"))
	}
	s.apply(shares)
}

func (s *comparison) apply(shares Shares) {
	s.m.SetShares(shares)
	s.ref.shares = shares
	s.ref.tolls, s.ref.tollsSince = nil, s.ref.steady
	s.ref.gather()
}

// TestSharesAreTheReference compares Manager with the reference model, with shares that change.
func TestSharesAreTheReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &comparison{m: NewManager(), ref: newReference(), now: 1000}
		s.configure(t)
		s.share(t)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				s.check(t)
				s.checkShares(t)
			},
			"configure":    s.configure,
			"share":        s.share,
			"rooms":        s.setRooms,
			"set":          s.set,
			"set again":    s.set,
			"set more":     s.set,
			"set the same": s.setSame,
			"next":         s.next,
			"next again":   s.next,
			"remove":       s.remove,
			"remove some":  s.removeSome,
			"suspend":      s.suspend,
			"resume":       s.resume,
			"snapshot":     s.snapshot,
		})
	})
}

// checkShares: what a complete pass leaves waiting could not start by the plain meaning of the limits,
// for a reason that is there without it, too.
func (s *comparison) checkShares(t *rapid.T) {
	if s.m.shares == nil || s.m.Pending() {
		return
	}
	for _, c := range s.ref.all() {
		for j := range c.queue {
			for p := j.channel; p != c; p = p.parent {
				if p.holds() || p.rateOf(j) != nil {
					require.False(t, c.gated(j), "%s is over a limit and holds a slot of %s", j.Key, p.name)
				}
			}
		}
	}
}

// refKey is what a share counts.
func refKey(j *refJob, per Per) string {
	switch per {
	case PerDatabase:
		return j.DB
	case PerCompany:
		return fmt.Sprint(j.DB, "/", j.Company)
	}
	return ""
}

// full reports whether the limit of a job's key in one channel is reached, and whether that only lets
// others go first.
func (c *refChannel) full(j *refJob) (full, burst bool) {
	if c.m.shares == nil {
		return false, false
	}
	s := c.m.shares.Share(c.name, j.DB)
	if s.Limit == 0 {
		return false, false
	}
	n := 0
	for o := range c.running {
		if refKey(o, s.Per) == refKey(j, s.Per) && o.DB == j.DB {
			n++
		}
	}
	return n >= s.Limit, s.Burst
}

// gated reports whether a limit of the channel, or of one above, holds a job back.
func (c *refChannel) gated(j *refJob) bool {
	for ; c != nil; c = c.parent {
		if full, burst := c.full(j); full && !burst || c.tolled(j) {
			return true
		}
		if c.parent == nil && (c.serialized(j) || c.m.closed(j)) {
			return true
		}
	}
	return false
}

// serialized reports whether root has let a job with the identity key of this one pass.
func (c *refChannel) serialized(j *refJob) bool {
	scope := j.scope()
	for o := range c.running {
		if scope != "" && o.Identity != 0 && o.DB == j.DB && o.Identity == j.Identity && o.scope() == scope {
			return true
		}
	}
	return false
}

// scope is that of the highest channel that has one.
func (j *refJob) scope() (scope string) {
	for c := j.channel; c != nil && c.m.shares != nil; c = c.parent {
		if s := c.m.shares.Share(c.name, j.DB).Serialize; s != "" {
			scope = s
		}
	}
	return scope
}

func (c *refChannel) over(j *refJob) bool {
	for ; c != nil; c = c.parent {
		if full, burst := c.full(j); full && burst {
			return true
		}
	}
	return false
}

// tells reports whether the channel tells keys apart: one that lets everything pass does not.
func (c *refChannel) tells() bool {
	return c.m.shares != nil && (c.parent == nil || c.holds() || c.limits.throttle != 0 || c.limits.sequential || c.m.shares.Shared(c.name))
}

// allowed returns the jobs that limits let pass, in their order.
func (c *refChannel) allowed(ready []*refJob) []*refJob {
	return slices.DeleteFunc(c.limited(ready), c.barred())
}

func (c *refChannel) limited(ready []*refJob) []*refJob {
	if !c.tells() {
		return ready
	}
	var first, last []*refJob
	for _, j := range ready {
		switch {
		case c.gated(j):
		case c.over(j):
			last = append(last, j)
		default:
			first = append(first, j)
		}
	}
	return append(first, last...)
}

// sendBack brings jobs over a limit that hold slots of channels further down back there.
func (m *reference) sendBack() {
	for again := m.shares != nil; again; {
		again = false
		for _, c := range m.all() {
			for _, j := range slices.SortedFunc(maps.Keys(c.queue), refOrder) {
				holds := false
				for p := j.channel; p != c; p = p.parent {
					holds = holds || p.holds() || p.rateOf(j) != nil
				}
				if holds && c.tells() && c.gated(j) {
					m.removeEverywhere(j)
					j.channel.queue[j] = true
					again = true
				}
			}
		}
	}
}

// holds reports whether jobs that have passed the channel have something that others may lack.
func (c *refChannel) holds() bool {
	return c.limits.capacity != 0 || !c.rules.empty()
}

// pending reports whether the channel could let a job pass at once.
func (c *refChannel) pending() bool {
	ready, waiting := c.split()
	ready = c.allowed(ready)
	return c.pausedUntil == 0 && c.hasCapacity() && c.affords(1) && len(ready) > 0 &&
		(!c.limits.sequential || len(waiting) == 0 || refOrder(ready[0], waiting[0]) < 0)
}

// gather brings all jobs that wait back to their own channels.
func (m *reference) gather() {
	for _, c := range m.all() {
		for j := range c.queue {
			if j.channel != c {
				m.removeEverywhere(j)
				j.channel.queue[j] = true
			}
		}
	}
}

func requireQueued(t require.TestingT, r *record, c *channel) {
	q := c.ready.shared
	if q == nil {
		require.Same(t, r, c.ready.items[r.index])
		return
	}
	k := q.keys[q.keyOf(r)]
	require.NotNil(t, k)
	require.Same(t, r, k.heapOf(r).items[r.index])
}

// checkSharedQueue recomputes what is derived of a queue.
func checkSharedQueue(t require.TestingT, m *Manager, q *sharedQueue) {
	require.Empty(t, m.turned)
	checkFairness(t, m, q)
	checkFloors(t, q)
	jobs, open, passed := 0, 0, 0
	queues := make(map[*lane]int)
	for key, k := range q.keys {
		require.Equal(t, key, k.key)
		require.Positive(t, k.len(), "a key without jobs is forgotten")
		jobs += k.len()
		queues[k.lane]++
		if k.shut > 0 {
			passed += k.len()
		}
		checkHeap(t, k.free.items, readyOrder{})
		checkHeap(t, k.held.items, readyOrder{})
		shut, over := 0, 0
		for i, g := range k.hurdles {
			require.Equal(t, waiting{k, i}, g.tally.waiting[g.at])
			switch {
			case !g.tally.reached():
			case g.tally.burst:
				over++
			default:
				shut++
			}
		}
		require.Equal(t, shut, k.shut)
		require.Equal(t, over, k.over)
		require.Equal(t, shut == 0 && !k.barred(), k.index >= 0)
		if k.index >= 0 {
			open++
			require.Same(t, k, k.lane.open.items[k.index])
		}
	}
	require.Equal(t, q.jobs, jobs)
	require.Equal(t, q.passed, passed)
	for l, n := range queues {
		require.Equal(t, n, l.queues)
	}
	for _, l := range q.lanes.items {
		require.NotZero(t, l.open.len())
		open -= l.open.len()
		checkHeap(t, l.open.items, keyOrder{})
	}
	require.Zero(t, open)
	checkHeap(t, q.lanes.items, laneOrder{})
}

// checkTallies counts anew what limits count.
func checkTallies(t require.TestingT, m *Manager, c *channel) {
	for key, tally := range c.tallies {
		require.Equal(t, key, tally.key)
		if key.gate != nil {
			require.Zero(t, tally.running)
			require.Equal(t, !key.gate.open(), tally.reached())
			continue
		}
		if key.group != nil {
			require.Len(t, key.group.running, tally.running)
			require.Nil(t, c.parent)
			continue
		}
		require.True(t, tally.running > 0 || len(tally.waiting) > 0, "a tally that counts nothing is forgotten")
		running := 0
		for _, d := range m.dbs {
			d.each(func(r *record) bool {
				if r.hasLeft(c) && r.keyPer(r.home.shares[c.depth].Per) == key {
					running++
				}
				return true
			})
		}
		require.Equal(t, running, tally.running)
	}
}

// hasLeft reports whether a channel counts a job among those that it has let pass.
func (r *record) hasLeft(c *channel) bool {
	p := r.home.channel
	if p.depth < c.depth || p.ancestor(location(p.depth-c.depth)) != c {
		return false
	}
	return r.location == inRunning || !r.parked() && r.location.inReady() && int(r.location) > p.depth-c.depth
}
