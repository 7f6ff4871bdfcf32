// Package supervisor keeps the runners of this process at work while Caddy loads one configuration
// after the other. It knows which configuration is in force, and what operators have ordered.
// The surfaces (the admin API, the dashboard, the metrics) ask it for the runners.
package supervisor

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

// stopGrace is added to the time that an engine may wait for open requests, so
// that it can close its connections. Together with the default shutdown_timeout
// it stays below systemd's TimeoutStopSec of Caddy's unit, 5 s.
const stopGrace = time.Second

// pool holds the process's supervisor as long as a configuration uses it. It is global because
// a configuration and the one that replaces it share nothing else.
var pool = caddy.NewUsagePool()

// poolKey is the one key of the pool. What tells runners apart is in the generations, so that
// a changed setting is never ignored.
type poolKey struct{}

// exchanges is the register of open requests. It is global because it outlives even the
// supervisor: a runner that was removed and comes back must know what is still running.
var exchanges = exchange.NewRegister()

// OpenExchanges is the number of open requests of this process, including those of runners that
// were removed from the configuration.
func OpenExchanges() int { return exchanges.Len() }

// Engine is a runner as the supervisor handles it, which [runner.Runner] implements.
type Engine interface {
	Start()
	Reconfigure(cfg runner.Config) error
	Stop(ctx context.Context) error
}

// Supervisor owns the live engines of this process. They survive configuration reloads: each
// configuration contributes a generation, and the oldest one that lives is in force. Caddy stops
// a configuration only after everything of the next one has started, so its Stop is the signal
// that the next one counts; until then, and if it never counts, nothing has happened.
type Supervisor struct {
	// exiting reports that the process is about to end.
	exiting func() bool

	mu      sync.Mutex // guards the following
	gens    []*Generation
	engines map[string]*live
	// changed is closed when the generation in force ceases to be.
	changed chan struct{}
}

// Generation is the runners of one configuration.
type Generation struct {
	Runners map[string]*Member
	Logger  *zap.Logger
	// Emit hands something on to Caddy's events; nil if there is nothing to hand it to.
	Emit func(name string, data map[string]any)

	released sync.Once
}

// Member is one runner of a generation.
type Member struct {
	// Config is what the engine gets. The supervisor adds what belongs to the process: Exchanges,
	// Elected, Handover and Setbacks.
	Config runner.Config
	// New makes the engine: no I/O, no goroutine.
	New func(cfg runner.Config) (Engine, error)
	// Identity is the PostgreSQL connection, which a live engine cannot change.
	Identity string
	// Storage is where the orders of operators are kept, and what runs is passed on to the next leader.
	Storage certmagic.Storage
	// FailsOn is the health from which on GET /jobrunner/ready fails. Default: runner.NotReady.
	FailsOn runner.Health
	// History is what is remembered of the jobs; nil if nothing is to be.
	History *history.Options
}

// failsOn is FailsOn, or its default.
func (m *Member) failsOn() runner.Health {
	if m.FailsOn == runner.Ready {
		return runner.NotReady
	}
	return m.FailsOn
}

// config returns the configuration with what belongs to the process.
func (m *Member) config(name string) runner.Config {
	cfg := m.Config
	cfg.Exchanges = exchanges
	cfg.Elected = func(ctx context.Context) { elected(ctx, name) }
	if m.Storage != nil {
		cfg.Handover = newHandover(name, m.Storage)
		cfg.Setbacks = newSetbacks(name, m.Storage)
	}
	return cfg
}

// live is an engine at work.
type live struct {
	engine   Engine
	identity string
	// wait is how long to wait for open requests when the process exits.
	wait time.Duration
	// runner is nil for an engine that cannot be operated.
	runner *Runner
	// history goes on as long as there is a runner of that name; nil without one.
	history *history.Log
}

// Acquire returns the supervisor of this process, and makes it if this is the first configuration
// to ask. Each call needs one of [Release].
func Acquire() (*Supervisor, error) {
	value, _, err := pool.LoadOrNew(poolKey{}, func() (caddy.Destructor, error) { return newSupervisor(), nil })
	if err != nil {
		return nil, fmt.Errorf("loading the supervisor: %w", err)
	}
	s, ok := value.(*Supervisor)
	if !ok {
		return nil, fmt.Errorf("the supervisor is a %T", value)
	}
	return s, nil
}

// Release gives up what Acquire returned. The last one stops the runners that are left.
func Release() error {
	if _, err := pool.Delete(poolKey{}); err != nil {
		return fmt.Errorf("releasing the supervisor: %w", err)
	}
	return nil
}

// References is the number of configurations that hold the supervisor.
func References() int {
	n, _ := pool.References(poolKey{})
	return n
}

func newSupervisor() *Supervisor {
	return &Supervisor{exiting: caddy.Exiting, engines: make(map[string]*live), changed: make(chan struct{})}
}

// Active returns the supervisor of this process, nil if no loaded configuration has one. Handlers
// must ask with every request: after a failed reload Caddy's admin endpoint belongs to the
// configuration that failed, whose own values never came into force.
func Active() *Supervisor {
	var s *Supervisor
	pool.Range(func(_, value any) bool {
		s, _ = value.(*Supervisor)
		return false
	})
	return s
}

// Current returns the generation in force, nil without one.
func Current() *Generation {
	s := Active()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gens) == 0 {
		return nil
	}
	return s.gens[0]
}

