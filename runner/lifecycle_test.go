package runner_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

func TestOneOfTwoLeads(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		first, second := b.start(b.config("root:3")), b.start(b.config("root:3"))
		require.True(b, b.status(first).Leader)
		st := b.status(second)
		require.False(b, st.Leader)
		require.NotEmpty(b, st.LeaderDetail)
		require.Empty(b, st.Databases)
		keys := append(b.jobs("one", "", "a", 20), b.jobs("two", "", "b", 20)...)
		b.settle(5 * time.Second)

		ctx, cancel := context.WithTimeout(b.Context(), 3*time.Second)
		defer cancel()
		require.NoError(b, first.Stop(ctx))
		stopped := time.Now()
		sent := len(b.Runs())
		b.settle(5 * time.Second)
		require.Greater(b, len(b.Runs()), sent)
		b.within(stopped, b.Runs()[sent].Opened, 0, 5*time.Second)
		require.True(b, b.status(second).Leader)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 3, b.MaxConcurrent(nil))
		b.requireIdle(second)
		_, err := first.Status(b.Context())
		require.ErrorIs(b, err, runner.ErrStopped)
	})
}

// Other names and other databases are other runners.
func TestRunnersOfDifferentNames(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		one, two := b.config("root:3"), b.config("root:3")
		one.Databases, two.Databases, two.Name = []string{"one"}, []string{"two"}, "second"
		r1, r2 := b.start(one), b.start(two)
		require.True(b, b.status(r1).Leader)
		require.True(b, b.status(r2).Leader)
		keys := append(b.jobs("one", "", "a", 5), b.jobs("two", "", "b", 5)...)
		b.settle(time.Second)
		b.requireRanOnce(keys...)
	})
}

func TestMaintenanceConnectionLost(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		b.SetPlan(mock.Plan{RunFor: 2 * time.Second})
		keys := append(b.jobs("one", "", "a", 100), b.jobs("two", "", "b", 100)...)
		first, second := b.start(b.config("root:3")), b.start(b.config("root:3"))
		for range 20 {
			b.LoseClusters()
			b.settle(7 * time.Second)
		}
		b.settle(5 * time.Minute)
		b.requireRanOnce(keys...)
		require.LessOrEqual(b, b.MaxExecuting(nil), 3)
		require.NotEqual(b, b.status(first).Leader, b.status(second).Leader)
		b.requireIdle(first)
		b.requireIdle(second)
	})
}

// As long as another node may lead, nothing is started. The databases' own locks are kept for a while,
// because the connection mostly comes back; then they are given up, because the other node could not
// serve these databases otherwise.
func TestNothingStartsWithoutTheLeaderLock(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var refuse atomic.Bool
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), openCluster: func() error {
			if refuse.Load() {
				return errFault
			}
			return nil
		}}
		r := b.start(cfg)
		refuse.Store(true)
		b.LoseClusters()
		b.settle(3 * time.Second)
		k := b.one("prod", "a")
		b.settle(25 * time.Second)
		require.Equal(b, 1, b.connections("prod"), "the databases' own locks are kept")
		b.settle(5 * time.Second)
		require.Zero(b, b.connections("prod"), "they are given up")
		b.settle(5 * time.Minute)
		require.Empty(b, b.Runs())
		require.False(b, b.status(r).Leader)
		refuse.Store(false)
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
		require.Equal(b, 2, b.Calls("prod", "OpenSession"))
	})
}

// Sometimes PostgreSQL does not tell who has the lock. The databases must be
// given up all the same, or nobody serves them.
func TestUnknownLeader(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var foreign atomic.Bool
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), cluster: func(c driver.Cluster) driver.Cluster {
			return &fakeCluster{Cluster: c, lead: func(l *driver.Lock) {
				if foreign.Load() {
					*l = driver.Lock{}
				}
			}}
		}}
		r := b.start(cfg)
		foreign.Store(true)
		b.settle(5 * time.Second)
		require.False(b, b.status(r).Leader)
		require.Zero(b, b.connections("prod"))
		k := b.one("prod", "a")
		foreign.Store(false)
		b.settle(4 * time.Second)
		b.requireRanOnce(k)
	})
}

// A maintenance connection that fails over and over is no reason for a hot loop.
func TestDiscoveryFails(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var looks atomic.Int32
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), cluster: func(c driver.Cluster) driver.Cluster {
			return &fakeCluster{Cluster: c, databases: func() error {
				if looks.Add(1) < 20 {
					return errFault
				}
				return nil
			}}
		}}
		b.start(cfg)
		b.settle(time.Minute)
		require.LessOrEqual(b, looks.Load(), int32(19))
		k := b.one("prod", "a")
		b.settle(time.Minute)
		b.requireRanOnce(k)
	})
}

