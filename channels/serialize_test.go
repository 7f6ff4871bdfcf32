package channels

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkIdentities counts anew who has which identity key.
func checkIdentities(t require.TestingT, d *database) {
	x := &d.identities
	jobs := make(map[uint64]int)
	running := make(map[*group]int)
	d.each(func(r *record) bool {
		id, ok := x.id(r)
		if !ok {
			return true
		}
		jobs[id]++
		if g := r.group(); g == nil {
			require.Same(t, r, x.lone[id])
		} else if r.location == inRunning {
			require.Contains(t, g.running, r)
			running[g]++
		}
		return true
	})
	for id, g := range x.groups {
		require.Equal(t, jobs[id], g.jobs)
		require.Len(t, g.running, running[g])
		delete(jobs, id)
	}
	require.Len(t, x.lone, len(jobs))
}

func identical(uuid, channel string, id int64, identity uint64) Job {
	return Job{Key: key(uuid), Channel: channel, ID: id, Identity: identity}
}

// TestSerialize: of two jobs with one identity key one runs at a time, whatever their channels, and
// the others pass the one that waits.
func TestSerialize(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9,a:2,b:2", shareList{{"root", "*", Share{Serialize: "policy root"}}})
	m.Set(identical("a", "a", 1, 7), Pending)
	m.Set(identical("b", "b", 2, 7), Pending)
	m.Set(identical("c", "a", 3, 7), Pending)
	m.Set(identical("d", "a", 4, 8), Pending)
	m.Set(identical("e", "a", 5, 0), Pending)
	m.Set(identical("f", "b", 6, 0), Pending)
	m.Set(Job{Key: Key{DB: "other", UUID: "g"}, Channel: "b", ID: 9, Identity: 7}, Pending)
	e, _ := m.Explain(key("c"), at(1))
	require.Equal(t, ReasonSerialized, e.Reason)
	require.Equal(t, key("a"), e.Blocker)
	require.Equal(t, "job db/c waits: job db/a, which has the same identity key, goes first (policy root), and 1 job goes before it", e.String())
	e, _ = m.Explain(key("a"), at(1))
	require.Equal(t, ReasonReady, e.Reason, "it does not wait for itself")
	require.ElementsMatch(t, []Key{key("a"), key("d"), key("f"), {DB: "other", UUID: "g"}}, m.Next(at(1), 0))
	e, _ = m.Explain(key("b"), at(1))
	require.Equal(t, ReasonSerialized, e.Reason)
	require.Equal(t, key("a"), e.Blocker)
	require.Equal(t, "job db/b waits: job db/a, which has the same identity key, runs (policy root)", e.String())
	st, _ := m.Channel("b")
	require.Equal(t, 1, st.PassedBy)
	m.Set(identical("a", "a", 1, 7), Done)
	require.Equal(t, []Key{key("c")}, m.Next(at(1), 0), "b goes before it, but its channel is full")
	m.Set(identical("f", "b", 6, 0), Done)
	require.Empty(t, m.Next(at(1), 0))
	m.Set(identical("c", "a", 3, 7), Done)
	require.Equal(t, []Key{key("b"), key("e")}, m.Next(at(1), 0))
}

// TestSerializeScopes: identity keys count over all channels of what names them, and nowhere else; what
// names a channel further up takes in what is below.
func TestSerializeScopes(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9", shareList{
		{"root.a*", "*", Share{Serialize: "policy root.a*"}},
		{"root.b*", "*", Share{Serialize: "policy root.b*"}},
	})
	for i, channel := range []string{"a", "ab", "a.deep", "b", "c", "c"} {
		m.Set(identical(fmt.Sprint(channel, i), channel, int64(i), 1), Pending)
	}
	require.ElementsMatch(t, []Key{key("a0"), key("b3"), key("c4"), key("c5")}, m.Next(at(1), 0))
	m.Set(identical("a0", "a", 0, 1), Done)
	require.Equal(t, []Key{key("ab1")}, m.Next(at(1), 0))
}

