package channels

import "slices"

// order says how the items of a heap sort, and lets each item remember where it is, so that it can
// be found without a search.
type order[T any] interface {
	before(a, b T) bool
	moved(item T, index int)
}

// heap is a binary heap whose items know their index; an item that leaves is told -1. The standard
// library's heap has no merge, and its interface would need the same five methods for each of the
// five orders used here.
type heap[T any, O order[T]] struct {
	items []T
}

// shrinkAbove is the capacity above which a mostly empty heap gives memory back: a burst of a
// million jobs must not be remembered for ever.
const shrinkAbove = 64

func (h *heap[T, O]) len() int { return len(h.items) }

func (h *heap[T, O]) first() T { return h.items[0] }

func (h *heap[T, O]) push(item T) {
	h.items = append(h.items, item)
	h.up(len(h.items) - 1)
}

func (h *heap[T, O]) pop() T {
	first := h.items[0]
	h.remove(0)
	return first
}

func (h *heap[T, O]) remove(i int) {
	var o O
	var zero T
	last := len(h.items) - 1
	o.moved(h.items[i], -1)
	if i != last {
		h.items[i] = h.items[last]
	}
	h.items[last] = zero
	h.items = h.items[:last]
	if i != last {
		h.fix(i)
	}
	if c := cap(h.items); c > shrinkAbove && last <= c/4 {
		h.items = append(make([]T, 0, c/2), h.items...)
	}
}

// fix restores the order after the item at i has changed.
func (h *heap[T, O]) fix(i int) {
	if !h.down(i) {
		h.up(i)
	}
}

// height is how many items of a heap of that size are above one another, at most.
func height(size int) (levels int) {
	for ; size > 0; size /= 2 {
		levels++
	}
	return levels
}

// grow makes room for one more item. Unlike append, it doubles a full heap, which leaves less
// garbage.
func (h *heap[T, O]) grow() {
	if len(h.items) == cap(h.items) {
		h.items = slices.Grow(h.items, max(len(h.items), 1))
	}
}

// trim gives memory back that grow has taken in vain.
func (h *heap[T, O]) trim() {
	if c := cap(h.items); c > shrinkAbove && len(h.items) < c/8*7 {
		h.items = slices.Clone(h.items)
	}
}

// split takes all items out that are wanted. It visits each, and sorts the smaller part anew, not
// the larger one. The result is a heap if sorted is set.
func (h *heap[T, O]) split(wanted func(T) bool) (out []T, sorted bool) {
	n, all := 0, len(h.items)
	for _, item := range h.items {
		if wanted(item) {
			n++
		}
	}
	var stay []T
	switch {
	case n == 0:
		return nil, true
	case n == all:
		out, sorted = h.items, true
	case (all-n)*height(all) <= n:
		for i := all - 1; i >= 0; {
			if i < len(h.items) && !wanted(h.items[i]) {
				stay = append(stay, h.items[i])
				h.remove(i) // another one may be there now
			} else {
				i--
			}
		}
		out, sorted = h.items, true
	default:
		out, stay = make([]T, 0, n), make([]T, 0, all-n)
		for _, item := range h.items {
			if wanted(item) {
				out = append(out, item)
			} else {
				stay = append(stay, item)
			}
		}
	}
	h.items = stay
	h.rebuild(0)
	return out, sorted
}

// merge moves all items of other into h. It takes single pushes or one rebuild, whichever is
// cheaper.
func (h *heap[T, O]) merge(other *heap[T, O]) {
	if len(h.items) < len(other.items) {
		h.items, other.items = other.items, h.items
	}
	more := other.items
	other.items = nil
	h.take(more)
}

// take moves items in that are in no particular order, as merge does. The slice is the heap's from
// then on.
func (h *heap[T, O]) take(more []T) {
	total := len(h.items) + len(more)
	if len(more)*height(total) <= total {
		for _, item := range more {
			h.push(item)
		}
		return
	}
	start := len(h.items)
	if start == 0 {
		h.items = more
	} else {
		h.items = append(h.items, more...)
	}
	h.rebuild(start)
}

// rebuild makes any slice a heap; the indices of items from start on are not known yet.
func (h *heap[T, O]) rebuild(start int) {
	var o O
	for i := start; i < len(h.items); i++ {
		o.moved(h.items[i], i)
	}
	for i := len(h.items)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *heap[T, O]) up(i int) {
	var o O
	item := h.items[i]
	for i > 0 {
		parent := (i - 1) / 2
		if !o.before(item, h.items[parent]) {
			break
		}
		h.items[i] = h.items[parent]
		o.moved(h.items[i], i)
		i = parent
	}
	h.items[i] = item
	o.moved(item, i)
}

// down reports whether the item had to move.
func (h *heap[T, O]) down(i int) bool {
	var o O
	start, item := i, h.items[i]
	for {
		child := 2*i + 1
		if child >= len(h.items) {
			break
		}
		if right := child + 1; right < len(h.items) && o.before(h.items[right], h.items[child]) {
			child = right
		}
		if !o.before(h.items[child], item) {
			break
		}
		h.items[i] = h.items[child]
		o.moved(h.items[i], i)
		i = child
	}
	h.items[i] = item
	o.moved(item, i)
	return i != start
}
