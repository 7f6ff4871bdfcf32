// Package upstream is the pool of the servers that run tasks: which of them are up, which are being
// drained, and which gets the next task.
package upstream

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// checkTimeout bounds one check of a server.
	checkTimeout = 2 * time.Second
	// checkRetryFirst and checkRetryLimit bound the pause between two checks of a server that is
	// down.
	checkRetryFirst = 250 * time.Millisecond
	checkRetryLimit = time.Second
	// retryAfterLimit bounds how long a server is left alone that asks for it.
	retryAfterLimit = 10 * time.Minute
	// targetsTimeout bounds the look-up of the servers, which may ask the DNS.
	targetsTimeout = 5 * time.Second
)

// Targets is the set of servers that can run jobs. It is asked every few seconds and may change its
// answer.
type Targets interface {
	Upstreams(ctx context.Context) ([]driver.Upstream, error)
}

// Config is what the pool needs of a runner's configuration. It is asked for again whenever it is
// needed, because it may change.
type Config struct {
	// Driver checks the servers.
	Driver driver.Driver
	// Targets names the servers.
	Targets Targets
	// Limits bound what each server is given, and Pools what each server of a pool is given that has
	// limits of its own, by the name of the pool.
	Limits Limits
	Pools  map[string]Limits
	Logger *zap.Logger
}

// Observer is told what changes. Its methods may be called from any goroutine. They must not block,
// nor ask the pool anything.
type Observer interface {
	// Up and Down report that a server takes tasks, or takes none for a reason.
	Up(name string)
	Down(name, reason string)
	// Listed reports that the servers have been looked up.
	Listed()
}

// Drain keeps a server from getting new tasks.
type Drain struct {
	Upstream string
	Since    time.Time
	By, Note string
}

// Status is what is known of one server.
type Status struct {
	Name string
	// Pool names the one that the server belongs to; empty if it belongs to none.
	Pool string
	Up   bool
	// Reason says why it is not up.
	Reason string
	// InFlight is the number of our own requests there.
	InFlight int
	// Limits are those of the server. Visitors is how many requests of others it has under way, if Counted
	// is set.
	Limits   Limits
	Visitors int
	Counted  bool
	// Full says why it gets no more jobs although it is up; empty if it would get one.
	Full string
	// Until is when it may be up again at the earliest, because it has asked to be left alone; zero if it
	// has not.
	Until time.Time
	// Drain is set while an operator drains it: it gets no new jobs, and may be stopped when
	// InFlight is 0.
	Drain *Drain
}

// Pool is the set of servers with their health and our requests there. It is safe for concurrent
// use. Counters and health are kept by name, over reloads.
type Pool struct {
	config func() Config
	out    Observer
	// spawn runs a function in a goroutine that survives a panic and ends with the runner.
	spawn func(name string, f func())

	mu     sync.Mutex // guards the following
	states map[string]*server
	order  []string
	turn   int
	// drained are the servers that get no new tasks.
	drained map[string]Drain
	// limits are those of the configuration, and pools those of pools.
	limits Limits
	pools  map[string]Limits
	// asking is true while the servers are being looked up, in a round that ends with each change
	// of the configuration.
	asking bool
	round  int
}

// server is what is known of one of them.
type server struct {
	driver.Upstream
	listed   bool // still among the targets
	up       bool
	checking bool
	inFlight int
	reason   string
	// downAt is when it ceased to be up; zero if it never was.
	downAt time.Time
	// notBefore is when it may be up again, because it has asked for that; zero if it has not.
	notBefore time.Time
}

// New returns an empty pool. Its goroutines are started with spawn.
func New(config func() Config, out Observer, spawn func(name string, f func())) *Pool {
	return &Pool{config: config, out: out, spawn: spawn, states: make(map[string]*server)}
}

// Reconfigured has the next Refresh ask the targets of the new configuration, even if those of the
// one before have not answered yet. Their answer is dropped.
func (p *Pool) Reconfigured() {
	p.mu.Lock()
	defer p.mu.Unlock()
	cfg := p.config()
	p.limits, p.pools = cfg.Limits, cfg.Pools
	p.round++
	p.asking = false
}

// Refresh looks the servers up in the background, because the answer may come from the DNS, and
// then checks them until ctx ends: those that are down and, if idle is
// set, those that run nothing for us.
func (p *Pool) Refresh(ctx context.Context, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking {
		return
	}
	p.asking = true
	targets, round := p.config().Targets, p.round
	p.spawn("upstreams", func() {
		var ups []driver.Upstream
		err := errors.New("look-up of the upstreams panicked")
		defer func() { p.found(ctx, round, idle, ups, err) }()
		err = timing.Within(ctx, targetsTimeout, func(ctx context.Context) (err error) {
			ups, err = targets.Upstreams(ctx)
			return err
		})
	})
}

