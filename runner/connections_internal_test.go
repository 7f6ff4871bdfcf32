package runner

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// TestLimitOfConnections: what others held counts for some minutes, what a former leader held only as
// long as it lasts, and a limit that is set counts alone.
func TestLimitOfConnections(t *testing.T) {
	t.Parallel()
	var cfg Config
	changed := func() Config { return cfg }
	c := &connections{config: func() Config { return changed().withDefaults() }, operators: operators{limit: operatorsLimit}}
	now := time.Now()
	limit := func(l driver.Limits, leads, later time.Duration) int {
		now = now.Add(later)
		c.measured(l, leads, now)
		require.Equal(t, SessionsOf(c.most), c.queue.Pressure().Limit)
		return c.most
	}
	// Of 97, the maintenance connection is ours, and a former leader's 60 are still there.
	require.Equal(t, 97-13-60, limit(driver.Limits{Server: 97, ServerUsed: 61, RoleUsed: 61, Runners: 61}, time.Second, 0))
	require.Equal(t, 72, limit(driver.Limits{Server: 97, ServerUsed: 1, RoleUsed: 1, Runners: 1}, 10*time.Second, 10*time.Second))

	// Odoo held 40 once.
	odoo := driver.Limits{Server: 97, ServerUsed: 41, RoleUsed: 1, Runners: 1}
	require.Equal(t, 97-13-40, limit(odoo, time.Hour, time.Hour))
	odoo.ServerUsed = 11
	require.Equal(t, 97-13-40, limit(odoo, time.Hour, 50*time.Second))
	require.Equal(t, 97-13-40, limit(odoo, time.Hour, 20*time.Second))
	limit(odoo, time.Hour, 50*time.Second)
	require.Equal(t, 72, limit(odoo, time.Hour, 20*time.Second))

	// Another runner beside this one has 50.
	beside := driver.Limits{Server: 97, ServerUsed: 51, RoleUsed: 51, Runners: 51}
	require.Equal(t, 97-13-50, limit(beside, time.Hour, 20*time.Minute))
	beside.ServerUsed, beside.RoleUsed, beside.Runners = 1, 1, 1
	require.Equal(t, 97-13-50, limit(beside, time.Hour, 30*time.Second), "it counts for as long as those of others")

	// Connections that go by another name are ours, too.
	require.Equal(t, 72, limit(driver.Limits{Server: 97, ServerUsed: 1, RoleUsed: 1}, time.Hour, time.Hour))

	cfg.Connections = 9
	c.apply()
	require.Equal(t, 9, c.most)
	require.Equal(t, 7, c.queue.Pressure().Limit)
	cfg.Hibernate = &Hibernate{After: time.Minute, MaxAwake: 4}
	c.apply()
	require.Equal(t, 4, c.queue.Pressure().Limit)
	cfg.Connections = 0
	c.known = false // the server does not say
	c.apply()
	require.Zero(t, c.most)
	require.Equal(t, 4, c.queue.Pressure().Limit)
	require.Equal(t, operatorsLimit, c.operators.limit)
}

// TestOperators: no more than are allowed, in the order in which they came, and one that gives up is
// not waited for.
func TestOperators(t *testing.T) {
	t.Parallel()
	o := operators{limit: 1}
	require.NoError(t, o.enter(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, o.enter(ctx), context.Canceled)
	entered := make(chan error)
	go func() { entered <- o.enter(t.Context()) }()
	o.leave()
	require.NoError(t, <-entered)
	require.Equal(t, 1, o.count())
	o.allow(2)
	require.NoError(t, o.enter(t.Context()))
	o.leave()
	o.leave()
	require.Zero(t, o.count())
	require.Empty(t, o.waiting)
}
