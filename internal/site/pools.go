package site

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Pooled is a set of servers of which some belong to pools.
type Pooled struct {
	rest  runner.Targets
	pools staticTargets
}

// WithPools adds the servers of pools, by their names and addresses as of [Explicit], to a set. One that is
// in the set already stays as it is there, and belongs to the pool. An address that is malformed, or
// in two pools, is an error.
func WithPools(rest runner.Targets, pools map[string][]string) (*Pooled, error) {
	p := &Pooled{rest: rest}
	of := make(map[string]string)
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		for _, address := range pools[pool] {
			e, err := parseUpstream(address)
			if err != nil {
				return nil, fmt.Errorf("pool %s: %w", pool, err)
			}
			if other, ok := of[e.Name()]; ok {
				return nil, fmt.Errorf("pool %s: upstream %s is named twice, in pool %s before", pool, e.Name(), other)
			}
			of[e.Name()] = pool
			up := upstream(e, "")
			up.Pool = pool
			p.pools = append(p.pools, up)
		}
	}
	return p, nil
}

// CountVisitors is [CountVisitors] for the servers of one pool.
func (p *Pooled) CountVisitors(ctx caddy.Context, pool string) error {
	for i := range p.pools {
		if p.pools[i].Pool != pool {
			continue
		}
		if err := CountVisitors(ctx, p.pools[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// Upstreams implements [runner.Targets]. Servers of pools are asked for with the site's host, too.
func (p *Pooled) Upstreams(ctx context.Context) ([]driver.Upstream, error) {
	rest, err := p.rest.Upstreams(ctx)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(rest)
	for _, up := range p.pools {
		if i := slices.IndexFunc(rest, func(o driver.Upstream) bool { return o.Name == up.Name }); i >= 0 {
			all[i].Pool = up.Pool
			if all[i].Load == nil {
				all[i].Load = up.Load
			}
			continue
		}
		if len(rest) > 0 {
			up.HostHeader = rest[0].HostHeader
		}
		all = append(all, up)
	}
	return all, nil
}