// found takes the result of a look-up, unless it is one of the past.
func (p *Pool) found(ctx context.Context, round int, idle bool, ups []driver.Upstream, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if round != p.round || ctx.Err() != nil {
		return
	}
	p.asking = false
	if err != nil {
		p.config().Logger.Warn("cannot find the upstreams", zap.Error(err))
	} else {
		p.set(ups)
	}
	p.check(ctx, idle)
	p.out.Listed()
}

// set replaces the servers. What is known of a name that stays is kept. The caller holds mu.
func (p *Pool) set(ups []driver.Upstream) {
	for _, s := range p.states {
		s.listed = false
	}
	p.order = p.order[:0]
	for _, up := range ups {
		s := p.states[up.Name]
		if s == nil {
			s = &server{reason: "not checked yet"}
			p.states[up.Name] = s
		}
		if !s.listed {
			p.order = append(p.order, up.Name)
		}
		s.Upstream = up
		s.listed = true
	}
	p.sweep()
}

// sweep forgets servers that are no target any more and have none of our requests. The caller holds
// mu.
func (p *Pool) sweep() {
	for name, s := range p.states {
		if !s.listed && s.inFlight == 0 && !s.checking {
			delete(p.states, name)
		}
	}
}

// Usable reports whether some server would be picked now.
func (p *Pool) Usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		if p.states[name].up && !p.isDrained(name) {
			return true
		}
	}
	return false
}

// Pick chooses the server for the next task of a class and counts the task there: first those that the proxy
// believes healthy, then those that have room, then the one with the fewest of our own requests, then
// the least loaded by the proxy, then the one that is preferred by name, then in turn. Those in tried,
// and those with as many jobs as they may have, are left out. It returns false if no server is left.
//
// There may be visitors that were not there when Room was asked. The task has been claimed by then, so
// that it may take a worker from those that are reserved.
func (p *Pool) Pick(c Class, preferred string, tried []string) (driver.Upstream, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pool := p.serving(c)
	var best *server
	var bestRank [5]int
	n := len(p.order)
	for i := range n {
		s := p.states[p.order[(p.turn+i)%n]]
		limits := p.limitsOf(s)
		if s.Pool != pool || !s.up || p.isDrained(s.Name) || slices.Contains(tried, s.Name) || limits.MaxJobs > 0 && s.inFlight >= limits.MaxJobs {
			continue
		}
		rank := s.rank(limits, preferred)
		if best == nil || slices.Compare(rank[:], bestRank[:]) < 0 {
			best, bestRank = s, rank
		}
	}
	if best == nil {
		return driver.Upstream{}, false
	}
	p.turn++
	best.inFlight++
	return best.Upstream, true
}

// rank orders servers, smaller first.
func (s *server) rank(limits Limits, preferred string) [5]int {
	visitors := s.visitors()
	r := [5]int{2: s.inFlight, 3: visitors}
	if s.Available != nil && !s.Available() {
		r[0] = 1
	}
	if limits.room(s.inFlight, visitors) <= 0 {
		r[1] = 1
	}
	if s.Name != preferred {
		r[4] = 1
	}
	return r
}

// visitors returns how many requests of others it has under way, 0 if that is not known.
func (s *server) visitors() int {
	if s.Load == nil {
		return 0
	}
	return s.Load()
}

// Adopt counts a request that was sent before this pool existed.
func (p *Pool) Adopt(up driver.Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[up.Name]
	if s == nil {
		s = &server{Upstream: up}
		p.states[up.Name] = s
	}
	s.inFlight++
}

// Release takes back the count of a task whose exchange is over, and learns from how it ended.
func (p *Pool) Release(name string, r driver.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[name]
	if s == nil {
		return
	}
	s.inFlight--
	if r.Outcome == driver.NotSent || r.Outcome == driver.Unavailable {
		if wait := min(r.RetryAfter, retryAfterLimit); wait > 0 {
			s.notBefore = time.Now().Add(wait)
		}
		p.markDown(s, r.Err)
	}
	p.sweep()
}

// Suspect takes a server out of rotation until a check has found it well.
func (p *Pool) Suspect(name string, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.states[name]; s != nil {
		p.markDown(s, why)
	}
}

// markDown takes a server out of rotation. The caller holds mu.
func (p *Pool) markDown(s *server, err error) {
	was := s.up
	s.up = false
	s.reason = "unknown error"
	if err != nil {
		s.reason = err.Error()
	}
	if was {
		s.downAt = time.Now()
		p.config().Logger.Warn("upstream is down", zap.String("upstream", s.Name), zap.String("reason", s.reason))
		p.out.Down(s.Name, s.reason)
	}
}

// check starts one checker for each server that is down and, when idle is set, for those that are
// up and run nothing for us. The checkers end with ctx, with success, or when their server is no
// target any more. The caller holds mu.
func (p *Pool) check(ctx context.Context, idle bool) {
	for _, name := range p.order {
		s := p.states[name]
		if s.checking || (s.up && (!idle || s.inFlight > 0)) {
			continue
		}
		s.checking = true
		p.spawn("upstream check", func() { p.checkUntilUp(ctx, name) })
	}
}

