package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// counts is a cluster that answers, and counts what it is asked.
type counts struct {
	driver.Driver
	driver.Cluster

	lock               driver.Lock
	leads, lists, busy int
}

func (c *counts) OpenCluster(context.Context, *pgx.ConnConfig) (driver.Cluster, error) { return c, nil }
func (c *counts) Close(context.Context) error                                          { return nil }
func (c *counts) Lead(context.Context, int64) (driver.Lock, error)                     { c.leads++; return c.lock, nil }
func (c *counts) Busy(context.Context) ([]string, error)                               { c.busy++; return nil, nil }

func (c *counts) Databases(context.Context, []string) ([]driver.Database, error) {
	c.lists++
	return nil, nil
}

// holders is a listener that notes who leads.
type holders struct{ seen []string }

func (h *holders) Leading(_ bool, holder string) { h.seen = append(h.seen, holder) }
func (*holders) Unreachable(error)               {}
func (*holders) Discovered([]driver.Database)    {}
func (*holders) Busy([]string)                   {}
func (*holders) Limits(driver.Limits)            {}
func (*holders) Writes(map[uint32]driver.Writes) {}

// runAMinute runs a maintenance connection for that long.
func runAMinute(t *testing.T, cfg Config, out Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		New(func() Config { return cfg }, out).Run(ctx)
	}()
	timing.Sleep(ctx, time.Minute)
	cancel()
	<-over
}

// Only the leader lists databases and looks for busy ones, each at its interval, and who leads
// instead is told as the cluster tells it.
func TestOnlyTheLeaderAsks(t *testing.T) {
	for name, c := range map[string]struct {
		lock   driver.Lock
		holder string
	}{
		"leads":          {lock: driver.Lock{Held: true}},
		"another leads":  {lock: driver.Lock{Holder: "pid 7"}, holder: "pid 7"},
		"somebody leads": {holder: "somebody unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cluster := &counts{lock: c.lock}
				out := &holders{}
				cfg := Config{
					Driver: cluster, Postgres: &pgx.ConnConfig{}, DiscoverInterval: time.Hour, Logger: zap.NewNop(),
				}
				runAMinute(t, cfg, out)
				require.Equal(t, c.holder, out.seen[0])
				require.InDelta(t, time.Minute/leadInterval, cluster.leads, 10)
				if !c.lock.Held {
					require.Zero(t, cluster.lists)
					require.Zero(t, cluster.busy)
					return
				}
				require.Equal(t, 1, cluster.lists)
				require.InDelta(t, time.Minute/busyInterval, cluster.busy, 10)
			})
		})
	}
}

// blind is a cluster that does not say what is written.
type blind struct {
	counts
	opened, asked int
}

func (b *blind) OpenCluster(context.Context, *pgx.ConnConfig) (driver.Cluster, error) {
	b.opened++
	return b, nil
}

func (b *blind) Writes(context.Context) (map[uint32]driver.Writes, error) {
	b.asked++
	return nil, errors.New("permission denied for view pg_stat_database")
}

// sleepers is a listener that counts what it is told of databases that sleep.
type sleepers struct {
	holders
	told int
}

func (s *sleepers) Writes(map[uint32]driver.Writes) { s.told++ }

// TestWritesThatAreNotTold: that it cannot be told what is written costs neither the connection nor the
// lead. It is said once, and the databases are woken in turn.
func TestWritesThatAreNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := &blind{counts: counts{lock: driver.Lock{Held: true}}}
		out := &sleepers{}
		core, logs := observer.New(zap.WarnLevel)
		cfg := Config{
			Driver: cluster, Postgres: &pgx.ConnConfig{}, DiscoverInterval: time.Hour, Logger: zap.New(core),
			Watching: func() bool { return true }, PollInterval: 2 * time.Second,
		}
		runAMinute(t, cfg, out)
		require.Equal(t, 1, cluster.opened)
		require.InDelta(t, 30, cluster.asked, 5)
		require.Equal(t, cluster.asked, out.told)
		require.Equal(t, 1, logs.FilterMessageSnippet("permission denied").Len())
	})
}

// fenced is a cluster that tells its fence.
type fenced struct{ counts }

func (c *fenced) OpenCluster(context.Context, *pgx.ConnConfig) (driver.Cluster, error) { return c, nil }
func (c *fenced) Fence(key int64) driver.Fence                                         { return driver.Fence{PID: 7, Key: key} }
func (c *fenced) Unlead(context.Context, int64) error                                  { return nil }

// What shows that this process leads is known before anyone hears that it does, and goes on to name a lock
// that another process may have, until the lead is given up.
func TestFence(t *testing.T) {
	cfg := Config{Name: "default", Postgres: pgConfig("odoo"), Logger: zap.NewNop()}
	c, out := &fenced{counts{lock: driver.Lock{Holder: "pid 8"}}}, &holders{}
	m := New(func() Config { return cfg }, out)
	m.cluster = c
	key := leaderKey(cfg)
	require.NoError(t, m.tryLead(t.Context(), key))
	require.Zero(t, m.Fence())
	c.lock = driver.Lock{Held: true}
	require.NoError(t, m.tryLead(t.Context(), key))
	require.Equal(t, driver.Fence{PID: 7, Key: key}, m.Fence())
	c.lock = driver.Lock{Holder: "pid 8"}
	require.NoError(t, m.tryLead(t.Context(), key))
	require.Equal(t, driver.Fence{PID: 7, Key: key}, m.Fence())
	m.lead = true
	require.NoError(t, m.unlead(t.Context(), key))
	require.Zero(t, m.Fence())
}

// parting is a cluster that notes how long it has to close its connection.
type parting struct {
	counts
	left time.Duration
}

func (p *parting) OpenCluster(context.Context, *pgx.ConnConfig) (driver.Cluster, error) {
	return p, nil
}

func (p *parting) Close(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && ctx.Err() == nil {
		p.left = time.Until(deadline)
	}
	return nil
}

// TestGoodbye: PostgreSQL is told that a connection ends also when the runner does, and has a moment for it.
func TestGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := &parting{}
		cfg := Config{Driver: cluster, Postgres: &pgx.ConnConfig{}, DiscoverInterval: time.Hour, Logger: zap.NewNop()}
		runAMinute(t, cfg, &holders{})
		require.Equal(t, 2*time.Second, cluster.left)
		cluster.left = 0
		_, err := Databases(t.Context(), cfg)
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, cluster.left)
	})
}
