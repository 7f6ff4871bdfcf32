package channels

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// number is an item of a heap that knows where it is.
type number struct{ value, index int }

type numberOrder struct{}

func (numberOrder) before(a, b *number) bool      { return a.value < b.value }
func (numberOrder) moved(item *number, index int) { item.index = index }

// TestHeapSplit: whatever is taken out, both parts have all of it, and are in order.
func TestHeapSplit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var h heap[*number, numberOrder]
		share := rapid.IntRange(0, 10).Draw(t, "share")
		var out, stay []int
		for i, value := range rapid.SliceOfN(rapid.IntRange(0, 1000), 0, 200).Draw(t, "values") {
			if value = 2 * value; i%10 < share {
				out = append(out, value)
			} else {
				value++
				stay = append(stay, value)
			}
			h.push(&number{value: value})
		}
		items, sorted := h.split(func(n *number) bool { return n.value%2 == 0 })
		left := heap[*number, numberOrder]{items: items}
		if sorted {
			checkHeap(t, left.items, numberOrder{})
		} else {
			left.rebuild(0)
		}
		requireOrder(t, out, left)
		requireOrder(t, stay, h)
	})
}

// requireOrder requires that a heap yields these values, and that its items know where they are.
func requireOrder(t *rapid.T, want []int, h heap[*number, numberOrder]) {
	for i, item := range h.items {
		require.Equal(t, i, item.index)
	}
	var got []int
	for h.len() > 0 {
		got = append(got, h.pop().value)
	}
	slices.Sort(want)
	require.Equal(t, want, got)
}

// TestManyBecomeDue: if more jobs become due at once than a pass makes ready, they start in the same
// order all the same, and others start meanwhile.
func TestManyBecomeDue(t *testing.T) {
	t.Parallel()
	const jobs = 3*dueLimit + 1
	all := benchSize{jobs, 1}.all()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: jobs}}))
	for i := range all {
		all[i].ETA, all[i].Priority = 1e6+int64(i), 0
		m.Set(all[i], Pending)
	}
	var keys []Key
	for pass := range 4 {
		require.False(t, m.Wakeup().After(at(2)), "pass %d is asked for", pass)
		started := m.Next(at(2), 0)
		require.LessOrEqual(t, len(started), dueLimit)
		keys = append(keys, started...)
	}
	require.True(t, m.Wakeup().IsZero())
	require.Len(t, keys, jobs)
	for i, k := range keys {
		require.Equal(t, all[i].Key, k)
	}
}

// TestManyBecomeDueOfOneDatabase: where each database has a tree, the others have their turns, even if
// none of these jobs can start before all are ready.
func TestManyBecomeDueOfOneDatabase(t *testing.T) {
	t.Parallel()
	f := NewForest()
	f.ConfigureDatabases(Capacities{Max: 10})
	for _, db := range []string{"many", "other", "third"} {
		require.NoError(t, f.ConfigureDatabase(db, []Config{{Name: "root", Capacity: 10}, {Name: "S", Capacity: 1, Sequential: true}}))
	}
	var last Key
	for i := range 5 * dueLimit {
		j := benchJob(i, 1)
		j.DB, j.Channel, j.ETA, j.Priority = "many", "S", 1e6+int64(i), -int32(i)
		f.Set(j, Pending)
		last = j.Key
	}
	third, other := Key{DB: "third", UUID: "z"}, Key{DB: "other", UUID: "x"}
	f.Set(Job{Key: third}, Pending)
	f.Set(Job{Key: other, ETA: 1e6}, Pending)
	require.Equal(t, []Key{other, third}, append(f.Next(at(2), 0), f.Next(at(2), 0)...))
	var started []Key
	for f.Pending() {
		started = append(started, f.Next(at(2), 0)...)
	}
	require.Equal(t, []Key{last}, started)
}
