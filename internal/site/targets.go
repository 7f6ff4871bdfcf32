// Package site finds the Odoo servers: those that the configuration names, or those behind the
// reverse_proxy of a site. It reads Caddy's provisioned http app and changes nothing in it.
package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/oneshot"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// How dynamic upstreams are kept.
const (
	// lookupTimeout limits one lookup.
	lookupTimeout = 5 * time.Second
	// lookupFresh is how long an answer is used without asking again. Caddy's
	// sources have their own cache behind it, one minute by default.
	lookupFresh = time.Second
	// lookupStale is how long the last good answer outlives failing lookups.
	lookupStale = time.Minute
)

// staticTargets is a set that never changes.
type staticTargets []driver.Upstream

// Upstreams implements [runner.Targets].
func (s staticTargets) Upstreams(context.Context) ([]driver.Upstream, error) { return s, nil }

// Explicit returns the servers at the given addresses: http://host[:port], https://host[:port],
// host:port or unix//path. An address that is malformed, or given twice, is an error.
func Explicit(addresses []string) (runner.Targets, error) {
	var set staticTargets
	seen := make(map[string]bool)
	for _, address := range addresses {
		e, err := parseUpstream(address)
		if err != nil {
			return nil, err
		}
		if seen[e.Name()] {
			return nil, fmt.Errorf("upstream %s is named twice", e.Name())
		}
		seen[e.Name()] = true
		set = append(set, upstream(e, ""))
	}
	return set, nil
}

// CountVisitors lets the servers of a set that are named by their addresses tell how many requests a
// reverse_proxy of this process has under way there. Caddy counts them by the address, whichever
// handler sends them, so that a handler which is only asked knows them, too. It must have the address
// as the site's reverse_proxy has it. It is an error if the servers are dynamic, because Caddy keeps
// the counts of those to itself.
func CountVisitors(ctx caddy.Context, targets runner.Targets) error {
	set, ok := targets.(staticTargets)
	if !ok {
		return errors.New("the requests of visitors cannot be counted where upstreams are dynamic")
	}
	for i := range set {
		if set[i].Load != nil {
			continue
		}
		u, err := counter(ctx, dialOf(&set[i]))
		if err != nil {
			return fmt.Errorf("count the visitors of %s: %w", set[i].Name, err)
		}
		set[i].Load = u.NumRequests
	}
	return nil
}

// dialOf is the address of a server as a reverse_proxy dials it.
func dialOf(up *driver.Upstream) string {
	if strings.HasPrefix(up.Name, "unix/") {
		return up.Name
	}
	return up.Host
}

// counter returns what Caddy knows of the upstream of an address.
func counter(ctx caddy.Context, dial string) (*reverseproxy.Upstream, error) {
	config, err := json.Marshal(map[string]any{"upstreams": []any{map[string]string{"dial": dial}}})
	if err != nil {
		return nil, err
	}
	mod, err := ctx.LoadModuleByID("http.handlers.reverse_proxy", config)
	if err != nil {
		return nil, err
	}
	h, ok := mod.(*reverseproxy.Handler)
	if !ok || len(h.Upstreams) != 1 {
		return nil, fmt.Errorf("the reverse_proxy is a %T", mod)
	}
	return h.Upstreams[0], nil
}

// OfProxy returns the servers of the reverse_proxy that would handle a job's request to the site at
// address ([scheme://]host[:port], or :port). Without an address it is the only such reverse_proxy of
// the configuration. It is an error if there is none or more than one, or if its servers cannot be
// reached without the proxy.
func OfProxy(ctx caddy.Context, address string, log *zap.Logger) (runner.Targets, error) {
	mod, err := ctx.AppIfConfigured("http")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errors.New("there is no site whose reverse_proxy could be used; name the Odoo servers with upstream")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the site's reverse_proxy: %w", err)
	}
	app, ok := mod.(*caddyhttp.App)
	if !ok {
		return nil, fmt.Errorf("the http app is a %T", mod)
	}
	found, err := findProxy(app, address)
	if err != nil {
		return nil, err
	}
	if len(found.aliases) > 0 {
		log.Info("several hosts share the upstreams; jobs are sent with one of them as Host header, set site or the driver's host for another",
			zap.String("host", found.hostHeader), zap.Strings("others", found.aliases))
	}
	set, err := found.targets(log)
	if err != nil {
		return nil, fmt.Errorf("reverse_proxy %s of %s cannot be used: %w; name the Odoo servers with upstream", poolName(found.proxy), found.url, err)
	}
	return set, nil
}

// targets makes the set of a reverse_proxy.
func (c *candidate) targets(log *zap.Logger) (runner.Targets, error) {
	d, err := newDialer(c.proxy.Transport)
	if err != nil {
		return nil, err
	}
	static, err := c.staticUpstreams(d)
	if err != nil {
		return nil, err
	}
	switch source := c.proxy.DynamicUpstreams.(type) {
	case nil:
		return static, nil
	case *reverseproxy.AUpstreams, *reverseproxy.SRVUpstreams:
		return &dynamicTargets{
			source:  source,
			prepare: c.prepare,
			build: func(dial string) (driver.Upstream, error) {
				e, err := c.endpoint(d, dial)
				if err != nil {
					return driver.Upstream{}, err
				}
				return upstream(e, c.hostHeader), nil
			},
			fallback: static,
			log:      log,
		}, nil
	default:
		return nil, fmt.Errorf("its dynamic upstreams (%T) are neither a nor srv", source)
	}
}

