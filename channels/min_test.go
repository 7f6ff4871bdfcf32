package channels

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func (m *reference) minimums() bool {
	for _, c := range m.all() {
		if c.limits.min > 0 {
			return true
		}
	}
	return false
}

// through returns the channel right below this one through which a job comes; nil if it is its own.
func (c *refChannel) through(j *refJob) *refChannel {
	k := j.channel
	for k != c && k.parent != c {
		k = k.parent
	}
	if k == c {
		return nil
	}
	return k
}

// uses returns how many jobs of a channel below this one has let pass.
func (c *refChannel) uses(k *refChannel) (n int) {
	for j := range c.running {
		if c.through(j) == k {
			n++
		}
	}
	return n
}

// lacks returns how many slots have to be kept for a channel below.
func (c *refChannel) lacks(k *refChannel) int {
	used := c.uses(k)
	lacks := min(k.limits.min, k.slots()) - used
	if lacks <= 0 || k.limits.paused || k.limits.sequential && len(k.failed) > 0 {
		return 0
	}
	wants := used > 0
	ready, _ := k.split()
	wants = wants || len(k.allowed(ready)) > 0
	ready, _ = c.split()
	for _, j := range ready {
		wants = wants || c.through(j) == k && !(c.tells() && c.gated(j))
	}
	if !wants {
		return 0
	}
	return lacks
}

// barred says which jobs have to leave the free slots to others.
func (c *refChannel) barred() func(*refJob) bool {
	kept := 0
	for _, k := range c.children {
		kept += c.lacks(k)
	}
	if kept == 0 || c.slots()-len(c.running) > kept {
		return func(*refJob) bool { return false }
	}
	return func(j *refJob) bool {
		k := c.through(j)
		return k == nil || c.uses(k) >= k.limits.min
	}
}

// checkFloors recomputes what a channel keeps.
func checkFloors(t require.TestingT, q *sharedQueue) {
	c, kept := q.channel, 0
	for _, child := range c.children {
		open := 0
		for _, k := range q.keys {
			if k.key.child == child && k.index >= 0 {
				open++
			}
		}
		if c.floors == nil || child.min == 0 {
			require.Equal(t, floor{}, child.floor)
			continue
		}
		require.Equal(t, open, child.floor.open)
		require.Equal(t, child.claim(), child.floor.kept)
		kept += child.floor.kept
	}
	if c.floors != nil {
		require.Equal(t, floors{kept: kept, shut: kept > 0 && c.slots()-c.running <= kept}, *c.floors)
	}
}

// minFixture is a tree in which mail has a minimum.
func minFixture(t *testing.T, shares Shares) *Manager {
	t.Helper()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 4}, {Name: "mail", Min: 2}, {Name: "import", Capacity: 3}}))
	m.SetShares(shares)
	return m
}

// TestMin: what is kept for a channel is used by others while it has no job, and by none of them as long
// as one runs, or could start.
func TestMin(t *testing.T) {
	t.Parallel()
	for name, shares := range map[string]Shares{"alone": nil, "with a limit": shareList{{"root", "*", Share{Limit: 9, Per: PerDatabase}}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := minFixture(t, shares)
			addTo(m, "one", "", "a", "b", "c", "d", "e", "f", "g", "h")
			require.Equal(t, []string{"a", "b", "c", "d"}, started(m), "nobody needs it")
			addTo(m, "two", "mail", "m", "n", "o")
			require.Empty(t, started(m), "nothing is ended for it")
			m.Remove(Key{"one", "a"})
			require.Equal(t, []string{"m"}, started(m), "those with a minimum go first")
			m.Remove(Key{"one", "b"})
			require.Equal(t, []string{"n"}, started(m))
			m.Remove(Key{"one", "c"})
			require.Equal(t, []string{"e"}, started(m), "which mail has used up")
			m.Remove(Key{"two", "m"})
			require.Equal(t, []string{"o"}, started(m))
			m.Remove(Key{"two", "n"})
			require.Empty(t, started(m), "one job of mail runs, and another slot is kept")
			e, _ := m.Explain(Key{"one", "f"}, at(1))
			require.Equal(t, ReasonMin, e.Reason)
			require.Equal(t, "job one/f waits: the free slots of channel root are kept (min): 1 for root.mail", e.String())
			m.Remove(Key{"two", "o"})
			require.Equal(t, []string{"f", "g"}, started(m))
			require.False(t, m.Pending())
		})
	}
}

