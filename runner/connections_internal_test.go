package runner

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
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

	// Of those that the role may have, it counts, too.
	beside = driver.Limits{Server: 1000, ServerUsed: 51, Role: 100, RoleUsed: 51, Runners: 51}
	require.Equal(t, 100-13-50, limit(beside, time.Hour, time.Hour))

	// Of those that the role may have, five are others'.
	require.Equal(t, 20-3-5, limit(driver.Limits{Server: 97, ServerUsed: 6, Role: 20, RoleUsed: 6, Runners: 1}, time.Hour, time.Hour))

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

// What was measured is the most of the last minute, and of the minute before.
func TestPeak(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	var p peak
	for _, c := range []struct {
		after   time.Duration
		n, most int
	}{
		{0, 5, 5}, {1, 3, 5}, {peakSpan - 1, 4, 5}, {peakSpan, 2, 5}, {2*peakSpan - 1, 1, 5}, {2 * peakSpan, 1, 2},
		{4*peakSpan - 1, 0, 1}, {6*peakSpan - 1, 0, 0}, {6 * peakSpan, 7, 7}, {8*peakSpan - 1, 3, 3},
	} {
		p.add(c.n, now.Add(c.after))
		require.Equal(t, c.most, p.most(), "%+v", c)
	}
}

// Connections of other runners count for longer than they last once this process has led for so long that
// they cannot be those of a former leader.
func TestSiblingsOfALeader(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for leads, want := range map[time.Duration]int{usurperLimit: 50, usurperLimit - 1: 0} {
		c := &connections{config: func() Config { return Config{Logger: zap.NewNop()} }}
		c.measured(driver.Limits{Server: 97, Runners: 51}, leads, now)
		require.Equal(t, 50, c.others)
		c.measured(driver.Limits{Server: 97, Runners: 1}, leads, now.Add(time.Second))
		require.Equal(t, want, c.others)
	}
}

// That databases cannot hibernate is said once, where they should.
func TestHibernateWithoutCounts(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	cfg := Config{Logger: zap.New(core)}
	c := &connections{config: func() Config { return cfg }}
	for i, step := range []struct {
		hibernate *Hibernate
		uncounted bool
		said      int
	}{
		{nil, true, 0}, {&Hibernate{}, false, 0}, {&Hibernate{}, true, 1}, {&Hibernate{}, true, 1}, {&Hibernate{}, false, 1}, {&Hibernate{}, true, 2},
		{nil, true, 2}, {&Hibernate{}, true, 3},
	} {
		cfg.Hibernate = step.hibernate
		c.measured(driver.Limits{Uncounted: step.uncounted}, 0, time.Now())
		require.Equal(t, step.said, logs.Len(), i)
	}
}

// max_awake counts only where it is less than what the connections allow.
func TestMaxAwake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ connections, awake, limit int }{
		{9, 0, 7}, {9, 6, 6}, {9, 7, 7}, {9, 8, 7}, {0, 0, 0}, {0, 8, 8},
	} {
		cfg := Config{Connections: c.connections, Hibernate: &Hibernate{MaxAwake: c.awake}}
		conns := &connections{config: func() Config { return cfg }}
		conns.apply()
		require.Equal(t, c.limit, conns.queue.Pressure().Limit, "%+v", c)
		require.Equal(t, c.connections == 0, conns.operators.limit == operatorsLimit, "%+v", c)
	}
	require.Equal(t, 1, operatorsOf(1))
	require.Equal(t, 1, operatorsOf(2*operatorsPart-1))
	require.Equal(t, 2, operatorsOf(2*operatorsPart))
	require.Equal(t, operatorsLimit, operatorsOf(operatorsPart*operatorsLimit))
	require.Equal(t, operatorsLimit, operatorsOf(1000))
	require.Equal(t, 1, SessionsOf(2))
	require.Equal(t, 1, SessionsOf(ConnectionsLeast))
	require.Equal(t, 2, SessionsOf(ConnectionsLeast+1))
}

// How urgently a database needs a connection depends on whether it has jobs.
func TestUrgency(t *testing.T) {
	t.Parallel()
	e, db := served()
	require.Equal(t, session.Unknown, e.urgency(db))
	e.waiting(time.Now())
	require.Equal(t, session.Pressing, e.urgency(db))
	require.Equal(t, 1, e.connections.used(), "the maintenance connection")
	require.NoError(t, e.connections.operators.enter(t.Context()))
	require.Equal(t, 2, e.connections.used())
	e.connections.operators.leave()
	require.Equal(t, 1, e.connections.used())
}
