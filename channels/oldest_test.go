package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// queueUp puts n jobs into a channel, so that they start in that order. The one at position oldest
// was created long before the others.
func queueUp(set func(Job, State) bool, db, channel string, n, oldest int) {
	for i := range n {
		j := Job{Key: Key{DB: db, UUID: fmt.Sprintf("%s%d", channel, i)}, Channel: channel, ID: int64(i), Priority: int32(i), Created: 1000}
		if i == oldest {
			j.Created = 5
		}
		set(j, Pending)
	}
}

// TestOldestSharesItsBudget: each channel is visited as often as its share of what is left allows,
// and a small one leaves the rest of its share to the others.
func TestOldestSharesItsBudget(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ small, budget, a, b, left int }{
		{1, 15, 7, 7, 0},     // root: 15/4, 0 used; small: 15/3, 1 used; A: 14/2, B: 7/1
		{1, 16, 7, 8, 0},     // 15 for two
		{3, 100, 20, 20, 57}, // enough for all
		{1, 2, 1, 1, 0},      // root: nothing used; small: 1 used; one for A, and B has at least one
	} {
		for oldest := range 20 {
			m := NewManager()
			queueUp(m.Set, "db", "A", 20, oldest)
			queueUp(m.Set, "db", "B", 20, oldest)
			queueUp(m.Set, "db", "small", c.small, -1)
			found, left := m.oldest(at(1), c.budget)
			require.Equal(t, c.left, left, c)
			// The two have the same length: either may have the first turn.
			seen := map[bool]int{}
			for _, name := range []string{"root.A", "root.B"} {
				seen[found[name].UnixMicro() == 5]++
			}
			want := 0
			for _, visited := range []int{c.a, c.b} {
				if oldest < visited {
					want++
				}
			}
			require.Equal(t, want, seen[true], "%+v, position %d", c, oldest)
		}
	}
}

// TestOldestBeginsWithShortQueues: jobs that wait for their eta count, too.
func TestOldestBeginsWithShortQueues(t *testing.T) {
	t.Parallel()
	for oldest, want := range map[int]int64{6: 5, 7: 1000} {
		m := NewManager()
		queueUp(m.Set, "db", "A", 10, oldest)
		for i := range 10 {
			m.Set(Job{Key: key(fmt.Sprint("later", i)), Channel: "A", ETA: at(9).UnixMicro(), Created: 1000}, Pending)
		}
		queueUp(m.Set, "db", "B", 5, -1)
		found, left := m.oldest(at(1), 12) // B takes 5 of its 6, so A has 7
		require.Equal(t, want, found["root.A"].UnixMicro())
		require.Zero(t, left)
	}
}

// TestOldestFromItsEta: a job is ready at its eta, not later.
func TestOldestFromItsEta(t *testing.T) {
	t.Parallel()
	m := NewManager()
	m.Set(Job{Key: key("a"), ETA: at(2).UnixMicro(), Created: 1000}, Pending)
	require.Empty(t, m.Oldest(at(2).Add(-time.Microsecond)))
	require.Equal(t, at(2).UTC(), m.Oldest(at(2))["root"])
}

// TestOldestOfAllTrees shares its bound in the same way.
func TestOldestOfAllTrees(t *testing.T) {
	t.Parallel()
	const share = (oldestLimit - 1) / 2 // the smallest database takes one
	for _, c := range []struct{ oldest, want int }{{share - 1, 2}, {share, 1}, {share + 1, 0}} {
		f := newForest(t, Capacities{Max: 1}, "", "small", "a", "b")
		fill(f, "small", "", 1)
		queueUp(f.Set, "a", "", oldestLimit, c.oldest)
		queueUp(f.Set, "b", "", oldestLimit, c.oldest)
		seen := 0
		for _, since := range f.Oldest(at(1)) {
			if since.UnixMicro() == 5 {
				seen++
			}
		}
		require.Equal(t, c.want, seen, c)
	}
}
