package runner_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// pooled is a set of servers, two of them in a pool, with visitors at one of these.
type pooled struct{ visitors *atomic.Int64 }

func (p pooled) Upstreams(context.Context) ([]driver.Upstream, error) {
	return []driver.Upstream{
		{Name: "odoo1"},
		{Name: "heavy1", Pool: "heavy", Load: func() int { return int(p.visitors.Load()) }},
		{Name: "heavy2", Pool: "heavy"},
	}, nil
}

// pools is a configuration in which the jobs of root.export run in a pool.
func (b *bench) pools(tree string, fallback bool) (runner.Config, *atomic.Int64) {
	visitors := new(atomic.Int64)
	cfg := b.config(tree)
	cfg.Targets = pooled{visitors}
	cfg.Server = upstream.Limits{MaxJobs: 4}
	cfg.Pools = map[string]upstream.Limits{"heavy": {Workers: 3, MaxJobs: 2}}
	cfg.Policies = []policy.Policy{{Channels: []string{"root.export"}, Pool: &policy.Pool{Pool: "heavy", Fallback: fallback}}}
	return cfg, visitors
}

// down lets a server refuse everything, or serve again.
func (b *bench) down(server string, down bool) {
	b.UpstreamFault(server, func(f *mock.UpstreamFaults) {
		if *f = (mock.UpstreamFaults{}); down {
			f.FailBeforeSend, f.CheckErr = -1, errFault
		}
	})
}

// requireServed requires that a server was sent these jobs, and no others.
func (b *bench) requireServed(server string, keys ...channels.Key) {
	b.Helper()
	var got []channels.Key
	for _, run := range b.Runs() {
		if run.Upstream == server {
			got = append(got, run.Task.Key)
		}
	}
	require.ElementsMatch(b, keys, got)
}

// TestPool: the servers of a pool run the jobs of their policy and no others, within their limits, and
// what has no room there is in nobody's way.
func TestPool(t *testing.T) {
	for name, trees := range map[string]bool{"one tree": false, "tree for each database": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				cfg, _ := b.pools("root:100,export:6", false)
				if trees {
					own := b.perDatabase(100, "*:100")
					cfg.Channels, cfg.DatabaseChannels = nil, own.DatabaseChannels
				}
				r := b.start(cfg)
				exports := b.jobs("prod", "root.export", "e", 10)
				others := b.jobs("prod", "root.mail", "m", 10)
				b.settle(time.Second)
				require.Equal(b, 8, b.open("prod"), "four of each")
				w, err := r.Why(b.Context(), exports[9])
				require.NoError(b, err)
				require.Equal(b, runner.WhyNoServer, w.Code)
				require.Contains(b, w.Text, "no Odoo server of pool heavy takes another job now: heavy1: 2 of at most 2 jobs; heavy2: 2 of at most 2 jobs; 5 jobs go before this one")
				w, err = r.Why(b.Context(), others[9])
				require.NoError(b, err)
				require.Contains(b, w.Text, "no Odoo server that belongs to no pool takes another job now: odoo1: 4 of at most 4 jobs")
				b.settle(10 * time.Minute)
				b.requireRanOnce(append(exports, others...)...)
				b.requireServed("odoo1", others...)
				require.Equal(b, 2, b.MaxConcurrent(at("heavy1")))
				require.Equal(b, 2, b.MaxConcurrent(at("heavy2")))
				require.Equal(b, 4, b.MaxConcurrent(at("odoo1")))
				b.requireIdle(r)
			})
		})
	}
}

// TestPoolDies: jobs of a pool that is down wait, and let others pass, and go when it comes back; with
// fallback, the other servers run them meanwhile, within their limits.
func TestPoolDies(t *testing.T) {
	for name, fallback := range map[string]bool{"wait": false, "fallback": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
				b.down("heavy1", true)
				b.down("heavy2", true)
				cfg, _ := b.pools("root:100", fallback)
				r := b.start(cfg)
				exports := b.jobs("prod", "root.export", "e", 8)
				others := b.jobs("prod", "root.mail", "m", 8)
				b.settle(5 * time.Second)
				require.Equal(b, 4, b.open("prod"))
				w, err := r.Why(b.Context(), exports[7])
				require.NoError(b, err)
				require.Equal(b, runner.WhyNoServer, w.Code)
				b.settle(40 * time.Second)
				if fallback {
					require.Equal(b, 16, b.Count("prod", channels.Done))
					require.Equal(b, 4, b.MaxConcurrent(at("odoo1")))
				} else {
					require.Contains(b, w.Text, "no Odoo server of pool heavy takes another job now: heavy1: ")
					b.requireServed("odoo1", others...)
					require.Equal(b, 8, b.Count("prod", channels.Pending))
				}
				b.down("heavy2", false)
				b.settle(10 * time.Second)
				more := b.one("prod", "more", inChannel("root.export"))
				b.settle(2 * time.Minute)
				require.Equal(b, "heavy2", b.RunsOf(more)[0].Upstream)
				b.requireRanOnce(append(append(exports, more), others...)...)
				b.requireIdle(r)
			})
		})
	}
}

