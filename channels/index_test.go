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
					x.add(want[id], id.hash())
				case !adds && known != nil:
					x.remove(known)
					delete(want, id)
				}
			}
			require.Equal(t, len(want), x.len())
			for i := range 4001 {
				id := numbered(i)
				require.Same(t, want[id], x.get(&id, id.hash()))
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
	const jobs = 130 // which fit into a page that is filled anew now and then
	for i := range 100_000 {
		id := numbered(i)
		x.add(&record{uuid: id}, id.hash())
		if i >= jobs {
			id := numbered(i - jobs)
			x.remove(x.get(&id, id.hash()))
		}
	}
	require.Equal(t, jobs, x.len())
	require.Len(t, x.pages, 1)
	x.each(func(r *record) bool {
		x.remove(r)
		return true
	})
	require.Zero(t, x)
}

// TestIndexGrowsByPages: neither does a page become larger than that, nor do pages that have been split more
// often than others lose a record.
func TestIndexGrowsByPages(t *testing.T) {
	t.Parallel()
	var x index
	var all []*record
	add := func(half uint32, n int) {
		for i := len(all) * 10; n > 0; i++ {
			r := &record{uuid: numbered(i)}
			if r.uuid.hash()>>31 != half || x.get(&r.uuid, r.uuid.hash()) != nil {
				continue
			}
			x.add(r, r.uuid.hash())
			all = append(all, r)
			n--
		}
	}
	add(0, pageSize)
	add(1, 20*pageSize) // by then, what has the first half stands for many pages
	require.Greater(t, x.bits, x.pages[0].bits)
	add(0, 20*pageSize)
	for _, p := range x.pages {
		require.LessOrEqual(t, len(p.slots), pageSize)
	}
	seen := make(map[*record]int)
	x.each(func(r *record) bool { seen[r]++; return true })
	require.Len(t, seen, len(all))
	for _, r := range all {
		require.Same(t, r, x.get(&r.uuid, r.uuid.hash()))
		require.Equal(t, 1, seen[r], "each once")
	}
}
