package channels

// queue holds the ready jobs of a channel. Without shares it is a heap. With shares, each key has a
// heap of its own, so that what is over a limit is passed by without being visited.
type queue struct {
	heap[*record, readyOrder]
	shared *sharedQueue // nil: the heap has all jobs
}

// len returns the number of jobs, those included that have to let others pass.
func (q *queue) len() int {
	if q.shared != nil {
		return q.shared.jobs
	}
	return len(q.items)
}

// empty reports whether there is no job that shares would let go now.
func (q *queue) empty() bool {
	if q.shared != nil {
		return q.shared.lanes.len() == 0
	}
	return len(q.items) == 0
}

// first returns the job that goes next. The queue must not be empty.
func (q *queue) first() *record {
	if q.shared != nil {
		return q.shared.first()
	}
	return q.items[0]
}

// pop takes the job out that goes next.
func (q *queue) pop() *record {
	r := q.first()
	if s := q.shared; s != nil && s.fair != nil {
		s.fair.virtual = max(s.fair.virtual, s.lanes.first().start)
	}
	q.remove(r)
	return r
}

func (q *queue) push(r *record) {
	if q.shared != nil {
		q.shared.push(r)
		return
	}
	q.heap.push(r)
}

// remove takes a job out whose location still is this queue.
func (q *queue) remove(r *record) {
	if q.shared != nil {
		q.shared.remove(r)
		return
	}
	q.heap.remove(int(r.index))
}

// merge moves all jobs of a heap in.
func (q *queue) merge(other *heap[*record, readyOrder]) {
	if q.shared == nil {
		q.heap.merge(other)
		return
	}
	q.take(other.items)
	other.items = nil
}

// take moves jobs in that are in no particular order. The slice is the queue's from then on.
func (q *queue) take(more []*record) {
	if q.shared == nil {
		q.heap.take(more)
		return
	}
	for _, r := range more {
		q.shared.push(r)
	}
}

// split takes all jobs out that are wanted. The result is a heap if sorted is set.
func (q *queue) split(wanted func(*record) bool) (out []*record, sorted bool) {
	if q.shared == nil {
		return q.heap.split(wanted)
	}
	return q.shared.split(wanted), false
}

// each calls visit for so many jobs, beginning with the best of each key, and takes them off the budget.
// What a key leaves of its share is for the others.
func (q *queue) each(budget *int, visit func(*record)) {
	all := func(items []*record, budget *int) {
		explore(items, budget, func(r *record) bool {
			visit(r)
			return true
		})
	}
	if q.shared == nil {
		all(q.items, budget)
		return
	}
	left := len(q.shared.keys)
	for _, k := range q.shared.keys {
		if *budget <= 0 {
			return
		}
		share := max(*budget/left, 1)
		*budget -= share
		all(k.free.items, &share)
		all(k.held.items, &share)
		*budget += share
		left--
	}
}