// TestPoolFull: a job that is written while no server takes another one costs one pass, and time goes by
// until there is room.
func TestPoolFull(t *testing.T) {
	for name, trees := range map[string]bool{"one tree": false, "tree for each database": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				b.down("heavy1", true)
				b.down("heavy2", true)
				cfg, _ := b.pools("root:100,export:6", false)
				if trees {
					own := b.perDatabase(100, "*:100")
					cfg.Channels, cfg.DatabaseChannels = nil, own.DatabaseChannels
				}
				r := b.start(cfg)
				first := b.jobs("prod", "root.mail", "m", 4)
				b.settle(time.Second)
				require.Equal(b, 4, b.open("prod"))
				exports := b.jobs("prod", "root.export", "e", 3)
				later := b.jobs("prod", "root.mail", "l", 3)
				b.settle(time.Second)
				require.Equal(b, 4, b.open("prod"))
				b.down("heavy1", false)
				b.settle(10 * time.Minute)
				b.requireServed("heavy1", exports...)
				b.requireServed("odoo1", append(first, later...)...)
				b.requireIdle(r)
			})
		})
	}
}

// TestPoolReload: a reload that moves a channel to a pool counts what runs elsewhere, and starts the rest
// there.
func TestPoolReload(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		cfg, _ := b.pools("root:100,export:6", false)
		with := cfg.Policies
		cfg.Policies = nil
		r := b.start(cfg)
		exports := b.jobs("prod", "root.export", "e", 10)
		b.settle(time.Second)
		require.Equal(b, 4, b.open("prod"))
		cfg.Policies = with
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Second)
		require.Equal(b, 6, b.open("prod"), "the channel has six slots")
		b.settle(10 * time.Minute)
		b.requireRanOnce(exports...)
		b.requireServed("odoo1", exports[:4]...)
		b.requireIdle(r)
		cfg.Pools = nil
		require.ErrorContains(b, cfg.Validate(), `policy root.export: there is no pool "heavy"`)
		cfg.Pools = map[string]upstream.Limits{"heavy": {Reserve: 1}}
		require.ErrorContains(b, cfg.Validate(), "pool heavy: reserve needs workers")
	})
}

// TestPoolVisitors: visitors of the servers of a pool come first there, and what is reserved to them
// opens after the same time as elsewhere.
func TestPoolVisitors(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.down("heavy2", true)
		cfg, visitors := b.pools("root:100", false)
		cfg.Pools["heavy"] = upstream.Limits{Workers: 3, Reserve: 1}
		visitors.Store(2)
		r := b.start(cfg)
		exports := b.jobs("prod", "root.export", "e", 3)
		b.settle(time.Minute)
		require.Equal(b, 3, b.Count("prod", channels.Pending))
		visitors.Store(1)
		b.settle(upstream.RecheckInterval)
		require.Equal(b, 1, b.open("prod"), "nothing else has told that a visitor has left")
		visitors.Store(2)
		b.settle(9 * time.Minute)
		require.Equal(b, 2, b.Count("prod", channels.Pending))
		b.settle(2 * time.Minute)
		require.Zero(b, b.Count("prod", channels.Pending))
		require.Equal(b, 1, b.MaxConcurrent(at("heavy1")))
		b.requireRanOnce(exports...)
		b.requireIdle(r)
	})
}

// TestPoolExample is the worked example of docs/policies-servers.md.
func TestPoolExample(t *testing.T) {
	for name, c := range map[string]struct {
		down          []string
		heavy, others int
	}{
		"all":                      {nil, 4, 4},
		"odoo and one of the pool": {[]string{"heavy2"}, 2, 4},
		"odoo":                     {[]string{"heavy1", "heavy2"}, 0, 4},
		"the pool":                 {[]string{"odoo1"}, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				for _, server := range c.down {
					b.down(server, true)
				}
				cfg, _ := b.pools("root:20,export:6", true)
				cfg.Pools["heavy"] = upstream.Limits{Workers: 4, MaxJobs: 2, Reserve: 1}
				cfg.Policies[0].Channels = []string{"root.export*"}
				r := b.start(cfg)
				b.jobs("prod", "root.export", "e", 9)
				b.jobs("prod", "root.mail", "m", 9)
				b.settle(5 * time.Second)
				require.Equal(b, c.heavy, b.MaxConcurrent(at("heavy1"))+b.MaxConcurrent(at("heavy2")))
				require.Equal(b, c.others, b.MaxConcurrent(at("odoo1")))
				require.Equal(b, c.heavy+c.others, b.open("prod"))
				for _, server := range c.down {
					b.down(server, false)
				}
				b.settle(20 * time.Minute)
				b.requireIdle(r)
			})
		})
	}
}
