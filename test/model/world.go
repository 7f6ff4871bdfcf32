package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Generation is a variant of the add-on, as far as it matters here (docs/contract.md 1.5).
type Generation struct {
	Name string
	// Locks: a worker holds a lock row while it runs a job, in a second transaction (D to G).
	Locks bool
	// Guarded: a worker tests for enqueued and sets started in one transaction with the row locked (C
	// to G). Otherwise two workers can pass the test before either sets started (A, B).
	Guarded bool
}

// The generations that are told apart.
var (
	WithLocks    = Generation{Name: "lock table (16.0 and later)", Locks: true, Guarded: true}
	WithoutLocks = Generation{Name: "no lock table (12.0 to 15.0)", Guarded: true}
	Unguarded    = Generation{Name: "unguarded (7.0 to 11.0)"}
)

// State is that of a row.
type State uint8

// States of rows. Done is the end of a run, whatever its result.
const (
	Pending State = iota
	Enqueued
	Started
	Done
)

// Running reports whether it occupies a slot.
func (s State) Running() bool { return s == Enqueued || s == Started }

// String returns the word.
func (s State) String() string { return [...]string{"pending", "enqueued", "started", "done"}[s] }

// Row is the row of a job.
type Row struct {
	State State
	// Attempt tells one date_enqueued from another; 0 is NULL.
	Attempt uint8
	// Old: the claim is more than ten seconds ago, by the database's clock.
	Old bool
}

// Place is how far a request has come.
type Place uint8

const (
	// None: there is no request.
	None Place = iota
	// Waiting: it is on its way, or in the backlog of a server.
	Waiting
	// Checked: a worker has found the row enqueued, and has not set it to started (unguarded).
	Checked
	// Gap: the worker has committed started, and does not hold the lock row yet (lock table).
	Gap
	// Executing: the job runs.
	Executing
	// Answered: it is over, and the answer is on its way.
	Answered
	// Cut: it is over, and its connection breaks.
	Cut
)

// Request is one HTTP request for a job.
type Request struct {
	At Place
	// Client is the number of the node that waits for the answer, counted from 1; 0 if none does.
	Client uint8
	// Hidden: the lock was taken inside a savepoint, so that an inspection does not see it.
	Hidden bool
	// Inspected: an inspection fell into the gap.
	Inspected bool
}

// works reports whether a worker has taken the job for it.
func (r *Request) works() bool { return r.At == Gap || r.At == Executing }

// maxRequests bounds the requests of one job at the same time. Where more are needed, the model panics.
const maxRequests = 4

// Job is a job with all requests for it.
type Job struct {
	Row      Row
	Requests [maxRequests]Request
}

// Send puts a request of a client into the world.
func (j *Job) Send(client uint8) {
	i := slices.Index(j.Requests[:], Request{})
	if i < 0 {
		panic("model: more requests for one job than it has room for")
	}
	j.Requests[i] = Request{At: Waiting, Client: client}
	j.Sort()
}

// Drop removes a request.
func (j *Job) Drop(i int) {
	j.Requests[i] = Request{}
	j.Sort()
}

// Abandon leaves a request to itself, whose client does not wait any more.
func (j *Job) Abandon(i int) {
	r := &j.Requests[i]
	if r.Client = 0; r.At == Answered || r.At == Cut {
		*r = Request{}
	}
	j.Sort()
}

// Leave leaves all requests of a client to themselves.
func (j *Job) Leave(client uint8) {
	for {
		i := slices.IndexFunc(j.Requests[:], func(r Request) bool { return r.Client == client })
		if i < 0 {
			return
		}
		j.Abandon(i)
	}
}

// Sort makes equal what differs only in the order of requests.
func (j *Job) Sort() {
	slices.SortFunc(j.Requests[:], func(a, b Request) int {
		return cmp.Or(cmp.Compare(b.At, a.At), cmp.Compare(b.Client, a.Client),
			compareBools(b.Hidden, a.Hidden), compareBools(b.Inspected, a.Inspected))
	})
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Workers counts the workers that have taken the job and not ended it.
func (j *Job) Workers() (n int) {
	for i := range j.Requests {
		if j.Requests[i].works() {
			n++
		}
	}
	return n
}

// Locked reports whether a worker holds the lock row.
func (j *Job) Locked() bool {
	return slices.ContainsFunc(j.Requests[:], func(r Request) bool { return r.At == Executing })
}

// String describes the job in a few words.
func (j *Job) String() string {
	var b strings.Builder
	b.WriteString(j.Row.State.String())
	if j.Row.Attempt != 0 {
		fmt.Fprintf(&b, "(%d)", j.Row.Attempt)
	}
	for i := range j.Requests {
		if r := &j.Requests[i]; r.At != None {
			fmt.Fprintf(&b, " %s", [...]string{"", "waiting", "checked", "gap", "executing", "answered", "cut"}[r.At])
			if r.Client == 0 {
				b.WriteString("!") // no client waits for it
			}
		}
	}
	return b.String()
}

// Work is the next step of the worker that handles a request, or of a worker that takes it. It reports
// what was done, empty if there is nothing to do, and whether the row has changed.
func (j *Job) Work(g Generation, i int) (label string, changed bool) {
	r := &j.Requests[i]
	defer j.Sort()
	switch r.At {
	case Waiting:
		switch {
		case j.Row.State != Enqueued:
			j.over(r)
			return "a worker finds the job not enqueued, and answers", false
		case !g.Guarded:
			r.At = Checked
			return "a worker finds the job enqueued", false
		case g.Locks:
			r.At, j.Row.State = Gap, Started
			return "a worker sets started", true
		}
		r.At, j.Row.State = Executing, Started
		return "a worker sets started, and runs the job", true
	case Checked:
		r.At, j.Row.State = Executing, Started
		return "a worker sets started, and runs the job", true
	case Gap:
		if j.Locked() {
			j.over(r)
			return "a worker finds the lock row locked, and answers", false
		}
		r.At, r.Inspected = Executing, false
		return "a worker locks the lock row, and runs the job", false
	case Executing:
		j.Row.State = Done
		j.over(r)
		return "a worker ends the job", true
	case None, Answered, Cut:
	}
	return "", false
}

// over ends a request that is answered.
func (j *Job) over(r *Request) {
	if r.Client == 0 {
		*r = Request{}
		return
	}
	*r = Request{At: Answered, Client: r.Client}
}

// Die ends the worker that handles a request, or the server in whose backlog it waits.
func (j *Job) Die(i int) {
	if r := &j.Requests[i]; r.Client == 0 {
		*r = Request{}
	} else {
		*r = Request{At: Cut, Client: r.Client}
	}
	j.Sort()
}
