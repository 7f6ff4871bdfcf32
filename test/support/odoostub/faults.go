package odoostub

import (
	"context"
	"sync"
	"time"
)

// FaultKind is a way in which a server misbehaves.
type FaultKind uint8

const (
	// NoFault serves the request, after Delay.
	NoFault FaultKind = iota
	// ResetBeforeRead resets the connection without reading from it. A mere
	// connect counts as a request here.
	ResetBeforeRead
	// ResetAfterRead reads the request, does nothing and resets the connection.
	ResetAfterRead
	// Hang reads the request, does nothing and never answers; the worker is
	// stuck until the faults change or it is killed.
	Hang
	// Answer answers with Status and an HTML page, and does nothing.
	Answer
	// Redirect answers 302 to the login page, and does nothing.
	Redirect
	// LoginPage answers 200 with the HTML of the login page, and does nothing.
	LoginPage
	// Ignore answers 200 with an empty body, and does nothing.
	Ignore
	// KillWorker executes the job and kills the worker After some time: the
	// connection is reset, the database session aborted, the row stays started,
	// and another worker takes the dead one's place.
	KillWorker
	// SlowAnswer executes the job and answers one byte per Pace.
	SlowAnswer
)

// Fault is what happens to requests. The zero value is none.
type Fault struct {
	Kind FaultKind
	// Delay passes before anything else, and also before a job starts.
	Delay time.Duration
	// Status is the HTTP status of Answer.
	Status int
	// After is how long the job runs before KillWorker.
	After time.Duration
	// Pace is the time per byte of SlowAnswer.
	Pace time.Duration
	// AllPaths lets the fault happen to every request; otherwise it happens to
	// runjob requests only, ResetBeforeRead excepted.
	AllPaths bool
}

// faults holds what is to happen to the next requests.
type faults struct {
	changed  signal
	mu       sync.Mutex
	standing Fault
	next     []Fault
	version  int // of the standing fault
}

func (f *faults) set(standing Fault) {
	f.mu.Lock()
	f.standing, f.next = standing, nil
	f.version++
	f.mu.Unlock()
	f.changed.broadcast()
}

func (f *faults) add(n int, fault Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range n {
		f.next = append(f.next, fault)
	}
}

// take returns the fault for a request, if the filter wants it.
func (f *faults) take(wanted func(Fault) bool) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.next) > 0 {
		fault := f.next[0]
		if !wanted(fault) {
			return Fault{}
		}
		f.next = f.next[1:]
		return fault
	}
	if !wanted(f.standing) {
		return Fault{}
	}
	return f.standing
}

// onConnect returns the fault of a connection that nobody has read from.
func (f *faults) onConnect() Fault {
	return f.take(func(fault Fault) bool { return fault.Kind == ResetBeforeRead })
}

// onRequest returns the fault of a request.
func (f *faults) onRequest(path string) Fault {
	return f.take(func(fault Fault) bool { return fault.AllPaths || isRunjob(path) })
}

// awaitChange returns when the standing fault has been replaced.
func (f *faults) awaitChange(ctx context.Context) error {
	version := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.version
	}
	before := version()
	return f.changed.await(ctx, func() bool { return version() != before })
}

// SetFault lets all requests from now on suffer a fault; the zero Fault ends
// that, and frees workers that hang. It replaces what [Server.NextFaults] said.
func (s *Server) SetFault(f Fault) { s.faults.set(f) }

// NextFaults lets the next n requests suffer a fault. Calls add up, and come
// before the fault of [Server.SetFault].
func (s *Server) NextFaults(n int, f Fault) { s.faults.add(n, f) }

// sleep waits, unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