// staticUpstreams makes upstreams of the addresses that the proxy dials.
func (c *candidate) staticUpstreams(d *dialer) (staticTargets, error) {
	repl := caddy.NewReplacer()
	var set staticTargets
	for _, u := range c.proxy.Upstreams {
		dial, err := repl.ReplaceOrErr(u.Dial, true, true)
		if err != nil {
			return nil, fmt.Errorf("address %s: %w", u.Dial, err)
		}
		e, err := c.endpoint(d, dial)
		if err != nil {
			return nil, fmt.Errorf("address %s: %w", u.Dial, err)
		}
		up := upstream(e, c.hostHeader)
		up.Available = u.Available
		up.Load = u.NumRequests
		set = append(set, up)
	}
	return set, nil
}

// endpoint reads one address that the proxy dials. One that the proxy reaches
// through another proxy is an error.
func (c *candidate) endpoint(d *dialer, dial string) (oneshot.Endpoint, error) {
	e, err := d.endpoint(dial)
	if err != nil {
		return oneshot.Endpoint{}, err
	}
	if d.forwardProxy(e, c.prepare(context.Background())) {
		return oneshot.Endpoint{}, errors.New("the transport goes through a forward proxy")
	}
	return e, nil
}

// dynamicTargets asks one of Caddy's sources of upstreams. A lookup runs beside
// the caller, who gets the last answer meanwhile; only the first one is waited for.
type dynamicTargets struct {
	source   reverseproxy.UpstreamSource
	prepare  func(context.Context) *http.Request
	build    func(dial string) (driver.Upstream, error)
	fallback staticTargets
	log      *zap.Logger

	mu      sync.Mutex
	current []driver.Upstream
	err     error
	asked   time.Time     // when the last lookup ended
	good    time.Time     // when the last good one did
	pending chan struct{} // closed when the lookup under way ends; nil without one
}

// Upstreams implements [runner.Targets].
func (t *dynamicTargets) Upstreams(ctx context.Context) ([]driver.Upstream, error) {
	t.mu.Lock()
	if t.pending == nil && (t.asked.IsZero() || time.Since(t.asked) >= lookupFresh) {
		t.pending = make(chan struct{})
		go t.refresh()
	}
	pending := t.pending
	if !t.asked.IsZero() {
		defer t.mu.Unlock()
		return t.current, t.err
	}
	t.mu.Unlock()

	select {
	case <-pending:
	case <-ctx.Done():
		return nil, fmt.Errorf("looking up the dynamic upstreams: %w", ctx.Err())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current, t.err
}

// refresh looks up once and keeps the outcome.
func (t *dynamicTargets) refresh() {
	var next []driver.Upstream
	err := guard.Call(func() (err error) {
		next, err = t.lookup()
		return err
	})

	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.asked = now
	close(t.pending)
	t.pending = nil
	if err == nil {
		t.good = now
		t.current, t.err = t.keep(next), nil
		return
	}
	switch {
	case len(t.fallback) > 0:
		t.current, t.err = t.fallback, nil
	case !t.good.IsZero() && now.Sub(t.good) < lookupStale:
		t.log.Warn("looking up the dynamic upstreams failed, using the last answer", zap.Error(err))
	default:
		t.current, t.err = nil, err
	}
}

// lookup asks the source for addresses and makes upstreams of them.
func (t *dynamicTargets) lookup() ([]driver.Upstream, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	ups, err := t.source.GetUpstreams(t.prepare(ctx))
	if err != nil {
		return nil, fmt.Errorf("looking up the dynamic upstreams: %w", err)
	}
	var dials []string
	for _, u := range ups {
		dials = append(dials, u.Dial)
	}
	slices.Sort(dials)
	var next []driver.Upstream
	for _, dial := range slices.Compact(dials) {
		up, err := t.build(dial)
		if err != nil {
			t.log.Warn("ignoring a dynamic upstream", zap.String("address", dial), zap.Error(err))
			continue
		}
		next = append(next, up)
	}
	return next, nil
}

// keep replaces upstreams that were there before by what they were, so that they
// keep their transports. It is called with the lock held.
func (t *dynamicTargets) keep(next []driver.Upstream) []driver.Upstream {
	for i, up := range next {
		if j := slices.IndexFunc(t.current, func(old driver.Upstream) bool { return old.Name == up.Name }); j >= 0 {
			next[i] = t.current[j]
		}
	}
	return next
}

// poolKey identifies what a proxy proxies to: the same servers behind two host
// names are one pool.
func poolKey(h *reverseproxy.Handler) string {
	scheme := "http"
	if t, ok := h.Transport.(*reverseproxy.HTTPTransport); ok && t.TLSEnabled() {
		scheme = "https"
	}
	return scheme + "://" + poolName(h)
}

// poolName describes the servers of a proxy to its user.
func poolName(h *reverseproxy.Handler) string {
	var names []string
	for _, u := range h.Upstreams {
		names = append(names, u.Dial)
	}
	slices.Sort(names)
	if h.DynamicUpstreams != nil {
		names = append(names, dynamicName(h.DynamicUpstreams))
	}
	return strings.Join(names, " ")
}

// dynamicName describes a source of dynamic upstreams.
func dynamicName(source reverseproxy.UpstreamSource) string {
	kind := fmt.Sprintf("%T", source)
	if m, ok := source.(caddy.Module); ok {
		kind = m.CaddyModule().ID.Name()
	}
	config, err := json.Marshal(source)
	if err != nil {
		return "dynamic " + kind
	}
	return fmt.Sprintf("dynamic %s %s", kind, config)
}
