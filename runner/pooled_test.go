package runner_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// pooled is a configuration whose databases are reached through a pooler.
func (b *bench) pooled(tree string, poll time.Duration) runner.Config {
	cfg := b.config(tree)
	cfg.Pooler, cfg.Poll = &pgx.ConnConfig{}, poll
	return cfg
}

// TestPooledHearsOfCounters: what is written is read when PostgreSQL has counted it, and by the poll
// where it does not count.
func TestPooledHearsOfCounters(t *testing.T) {
	for name, set := range map[string]struct {
		uncounted   bool
		least, most time.Duration
	}{
		"counted": {false, 0, 3 * time.Second},
		"not":     {true, 3 * time.Second, time.Minute + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if set.uncounted {
					b.CountNothing()
				}
				r := b.start(b.pooled("root:2", time.Minute))
				b.settle(90 * time.Second)
				b.requireState(r, "prod", runner.DatabaseReady)
				before := time.Now()
				key := b.one("prod", "a")
				b.settle(2 * time.Minute)
				b.requireRanOnce(key)
				runs := b.RunsOf(key)
				took := runs[0].Opened.Sub(before)
				require.GreaterOrEqual(b, took, set.least)
				require.LessOrEqual(b, took, set.most)
				require.Zero(b, b.logged("a full read repaired what no notification had told"))
				require.Equal(b, 1, b.Calls("prod", "OpenSession"), "it is one connection, which awaits no notification")
			})
		})
	}
}

// TestPooledLimits: the limits of PostgreSQL's connections are not those of the pooler, connections and
// max_awake are.
func TestPooledLimits(t *testing.T) {
	for name, set := range map[string]struct {
		change func(*runner.Config)
		limit  int
	}{
		"default":     {func(*runner.Config) {}, 0},
		"connections": {func(c *runner.Config) { c.Connections = 10 }, 10},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.many(20)
				b.LimitConnections(37, 0)
				cfg := b.pooled("root:2", 5*time.Second)
				set.change(&cfg)
				r := b.start(cfg)
				b.settle(30 * time.Second)
				st := b.status(r)
				require.Equal(b, set.limit, st.Connections.Limit)
			})
		})
	}
}

// TestPooledSleeps: a database with nothing to do sleeps, and is woken, as others are.
func TestPooledSleeps(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.LimitConnections(1000, 0)
		cfg := b.pooled("root:2", 5*time.Second)
		cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second}
		r := b.start(cfg)
		b.settle(40 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		key := b.one("prod", "a")
		b.settle(5 * time.Second)
		b.requireRanOnce(key)
	})
}

// TestPooledRival: while another runner has the lock, nothing is claimed; then it goes on.
func TestPooledRival(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		r := b.start(b.pooled("root:2", 5*time.Second))
		b.settle(3 * time.Second)
		b.jobs("prod", "", "early", 10)
		b.settle(3 * time.Second)
		b.LockHeldBy("prod", "pid 7, application odoo")
		claimed := b.Count("prod", channels.Enqueued) + b.Count("prod", channels.Started) + b.Count("prod", channels.Done)
		b.settle(20 * time.Second)
		b.requireState(r, "prod", runner.DatabaseStandby)
		require.Equal(b, claimed, b.Count("prod", channels.Done), "what ran has ended, and nothing new has begun")
		require.Less(b, claimed, 10)
		require.Equal(b, 1, b.logged("another runner has taken the lock of the database: this one yields, and serves it again when the lock is free"))
		b.LockHeldBy("prod", "")
		b.settle(20 * time.Second)
		b.requireState(r, "prod", runner.DatabaseReady)
		require.Equal(b, 10, b.Count("prod", channels.Done))
	})
}

// TestPooledTakeOver: another node goes on where the leader was.
func TestPooledTakeOver(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 500 * time.Millisecond})
		first, second := b.start(b.pooled("root:2", 5*time.Second)), b.start(b.pooled("root:2", 5*time.Second))
		b.settle(3 * time.Second)
		keys := b.jobs("prod", "", "a", 20)
		b.settle(4 * time.Second)
		leader := first
		if b.status(second).Leader {
			leader = second
		}
		b.stop(leader)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 20, b.Count("prod", channels.Done))
		require.Equal(b, 2, b.MaxExecuting(nil))
	})
}

// TestPooledSweeps: a full read every few seconds is no look at all jobs that wait for others.
func TestPooledSweeps(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.pooled("root:2", time.Second)
		cfg.ReleaseDependents = true
		b.start(cfg)
		b.settle(10 * time.Minute)
		require.Greater(b, b.Calls("prod", "Snapshot"), 300)
		require.Less(b, b.Calls("prod", "Dependents"), 13)
		require.Greater(b, b.Calls("prod", "Dependents"), 8)
	})
}

// TestPooledFence: a process whose lead has ended without its knowledge changes nothing.
func TestPooledFence(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.pooled("root:2", time.Minute))
		b.settle(3 * time.Second)
		b.requireState(r, "prod", runner.DatabaseReady)
		b.LoseClusters() // it finds out within two seconds
		calls := b.Calls("prod", "Claim")
		key := b.one("prod", "a")
		_, err := r.Resync(b.Context(), "prod")
		require.NoError(b, err)
		b.settle(100 * time.Millisecond)
		require.Greater(b, b.Calls("prod", "Claim"), calls)
		require.Zero(b, b.started(key))
		b.settle(10 * time.Second)
		b.requireRanOnce(key)
	})
}