// TestSerializeFoundRunning: a job that runs counts, whenever its identity key is learnt, and a change
// of what counts loses no job.
func TestSerializeFoundRunning(t *testing.T) {
	t.Parallel()
	shares := shareList{{"root", "*", Share{Serialize: "policy root"}}}
	m := limitFixture(t, "root:9", nil)
	m.Set(identical("a", "", 1, 0), Started)
	m.Set(identical("b", "", 2, 0), Pending)
	m.SetShares(shares)
	require.Equal(t, []Key{key("b")}, m.Next(at(1), 0), "its identity key is not known")
	m.Set(identical("b", "", 2, 0), Pending)
	require.False(t, m.SetFromSnapshot(identical("a", "", 1, 5), Started), "memory made no mistake")
	m.SetFromSnapshot(identical("b", "", 2, 5), Pending)
	require.Empty(t, m.Next(at(1), 0))
	m.SetShares(nil)
	require.Equal(t, []Key{key("b")}, m.Next(at(1), 0))
	m.SetShares(shares)
	m.Set(identical("c", "", 3, 5), Pending)
	require.Empty(t, m.Next(at(1), 0))
	m.Remove(key("a"))
	require.Empty(t, m.Next(at(1), 0), "the other one runs")
	m.Remove(key("b"))
	require.Equal(t, []Key{key("c")}, m.Next(at(1), 0))
	m.RemoveDB("db")
	require.Empty(t, m.root.tallies)
}

// TestSerializeHoldsNoSlot: a job that has left its channel goes back when another one with its identity
// key has started, so that it holds no slot there.
func TestSerializeHoldsNoSlot(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1,a:1,b:1", shareList{{"root", "*", Share{Serialize: "policy root"}}})
	m.Set(identical("x", "", 0, 0), Started)
	m.Set(identical("b", "b", 2, 1), Pending)
	m.Set(identical("c", "b", 3, 0), Pending)
	require.Empty(t, m.Next(at(1), 0))
	st, _ := m.Channel("b")
	require.Equal(t, 1, st.Running, "it has left its channel")
	m.Set(identical("a", "a", 1, 1), Started)
	require.Empty(t, m.Next(at(1), 0))
	m.Remove(key("x"))
	m.Remove(key("a"))
	require.Equal(t, []Key{key("c")}, m.Next(at(1), 0), "it has the slot that the other one has given back")
	m.Remove(key("c"))
	require.Equal(t, []Key{key("b")}, m.Next(at(1), 0))
}

// TestLoneIdentities: jobs that are the only ones of their identity keys need no queues of their own.
func TestLoneIdentities(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", shareList{{"root", "*", Share{Serialize: "policy root"}}})
	for i := range 1000 {
		m.Set(identical(fmt.Sprint(i), "", int64(i), uint64(i)+1), Pending)
	}
	require.Len(t, m.root.ready.shared.keys, 1)
	m.Set(identical("again", "", 2000, 500), Pending)
	require.Len(t, m.root.ready.shared.keys, 2)
	require.Equal(t, []Key{key("0")}, m.Next(at(1), 0))
}

// TestSerializeExample is the worked example of docs/policies-shares.md.
func TestSerializeExample(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:8,stock:2", shareList{{"root", "*", Share{Serialize: "policy root"}}})
	products := map[string]uint64{"chair": 1, "table": 2, "lamp": 3}
	id := int64(0)
	queue := func(jobs ...string) {
		for _, uuid := range jobs {
			id++
			m.Set(identical(uuid, "stock", id, products[uuid[:len(uuid)-1]]), Pending)
		}
	}
	queue("chair1", "table1")
	require.Equal(t, []Key{key("chair1"), key("table1")}, m.Next(at(1), 0))
	queue("chair2", "table2", "lamp1")
	require.Empty(t, m.Next(at(1), 0))
	m.Remove(key("table1"))
	require.Equal(t, []Key{key("table2")}, m.Next(at(1), 0))
	m.Remove(key("table2"))
	require.Equal(t, []Key{key("lamp1")}, m.Next(at(1), 0))
	e, _ := m.Explain(key("chair2"), at(1))
	require.Equal(t, ReasonSerialized, e.Reason)
}
