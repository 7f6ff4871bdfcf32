package runner

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Timing of the upstreams' health.
const (
	// checkTimeout bounds one check of an upstream.
	checkTimeout = 2 * time.Second
	// checkRetryFirst and checkRetryLimit bound the pause between two checks of
	// an upstream that is down.
	checkRetryFirst = 250 * time.Millisecond
	checkRetryLimit = 5 * time.Second
	// targetsTimeout bounds the look-up of upstreams, which may ask the DNS.
	targetsTimeout = 5 * time.Second
	// targetsInterval is the time between two look-ups.
	targetsInterval = 2 * time.Second
)

// pool is the set of upstreams with their health and our requests there. It is
// safe for concurrent use. Counters and health are kept by name, over reloads.
type pool struct {
	config func() Config
	// changed is called after an upstream came up or went down.
	changed func()
	// report, if not nil, is told of it. It must not block.
	report func(Event)

	mu     sync.Mutex // guards the following
	states map[string]*upstreamState
	order  []string
	turn   int
	// drained are the upstreams that get no new tasks.
	drained map[string]Drain
}

// upstreamState is what is known of one upstream.
type upstreamState struct {
	driver.Upstream
	listed   bool // still among the targets
	up       bool
	checking bool
	inFlight int
	reason   string
}

func newPool(config func() Config, changed func()) *pool {
	return &pool{config: config, changed: changed, states: make(map[string]*upstreamState)}
}

// set replaces the upstreams. What is known of a name that stays is kept.
func (p *pool) set(ups []driver.Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.states {
		s.listed = false
	}
	p.order = p.order[:0]
	for _, up := range ups {
		s := p.states[up.Name]
		if s == nil {
			s = &upstreamState{reason: "not checked yet"}
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

// sweep forgets upstreams that are no target any more and have none of our
// requests. The caller holds mu.
func (p *pool) sweep() {
	for name, s := range p.states {
		if !s.listed && s.inFlight == 0 && !s.checking {
			delete(p.states, name)
		}
	}
}

// usable reports whether some upstream would be picked now.
func (p *pool) usable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		if p.states[name].up && !p.isDrained(name) {
			return true
		}
	}
	return false
}

// pick chooses the upstream for the next task and counts the task there: first
// those that the proxy believes healthy, then the one with the fewest of our
// own requests, then the least loaded by the proxy, then in turn. Those in
// tried are left out.
func (p *pool) pick(tried []string) (driver.Upstream, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *upstreamState
	var bestRank [3]int
	n := len(p.order)
	for i := range n {
		s := p.states[p.order[(p.turn+i)%n]]
		if !s.up || p.isDrained(s.Name) || slices.Contains(tried, s.Name) {
			continue
		}
		rank := s.rank()
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

// rank orders upstreams, smaller first.
func (s *upstreamState) rank() [3]int {
	var r [3]int
	if s.Available != nil && !s.Available() {
		r[0] = 1
	}
	r[1] = s.inFlight
	if s.Load != nil {
		r[2] = s.Load()
	}
	return r
}

// adopt counts a request that was sent before this pool existed.
func (p *pool) adopt(up driver.Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.states[up.Name]
	if s == nil {
		s = &upstreamState{Upstream: up}
		p.states[up.Name] = s
	}
	s.inFlight++
}

// release takes back the count of a task whose exchange is over, and learns
// from how it ended.
func (p *pool) release(name string, r driver.Result) {
	p.mu.Lock()
	s := p.states[name]
	if s == nil {
		p.mu.Unlock()
		return
	}
	s.inFlight--
	wentDown := false
	if r.Outcome == driver.NotSent || unavailable(r) {
		wentDown = p.markDown(s, r.Err)
	}
	p.sweep()
	p.mu.Unlock()
	if wentDown {
		p.changed()
	}
}

// unavailable reports whether an answer says that the server cannot run anything
// now. Other refusals concern one database: the route is unknown there, or a
// login page came instead.
func unavailable(r driver.Result) bool {
	switch r.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return r.Outcome == driver.Refused
	}
	return false
}

// markDown takes an upstream out of rotation; the caller holds mu. It reports
// whether it was up.
func (p *pool) markDown(s *upstreamState, err error) bool {
	was := s.up
	s.up = false
	s.reason = "unknown error"
	if err != nil {
		s.reason = err.Error()
	}
	if was {
		p.config().Logger.Warn("upstream is down", zap.String("upstream", s.Name), zap.String("reason", s.reason))
		p.tell(Event{Kind: EventUpstreamUnhealthy, Upstream: s.Name, Detail: s.reason})
	}
	return was
}

// check looks after the health of the upstreams: it starts one checker for
// each that is down and, when idle is set, looks at those that are up and run
// nothing for us. The checkers end with ctx, with success, or when their
// upstream is no target any more.
func (p *pool) check(ctx context.Context, idle bool, spawn func(name string, f func())) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		s := p.states[name]
		if s.checking || (s.up && (!idle || s.inFlight > 0)) {
			continue
		}
		s.checking = true
		spawn("upstream check", func() { p.checkUntilUp(ctx, name) })
	}
}

// checkUntilUp checks one upstream until it is up.
func (p *pool) checkUntilUp(ctx context.Context, name string) {
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if s := p.states[name]; s != nil {
			s.checking = false
		}
		p.sweep()
	}()
	pause := backoff{first: checkRetryFirst, limit: checkRetryLimit}
	for {
		p.mu.Lock()
		s := p.states[name]
		if s == nil || !s.listed {
			p.mu.Unlock()
			return
		}
		up := s.Upstream
		p.mu.Unlock()

		err := p.checkOnce(ctx, up)
		if ctx.Err() != nil || p.checked(name, err) {
			return
		}
		if !sleep(ctx, pause.next()) {
			return
		}
	}
}

// checkOnce asks the driver. A server that accepts the connection and then
// takes its time is busy with jobs, not down.
func (p *pool) checkOnce(ctx context.Context, up driver.Upstream) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := p.config().Driver.Check(ctx, up)
	if errors.Is(err, driver.ErrNoAnswer) {
		return nil
	}
	return err
}

// checked applies the result of a check. It reports whether the upstream is up.
func (p *pool) checked(name string, err error) bool {
	p.mu.Lock()
	s := p.states[name]
	if s == nil {
		p.mu.Unlock()
		return true
	}
	was := s.up
	var changed bool
	if err != nil {
		changed = p.markDown(s, err)
	} else {
		s.up, s.reason = true, ""
		changed = !was
	}
	p.mu.Unlock()
	if changed {
		if err == nil {
			p.config().Logger.Info("upstream is up", zap.String("upstream", name))
			p.tell(Event{Kind: EventUpstreamUp, Upstream: name})
		}
		p.changed()
	}
	return err == nil
}

func (p *pool) tell(ev Event) {
	if p.report != nil {
		p.report(ev)
	}
}

// sleep waits for d or the end of ctx; it reports whether d passed.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