// Runners returns the runners at work that can be operated, by name; none if that is not known
// before ctx ends. The supervisor keeps others waiting while it puts a configuration into force.
func Runners(ctx context.Context) map[string]*Runner {
	s := Active()
	if s == nil {
		return nil
	}
	found := make(chan map[string]*Runner, 1)
	go func() { found <- s.Runners() }()
	select {
	case all := <-found:
		return all
	case <-ctx.Done():
		return nil
	}
}

// Push adds a generation. It takes effect when it is the oldest.
func (s *Supervisor) Push(g *Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gens = append(s.gens, g)
	if len(s.gens) == 1 {
		s.activate(g)
	}
}

// Withdraw removes a generation, once. If it was in force the next one takes over, or everything
// stops. It waits for open requests only if the process exits.
func (s *Supervisor) Withdraw(g *Generation) {
	g.released.Do(func() {
		for _, wait := range s.remove(g) {
			wait()
		}
	})
}

// remove takes a generation out and returns what to wait for.
func (s *Supervisor) remove(g *Generation) []func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.gens, g)
	if i < 0 {
		return nil
	}
	s.gens = slices.Delete(s.gens, i, i+1)
	if i > 0 {
		return nil
	}
	defer func() {
		close(s.changed)
		s.changed = make(chan struct{})
	}()
	if len(s.gens) > 0 {
		s.activate(s.gens[0])
		return nil
	}
	return s.stopAll(g.Logger)
}

// Changed returns a channel that is closed when the generation in force ceases to be. Answers that
// do not end by themselves have to end then, because the admin endpoint of the old configuration
// waits for them.
func (s *Supervisor) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Runners returns the runners at work that can be operated, by name.
func (s *Supervisor) Runners() map[string]*Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*Runner, len(s.engines))
	for name, l := range s.engines {
		if l.runner != nil {
			all[name] = l.runner
		}
	}
	return all
}

// Destruct implements [caddy.Destructor]: the last configuration is gone.
func (s *Supervisor) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopAll(caddy.Log())
	return nil
}

// activate makes the engines what the generation says. An engine that cannot be
// changed goes on as it is: an old configuration is better than no runner.
func (s *Supervisor) activate(g *Generation) {
	for _, name := range slices.Sorted(maps.Keys(g.Runners)) {
		if err := s.apply(name, g.Runners[name], g.Logger); err != nil {
			g.Logger.Error("the new configuration of a runner could not be put into force", zap.String("runner", name), zap.Error(err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.engines)) {
		if g.Runners[name] == nil {
			s.stop(name, g.Logger, false)
		}
	}
}

// apply puts the configuration of one runner into force.
func (s *Supervisor) apply(name string, m *Member, log *zap.Logger) error {
	old := s.engines[name]
	if old != nil && old.identity == m.Identity {
		if err := guard.Call(func() error { return old.engine.Reconfigure(m.config(name)) }); err != nil {
			return err
		}
		old.wait = m.Config.ShutdownTimeout
		old.remember(name, m)
		if old.runner != nil {
			old.runner.use(m)
			old.runner.remember(old.history)
		}
		return nil
	}
	var next Engine
	err := guard.Call(func() (err error) {
		next, err = m.New(m.config(name))
		return err
	})
	if err != nil {
		return err
	}
	l := &live{engine: next, identity: m.Identity, wait: m.Config.ShutdownTimeout}
	if old != nil {
		l.history, old.history = old.history, nil
		// The two may want the same databases: the locks in PostgreSQL make the
		// new one wait until the old one has let go.
		s.stop(name, log, false)
	}
	l.remember(name, m)
	if o, ok := next.(operated); ok {
		l.runner = newRunner(name, o, m.Storage, m.Config.Logger)
		l.runner.use(m)
		l.runner.remember(l.history)
	}
	s.engines[name] = l
	return guard.Call(func() error {
		next.Start()
		return nil
	})
}

// remember begins, goes on with or ends the history of a runner, as its configuration wants.
func (l *live) remember(name string, m *Member) {
	switch {
	case m.History == nil && l.history != nil:
		l.history.Stop() // it writes what it knows in the background
		l.history = nil
	case m.History == nil:
	case l.history != nil:
		l.history.Configure(*m.History)
	default:
		l.history = history.Start(name, *m.History)
	}
}

// stopAll stops every engine and returns what to wait for: nothing unless the
// process exits. All are stopped at once, so the longest time counts.
func (s *Supervisor) stopAll(log *zap.Logger) []func() {
	leaving := s.exiting()
	var waits []func()
	for _, name := range slices.Sorted(maps.Keys(s.engines)) {
		if wait := s.stop(name, log, leaving); leaving {
			waits = append(waits, wait)
		}
	}
	return waits
}

// stop ends an engine beside the caller, who holds Caddy's configuration lock.
// The engine waits for open requests only if the process exits. The returned
// function waits until the engine has ended or has had its time.
func (s *Supervisor) stop(name string, log *zap.Logger, leaving bool) (wait func()) {
	l := s.engines[name]
	delete(s.engines, name)
	if l.runner != nil {
		l.runner.stop()
	}
	var timeout time.Duration
	if leaving {
		timeout = max(l.wait, 0)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	deadline := time.Now().Add(timeout + stopGrace)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		if err := guard.Call(func() error { return l.engine.Stop(ctx) }); err != nil {
			log.Warn("stopping a runner", zap.String("runner", name), zap.Error(err))
		}
		if l.history != nil {
			l.history.Stop() // what has ended while the engine stopped counts
			l.history.Wait()
		}
	}()
	return func() {
		limit := time.NewTimer(time.Until(deadline))
		defer limit.Stop()
		select {
		case <-ended:
		case <-limit.C:
			log.Warn("a runner did not stop in time", zap.String("runner", name))
		}
	}
}