func TestMaintenancePanics(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		var broken atomic.Bool
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), cluster: func(c driver.Cluster) driver.Cluster {
			return &fakeCluster{Cluster: c, busy: func() {
				if broken.CompareAndSwap(true, false) {
					panic("as the test wants it")
				}
			}}
		}}
		r := b.start(cfg)
		broken.Store(true)
		b.settle(2 * time.Second)
		require.False(b, b.status(r).Leader, "the lock is gone with the connection")
		k := b.one("prod", "a")
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
	})
}

func TestReconfigureCapacity(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
		b.jobs("prod", "", "a", 100)
		b.jobs("prod", "gone", "c", 10)
		cfg := b.config("root:4,gone:1")
		r := b.start(cfg)
		require.Equal(b, 4, b.status(r).Open)
		reconfigure := func(tree string) {
			cfg.Channels = b.config(tree).Channels
			require.NoError(b, r.Reconfigure(cfg))
			b.settle(time.Millisecond)
		}
		reconfigure("root:9,gone:1")
		require.Equal(b, 9, b.status(r).Open)
		reconfigure("root:2")
		require.Equal(b, 9, b.status(r).Open, "running jobs are left alone")
		b.settle(10 * time.Second)
		require.Equal(b, 2, b.status(r).Open)
		reconfigure("root:8")
		require.Equal(b, 8, b.status(r).Open)
		b.settle(10 * time.Minute)
		require.Equal(b, 110, b.Count("prod", channels.Done))
		require.Len(b, b.Runs(), 110)
		require.Equal(b, 1, b.Calls("prod", "OpenSession"))
		b.requireIdle(r)
	})
}

func TestReconfigureRefuses(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		good := b.config("root:2")
		r := b.start(good)
		for name, change := range map[string]func(*runner.Config){
			"capacity":   func(c *runner.Config) { c.Channels = []channels.Config{{Name: "a", Capacity: 2, Sequential: true}} },
			"twice":      func(c *runner.Config) { c.Channels = []channels.Config{{Name: "a"}, {Name: "root.a"}} },
			"cluster":    func(c *runner.Config) { c.Postgres = &pgx.ConnConfig{}; c.Postgres.Host = "elsewhere" },
			"port":       func(c *runner.Config) { c.Postgres = &pgx.ConnConfig{}; c.Postgres.Port = 1 },
			"driver":     func(c *runner.Config) { c.Driver = nil },
			"targets":    func(c *runner.Config) { c.Targets = nil },
			"name":       func(c *runner.Config) { c.Name = "" },
			"postgres":   func(c *runner.Config) { c.Postgres = nil },
			"discovery":  func(c *runner.Config) { c.DiscoverInterval = -1 },
			"everything": func(c *runner.Config) { *c = runner.Config{} },
		} {
			bad := good
			change(&bad)
			require.Error(b, r.Reconfigure(bad), name)
			if name != "cluster" && name != "port" {
				_, err := runner.New(bad)
				require.Error(b, err, name)
			}
		}
		b.SetPlan(mock.Plan{RunFor: time.Second})
		keys := b.jobs("prod", "", "a", 10)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 2, b.MaxConcurrent(nil), "the old configuration is in force")
	})
}

func TestReconfigureDriver(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:2")
		r := b.start(cfg)
		var runs atomic.Int32
		cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(driver.Task) { runs.Add(1) }}
		cfg.Targets = upstreams{"odoo2"}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(3 * time.Second)
		k := b.one("prod", "a")
		b.settle(time.Second)
		b.requireRanOnce(k)
		require.EqualValues(b, 1, runs.Load())
		require.Equal(b, "odoo2", b.Runs()[0].Upstream)
	})
}

// slowTargets takes its time from the second look-up on.
type slowTargets struct {
	upstreams
	asked atomic.Int32
}

func (s *slowTargets) Upstreams(ctx context.Context) ([]driver.Upstream, error) {
	if s.asked.Add(1) > 1 {
		select {
		case <-time.After(4 * time.Second):
		case <-ctx.Done():
		}
	}
	return s.upstreams.Upstreams(ctx)
}

