package runner

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Exchanges is the register of open requests of a process. Requests outlive the
// runner that sent them: when a runner is removed from the configuration and
// comes back, or its connection settings change, the next one must know that a
// job it finds enqueued or started is still being waited for.
//
// Jobs are found by database and uuid alone, for one cluster may be reached under
// several addresses. Should two clusters hold the same job, as copies do, a runner
// that comes back may wait for the request of the other one before it looks at
// its own row again.
type Exchanges struct {
	mu   sync.Mutex // guards the following
	open map[channels.Key]*exchange
}

// exchange is one open request.
type exchange struct {
	key      channels.Key
	attempt  driver.Task
	upstream driver.Upstream
	cancel   context.CancelFunc

	mu     sync.Mutex // guards the following
	result *driver.Result
	// ended are told the result: whoever started it and whoever attached later.
	// Some of them may have ended themselves meanwhile.
	ended []func(*exchange, driver.Result)
}

// NewExchanges returns an empty register.
func NewExchanges() *Exchanges {
	return &Exchanges{open: make(map[channels.Key]*exchange)}
}

// Len returns the number of open requests.
func (r *Exchanges) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// lookup returns the open request of a job.
func (r *Exchanges) lookup(key channels.Key) *exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[key]
}

// start runs a task on an upstream in a goroutine of its own. When the exchange
// is over, ended is called from there, and so is whoever has attached.
func (r *Exchanges) start(d driver.Driver, up driver.Upstream, t *task, log func() *zap.Logger, ended func(*exchange, driver.Result)) *exchange {
	// No deadline: the request lasts as long as the job. It does not end with
	// the runner either, because a job cannot be called back.
	ctx, cancel := context.WithCancel(context.Background())
	if t.span != nil {
		ctx = driver.WithHeader(ctx, t.span.header)
	}
	attempt := t.attempt
	x := &exchange{key: attempt.Key, attempt: attempt, upstream: up, cancel: cancel}
	x.ended = append(x.ended, ended)
	r.mu.Lock()
	r.open[x.key] = x
	r.mu.Unlock()
	go func() {
		defer cancel()
		result := driver.Result{Outcome: driver.Broken}
		safely(log, "dispatch", func() { result = d.Run(ctx, up, attempt) })
		r.mu.Lock()
		if r.open[x.key] == x {
			delete(r.open, x.key)
		}
		r.mu.Unlock()
		safely(log, "dispatch", func() { x.finish(result) })
	}()
	return x
}

// finish records the result and tells everybody.
func (x *exchange) finish(result driver.Result) {
	x.mu.Lock()
	x.result = &result
	ended := x.ended
	x.mu.Unlock()
	for _, tell := range ended {
		tell(x, result)
	}
}

// attach adds ended to those who are told. An exchange that is over already
// tells at once.
func (x *exchange) attach(ended func(*exchange, driver.Result)) {
	x.mu.Lock()
	x.ended = append(x.ended, ended)
	result := x.result
	x.mu.Unlock()
	if result != nil {
		ended(x, *result)
	}
}
