// Package forecast says what a channel tree would do: with the jobs that were recorded, had it been another
// one, and with those that wait now. It asks the scheduler that runs the jobs, in simulated time, and reads
// no clock itself.
package forecast

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// Job is one attempt at a job.
type Job struct {
	// Channel is the full name.
	Database, Channel string
	Priority          int32
	// Ready is since when it may start, and Run how long it runs.
	Ready time.Time
	Run   time.Duration
	// Sent is when it was sent. A replay decides anew, unless that was before it begins: then the job
	// runs from the beginning. Default: zero, it was not.
	Sent time.Time
}

// world is a replay.
type world struct {
	tree *channels.Forest
	jobs []Job
	// order is in which they become ready; next is the first of them that has not.
	order []int
	next  int
	// lag is the time from the scheduler's choice to the request.
	lag  time.Duration
	sent []time.Time
	ends ends
	// rank is the number of a job in its database: the last word about its place in the order.
	rank []int64
	// waiting counts those that are ready and were not chosen, by channel with those below, if it is not
	// nil. own says that each database has its own tree.
	waiting map[channels.ID]int
	own     bool
	// still counts the steps at the same moment since the last one that started something.
	still int
}

// count changes how many jobs of a channel wait.
func (w *world) count(j *Job, by int) {
	if w.waiting == nil {
		return
	}
	for id := range above(j.Database, j.Channel, w.own) {
		w.waiting[id] += by
	}
}

// end is when a job lets its slot go.
type end struct {
	at  time.Time
	job int
}

type ends []end

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }

// Push implements [heap.Interface].
func (e *ends) Push(x any) {
	if v, ok := x.(end); ok {
		*e = append(*e, v)
	}
}

// Pop implements [heap.Interface].
func (e *ends) Pop() any {
	old := *e
	v := old[len(old)-1]
	*e = old[:len(old)-1]
	return v
}

func newWorld(tree *channels.Forest, jobs []Job, from time.Time, lag time.Duration) *world {
	w := &world{tree: tree, jobs: jobs, lag: lag, sent: make([]time.Time, len(jobs)), rank: make([]int64, len(jobs))}
	tree.Observe(from)
	for i := range jobs {
		j := &jobs[i]
		if j.Sent.IsZero() || !j.Sent.Before(from) {
			w.order = append(w.order, i)
			continue
		}
		tree.Set(w.row(i), channels.Started)
		w.sent[i] = j.Sent
		heap.Push(&w.ends, end{j.Sent.Add(j.Run), i})
	}
	slices.SortStableFunc(w.order, func(a, b int) int {
		// Of those that came together, the one with the lower number was sent first, if they were.
		return cmp.Or(jobs[a].Ready.Compare(jobs[b].Ready), jobs[a].Sent.Compare(jobs[b].Sent))
	})
	for rank, i := range w.order {
		w.rank[i] = int64(rank)
	}
	return w
}

// row is a job as the tree knows it.
func (w *world) row(i int) channels.Job {
	j := &w.jobs[i]
	return channels.Job{
		Key: channels.Key{DB: j.Database, UUID: strconv.Itoa(i)}, Channel: j.Channel, ID: w.rank[i], Priority: j.Priority,
		Created: j.Ready.UnixMicro(),
	}
}

// arrive lets in what is ready.
func (w *world) arrive(now time.Time) {
	for w.next < len(w.order) && !w.jobs[w.order[w.next]].Ready.After(now) {
		w.tree.Set(w.row(w.order[w.next]), channels.Pending)
		w.count(&w.jobs[w.order[w.next]], 1)
		w.next++
	}
}

// settle ends what has run for long enough.
func (w *world) settle(now time.Time) {
	for len(w.ends) > 0 && !w.ends[0].at.After(now) {
		if e, ok := heap.Pop(&w.ends).(end); ok {
			w.tree.Remove(w.row(e.job).Key)
		}
	}
}

// pass starts what may start.
func (w *world) pass(now time.Time) (started int) {
	for _, key := range w.tree.Next(now, 0) {
		i, err := strconv.Atoi(key.UUID)
		if err != nil || i < 0 || i >= len(w.jobs) {
			continue // there is none but ours
		}
		w.sent[i] = now.Add(w.lag)
		w.count(&w.jobs[i], -1)
		heap.Push(&w.ends, end{w.sent[i].Add(w.jobs[i].Run), i})
		started++
	}
	return started
}

