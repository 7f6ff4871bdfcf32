package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// auto is a root channel that follows the servers.
func auto(cfg *runner.Config) {
	cfg.Channels[0].Capacity, cfg.Channels[0].Auto = 1, true
	cfg.Targets = upstreams{"odoo1", "odoo2"}
	cfg.Server = upstream.Limits{Workers: 8, MaxJobs: 4, Reserve: 2}
}

// TestRootFollowsTheServers: its capacity is what the servers bear that take jobs, half a minute later, and
// at once after a reload. What runs goes on.
func TestRootFollowsTheServers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		var loaded runner.Config
		r := b.prod("root:1,root.mail:1", func(cfg *runner.Config) {
			auto(cfg)
			cfg.Channels[1] = channels.Config{Name: "root.mail", Percent: 50}
			loaded = *cfg
		})
		b.jobs("prod", "", "a", 20)
		b.settle(time.Second)
		capacity := func() int { return b.channel(r, "root").Capacity }
		require.Equal(b, 8, capacity(), "what is found at first counts at once")
		require.Equal(b, 4, b.channel(r, "root.mail").Capacity)
		require.Equal(b, 8, b.open("prod"))

		b.settle(time.Minute)
		b.drain(r, "odoo2")
		b.settle(25 * time.Second)
		require.Equal(b, 8, capacity())
		b.settle(15 * time.Second)
		require.Equal(b, 4, capacity())
		require.Equal(b, 2, b.channel(r, "root.mail").Capacity)
		require.Equal(b, 8, b.open("prod"), "what runs goes on")

		b.drain(r)
		b.settle(20 * time.Second)
		b.drain(r, "odoo1")
		b.settle(20 * time.Second)
		require.Equal(b, 4, capacity(), "the servers bore more for less than half a minute")
		b.drain(r, "odoo1", "odoo2")
		b.settle(time.Minute)
		require.Equal(b, 4, capacity(), "while no server takes jobs, it stays")
		for range 2 {
			require.NoError(b, r.Reconfigure(loaded))
			require.Equal(b, 4, capacity(), "and after a reload")
		}

		b.drain(r)
		loaded.Server.MaxJobs = 3
		require.NoError(b, r.Reconfigure(loaded))
		require.Equal(b, 6, capacity(), "after a reload at once")
	})
}

// drain makes these the servers that are drained.
func (b *bench) drain(r *runner.Runner, names ...string) {
	var c runner.Controls
	for _, name := range names {
		c.Drains = append(c.Drains, runner.Drain{Upstream: name, By: "ana"})
	}
	require.NoError(b, r.Control(b.Context(), c))
}

// TestAutoNeedsLimits: nothing says what a server bears without them.
func TestAutoNeedsLimits(t *testing.T) {
	inBubble(t, func(b *bench) {
		cfg := b.config("root:1")
		auto(&cfg)
		require.NoError(b, cfg.Validate())
		cfg.Server = upstream.Limits{}
		require.ErrorContains(b, cfg.Validate(), "channel root: auto is the sum of what the servers bear: give server workers or max_jobs")
	})
}
