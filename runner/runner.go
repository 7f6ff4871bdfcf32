package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/safego"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// restartPause is the time before the engine is started again after a panic.
const restartPause = 5 * time.Second

// ErrStopped is returned by methods of a runner that has been stopped.
var ErrStopped = errors.New("runner stopped")

// Runner runs the jobs of one PostgreSQL cluster. Its methods are safe for
// concurrent use.
type Runner struct {
	cfg atomic.Pointer[Config]
	// wanted is the newest configuration, which the engine may not have taken yet.
	wanted atomic.Pointer[Config]

	// quit ends everything but open requests.
	quit   context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of the runner
	wg     sync.WaitGroup
	start  sync.Once
	engine atomic.Pointer[engine]

	// controls are what operators have ordered last.
	controls atomic.Pointer[Controls]
}

// New checks a configuration. It opens nothing and starts nothing.
func New(cfg Config) (*Runner, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Runner{}
	r.cfg.Store(&cfg)
	r.controls.Store(&Controls{})
	r.ctx, r.quit = context.WithCancel(context.Background())
	return r, nil
}

func (r *Runner) config() Config { return *r.cfg.Load() }

func (r *Runner) log() *zap.Logger { return r.config().Logger }

// Start begins to serve, in the background. PostgreSQL and the application need not be
// there yet. Only the first call has an effect.
func (r *Runner) Start() {
	r.start.Do(func() {
		r.log().Info("starting")
		r.engine.Store(newEngine(r.config))
		r.spawn("runner", r.supervise)
	})
}

// supervise runs the engine, and a new one after a panic: all it knew is in the database. Without one, an
// engine ends with the runner.
func (r *Runner) supervise() {
	for {
		e := r.engine.Load()
		safego.Run(r.log, "engine", func() { r.runEngine(e) })
		if !timing.Sleep(r.ctx, restartPause) {
			return
		}
		if wanted := r.wanted.Load(); wanted != nil {
			r.cfg.Store(wanted)
		}
		r.engine.Store(newEngine(r.config))
	}
}

// runEngine is the life of one engine with its maintenance connection and its
// sessions. It ends with the runner. The sessions go first: the leader lock is
// given back last, so that no two leaders share the channels' capacities.
func (r *Runner) runEngine(e *engine) {
	ctx, cancel := context.WithCancel(r.ctx)
	maintCtx, cancelMaint := context.WithCancel(context.WithoutCancel(r.ctx))
	var sessions, maint sync.WaitGroup
	e.ctx = ctx
	e.spawn = func(name string, f func()) {
		sessions.Go(func() { safego.Run(r.log, name, f) })
	}
	defer func() {
		cancel()
		sessions.Wait()
		e.leave()
		cancelMaint()
		maint.Wait()
		e.mail.close()
	}()
	if err := e.configure(r.config()); err != nil {
		// It has been checked before, so this cannot be.
		r.log().Error("cannot apply the channels", zap.Error(err))
	}
	e.control(*r.controls.Load())
	r.log().Info("initializing database connections")
	maint.Go(func() { e.maint.Run(maintCtx) })
	e.loop()
	for _, t := range e.tasks {
		t.span.leave()
	}
}

func (r *Runner) spawn(name string, f func()) {
	r.wg.Go(func() { safego.Run(r.log, name, f) })
}

// do runs f in the engine's loop and waits for it. After an error f has not run
// and never will.
func (r *Runner) do(ctx context.Context, f func(*engine)) (err error) {
	e := r.engine.Load()
	if e == nil {
		return ErrStopped
	}
	var taken atomic.Bool
	done := make(chan struct{})
	if !e.mail.post(func() {
		if taken.CompareAndSwap(false, true) {
			defer close(done)
			f(e)
		}
	}) {
		return ErrStopped
	}
	select {
	case <-done:
		return nil
	case <-e.mail.gone:
		err = ErrStopped
	case <-r.ctx.Done():
		err = ErrStopped
	case <-ctx.Done():
		err = fmt.Errorf("wait for the engine: %w", context.Cause(ctx))
	}
	if taken.CompareAndSwap(false, true) {
		return err
	}
	<-done
	return nil
}

// errPanicked is the answer to a question that made the engine panic. It goes on.
var errPanicked = errors.New("the engine could not answer, see its log")

