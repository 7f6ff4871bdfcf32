package jobrunner

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// stopGrace is added to the time that an engine may wait for open requests, so
// that it can close its connections. Together with the default shutdown_timeout
// it stays below systemd's TimeoutStopSec of Caddy's unit, 5 s.
const stopGrace = time.Second

// supervisors holds the process's supervisor as long as a configuration uses it.
var supervisors = caddy.NewUsagePool()

// supervisorKey is the one key of the pool. What tells runners apart stands in
// the generations, so that a changed setting is never ignored.
type supervisorKey struct{}

// exchanges is the register of open requests. It outlives supervisors: a runner
// that was removed and comes back must know what is still running.
var exchanges = runner.NewExchanges()

// engine is what the supervisor needs of a [runner.Runner].
type engine interface {
	Start()
	Reconfigure(cfg runner.Config) error
	Stop(ctx context.Context) error
}

// newEngine makes an engine: no I/O, no goroutine. Tests put a fake in its place.
var newEngine = func(cfg runner.Config) (engine, error) { return runner.New(cfg) }

// exiting reports that the process is about to end. Tests put a fake in its place.
var exiting = caddy.Exiting

// supervisor owns the live engines of this process. They survive configuration
// reloads: each configuration contributes a generation, and the oldest one that
// lives is in force. Caddy stops a configuration only after everything of the
// next one has started, so its Stop is the signal that the next one counts; until
// then, and if it never counts, nothing has happened (caddy.md 1.4).
type supervisor struct {
	mu      sync.Mutex
	gens    []*generation
	engines map[string]*live
}

// live is an engine at work.
type live struct {
	engine   engine
	identity string
	// wait is how long to wait for open requests when the process exits.
	wait time.Duration
	// keeper is nil for an engine that cannot be operated.
	keeper *keeper
}

// generation is the runners of one configuration.
type generation struct {
	runners  map[string]*member
	logger   *zap.Logger
	released sync.Once
	// emit hands something on to Caddy's events; nil if nobody can be told.
	emit func(name string, data map[string]any)
}

// member is one runner of a generation.
type member struct {
	// odoo is what Odoo's own configuration says, nil without odoo_config.
	odoo   *odooconf.Config
	config runner.Config
	// identity is the PostgreSQL connection, which a live engine cannot change.
	identity string
	// storage is where the orders of operators are kept.
	storage certmagic.Storage
}

func newSupervisor() (caddy.Destructor, error) {
	return &supervisor{engines: make(map[string]*live)}, nil
}

// activeSupervisor returns the supervisor of this process, nil if no loaded
// configuration has one. Whoever serves requests must ask at request time: after
// a failed reload the admin endpoint belongs to the failed configuration
// (caddy.md 4.1).
func activeSupervisor() *supervisor {
	var sup *supervisor
	supervisors.Range(func(_, value any) bool {
		sup, _ = value.(*supervisor)
		return false
	})
	return sup
}

// push adds a generation. It takes effect when it is the oldest.
func (s *supervisor) push(g *generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gens = append(s.gens, g)
	if len(s.gens) == 1 {
		s.activate(g)
	}
}

// release removes a generation, once. If it was in force the next one takes over,
// or everything stops. It waits for open requests only if the process exits.
func (s *supervisor) release(g *generation) {
	g.released.Do(func() {
		for _, wait := range s.remove(g) {
			wait()
		}
	})
}

// remove takes a generation out and returns what to wait for.
func (s *supervisor) remove(g *generation) []func() {
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
	if len(s.gens) > 0 {
		s.activate(s.gens[0])
		// The admin endpoint of the old configuration is waiting for them.
		streams.end()
		return nil
	}
	streams.end()
	return s.stopAll(g.logger)
}

// snapshot returns the engines that can be operated, by name.
func (s *supervisor) snapshot() map[string]*keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*keeper, len(s.engines))
	for name, l := range s.engines {
		if l.keeper != nil {
			all[name] = l.keeper
		}
	}
	return all
}

// current returns the generation in force, nil without one.
func (s *supervisor) current() *generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gens) == 0 {
		return nil
	}
	return s.gens[0]
}

// Destruct implements [caddy.Destructor]: the last configuration is gone.
func (s *supervisor) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopAll(caddy.Log())
	return nil
}

// activate makes the engines what the generation says. An engine that cannot be
// changed goes on as it is: an old configuration is better than no runner.
func (s *supervisor) activate(g *generation) {
	for _, name := range slices.Sorted(maps.Keys(g.runners)) {
		if err := s.apply(name, g.runners[name], g.logger); err != nil {
			g.logger.Error("the new configuration of a runner could not be put into force", zap.String("runner", name), zap.Error(err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.engines)) {
		if g.runners[name] == nil {
			s.stop(name, g.logger, false)
		}
	}
}

// apply puts the configuration of one runner into force.
func (s *supervisor) apply(name string, m *member, log *zap.Logger) error {
	old := s.engines[name]
	if old != nil && old.identity == m.identity {
		if err := guard.Call(func() error { return old.engine.Reconfigure(m.config) }); err != nil {
			return err
		}
		old.wait = m.config.ShutdownTimeout
		if old.keeper != nil {
			old.keeper.use(m.storage, m.config.Logger)
		}
		return nil
	}
	var next engine
	err := guard.Call(func() (err error) {
		next, err = newEngine(m.config)
		return err
	})
	if err != nil {
		return err
	}
	if old != nil {
		// The two may want the same databases: the locks in PostgreSQL make the
		// new one wait until the old one has let go.
		s.stop(name, log, false)
	}
	l := &live{engine: next, identity: m.identity, wait: m.config.ShutdownTimeout}
	if o, ok := next.(operated); ok {
		l.keeper = newKeeper(name, o, m.storage, m.config.Logger)
	}
	s.engines[name] = l
	return guard.Call(func() error {
		next.Start()
		return nil
	})
}

// stopAll stops every engine and returns what to wait for: nothing unless the
// process exits. All are stopped at once, so the longest time counts.
func (s *supervisor) stopAll(log *zap.Logger) []func() {
	leaving := exiting()
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
func (s *supervisor) stop(name string, log *zap.Logger, leaving bool) (wait func()) {
	l := s.engines[name]
	delete(s.engines, name)
	if l.keeper != nil {
		l.keeper.stop()
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