// following is when something happens next; false if nothing will.
func (w *world) following(now time.Time) (at time.Time, ok bool) {
	earliest := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if w.tree.Pending() {
		earliest(now)
	}
	if w.next < len(w.order) {
		earliest(w.jobs[w.order[w.next]].Ready)
	}
	if len(w.ends) > 0 {
		earliest(w.ends[0].at)
	}
	if t := w.tree.Wakeup(); !t.IsZero() {
		earliest(t)
	}
	return at, ok
}

// checkEvery is after how many steps a replay looks whether it is still wanted.
const checkEvery = 1024

// run lets time pass until a time, or until see says that it is enough, which is asked after every step.
func (w *world) run(ctx context.Context, from, until time.Time, see func(now time.Time) bool) error {
	now := from
	for n := 0; ; n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return fmt.Errorf("replaying jobs: %w", context.Cause(ctx))
		}
		w.arrive(now)
		w.settle(now)
		if w.pass(now) > 0 {
			w.still = 0
		}
		if see != nil && !see(now) {
			return nil
		}
		at, ok := w.following(now)
		if !ok || at.After(until) {
			return nil
		}
		now = w.tick(now, at)
	}
}

// tick is when the step is that follows, if something happens at a time. The tree counts microseconds, and
// may ask for a pass that changes nothing yet: after a few of these, time moves on.
func (w *world) tick(now, at time.Time) time.Time {
	if at.After(now) {
		return at
	}
	if w.still++; w.still > 3 {
		return now.Add(time.Microsecond)
	}
	return now
}

// Replay runs jobs through a tree that has none, and returns when each of them was sent; zero if it was not
// before the end. lag is the time from the scheduler's choice to the request. It fails only if ctx ends.
func Replay(ctx context.Context, tree *channels.Forest, jobs []Job, from, until time.Time, lag time.Duration) ([]time.Time, error) {
	w := newWorld(tree, jobs, from, lag)
	if err := w.run(ctx, from, until, nil); err != nil {
		return nil, err
	}
	return w.sent, nil
}

// Use is what became of the jobs of one channel, with those below it.
type Use struct {
	// Database is empty where all databases share one tree.
	Database, Channel string
	// Jobs is how many were sent, and Left how many were not.
	Jobs, Left     int
	Wait50, Wait95 time.Duration
	// Busy is how many slots were taken on average, and Most at most.
	Busy float64
	Most int
}

// Measure adds up what became of jobs between two times, by channel, sorted by name. own says that each
// database has its own tree.
func Measure(jobs []Job, sent []time.Time, from, until time.Time, own bool) []Use {
	type sums struct {
		left  int
		waits []time.Duration
		busy  time.Duration
		edges edges
	}
	all := make(map[channels.ID]*sums)
	for i := range jobs {
		j := &jobs[i]
		for at := range above(j.Database, j.Channel, own) {
			s := all[at]
			if s == nil {
				s = new(sums)
				all[at] = s
			}
			switch {
			case sent[i].IsZero() || !sent[i].Before(until):
				s.left++
				continue
			case !sent[i].Before(from):
				s.waits = append(s.waits, max(sent[i].Sub(j.Ready), 0))
			}
			begin, over := later(sent[i], from), sent[i].Add(j.Run)
			if over.After(until) {
				over = until
			}
			if over.After(begin) {
				s.busy += over.Sub(begin)
				s.edges.add(begin, over)
			}
		}
	}
	list := make([]Use, 0, len(all))
	for at, s := range all {
		slices.Sort(s.waits)
		u := Use{
			Database: at.DB, Channel: at.Channel, Jobs: len(s.waits), Left: s.left, Most: s.edges.most(),
			Wait50: quantile(s.waits, .5), Wait95: quantile(s.waits, .95),
		}
		if span := until.Sub(from); span > 0 {
			u.Busy = s.busy.Seconds() / span.Seconds()
		}
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Use) int {
		return Place{a.Database, a.Channel}.compare(Place{b.Database, b.Channel})
	})
	return list
}

// edges are when jobs begin and end.
type edges []edge

type edge struct {
	at   time.Time
	step int
}

func (e *edges) add(begin, over time.Time) { *e = append(*e, edge{begin, 1}, edge{over, -1}) }

// most is how many jobs ran at the same time at most. One that ends when another begins does not meet it.
func (e edges) most() (most int) {
	slices.SortFunc(e, func(a, b edge) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.step, b.step)) })
	n := 0
	for _, edge := range e {
		n += edge.step
		most = max(most, n)
	}
	return most
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// quantile is of sorted times; 0 if there are none.
func quantile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}
