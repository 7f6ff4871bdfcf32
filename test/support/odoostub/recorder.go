package odoostub

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Recorder keeps what happened, for several servers together. The zero value is
// ready. It is safe for concurrent use.
type Recorder struct {
	signal     signal
	mu         sync.Mutex
	requests   []Request
	executions []Execution
	byJob      map[job]history
	resets     int
}

// job identifies a job among all databases.
type job struct{ db, uuid string }

// history points at what a Recorder knows of one job.
type history struct {
	requests, executions, done, releases int
	first                                time.Time
}

// Request is an HTTP request that a server read.
type Request struct {
	Time   time.Time
	Server string
	// DB and UUID are the parameters of a runjob request.
	DB, UUID string
	Path     string
	Remote   string
	Host     string
	Header   http.Header
}

// DatabaseHeader returns the header X-Odoo-Database.
func (r Request) DatabaseHeader() string { return r.Header.Get(databaseHeader) }

// Outcome is how an execution ended.
type Outcome string

const (
	// Done was committed together with the job's work.
	Done Outcome = "done"
	// Failed is a job that raised an error, also by too many retries.
	Failed Outcome = "failed"
	// Retried is a job that was postponed.
	Retried Outcome = "retried"
	// Killed is a job whose worker died.
	Killed Outcome = "killed"
	// Lost is a job whose worker could not write down how it ended.
	Lost Outcome = "lost"
)

// Execution is one run of a job's code. It begins after started is committed
// and ends before anything else becomes visible, so that those of two jobs of
// which one waits for the other never overlap.
type Execution struct {
	Server   string
	DB, UUID string
	Channel  string
	Start    time.Time
	End      time.Time // zero while it runs
	Outcome  Outcome
}

// overlaps reports whether both ran at some moment, o having started first.
func (e Execution) overlaps(o Execution) bool { return o.End.IsZero() || e.Start.Before(o.End) }

func (r *Recorder) update(db, uuid string, f func(*history)) {
	if r.byJob == nil {
		r.byJob = map[job]history{}
	}
	h := r.byJob[job{db, uuid}]
	f(&h)
	r.byJob[job{db, uuid}] = h
}

// AddRequest records a request.
func (r *Recorder) AddRequest(q Request) {
	r.mu.Lock()
	r.requests = append(r.requests, q)
	if q.UUID != "" {
		r.update(q.DB, q.UUID, func(h *history) {
			if h.requests++; h.requests == 1 {
				h.first = q.Time
			}
		})
	}
	r.mu.Unlock()
	r.signal.broadcast()
}

// Begin records the start of an execution and returns the function that records
// its end; the last call of that counts.
func (r *Recorder) Begin(e Execution) (end func(time.Time, Outcome)) {
	r.mu.Lock()
	index, resets := len(r.executions), r.resets
	r.executions = append(r.executions, e)
	r.update(e.DB, e.UUID, func(h *history) { h.executions++ })
	r.mu.Unlock()
	r.signal.broadcast()
	return func(at time.Time, o Outcome) {
		r.mu.Lock()
		if resets == r.resets {
			was := r.executions[index].Outcome
			r.executions[index].End, r.executions[index].Outcome = at, o
			r.update(e.DB, e.UUID, func(h *history) { h.done += oneIf(o == Done) - oneIf(was == Done) })
		}
		r.mu.Unlock()
		r.signal.broadcast()
	}
}

// Reset forgets everything, and returns what it forgot. The end of an execution
// that is still running is not recorded any more.
func (r *Recorder) Reset() (requests []Request, executions []Execution) {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests, executions = r.requests, r.executions
	r.requests, r.executions, r.byJob = nil, nil, nil
	r.resets++
	return requests, executions
}

func oneIf(condition bool) int {
	if condition {
		return 1
	}
	return 0
}

// Await waits until a condition holds that depends on this recorder only.
func (r *Recorder) Await(ctx context.Context, condition func() bool) error {
	return r.signal.await(ctx, condition)
}

func (r *Recorder) history(db, uuid string) history {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byJob[job{db, uuid}]
}

// addReleases records that a worker made jobs pending that had waited for others.
func (r *Recorder) addReleases(db string, uuids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, uuid := range uuids {
		r.update(db, uuid, func(h *history) { h.releases++ })
	}
}

// Releases returns how often workers made a job pending that had waited for others.
func (r *Recorder) Releases(db, uuid string) int { return r.history(db, uuid).releases }

// Requests returns how often a server was asked to run a job.
func (r *Recorder) Requests(db, uuid string) int { return r.history(db, uuid).requests }