// TestMinOfWhoCannot: nothing is kept for a channel that could start nothing.
func TestMinOfWhoCannot(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		shares Shares
		turn   func(m *Manager)
	}{
		"paused": {turn: func(m *Manager) { m.Pause("root.mail", true) }},
		"at its limit": {shares: shareList{{"root.mail", "two", Share{Gate: "servers"}}}, turn: func(m *Manager) {
			m.SetRooms([]Room{{Gate: "servers"}})
		}},
		"an eta": {turn: func(m *Manager) {
			m.Set(Job{Key: Key{"two", "m"}, Channel: "mail", ETA: 1e12}, Pending)
		}},
		"not configured any more": {turn: func(m *Manager) {
			_ = m.Configure([]Config{{Name: "root", Capacity: 4}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := minFixture(t, c.shares)
			addTo(m, "two", "mail", "m")
			c.turn(m)
			addTo(m, "one", "", "a", "b", "c", "d", "e")
			require.Subset(t, started(m), []string{"a", "b", "c"})
		})
	}
}

// TestMinOfASequentialChannel: its slot is kept for it until one of its jobs has failed.
func TestMinOfASequentialChannel(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 2}, {Name: "mail", Capacity: 1, Min: 1, Sequential: true}}))
	addTo(m, "one", "", "a", "b", "c", "d")
	require.Equal(t, []string{"a", "b"}, started(m))
	addTo(m, "two", "mail", "m", "n")
	m.Remove(Key{"one", "a"})
	require.Equal(t, []string{"m"}, started(m))
	m.Set(Job{Key: Key{"two", "m"}, Channel: "mail"}, Failed)
	require.Equal(t, []string{"c"}, started(m))
}

func TestMinIsValidated(t *testing.T) {
	t.Parallel()
	root := Config{Name: "root", Capacity: 4}
	for want, cfgs := range map[string][]Config{
		"channel root: min is a part of the slots of the channel above, and there is none":      {{Name: "root", Capacity: 4, Min: 1}},
		"channel root.a: min must not be negative":                                              {root, {Name: "a", Min: -1}},
		"channel root.a: min 3 is more than its capacity, which is 2":                           {root, {Name: "a", Capacity: 2, Min: 3}},
		"min of root.a, root.b: 5 in all is more than the capacity of channel root, which is 4": {root, {Name: "a", Min: 2}, {Name: "b", Min: 3}},
		"min of root.c, root.d: 6 in all is more than the capacity of channel root, which is 4": {
			root, {Name: "c", Capacity: 3, Min: 3}, {Name: "d", Min: 3}, {Name: "e", Capacity: 1}, {Name: "c.deep", Min: 1},
		},
		"min of root.a.b: there is nothing to keep, because channel root.a has no limit":    {root, {Name: "a.b", Min: 2}},
		"min of root.a: 2 in all is more than the capacity of channel root, which is 1":     {{Name: "a", Min: 2}},
		"min of root.a.b: 3 in all is more than the capacity of channel root.a, which is 2": {{Name: "root", Capacity: 4, CapacityDefault: 2}, {Name: "a.b", Min: 3}},
		"": {{Name: "root", Capacity: 4, Auto: true}, {Name: "a", Min: 5}},
	} {
		err := NewManager().Configure(cfgs)
		if want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, want)
	}
}

// TestExplainMinIsExact: what is explained as ready is what the next pass starts.
func TestExplainMinIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewManager()
		require.NoError(t, m.Configure([]Config{
			{Name: "root", Capacity: rapid.IntRange(3, 6).Draw(t, "capacity")}, {Name: "a", Min: rapid.IntRange(1, 2).Draw(t, "a")},
			{Name: "b", Min: 1}, {Name: "c", Capacity: 2},
		}))
		n := 0
		add := func(state State, channels []string) {
			for range rapid.IntRange(0, 4).Draw(t, "jobs") {
				n++
				m.Set(Job{
					Key: Key{"db", fmt.Sprint(n)}, Channel: rapid.SampledFrom(channels).Draw(t, "channel"),
					Priority: rapid.Int32Range(0, 3).Draw(t, "priority"), Created: int64(n),
				}, state)
			}
		}
		all := []string{"", "a", "b", "a.deep", "other", "c"}
		add(Started, all)
		add(Pending, all)
		m.Pause("root", true)
		require.Empty(t, m.Next(at(1), 0), "everything has come up")
		m.Pause("root", false)
		ready := make(map[Key]bool)
		for j, state := range m.Jobs("") {
			if e, _ := m.Explain(j.Key, at(1)); state == Pending && e.Reason == ReasonReady {
				ready[j.Key] = true
			}
		}
		for _, k := range m.Next(at(1), 0) {
			require.True(t, ready[k], "%s starts", k)
			delete(ready, k)
		}
		require.Empty(t, ready)
	})
}

