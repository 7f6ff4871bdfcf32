// Package exchange is the register of the open requests of a process. Requests outlive the runner
// that sent them: when a runner is removed from the configuration and comes back, or its connection
// settings change, the next one must know that a job which it finds enqueued or started is still
// being waited for.
package exchange

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/safego"
)

// Register is the set of open requests. It is safe for concurrent use.
//
// Jobs are found by database and uuid alone, because one cluster may be reached under several
// addresses. If two clusters hold the same job, as copies do, a runner that comes back may wait for
// the request of the other one before it reads its own row again.
type Register struct {
	mu   sync.Mutex // guards the following
	open map[channels.Key]*Exchange
}

// Exchange is one request with its answer.
type Exchange struct {
	// Attempt is the task that was sent, and Upstream the server that it was sent to.
	Attempt  driver.Task
	Upstream driver.Upstream
	// Opened is when it was sent.
	Opened time.Time

	cancel context.CancelFunc

	// started is told the result: the runner that started it.
	started func(*Exchange, driver.Result)

	mu     sync.Mutex // guards the following
	over   bool
	result driver.Result // once it is over
	// attached are told the result, too. They, and started, may have ended themselves meanwhile.
	attached []func(*Exchange, driver.Result)
}

// NewRegister returns an empty register.
func NewRegister() *Register {
	return &Register{open: make(map[channels.Key]*Exchange)}
}

// Len returns the number of open requests.
func (r *Register) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// Lookup returns the open request of a job, nil if there is none.
func (r *Register) Lookup(key channels.Key) *Exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[key]
}

// OpenOf returns the jobs of a database that have an open request, by uuid.
func (r *Register) OpenOf(database string) (open map[string]struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.open {
		if key.DB != database {
			continue
		}
		if open == nil {
			open = make(map[string]struct{})
		}
		open[key.UUID] = struct{}{}
	}
	return open
}

// Start runs a task on an upstream in its own goroutine. When the exchange is over, ended is
// called from there, and so are the functions that have been attached. A panic of the driver is
// logged, and counts as a broken exchange.
//
// If a request for the job is open already, Start sends nothing and returns that one, and false;
// ended is not told of it.
func (r *Register) Start(
	d driver.Driver, up driver.Upstream, attempt driver.Task, log func() *zap.Logger,
	ended func(*Exchange, driver.Result),
) (x *Exchange, started bool) {
	// No deadline: the request lasts as long as the job. It does not end with the runner either,
	// because a job cannot be called back.
	ctx, cancel := context.WithCancel(context.Background())
	x = &Exchange{Attempt: attempt, Upstream: up, Opened: time.Now(), cancel: cancel, started: ended}
	r.mu.Lock()
	if open := r.open[attempt.Key]; open != nil {
		r.mu.Unlock()
		cancel()
		return open, false
	}
	r.open[attempt.Key] = x
	r.mu.Unlock()
	go x.run(ctx, r, d, log)
	return x, true
}

// run is the whole life of an exchange.
func (x *Exchange) run(ctx context.Context, r *Register, d driver.Driver, log func() *zap.Logger) {
	defer x.cancel()
	result := driver.Result{Outcome: driver.Broken}
	safego.Run(log, "dispatch", func() { result = d.Run(ctx, x.Upstream, x.Attempt) })
	r.mu.Lock()
	delete(r.open, x.Attempt.Key) // it is x: no other one starts while x is open
	r.mu.Unlock()
	safego.Run(log, "dispatch", func() { x.finish(result) })
}

// finish records the result and passes it on.
func (x *Exchange) finish(result driver.Result) {
	x.mu.Lock()
	x.result, x.over = result, true
	attached := x.attached
	x.mu.Unlock()
	x.started(x, result)
	for _, tell := range attached {
		tell(x, result)
	}
}

// Attach adds ended to those that are told the result. An exchange that is over already tells at
// once.
func (x *Exchange) Attach(ended func(*Exchange, driver.Result)) {
	x.mu.Lock()
	x.attached = append(x.attached, ended)
	over, result := x.over, x.result
	x.mu.Unlock()
	if over {
		ended(x, result)
	}
}

// Cancel gives the request up. It ends with [driver.Broken] or [driver.NotSent], unless its answer
// arrives first.
func (x *Exchange) Cancel() { x.cancel() }