// Recheck checks a server that is up and has broken a request: it may be gone, and would draw all
// tasks because none are under way there. It is down if the check fails.
func (p *Pool) Recheck(ctx context.Context, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recheck(ctx, name)
}

// RecheckAll does so with all servers.
func (p *Pool) RecheckAll(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		p.recheck(ctx, name)
	}
}

// recheck is Recheck; the caller holds mu.
func (p *Pool) recheck(ctx context.Context, name string) {
	s := p.states[name]
	if s == nil || !s.listed || !s.up || s.checking {
		return
	}
	s.checking = true
	p.spawn("upstream check", func() { p.checkUntilUp(ctx, name) })
}

// checkUntilUp checks one server until it is up.
func (p *Pool) checkUntilUp(ctx context.Context, name string) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s := p.states[name]; s != nil {
			s.checking = false
		}
		p.sweep()
	}()
	pause := timing.Backoff{First: checkRetryFirst, Limit: checkRetryLimit}
	for {
		p.mu.Lock()
		s := p.states[name]
		if s == nil || !s.listed {
			p.mu.Unlock()
			return
		}
		up, alone := s.Upstream, time.Until(s.notBefore)
		p.mu.Unlock()
		if alone > 0 {
			// In pieces, because it may cease to be a target meanwhile.
			if !timing.Sleep(ctx, min(alone, checkRetryLimit)) {
				return
			}
			continue
		}

		err := p.checkOnce(ctx, up)
		if ctx.Err() != nil || p.checked(name, err) {
			return
		}
		if !timing.Sleep(ctx, pause.Next()) {
			return
		}
	}
}

// checkOnce asks the driver. A server that accepts the connection and then takes its time is busy
// with jobs, not down.
func (p *Pool) checkOnce(ctx context.Context, up driver.Upstream) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := p.config().Driver.Check(ctx, up)
	if errors.Is(err, driver.ErrNoAnswer) {
		return nil
	}
	return err
}

// checked applies the result of a check. It reports whether the server is up, or forgotten.
func (p *Pool) checked(name string, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[name]
	switch {
	case s == nil:
		return true
	case err != nil:
		p.markDown(s, err)
	case !s.up:
		s.up = true
		p.config().Logger.Info("upstream is up", zap.String("upstream", name))
		p.out.Up(name)
	}
	if err == nil {
		s.reason = ""
	}
	return err == nil
}

// Drain makes these the servers that get no new tasks, and returns those that did before, and those
// that do again.
func (p *Pool) Drain(drains []Drain) (drained, undrained []Drain) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := make(map[string]Drain, len(drains))
	for _, d := range drains {
		wanted[d.Upstream] = d
		if _, was := p.drained[d.Upstream]; !was {
			drained = append(drained, d)
		}
	}
	for name, d := range p.drained {
		if _, still := wanted[name]; !still {
			undrained = append(undrained, d)
		}
	}
	p.drained = wanted
	return drained, undrained
}

// Leaving says why a server is being taken out of service, or was before what runs there ended: it is
// drained, it is no target any more, or it has been down for some time. It is empty if it is not.
func (p *Pool) Leaving(name string, forAtLeast time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[name]
	switch {
	case p.isDrained(name):
		return "the server was being drained"
	case s == nil || !s.listed:
		return "the server was no target any more"
	case !s.up && !s.downAt.IsZero() && time.Since(s.downAt) >= forAtLeast:
		return "the server was down already"
	}
	return ""
}

// Gone reports whether there are several servers and none of them is up.
func (p *Pool) Gone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.order) > 1 && !slices.ContainsFunc(p.order, func(name string) bool { return p.states[name].up })
}

// isDrained reports whether a server gets no new tasks; the caller holds mu.
func (p *Pool) isDrained(name string) bool {
	_, ok := p.drained[name]
	return ok
}

// Status lists the servers in the order of the configuration, and then those that are drained and
// no target any more but still have requests of ours.
func (p *Pool) Status() []Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Clone(p.order)
	for _, name := range slices.Sorted(maps.Keys(p.states)) {
		if !p.states[name].listed && p.isDrained(name) {
			names = append(names, name)
		}
	}
	out := make([]Status, 0, len(names))
	for _, name := range names {
		s := p.states[name]
		st := Status{
			Name: name, Pool: s.Pool, Up: s.up, Reason: s.reason, InFlight: s.inFlight, Limits: p.limitsOf(s),
			Visitors: s.visitors(), Counted: s.Load != nil,
		}
		if !s.up && s.notBefore.After(time.Now()) {
			st.Until = s.notBefore
			st.Reason += ", and it has asked to be left alone until " + s.notBefore.UTC().Format(time.RFC3339)
		}
		if s.up {
			st.Full = st.Limits.full(s.inFlight, st.Visitors)
		}
		if !s.listed {
			st.Up, st.Reason, st.Full = false, "not among the upstreams any more", ""
		}
		if d, ok := p.drained[name]; ok {
			st.Drain = &d
		}
		out = append(out, st)
	}
	return out
}