// TestExampleOfMin is the one of docs/policies-shares.md.
func TestExampleOfMin(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 4}, {Name: "alerts", Capacity: 4, Min: 2}}))
	step := func(ended string, want ...string) {
		t.Helper()
		m.Remove(Key{"prod", ended})
		require.ElementsMatch(t, want, started(m))
	}
	addTo(m, "prod", "", "i1", "i2", "i3", "i4", "i5", "i6")
	step("", "i1", "i2", "i3", "i4")
	addTo(m, "prod", "alerts", "a1", "a2", "a3")
	step("")
	m.Remove(Key{"prod", "i1"})
	step("i2", "a1", "a2")
	step("i3", "i5")
	step("a1", "a3")
	step("a2")
	e, _ := m.Explain(Key{"prod", "i6"}, at(1))
	require.Contains(t, e.String(), "the free slots of channel root are kept (min): 1 for root.alerts")
	step("a3", "i6")
}

// TestMinInATreeOfItsOwn: what bounds the tree of a database makes its minimums no mistake.
func TestMinInATreeOfItsOwn(t *testing.T) {
	t.Parallel()
	f := NewForest()
	f.ConfigureDatabases(Capacities{Max: 2})
	require.NoError(t, f.ConfigureDatabase("db", []Config{{Name: "root", Capacity: 4}, {Name: "a", Capacity: 4, Min: 3}}))
	for i, channel := range []string{"", "", "a", "a"} {
		f.Set(Job{Key: Key{"db", fmt.Sprint(i)}, Channel: channel, ID: int64(i)}, Pending)
	}
	require.ElementsMatch(t, []Key{{"db", "2"}, {"db", "3"}}, f.Next(at(1), 0), "those with a minimum go first")
}

// TestMinIsNotExceeded: what has had its minimum leaves to others what is kept for them, and has its own
// again when its jobs have ended.
func TestMinIsNotExceeded(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 3}, {Name: "a", Min: 1}, {Name: "b", Min: 1}}))
	addTo(m, "db", "", "r1", "r2", "r3", "r4")
	require.Equal(t, []string{"r1", "r2", "r3"}, started(m))
	addTo(m, "db", "a", "a1", "a2", "a3")
	addTo(m, "db", "b", "b1", "b2")
	m.Remove(Key{"db", "r1"})
	m.Remove(Key{"db", "r2"})
	require.Equal(t, []string{"a1", "b1"}, started(m), "a2, which is before b1, would take what is kept for b")
	m.Remove(Key{"db", "a1"})
	require.Equal(t, []string{"a2"}, started(m))
}

// TestMinIsKeptWhereThereIsOne: a channel without a minimum below it, such as one whose minimum is not
// configured any more, keeps nothing.
func TestMinIsKeptWhereThereIsOne(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{
		{Name: "root", Capacity: 3}, {Name: "a", Capacity: 3}, {Name: "a.deep", Min: 2}, {Name: "b", Capacity: 3}, {Name: "b.deep", Capacity: 2},
	}))
	require.NotNil(t, m.find("root.a").floors)
	for _, name := range []string{"root", "root.a.deep", "root.b", "root.b.deep"} {
		require.Nil(t, m.find(name).floors, name)
	}
	addTo(m, "db", "a.deep", "job")
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 3}, {Name: "a", Capacity: 3}, {Name: "b", Min: 1}}))
	require.NotNil(t, m.find("root").floors)
	require.Nil(t, m.find("root.a").floors)
}

// TestExplainKeptSlots: of a channel with a minimum, a job for which a slot is kept is behind others only
// where fewer slots are free than are kept.
func TestExplainKeptSlots(t *testing.T) {
	t.Parallel()
	for free, want := range map[int]Reason{1: ReasonBehind, 2: ReasonReady, 3: ReasonReady} {
		m := NewManager()
		require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 4}, {Name: "a", Capacity: 1, Min: 1}, {Name: "b", Capacity: 2, Min: 2}}))
		m.Pause("root", true)
		for i := range 4 - free {
			m.Set(Job{Key: key(fmt.Sprint(i))}, Started)
		}
		addTo(m, "db", "a", "a1")
		addTo(m, "db", "b", "b1")
		require.Empty(t, started(m), "they come up")
		m.Pause("root", false)
		e := why(t, m, "db", "b1")
		require.Equal(t, want, e.Reason, "%d free", free)
		require.Equal(t, 1, e.Ahead)
		require.Equal(t, want == ReasonReady, len(started(m)) == 2, "%d free", free)
	}
}
