package jobrunner

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/site"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Pool is a set of Odoo servers that run those jobs whose policy names it, and no others. A server
// belongs to one pool at most. If it is one of the site, too, it goes on serving visitors.
//
//	{"upstreams": ["http://10.0.0.7:8069"], "workers": 4, "max_jobs": 3, "reserve": 1}
type Pool struct {
	// The addresses of the servers, as in `upstreams` of a runner. Placeholders are resolved. Default:
	// none, and a pool without servers is refused.
	Upstreams []string `json:"upstreams,omitempty"`

	// How many requests each of the servers works on at once. Default: not known, so that visitors do not
	// matter; but if the pool has no limit at all, `server` of the runner holds.
	Workers int `json:"workers,omitempty"`

	// How many jobs each of the servers may run at once. Default: no limit by itself.
	MaxJobs int `json:"max_jobs,omitempty"`

	// How many workers of each server jobs leave to visitors. Requires `workers`. Default: 0, none.
	Reserve int `json:"reserve,omitempty"`
}

// PolicyPool says on which servers jobs run.
//
//	{"name": "heavy", "fallback": true}
type PolicyPool struct {
	// The name of the pool. Default: none, and a policy's pool without it is refused.
	Name string `json:"name,omitempty"`

	// Has the servers that belong to no pool run the jobs while no server of the pool is healthy.
	// Default: false, the jobs wait for one of the pool.
	Fallback bool `json:"fallback,omitempty"`
}

// limits returns what the engine takes, without limits if there are none.
func (p *Pool) limits() upstream.Limits {
	return upstream.Limits{Workers: p.Workers, MaxJobs: p.MaxJobs, Reserve: p.Reserve}
}

// String writes the pool as a Caddyfile does, without its name.
func (p *Pool) String() string {
	s := strings.Join(p.Upstreams, " ")
	if l := (&Server{Workers: p.Workers, MaxJobs: p.MaxJobs, Reserve: p.Reserve}).String(); l != "" {
		s += ", " + l
	}
	return s
}

// check refuses what a pool may not be, however it was configured.
func (p *Pool) check() error {
	if len(p.Upstreams) == 0 {
		return errors.New("it has no servers")
	}
	return p.limits().Validate()
}

// usePools adds the servers of the pools to those of the configuration, and counts visitors where
// limits depend on them.
func (r *Runner) usePools(ctx caddy.Context, cfg *runner.Config) error {
	if len(r.Pools) == 0 {
		return nil
	}
	cfg.Pools = make(map[string]upstream.Limits, len(r.Pools))
	pools := make(map[string][]string, len(r.Pools))
	for _, name := range slices.Sorted(maps.Keys(r.Pools)) {
		p := r.Pools[name]
		if p == nil {
			p = new(Pool)
		}
		if err := errors.Join(checkName(name), p.check()); err != nil {
			return fmt.Errorf("pool %s: %w", name, err)
		}
		addresses, err := resolveAll("pool "+name, p.Upstreams)
		if err != nil {
			return err
		}
		cfg.Pools[name], pools[name] = p.limits(), addresses
	}
	pooled, err := site.WithPools(cfg.Targets, pools)
	if err != nil {
		return err
	}
	for name, limits := range cfg.Pools {
		if limits == (upstream.Limits{}) {
			limits = cfg.Server
		}
		if limits.Workers == 0 {
			continue
		}
		if err := pooled.CountVisitors(ctx, name); err != nil {
			return fmt.Errorf("pool %s: workers: %w", name, err)
		}
	}
	cfg.Targets = pooled
	return nil
}

// parsePool reads: pool <name> <address>... { <limits> }.
func (r *Runner) parsePool(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return wrongArguments(d, "pool")
	}
	name := args[0]
	if err := checkName(name); err != nil {
		return d.WrapErr(err)
	}
	if r.Pools[name] != nil {
		return d.Errf("a second pool %s", name)
	}
	p := &Pool{Upstreams: args[1:]}
	if err := checkUpstreams(d, p.Upstreams); err != nil {
		return err
	}
	limits := new(Server)
	if err := parseOptions(d, "pool", "a pool", serverOptions, limits); err != nil {
		return err
	}
	p.Workers, p.MaxJobs, p.Reserve = limits.Workers, limits.MaxJobs, limits.Reserve
	if err := p.check(); err != nil {
		return d.Errf("pool %s: %v", name, err)
	}
	if r.Pools == nil {
		r.Pools = make(map[string]*Pool)
	}
	r.Pools[name] = p
	return nil
}

// parsePool reads: pool <name> [fallback].
func (p *Policy) parsePool(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && args[1] != "fallback" {
		return wrongArguments(d, "pool of a policy")
	}
	p.Pool = &PolicyPool{Name: args[0], Fallback: len(args) == 2}
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// config turns it into what the engine takes.
func (p *PolicyPool) config() *policy.Pool {
	if p == nil {
		return nil
	}
	return &policy.Pool{Pool: p.Name, Fallback: p.Fallback}
}