// New upstreams are used at once, and a look-up of the old ones that ends later
// changes nothing.
func TestReconfigureUpstreamsDuringALookUp(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		old := &slowTargets{upstreams: upstreams{"odoo1"}}
		cfg := b.config("root:4")
		cfg.Targets = old
		r := b.start(cfg)
		b.settle(2 * time.Second)
		require.EqualValues(b, 2, old.asked.Load(), "a look-up is under way")
		cfg.Targets = upstreams{"odoo2"}
		require.NoError(b, r.Reconfigure(cfg))
		for i := range 10 {
			b.settle(500 * time.Millisecond)
			b.one("prod", fmt.Sprint("a", i))
		}
		b.settle(time.Second)
		require.Len(b, b.Runs(), 10)
		for _, run := range b.Runs() {
			require.Equal(b, "odoo2", run.Upstream)
		}
	})
}

func TestReconfigureBeforeStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r, err := runner.New(b.config("root:1"))
		require.NoError(b, err)
		require.NoError(b, r.Reconfigure(b.config("root:3")))
		_, err = r.Status(b.Context())
		require.ErrorIs(b, err, runner.ErrStopped)
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("prod", "", "a", 10)
		r.Start()
		r.Start()
		b.Cleanup(func() { b.stop(r) })
		b.settle(time.Minute)
		require.Equal(b, 10, b.Count("prod", channels.Done))
		require.Equal(b, 3, b.MaxConcurrent(nil))
	})
}

// stopIn stops a runner with a time limit and returns how long it took.
func (b *bench) stopIn(r *runner.Runner, limit time.Duration) time.Duration {
	ctx, cancel := context.WithTimeout(b.Context(), limit)
	defer cancel()
	began := time.Now()
	require.NoError(b, r.Stop(ctx))
	return time.Since(began)
}

func TestStopWaitsForRequests(t *testing.T) {
	for _, limit := range []time.Duration{time.Second, time.Minute} {
		t.Run(limit.String(), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
				b.jobs("prod", "", "a", 10)
				r := b.start(b.config("root:2"))
				took := b.stopIn(r, limit)
				require.Less(b, took, min(limit, 10*time.Second)+time.Second)
				require.Zero(b, b.connections("prod"))
				claims := b.Calls("prod", "Claim")
				b.settle(time.Minute)
				require.Equal(b, claims, b.Calls("prod", "Claim"))
				require.Len(b, b.Runs(), 2)
				require.Equal(b, 2, b.Count("prod", channels.Done))
				require.Equal(b, 8, b.Count("prod", channels.Pending), "nothing stays behind")
				require.Zero(b, b.stopIn(r, time.Hour), "once more")
				require.Equal(b, 1, b.logged("graceful stop requested"))
				require.Equal(b, 1, b.logged("stopped"))
			})
		})
	}
}

func TestStopWithoutWaiting(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Millisecond})
		for i := range 25 {
			b.jobs("one", "", fmt.Sprintf("a%d-", i), 20)
			b.jobs("two", "", fmt.Sprintf("b%d-", i), 20)
			r := b.start(b.config("root:50"))
			b.jobs("one", "", fmt.Sprintf("c%d-", i), 20)
			b.stop(r) // in the middle of whatever goes on
			require.Zero(b, b.connections("one"))
			b.settle(time.Second)
			require.Zero(b, b.Count("one", channels.Enqueued), "claimed and not sent")
			require.Zero(b, b.Count("two", channels.Enqueued), "claimed and not sent")
		}
	})
}

func TestStopWhileAClaimHangs(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) { f.HangClaim = true })
		b.jobs("prod", "", "a", 20)
		r := b.start(b.config("root:2"))
		require.Equal(b, time.Second, b.stopIn(r, time.Hour), "the claim may take longer")
		require.Zero(b, b.connections("prod"))
		require.Zero(b, b.Count("prod", channels.Enqueued))
	})
}

// What runs without a request of ours is nothing to wait for, however it came
// to that.
func TestStopDoesNotWaitForWatchedJobs(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Hour, DropConnAfter: 5 * time.Second})
		b.one("prod", "a")
		r := b.start(b.config("root:2"))
		require.Less(b, b.stopIn(r, time.Minute), 10*time.Second)
	})
}

func TestStopWhenTheSessionIsLost(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 5 * time.Second})
		b.one("prod", "a")
		r := b.start(b.config("root:2"))
		b.Fault("prod", func(f *mock.Faults) { f.Frozen = true })
		go func() {
			<-time.After(10 * time.Second)
			b.LoseSession("prod") // while the row is being asked for
		}()
		require.Less(b, b.stopIn(r, 10*time.Minute), 15*time.Second)
	})
}

func TestStopTwiceAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 24 * time.Hour})
		b.one("prod", "a")
		r := b.start(b.config("root:2"))
		began := time.Now()
		patient := make(chan error, 1)
		go func() { patient <- r.Stop(b.Context()) }()
		b.settle(5 * time.Second)
		b.stop(r)
		require.NoError(b, <-patient)
		require.Less(b, time.Since(began), 10*time.Second)
	})
}

func TestStopBeforeStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r, err := runner.New(b.config("root:2"))
		require.NoError(b, err)
		require.Zero(b, b.stopIn(r, time.Hour))
		r.Start()
		b.settle(time.Minute)
		require.Zero(b, b.Calls("prod", "OpenSession"))
		require.ErrorIs(b, r.Reconfigure(b.config("root:2")), runner.ErrStopped)
	})
}

func TestEverythingAtOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("prod", "", "a", 200)
		r, err := runner.New(b.config("root:4"))
		require.NoError(b, err)
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				<-time.After(time.Duration(i) * 50 * time.Millisecond)
				switch i % 4 {
				case 0:
					r.Start()
				case 1:
					if err := r.Reconfigure(b.config(fmt.Sprintf("root:%d", i%7+1))); err != nil && !errors.Is(err, runner.ErrStopped) {
						b.Error(err)
					}
				case 2:
					_, _ = r.Status(b.Context())
					_, _, _ = r.Explain(b.Context(), key("prod", "a1"))
				case 3:
					if i > 30 {
						b.stop(r)
					}
				}
			})
		}
		wg.Wait()
		b.settle(5 * time.Second)
		require.Zero(b, b.connections("prod"))
		require.Zero(b, b.Count("prod", channels.Enqueued))
	})
}

// Caddy knows that the process is about to end before it says so.
func TestExiting(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		var exiting atomic.Bool
		cfg := b.config("root:4")
		cfg.Exiting = exiting.Load
		keys := b.jobs("prod", "", "a", 20)
		r := b.start(cfg)
		exiting.Store(true)
		b.settle(time.Second)
		claims, sent := b.Calls("prod", "Claim"), len(b.Runs())
		b.settle(time.Minute)
		require.Equal(b, claims, b.Calls("prod", "Claim"))
		require.Len(b, b.Runs(), sent)
		require.Zero(b, b.Count("prod", channels.Enqueued))
		b.requireDone(keys[:sent]...)
		require.Zero(b, b.status(r).Open)
	})
}

func TestRemovedAndAddedAgain(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"runs":        {RunFor: 30 * time.Second, HoldAnswer: time.Second},
		"in backlog":  {StartAfter: 30 * time.Second, RunFor: time.Second},
		"is not run":  {StartAfter: 30 * time.Second, StayEnqueued: true},
		"crashes":     {RunFor: 30 * time.Second, Crash: true},
		"connection":  {RunFor: time.Minute, DropConnAfter: 30 * time.Second},
		"answer lost": {RunFor: 30 * time.Second, HoldAnswer: time.Hour},
	} {
		for _, locks := range []bool{true, false} {
			if name == "crashes" && !locks {
				continue // held for ever, see TestWorkerCrashWithoutLockRows
			}
			t.Run(fmt.Sprintf("%s, locks=%t", name, locks), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					if !locks {
						b.WithoutLocks("prod")
					}
					keys := b.jobs("prod", "", "a", 6)
					for _, k := range keys[:3] {
						b.PlanFor(k, plan)
					}
					cfg := b.config("root:3")
					cfg.Exchanges = exchange.NewRegister()
					b.stop(b.start(cfg))
					require.Equal(b, 3, cfg.Exchanges.Len())
					b.settle(5 * time.Second)
					r := b.start(cfg)
					st := b.status(r)
					require.Equal(b, 3, st.Open)
					require.Equal(b, 3, st.Upstreams[0].InFlight)
					b.settle(20 * time.Second)
					require.Len(b, b.Runs(), 3)
					b.settle(3 * time.Minute)
					b.requireDone(keys...)
					require.Zero(b, cfg.Exchanges.Len())
					require.LessOrEqual(b, b.MaxConcurrent(nil), 3)
					b.requireIdle(r)
				})
			})
		}
	}
}

