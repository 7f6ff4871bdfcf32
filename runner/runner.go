package runner

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// restartPause is the time before the engine is started again after a panic.
const restartPause = 5 * time.Second

// ErrStopped is returned by methods of a runner that has been stopped.
var ErrStopped = errors.New("runner stopped")

// Runner runs the jobs of one PostgreSQL cluster. Its methods are safe for
// concurrent use.
type Runner struct {
	cfg atomic.Pointer[Config]

	// quit ends everything but open requests.
	quit   context.CancelFunc
	ctx    context.Context //nolint:containedctx // the life of the runner
	wg     sync.WaitGroup
	start  sync.Once
	engine atomic.Pointer[engine]

	// controls are what operators have ordered last.
	controls atomic.Pointer[Controls]
	// desks bounds the connections that operators cause, each a token.
	desks chan struct{}
}

// New checks a configuration. It opens nothing and starts nothing.
func New(cfg Config) (*Runner, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &Runner{desks: make(chan struct{}, desksLimit)}
	r.cfg.Store(&cfg)
	r.controls.Store(&Controls{})
	r.ctx, r.quit = context.WithCancel(context.Background())
	return r, nil
}

// Validate reports the first mistake, in the channels too.
func (c Config) Validate() error {
	if err := c.validate(); err != nil {
		return err
	}
	if err := channels.NewManager().Configure(c.Channels); err != nil {
		return fmt.Errorf("runner %s: %w", c.Name, err)
	}
	return nil
}

func (r *Runner) config() Config { return *r.cfg.Load() }

func (r *Runner) log() *zap.Logger { return r.config().Logger }

// Start begins to serve, in the background. PostgreSQL and Odoo need not be
// there yet. Only the first call has an effect.
func (r *Runner) Start() {
	r.start.Do(func() {
		r.log().Info("starting")
		r.engine.Store(r.newEngine())
		r.spawn("runner", r.supervise)
	})
}

// supervise runs the engine, and a new one should it panic: all it knew stands
// in the database.
func (r *Runner) supervise() {
	for {
		e := r.engine.Load()
		ok := safely(r.log, "engine", func() { r.runEngine(e) })
		if ok || r.ctx.Err() != nil || !sleep(r.ctx, restartPause) {
			return
		}
		r.engine.Store(r.newEngine())
	}
}

func (r *Runner) newEngine() *engine {
	e := &engine{
		config:    r.config,
		mail:      newMailbox(),
		tree:      channels.NewForest(),
		databases: make(map[string]*database),
		tasks:     make(map[channels.Key]*task),
		held:      make(map[*database]struct{}),
		delays:    make(map[channels.Key]delay),
		quiet:     make(chan struct{}),
		drained:   make(chan struct{}),
	}
	wake := func() { e.mail.post(func() {}) }
	e.pool = newPool(e.config, wake)
	e.pool.report = e.emitLater
	e.maint = newMaintenance(r.config, e)
	return e
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
		sessions.Go(func() { safely(r.log, name, f) })
	}
	defer func() {
		cancel()
		sessions.Wait()
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
	maint.Go(func() {
		for maintCtx.Err() == nil && !safely(r.log, "maintenance", func() { e.maint.run(maintCtx) }) {
			// The connection is gone, and the leader lock with it.
			e.unreachable(errors.New("panic"))
			sleep(maintCtx, restartPause)
		}
	})
	e.loop()
	for _, t := range e.tasks {
		t.span.leave()
	}
}

func (r *Runner) spawn(name string, f func()) {
	r.wg.Go(func() { safely(r.log, name, f) })
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

// reconfigureTimeout bounds the wait for the engine to take a configuration.
const reconfigureTimeout = 10 * time.Second

// Reconfigure puts a new configuration into force without touching connections,
// locks, or open requests: channels, upstreams, driver, databases, intervals and
// logger. The address of PostgreSQL must be the same; another password is used
// by the next connection. On error the old configuration stays in force.
func (r *Runner) Reconfigure(cfg Config) error {
	if cfg.Exchanges == nil {
		cfg.Exchanges = r.config().Exchanges
	}
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	if clusterName(cfg) != clusterName(r.config()) {
		return fmt.Errorf("runner %s: another PostgreSQL needs another runner", cfg.Name)
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), reconfigureTimeout,
		fmt.Errorf("not taken within %s", reconfigureTimeout))
	defer cancel()
	var failed error
	err := r.do(ctx, func(e *engine) {
		old := r.cfg.Swap(&cfg)
		if failed = e.configure(cfg); failed != nil {
			r.cfg.Store(old)
		}
	})
	if errors.Is(err, ErrStopped) && r.ctx.Err() == nil {
		// Before the first engine, or between two: the next begins with it.
		r.cfg.Store(&cfg)
		return nil
	}
	return errors.Join(err, failed)
}

// Stop claims nothing from now on, waits for open requests as long as ctx
// allows, gives the databases' locks and then the leader lock back, and closes
// the connections. Requests that are still open go on without the runner: Odoo
// cannot be told to stop.
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
	if await(quiet, asked) && await(quiet, e.quiet) {
		select {
		case <-e.drained:
		case <-ctx.Done():
		case <-r.ctx.Done(): // another Stop did not want to wait
		}
	}
	r.quit()
	r.wg.Wait()
	r.log().Info("stopped")
	return nil
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

// drain begins the end: nothing new is claimed, and what was about to be is not.
func (e *engine) drain() {
	e.stopping = true
	for _, db := range e.databases {
		if db.session == nil {
			continue
		}
		for _, uuid := range db.session.dropClaims() {
			key := channels.Key{DB: db.Name, UUID: uuid}
			delete(e.tasks, key)
			e.requeue(key)
		}
	}
}

// checkDrained tells Stop when no statement is under way any more, and when no
// request is. The loop asks for it while the engine is stopping.
func (e *engine) checkDrained() {
	quiet, drained := true, true
	for _, t := range e.tasks {
		switch t.phase {
		case phaseClaiming, phaseUnclaiming:
			quiet, drained = false, false
		case phaseOpen, phaseAsked:
			drained = false
		case phaseWatched:
		}
	}
	if quiet {
		e.onceQuiet.Do(func() { close(e.quiet) })
	}
	if drained {
		e.onceDrained.Do(func() { close(e.drained) })
	}
}
