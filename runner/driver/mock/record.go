package mock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Run is one request to run a task, as the world saw it. A time that has not come is zero.
type Run struct {
	Task     driver.Task
	Upstream string
	// Job is the job as it was when the request arrived.
	Job channels.Job
	// Opened and Closed are when the exchange began and ended.
	Opened, Closed time.Time
	// Started and Ended are when the job ran. Started is zero when it never did.
	Started, Ended time.Time
	// Result is what the engine was told.
	Result driver.Result
	// Node is the driver that sent it.
	Node *Driver
	// Waiting is set while the request waits in a worker's backlog, and Excused after [World.Excuse].
	Waiting, Excused bool

	// stopping is how the job can be stopped; nil if it takes no time.
	stopping *stopping

	// The times are too coarse to order what happens at one instant.
	openedAt, closedAt, startedAt, endedAt int
}

// Open reports whether the request waits for its answer.
func (r *Run) Open() bool { return r.Closed.IsZero() }

// Executing reports whether a worker runs the job.
func (r *Run) Executing() bool { return !r.Started.IsZero() && r.Ended.IsZero() }

// live reports whether anything of it goes on.
func (r *Run) live() bool { return r.Open() || r.Executing() || r.Waiting }

// record keeps what happened, guarded by the world's mutex.
type record struct {
	runs []*Run
	// sequence is the last of the numbers that order them.
	sequence int
	// under are the runs under way of each job.
	under      map[channels.Key][]*Run
	overlaps   []string
	violations []string
	releases   []Release
}

func (r *record) tick() int {
	r.sequence++
	return r.sequence
}

// add notes a request for a job whose last claim has that number, 0 without one. A run that was begun
// after that claim, by a request of before that had waited, is no overlap: nobody could know, and the
// application turns this request away.
func (r *record) add(run *Run, claimed int, unguarded bool) {
	r.runs = append(r.runs, run)
	run.openedAt = r.tick()
	key := run.Task.Key
	for _, o := range r.under[key] {
		switch {
		case o.Open() && o.Node == run.Node:
			r.overlap(key, "sent while another request for it was open")
		case o.Excused:
		case o.Executing() && o.openedAt < claimed && claimed < o.startedAt:
		case o.Executing():
			r.overlap(key, "sent while it was running")
		case o.Waiting && unguarded:
			r.overlap(key, "sent while another request for it waited in a backlog")
		}
	}
	run.Excused = slices.ContainsFunc(r.under[key], func(o *Run) bool { return o.Excused }) // it shares their row
	r.under[key] = append(r.under[key], run)
}

func (r *record) overlap(key channels.Key, what string) {
	r.overlaps = append(r.overlaps, fmt.Sprintf("%s: %s", key, what))
}

func (r *record) close(run *Run, res driver.Result) {
	run.Closed, run.closedAt, run.Result = time.Now(), r.tick(), res
	r.over(run)
}

func (r *record) start(run *Run) {
	run.Started, run.startedAt, run.Waiting = time.Now(), r.tick(), false
	for _, o := range r.under[run.Task.Key] {
		if o != run && o.Executing() && !o.Excused {
			r.overlap(run.Task.Key, "running twice")
		}
	}
}

func (r *record) end(run *Run) {
	run.Ended, run.endedAt = time.Now(), r.tick()
	r.over(run)
}

// over forgets a run of which nothing goes on.
func (r *record) over(run *Run) {
	key := run.Task.Key
	if run.live() {
		return
	}
	if r.under[key] = slices.DeleteFunc(r.under[key], func(o *Run) bool { return o == run }); len(r.under[key]) == 0 {
		delete(r.under, key)
	}
}

// Sent is what is true at the moment at which a request is sent.
type Sent struct {
	Run Run
	// Live are the others as [World.Live] returns them.
	Live []Run
	// Locked is when the session that holds the lock of a database took it, by database; those are
	// missing of which none does.
	Locked map[string]time.Time
}

// OnSend has f called with each request. It must not call the world.
func (w *World) OnSend(f func(Sent)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = f
}