// Two runners of one process may have a request in common: one sent it, and the
// other leads by now.
func TestRegisterSharedByLiveRunners(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Minute})
		k := b.one("prod", "a")
		var lost atomic.Bool
		cfg := b.config("root:1")
		cfg.Exchanges = exchange.NewRegister()
		deposed := cfg
		deposed.Driver = &fakeDriver{Driver: b.Driver(), openCluster: func() error {
			if lost.Load() {
				return errFault
			}
			return nil
		}}
		first, second := b.start(deposed), b.start(cfg)
		lost.Store(true)
		b.LoseClusters()
		b.settle(5 * time.Second)
		require.True(b, b.status(second).Leader)
		lost.Store(false)
		b.settle(20 * time.Second)
		require.Equal(b, 1, b.status(second).Open, "the open request is known")
		b.settle(time.Minute)
		b.requireRanOnce(k)
		b.requireIdle(first)
		b.requireIdle(second)
	})
}

// Without a register of its own a runner keeps the one it has.
func TestReconfigureKeepsTheRegister(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Minute})
		k := b.one("prod", "a")
		var broken atomic.Bool
		cfg := b.config("root:2")
		cfg.Targets = targetsFunc(func() ([]driver.Upstream, error) {
			return []driver.Upstream{{Name: "odoo1", Available: func() bool {
				if broken.CompareAndSwap(true, false) {
					panic("as the test wants it")
				}
				return true
			}}}, nil
		})
		r := b.start(cfg)
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(3 * time.Second)
		// A panic in the engine itself: everything is built anew.
		broken.Store(true)
		next := b.one("prod", "b")
		b.settle(20 * time.Second)
		require.Equal(b, 1, b.logged("panic in engine"))
		require.Equal(b, 1, b.status(r).Open, "the open request is still known")
		b.settle(2 * time.Minute)
		b.requireRanOnce(k, next)
		b.requireIdle(r)
	})
}

// An engine that panicked is replaced five seconds later by one with the same configuration.
func TestAfterAPanic(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		cfg := b.config("root:2")
		var broken atomic.Bool
		cfg.Exiting = func() bool {
			if broken.CompareAndSwap(true, false) {
				panic("as the test wants it")
			}
			return false
		}
		r := b.start(cfg)
		broken.Store(true)
		b.settle(20 * time.Second)
		panicked := b.logs.FilterMessage("panic in engine").All()
		started := b.logs.FilterMessage("initializing database connections").All()
		require.Len(b, panicked, 1)
		require.Len(b, started, 2)
		require.Equal(b, 5*time.Second, started[1].Time.Sub(panicked[0].Time))
		require.Equal(b, panicked, b.logs.FilterLevelExact(zap.ErrorLevel).All())
		b.jobs("prod", "", "a", 3)
		b.settle(time.Minute)
		require.Equal(b, 2, b.channel(r, "root").Capacity)
		require.Equal(b, 3, b.Count("prod", channels.Done))
	})
}

// Between two engines nobody answers, and a new configuration must not get lost.
func TestReconfigureAfterAPanic(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		cfg := b.config("root:2")
		var broken atomic.Bool
		cfg.Exiting = func() bool {
			if broken.CompareAndSwap(true, false) {
				panic("as the test wants it")
			}
			return false
		}
		r := b.start(cfg)
		broken.Store(true)
		b.settle(3 * time.Second)
		cfg.Channels = b.config("root:5").Channels
		require.NoError(b, r.Reconfigure(cfg))
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("prod", "", "a", 20)
		b.settle(time.Minute)
		require.Equal(b, 20, b.Count("prod", channels.Done))
		require.Equal(b, 5, b.MaxConcurrent(nil))
	})
}

func TestDriverPanics(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		var once sync.Once
		cfg := b.config("root:2")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(driver.Task) {
			var first bool
			once.Do(func() { first = true })
			if first {
				panic("as the test wants it")
			}
		}}
		r := b.start(cfg)
		keys := b.jobs("prod", "", "a", 5)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.logged("panic in dispatch"))
		b.requireIdle(r)
	})
}

func TestTargetsFail(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		var asked atomic.Int32
		cfg := b.config("root:2")
		cfg.Targets = targetsFunc(func() ([]driver.Upstream, error) {
			switch asked.Add(1) {
			case 1:
				panic("as the test wants it")
			case 2:
				return nil, errFault
			case 3:
				return nil, nil
			}
			return []driver.Upstream{{Name: "odoo1"}, {Name: "odoo1"}}, nil
		})
		r := b.start(cfg)
		k := b.one("prod", "a")
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
		require.Len(b, b.status(r).Upstreams, 1)
	})
}
