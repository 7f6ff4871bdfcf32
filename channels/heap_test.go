package channels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestHeapHeight: a heap has as many levels as its size has binary digits.
func TestHeapHeight(t *testing.T) {
	t.Parallel()
	for size, want := range map[int]int{0: 0, 1: 1, 2: 2, 3: 2, 4: 3, 7: 3, 8: 4, 1000: 10} {
		require.Equal(t, want, height(size), size)
	}
}

// TestHeapGrows: a full heap doubles, and one that has room stays where it is.
func TestHeapGrows(t *testing.T) {
	t.Parallel()
	h := heap[*number, numberOrder]{items: make([]*number, 0, 100)}
	for i := range 100 {
		h.grow()
		require.Equal(t, 100, cap(h.items), i)
		h.push(&number{value: i})
	}
	h.grow()
	require.GreaterOrEqual(t, cap(h.items), 200)
}

// TestHeapTrims: a large heap gives memory back if more than an eighth of it is unused, and a small
// one does not.
func TestHeapTrims(t *testing.T) {
	t.Parallel()
	const large = 8 * shrinkAbove
	for _, c := range []struct {
		size, capacity int
		trims          bool
	}{
		{1, shrinkAbove, false},
		{1, shrinkAbove + 8, true},
		{large / 8 * 7, large, false},
		{large/8*7 - 1, large, true},
		{large, large, false},
	} {
		h := heap[*number, numberOrder]{items: make([]*number, c.size, c.capacity)}
		before := &h.items[0]
		h.trim()
		require.Len(t, h.items, c.size)
		require.Equal(t, c.trims, before != &h.items[0], "%+v", c)
	}
}

// TestHeapSplitKeepsOrder: where few items stay, they are taken out one by one, and what is taken is in
// order; the first and the last item may be among them. Where more stay, all is sorted anew.
func TestHeapSplitKeepsOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		stay   []int
		sorted bool
	}{
		{[]int{}, true},
		{[]int{9}, true},
		{[]int{0, 9}, true}, // two times four levels, for eight items
		{[]int{0, 5, 9}, false},
	} {
		var h heap[*number, numberOrder]
		stays := map[int]bool{}
		for _, value := range c.stay {
			stays[value] = true
		}
		for i := range 10 {
			h.push(&number{value: i})
		}
		out, sorted := h.split(func(n *number) bool { return !stays[n.value] })
		require.Equal(t, c.sorted, sorted, c)
		require.Len(t, out, 10-len(c.stay), c)
		for _, n := range out {
			require.False(t, stays[n.value], c)
		}
		require.Len(t, h.items, len(c.stay), c)
		for _, n := range h.items {
			require.True(t, stays[n.value], c)
		}
	}
}

// TestHeapKeepsItsMemory: a heap that is in use is not copied with each item that leaves, and what a burst
// took is given back.
func TestHeapKeepsItsMemory(t *testing.T) {
	t.Parallel()
	const most = 4 * shrinkAbove
	h := heap[*number, numberOrder]{items: make([]*number, 0, most)}
	for i := range most {
		h.push(&number{value: i})
	}
	place := func() **number { return &h.items[:1][0] }
	before := place()
	for h.len() > most/4+1 {
		h.pop()
		require.Same(t, before, place(), h.len())
	}
	h.pop()
	require.NotSame(t, before, place())
	require.Equal(t, most/2, cap(h.items))
	for h.len() > 0 {
		h.pop()
	}
	require.LessOrEqual(t, cap(h.items), shrinkAbove)
}

// counted is a number in a heap that counts how often its items were moved.
type counted struct {
	number
	moves *int
}

type countedOrder struct{}

func (countedOrder) before(a, b counted) bool  { return a.value < b.value }
func (countedOrder) moved(item counted, _ int) { *item.moves++ }

// TestHeapMergesCheaply: a few items are pushed one by one, which moves as many as are above one another;
// many are put into order together, which moves each a few times.
func TestHeapMergesCheaply(t *testing.T) {
	t.Parallel()
	const large = 1 << 12
	moves := 0
	// Each is smaller than those before it, which is the worst order to push them in.
	falling := func(n, below int) (h heap[counted, countedOrder]) {
		for i := range n {
			h.items = append(h.items, counted{number{value: below - i}, &moves})
		}
		h.rebuild(0)
		moves = 0
		return h
	}
	for _, c := range []struct{ into, others, most int }{
		{large, 1, 2 * height(large)},
		{1, large, 2 * height(large)},
		{large, large, 8 * large},
	} {
		h, other := falling(c.into, 0), falling(c.others, -large)
		h.merge(&other)
		require.Len(t, h.items, c.into+c.others)
		require.LessOrEqual(t, moves, c.most, c)
	}
}