// sentNow describes the moment, with the mutex held.
func (w *World) sentNow(run *Run) Sent {
	s := Sent{Run: *run, Live: w.record.live(), Locked: make(map[string]time.Time)}
	for name, db := range w.databases {
		if db.holder != nil {
			s.Locked[name] = db.locked
		}
	}
	return s
}

// Live returns the requests of which anything goes on: they wait for their answer, or a worker runs
// the job or has not read the request yet. They are in no particular order.
func (w *World) Live() (runs []Run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record.live()
}

func (r *record) live() (runs []Run) {
	for _, list := range r.under {
		for _, run := range list {
			runs = append(runs, *run)
		}
	}
	return runs
}

// Excuse says that something other than the engine has changed a job, so that its runs under way may
// overlap with others. A node still must not send it while its own request is open.
func (w *World) Excuse(key channels.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.record.under[key] {
		r.Excused = true
	}
}

// Runs returns every request so far, in the order of their arrival.
func (w *World) Runs() []Run {
	w.mu.Lock()
	defer w.mu.Unlock()
	runs := make([]Run, len(w.record.runs))
	for i, r := range w.record.runs {
		runs[i] = *r
	}
	return runs
}

// RunsOf returns the requests for one job.
func (w *World) RunsOf(key channels.Key) []Run {
	return slices.DeleteFunc(w.Runs(), func(r Run) bool { return r.Task.Key != key })
}

// Order returns the uuids of the requests so far, in the order of their arrival.
func (w *World) Order() []string {
	var uuids []string
	for _, r := range w.Runs() {
		uuids = append(uuids, r.Task.UUID)
	}
	return uuids
}

// Overlaps describes every job that was sent or run a second time while an earlier attempt was
// under way. Empty is as it must be.
func (w *World) Overlaps() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.record.overlaps)
}

// Violations describes every misuse of the driver: calls without a deadline, two calls on one
// session at once, a claim without the lock, and the like. Empty is as it must be.
func (w *World) Violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.record.violations)
}

// violation notes a misuse, with the mutex held.
func (w *World) violation(format string, args ...any) {
	w.record.violations = append(w.record.violations, fmt.Sprintf(format, args...))
}

// checkDeadline notes a call without a deadline, with the mutex held.
func (w *World) checkDeadline(ctx context.Context, method string) {
	if _, ok := ctx.Deadline(); !ok {
		w.violation("%s without a deadline", method)
	}
}

// Calls returns how often a method of [driver.Session], or OpenSession, was called for a database.
func (w *World) Calls(db, method string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.database(db).calls[method]
}

// MaxConcurrent returns the largest number of requests that were open at once and that match; nil
// matches all.
func (w *World) MaxConcurrent(match func(Run) bool) int {
	return w.most(match, func(r *Run) (from, to int) { return r.openedAt, r.closedAt })
}

// MaxExecuting is MaxConcurrent for jobs that executed. An engine that takes over cannot see the
// requests of the one before, which end a moment after their jobs.
func (w *World) MaxExecuting(match func(Run) bool) int {
	return w.most(match, func(r *Run) (from, to int) { return r.startedAt, r.endedAt })
}

// most returns the largest number of spans that overlap; one that has no beginning does not count,
// and one without an end lasts.
func (w *World) most(match func(Run) bool, span func(*Run) (from, to int)) int {
	type edge struct{ at, step int }
	var edges []edge
	for _, r := range w.Runs() {
		from, to := span(&r)
		if from == 0 || match != nil && !match(r) {
			continue
		}
		edges = append(edges, edge{from, 1})
		if to != 0 {
			edges = append(edges, edge{to, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	most, now := 0, 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}

// InChannel matches the runs of a channel and of those below it, by its full name, for
// [World.MaxConcurrent].
func InChannel(name string) func(Run) bool {
	return func(r Run) bool {
		channel := r.Job.Channel
		if channel == "" {
			channel = "root"
		} else if channel != "root" && !strings.HasPrefix(channel, "root.") {
			channel = "root." + channel
		}
		return channel == name || strings.HasPrefix(channel, name+".")
	}
}