// Executions returns how often a job's code was started.
func (r *Recorder) Executions(db, uuid string) int { return r.history(db, uuid).executions }

// FirstRequestAt returns when a job was first asked for; the zero time if never.
func (r *Recorder) FirstRequestAt(db, uuid string) time.Time { return r.history(db, uuid).first }

// AllRequests returns a copy of all requests, in the order of their arrival.
func (r *Recorder) AllRequests() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// AllExecutions returns a copy of all executions, in the order of their start.
func (r *Recorder) AllExecutions() []Execution {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.executions)
}

// CountOutcomes returns the number of executions by outcome; those that still
// run count under the empty outcome.
func (r *Recorder) CountOutcomes() map[Outcome]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := map[Outcome]int{}
	for _, e := range r.executions {
		counts[e.Outcome]++
	}
	return counts
}

// Overlap is two executions of one job at the same time.
type Overlap struct{ First, Second Execution }

// String tells what happened, for a test's message.
func (o Overlap) String() string {
	return fmt.Sprintf("%s/%s: started %s on %s while running since %s on %s", o.First.DB, o.First.UUID,
		o.Second.Start.Format(time.StampMicro), o.Second.Server, o.First.Start.Format(time.StampMicro), o.First.Server)
}

// Overlaps returns every execution that began while another one of the same job
// ran.
func (r *Recorder) Overlaps() []Overlap {
	all := r.AllExecutions()
	slices.SortStableFunc(all, func(a, b Execution) int { return a.Start.Compare(b.Start) })
	longest := map[job]Execution{} // by job, the earlier one that ended last
	var found []Overlap
	for _, e := range all {
		key := job{e.DB, e.UUID}
		before, seen := longest[key]
		if seen && e.overlaps(before) {
			found = append(found, Overlap{before, e})
		}
		if !seen || !before.End.IsZero() && (e.End.IsZero() || e.End.After(before.End)) {
			longest[key] = e
		}
	}
	return found
}

// Duplicates returns, as database/uuid, the jobs that were done more than once.
func (r *Recorder) Duplicates() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for key, h := range r.byJob {
		if h.done > 1 {
			found = append(found, key.db+"/"+key.uuid)
		}
	}
	slices.Sort(found)
	return found
}

// MaxConcurrent returns how many jobs of a channel, those below it included, ran
// at once at most.
func (r *Recorder) MaxConcurrent(channel string) int {
	most, _ := maxConcurrent(r.AllExecutions(), channel)
	return most
}

// Violation is a channel that exceeded its capacity.
type Violation struct {
	Channel       string
	Capacity, Max int
	// At is when the maximum was first reached.
	At time.Time
}

// String tells what happened, for a test's message.
func (v Violation) String() string {
	return fmt.Sprintf("channel %s with capacity %d ran %d jobs at once at %s", v.Channel, v.Capacity, v.Max, v.At.Format(time.StampMicro))
}

// Violations returns the channels that exceeded the given capacities, by name.
// A capacity of 0 is unlimited.
func (r *Recorder) Violations(capacities map[string]int) []Violation {
	all := r.AllExecutions()
	var found []Violation
	for channel, capacity := range capacities {
		if most, at := maxConcurrent(all, channel); capacity != 0 && most > capacity {
			found = append(found, Violation{Channel: fullName(channel), Capacity: capacity, Max: most, At: at})
		}
	}
	slices.SortFunc(found, func(a, b Violation) int { return cmp.Compare(a.Channel, b.Channel) })
	return found
}

// maxConcurrent sweeps over the beginnings and ends of executions.
func maxConcurrent(all []Execution, channel string) (most int, at time.Time) {
	type event struct {
		at    time.Time
		delta int
	}
	channel = fullName(channel)
	var events []event
	for _, e := range all {
		if name := fullName(e.Channel); name != channel && !strings.HasPrefix(name, channel+".") {
			continue
		}
		events = append(events, event{e.Start, +1})
		if !e.End.IsZero() {
			events = append(events, event{e.End, -1})
		}
	}
	// At the same moment, what ends makes room for what begins.
	slices.SortFunc(events, func(a, b event) int { return cmp.Or(a.at.Compare(b.at), a.delta-b.delta) })
	now := 0
	for _, e := range events {
		if now += e.delta; now > most {
			most, at = now, e.at
		}
	}
	return most, at
}

// fullName completes a channel's name as it stands in a row.
func fullName(channel string) string {
	if channel == "" || channel == "root" || strings.HasPrefix(channel, "root.") {
		return cmp.Or(channel, "root")
	}
	return "root." + channel
}
