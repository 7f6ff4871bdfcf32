package channels

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func numbered(n int) (id uuid) {
	binary.BigEndian.PutUint64(id[:], uint64(n))
	return id
}

// TestIndexIsAMap compares it with a map, over random histories that are long enough for pages to
// be split and to be filled anew.
func TestIndexIsAMap(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var x index
		want := make(map[uuid]*record)
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			first, n := rapid.IntRange(0, 2000).Draw(t, "first"), rapid.IntRange(0, 2000).Draw(t, "count")
			adds := rapid.Bool().Draw(t, "add")
			for i := range n {
				id := numbered(first + i)
				switch known := want[id]; {
				case adds && known == nil:
					want[id] = &record{uuid: id}
					x.add(want[id])
				case !adds && known != nil:
					x.remove(known)
					delete(want, id)
				}
			}
			require.Equal(t, len(want), x.len())
			for i := range 4001 {
				id := numbered(i)
				require.Same(t, want[id], x.get(&id))
			}
			found := 0
			require.True(t, x.each(func(r *record) bool {
				found++
				return want[r.uuid] == r
			}))
			require.Len(t, want, found, "each once")
		}
	})
}

// TestIndexStaysSmall: neither does it keep what a burst once needed, nor do jobs that come and go
// let it grow.
func TestIndexStaysSmall(t *testing.T) {
	t.Parallel()
	var x index
	const jobs = 100
	for i := range 100_000 {
		x.add(&record{uuid: numbered(i)})
		if i >= jobs {
			id := numbered(i - jobs)
			x.remove(x.get(&id))
		}
	}
	require.Equal(t, jobs, x.len())
	require.LessOrEqual(t, len(x.pages), 2)
	x.each(func(r *record) bool {
		x.remove(r)
		return true
	})
	require.Zero(t, x)
}