// ask is do for a question: f changes nothing, so that a panic in it is no reason to build everything
// anew.
func (r *Runner) ask(ctx context.Context, f func(*engine)) error {
	returned := false
	err := r.do(ctx, func(e *engine) { returned = safego.Run(r.log, "question", func() { f(e) }) })
	if err == nil && !returned {
		err = errPanicked
	}
	return err
}

// reconfigureTimeout bounds the wait for the engine to take a configuration.
const reconfigureTimeout = 10 * time.Second

// Reconfigure puts a new configuration into force without touching connections,
// locks, or open requests: channels, upstreams, driver, databases, intervals and
// logger. The address of PostgreSQL must be the same; another password is used
// by the next connection. On error the old configuration stays in force. An engine
// that is busy for 10 s takes the configuration when it is not any more; that is
// logged, and no error.
func (r *Runner) Reconfigure(cfg Config) error {
	if cfg.Exchanges == nil {
		cfg.Exchanges = r.config().Exchanges
	}
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg.clusterName() != r.config().clusterName() {
		return fmt.Errorf("runner %s: another PostgreSQL needs another runner", cfg.Name)
	}
	if r.ctx.Err() != nil {
		return ErrStopped
	}
	r.wanted.Store(&cfg)
	taken := make(chan error, 1)
	e := r.engine.Load()
	if e == nil || !e.mail.post(func() { taken <- r.take(e, &cfg) }) {
		// Before the first engine, or between two: the next begins with it.
		r.cfg.Store(&cfg)
		return nil
	}
	late := time.NewTimer(reconfigureTimeout)
	defer late.Stop()
	select {
	case err := <-taken:
		return err
	case <-e.mail.gone:
		if r.ctx.Err() != nil {
			return ErrStopped
		}
		r.cfg.Store(&cfg)
	case <-late.C:
		cfg.Logger.Warn("the engine is busy, it takes the new configuration when it is not any more",
			zap.Duration("after", reconfigureTimeout))
	}
	return nil
}

// take puts a configuration into force in the engine's loop, unless there is a newer one.
func (r *Runner) take(e *engine, cfg *Config) error {
	if r.wanted.Load() != cfg {
		return nil
	}
	old := r.cfg.Swap(cfg)
	err := e.configure(*cfg)
	if err != nil {
		r.cfg.Store(old)
		cfg.Logger.Error("the new configuration could not be put into force", zap.Error(err))
	}
	return err
}

// Stop claims nothing from now on, waits for open requests as long as ctx
// allows, and then for a moment until what these have come to is written down,
// gives the databases' locks and then the leader lock back, and closes the connections. Requests that are still open go on without the runner: the
// application cannot be told to stop.
func (r *Runner) Stop(ctx context.Context) error {
	defer r.wg.Wait()
	defer r.quit()
	r.start.Do(func() {}) // a runner that was never started never will be
	var e *engine
	asked := make(chan struct{})
	engine := r.engine.Load()
	if engine == nil || !engine.mail.post(func() { e = engine; e.drain(); close(asked) }) {
		return nil
	}
	r.log().Info("graceful stop requested")
	quiet, cancel := context.WithTimeout(r.ctx, quietTimeout)
	defer cancel()
	if await(quiet, asked) && await(quiet, e.shutdown.quiet) {
		select {
		case <-e.shutdown.drained:
		case <-ctx.Done():
			r.finish(e)
		case <-r.ctx.Done(): // another Stop did not want to wait
		}
	}
	r.quit()
	r.wg.Wait()
	r.log().Info("stopped")
	return nil
}

// finish lets an engine carry out what it is about to: a request may have ended in this moment.
func (r *Runner) finish(e *engine) {
	ctx, cancel := context.WithTimeout(r.ctx, quietTimeout)
	defer cancel()
	done := make(chan struct{})
	if e.mail.post(func() { e.shutdown.last = append(e.shutdown.last, done) }) {
		await(ctx, done)
	}
}

// quietTimeout bounds how long Stop waits, whatever its context says, for
// statements under way: a job claimed and not sent would stay behind.
const quietTimeout = time.Second

// await waits for done or the end of ctx; it reports whether done came.
func await(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
