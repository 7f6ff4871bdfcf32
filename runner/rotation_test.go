package runner_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// many adds databases.
func (b *bench) many(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("db%02d", i))
	}
	b.AddDatabase(names...)
	return names
}

// watch lets time pass, and returns the most connections that there were.
func (b *bench) watch(d time.Duration) (most int) {
	for range d / (20 * time.Millisecond) {
		b.settle(20 * time.Millisecond)
		open, _ := b.Connections()
		most = max(most, open)
	}
	return most
}

// states counts the databases by state.
func (b *bench) states(r *runner.Runner) map[string]int {
	st, err := r.Status(b.Context())
	require.NoError(b, err)
	n := map[string]int{}
	for i := range st.Databases {
		n[st.Databases[i].State.String()]++
	}
	return n
}

func TestConnectionsAllowed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limits                       driver.Limits
		server, role, most, sessions int
	}{
		{driver.Limits{}, 0, 0, 0, 0},
		{driver.Limits{Server: 97}, 0, 0, 72, 67},
		{driver.Limits{Server: 97}, 12, 0, 72, 67},
		{driver.Limits{Server: 97}, 50, 0, 34, 29},
		{driver.Limits{Server: 37}, 3, 3, 27, 23},
		{driver.Limits{Server: 97, Role: 10}, 5, 0, 7, 5},
		{driver.Limits{Server: 97, Role: 10}, 5, 6, 3, 1},
		{driver.Limits{Server: 10}, 50, 0, 3, 1},
		{driver.Limits{Server: 397}, 20, 20, 297, 292},
		{driver.Limits{Server: 96}, 0, 0, 72, 67},
		{driver.Limits{Role: 10}, 0, 0, 7, 5},
	} {
		most, why := runner.ConnectionsAllowed(c.limits, c.server, c.role)
		require.Equal(t, c.most, most, "%+v", c)
		require.Equal(t, most == 0, why == "")
		if most > 0 {
			require.Equal(t, c.sessions, runner.SessionsOf(most), "%+v", c)
		}
	}
	_, why := runner.ConnectionsAllowed(driver.Limits{Server: 10, Role: 10}, 0, 0)
	require.Contains(t, why, "max_connections", "of two equal limits, the one that concerns all is told")
}

// TestConnectionsTakeTurns: more databases than connections. The jobs of all run, others always find a
// connection free, nothing is refused, and next to nothing is logged.
func TestConnectionsTakeTurns(t *testing.T) {
	for name, set := range map[string]struct{ server, connections, most int }{
		"default": {37, 0, 27},
		"set":     {1000, 5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				names := b.many(60)
				b.LimitConnections(set.server, 3)
				b.SetPlan(mock.Plan{RunFor: 200 * time.Millisecond})
				for _, name := range names {
					b.jobs(name, "", "first", 3)
				}
				cfg := b.config("root:8")
				cfg.Connections = set.connections
				r := b.start(cfg)
				require.LessOrEqual(b, b.watch(time.Minute), set.most)
				for _, name := range names {
					require.Equal(b, 3, b.Count(name, channels.Done), name)
				}
				require.NotZero(b, b.states(r)["asleep"])
				require.Equal(b, 60, b.states(r)["asleep"]+b.states(r)["ready"])
				st, err := r.Status(b.Context())
				require.NoError(b, err)
				require.Equal(b, runner.Ready, st.Health(time.Now()), "%v", st.Warnings(time.Now()))

				for _, name := range names {
					b.jobs(name, "", "second", 2)
				}
				require.LessOrEqual(b, b.watch(time.Minute), set.most)
				for _, name := range names {
					require.Equal(b, 5, b.Count(name, channels.Done), name)
				}
				b.settle(10 * time.Minute)
				_, refused := b.Connections()
				require.Zero(b, refused)
				lines, ready := 0, 0
				for _, e := range b.logs.All() {
					if e.Level >= zapcore.WarnLevel {
						lines++
					}
					if strings.HasPrefix(e.Message, "queue job runner ready for db") {
						ready++
					}
				}
				require.LessOrEqual(b, lines, 2)
				require.Equal(b, 60, ready, "a sleep is not told of")
			})
		})
	}
}

// TestNoInsertIsLost: jobs are inserted at the edge of sleep, and statistics come late. None waits for
// longer than it takes to see that something was written.
func TestNoInsertIsLost(t *testing.T) {
	const late = 3 * time.Second
	for seed := range uint64(10) {
		inBubble(t, func(b *bench) {
			random := rand.New(rand.NewPCG(seed, 1))
			names := b.many(12)
			b.LimitConnections(1000, 0)
			b.DelayStatistics(time.Duration(seed%2) * late)
			var mu sync.Mutex // guards the following; sessions look at the same time
			n, edges := 0, 0
			inserted := map[channels.Key]time.Time{}
			insert := func(name string, notified time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				n++
				j := mock.NewJob(name, fmt.Sprintf("job%d", n))
				inserted[j.Key] = time.Now()
				b.InsertLate(notified, j)
			}
			edge := rand.New(rand.NewPCG(seed, 2))
			chosen := func() bool {
				mu.Lock()
				defer mu.Unlock()
				yes := edge.IntN(4) == 0
				if yes {
					edges++
				}
				return yes
			}
			b.BetweenLooks(func(name string) {
				if chosen() {
					insert(name, 10*time.Millisecond) // when the session may have gone
				}
			})
			cfg := b.config("root:8")
			cfg.Connections = 7
			b.start(cfg)
			for range 400 {
				b.settle(time.Duration(random.IntN(600)) * time.Millisecond)
				switch name := names[random.IntN(len(names))]; random.IntN(8) {
				case 0:
					b.ResetStatistics(name)
				case 1:
					b.Write(name, random.IntN(3))
				default:
					insert(name, 0)
				}
			}
			b.BetweenLooks(nil)
			b.settle(2 * time.Minute)
			require.NotZero(b, edges)
			worst := time.Duration(0)
			for key, at := range inserted {
				row, ok := b.Row(key)
				require.True(b, ok)
				require.Equal(b, channels.Done, row.State, "seed %d: %s", seed, key)
				worst = max(worst, row.Done.Sub(at))
			}
			t.Logf("seed %d: %d jobs, %d of them between the two looks; the longest took %s", seed, n, edges, worst)
			require.Less(b, worst, 30*time.Second, "seed %d", seed)
		})
	}
}

// TestLostDatabasesTakeTurns: what is written to a database that has lost its connection does not show, so
// that it gets another one although nothing is known to be done there, and others always have jobs.
func TestLostDatabasesTakeTurns(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("lost", "busy")
		cfg := b.config("root:1")
		cfg.Connections = runner.ConnectionsLeast
		b.start(cfg)
		b.settle(10 * time.Second)
		first := b.one("lost", "first")
		b.settle(20 * time.Second)
		b.requireDone(first)
		b.SetPlan(mock.Plan{RunFor: 3 * time.Second})
		b.Fault("lost", func(f *mock.Faults) { f.OpenErr = errFault })
		b.LoseSession("lost")
		b.jobs("busy", "", "a", 2000)
		b.settle(10 * time.Second)
		b.Fault("lost", func(f *mock.Faults) { f.OpenErr = nil })
		k := b.one("lost", "second")
		b.settle(2 * time.Minute)
		b.requireDone(k)
		require.Positive(b, b.Count("busy", channels.Pending), "or this test does not test it")
	})
}

// TestBusyDatabasesTakeTurns: more databases with jobs without end than connections. Those of all run,
// and a job that takes long does not keep the others of its database from being started for long.
func TestBusyDatabasesTakeTurns(t *testing.T) {
	inBubble(t, func(b *bench) {
		names := b.many(9)
		b.LimitConnections(1000, 0)
		b.SetPlan(mock.Plan{RunFor: time.Second})
		long := b.one("db00", "long")
		b.PlanFor(long, mock.Plan{RunFor: time.Hour})
		for i := range 300 {
			for _, name := range names {
				b.one(name, fmt.Sprintf("job%d", i))
			}
		}
		cfg := b.config("root:4")
		cfg.Connections = 5
		r := b.start(cfg)
		require.LessOrEqual(b, b.watch(8*time.Minute), 5)
		for _, name := range names {
			done := b.Count(name, channels.Done)
			t.Log(name, done)
			require.Greater(b, done, 20, name)
		}
		row, _ := b.Row(long)
		require.Equal(b, channels.Started, row.State)
		require.Len(b, b.RunsOf(long), 1)
		require.NotZero(b, b.states(r)["waiting"])
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		for _, db := range st.Databases { // what is inserted where nobody listens is in no count
			require.Equal(b, db.State == runner.DatabaseWaiting, db.JobsUnknown, "%s is %s", db.Name, db.State)
		}
		ready := 0
		for _, e := range b.logs.All() {
			if strings.HasPrefix(e.Message, "queue job runner ready for db") {
				ready++
			}
		}
		require.LessOrEqual(b, ready, len(names), "a turn is not told of")
	})
}

// TestHibernate: databases that have had nothing to do for long have no connection, although there are
// enough. A job wakes its database as soon as it shows that it was written, an eta in time, and where
// nothing shows, the check does. Without the option, all are connected again.
func TestHibernate(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.many(5)
		cfg := b.config("root:4")
		cfg.Hibernate = &runner.Hibernate{After: 20 * time.Second, Poll: time.Second, Check: 5 * time.Minute, MaxAwake: 4}
		r := b.start(cfg)
		require.LessOrEqual(b, b.watch(10*time.Second), 1+4, "max_awake")
		b.settle(20 * time.Second)
		require.Equal(b, map[string]int{"asleep": 5}, b.states(r))
		open, _ := b.Connections()
		require.Equal(b, 1, open)
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.Ready, st.Health(time.Now()))

		took := func(k channels.Key, at time.Time) time.Duration {
			row, _ := b.Row(k)
			require.Equal(b, channels.Done, row.State, "%s", k)
			return row.Done.Sub(at)
		}
		began := time.Now()
		k := b.one("db01", "a")
		b.settle(3 * time.Second)
		require.Less(b, took(k, began), 2*time.Second+100*time.Millisecond)
		require.Equal(b, map[string]int{"asleep": 4, "ready": 1}, b.states(r))
		b.settle(15 * time.Second)
		require.Equal(b, 1, b.states(r)["ready"], "it sleeps only after a while")
		b.settle(15 * time.Second)
		require.Equal(b, map[string]int{"asleep": 5}, b.states(r))

		eta := time.Now().Add(4 * time.Minute)
		k = b.one("db02", "b", func(j *mock.Job) { j.ETA = eta.UnixMicro() })
		b.settle(time.Minute)
		require.Equal(b, map[string]int{"asleep": 5}, b.states(r), "its eta is far")
		b.settle(4 * time.Minute)
		require.Less(b, took(k, eta), time.Second)

		b.settle(time.Minute)
		b.DelayStatistics(time.Hour)
		began = time.Now()
		k = b.one("db03", "c")
		b.settle(6 * time.Minute)
		require.Less(b, took(k, began), 6*time.Minute)
		b.DelayStatistics(0)

		b.settle(time.Minute)
		for range 60 { // one may just have been checked
			if b.states(r)["asleep"] == 5 {
				break
			}
			b.settle(time.Second)
		}
		require.Equal(b, map[string]int{"asleep": 5}, b.states(r))
		cfg.Hibernate = nil
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(10 * time.Second)
		require.Equal(b, map[string]int{"ready": 5}, b.states(r))
	})
}

// TestHibernateIsRefused: where PostgreSQL does not count what is written, nothing would wake a
// database, and none sleeps.
func TestHibernateIsRefused(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.many(2)
		b.CountNothing()
		cfg := b.config("root:4")
		cfg.Hibernate = &runner.Hibernate{After: 20 * time.Second}
		r := b.start(cfg)
		b.settle(5 * time.Minute)
		require.Equal(b, map[string]int{"ready": 2}, b.states(r))
		require.Equal(b, 1, b.logged("hibernate does nothing, because PostgreSQL does not count what is written: set track_counts on"))
	})
}

// TestHibernateWakesLessForNothing: what is written to other tables wakes a database less and less, and
// a job does not wait for longer than the check.
func TestHibernateWakesLessForNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.many(1)
		cfg := b.config("root:4")
		cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second}
		b.start(cfg)
		b.settle(time.Minute)
		before := b.Calls("db00", "OpenSession")
		for range 10 * 60 {
			b.Write("db00", 1)
			b.settle(time.Second)
		}
		require.LessOrEqual(b, b.Calls("db00", "OpenSession")-before, 20)
		began := time.Now()
		k := b.one("db00", "a")
		b.settle(2 * time.Minute)
		row, _ := b.Row(k)
		require.Equal(b, channels.Done, row.State)
		require.Less(b, row.Done.Sub(began), 70*time.Second)
	})
}

func TestHibernateValidate(t *testing.T) {
	t.Parallel()
	for text, h := range map[string]runner.Hibernate{
		"":                            {After: time.Minute, Poll: time.Second, Check: time.Hour, MaxAwake: 3},
		"the time must be at least":   {After: time.Second},
		"poll must be at least":       {After: time.Minute, Poll: time.Millisecond},
		"check must be at least":      {After: time.Minute, Check: time.Second},
		"check must not be shorter":   {After: time.Minute, Poll: time.Minute, Check: 30 * time.Second},
		"max_awake must not be negat": {After: time.Minute, MaxAwake: -1},
	} {
		if err := h.Validate(); text != "" {
			require.ErrorContains(t, err, text)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, "1m0s, poll 2s, check 1m0s, max_awake 3", runner.Hibernate{After: time.Minute, MaxAwake: 3}.String())
}

// TestSleepersAndTheCluster: whatever happens to PostgreSQL while databases sleep, their jobs run soon
// after it is over.
func TestSleepersAndTheCluster(t *testing.T) {
	for name, happens := range map[string]func(b *bench) channels.Key{
		"PostgreSQL restarts": func(b *bench) channels.Key {
			b.Down()
			k := b.one("db01", "a")
			b.ResetStatistics("db01")
			b.settle(5 * time.Second)
			b.Up()
			return k
		},
		"the maintenance connection is lost, and nothing is counted": func(b *bench) channels.Key {
			b.DelayStatistics(time.Hour)
			k := b.one("db01", "a")
			b.LoseClusters()
			return k
		},
		"the database is made anew": func(b *bench) channels.Key {
			b.DropDatabase("db01")
			b.AddDatabase("db01")
			return b.one("db01", "a")
		},
		"the database is copied": func(b *bench) channels.Key {
			b.SetBusy("db01")
			b.settle(5 * time.Second)
			k := b.one("db01", "a")
			b.SetBusy()
			return k
		},
		"another runner serves it": func(b *bench) channels.Key {
			b.LockHeldBy("db01", "odoo-14")
			k := b.one("db01", "a")
			b.settle(10 * time.Second)
			b.LockHeldBy("db01", "")
			return k
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.many(3)
				cfg := b.config("root:4")
				cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second, Check: time.Hour}
				r := b.start(cfg)
				b.settle(30 * time.Second)
				require.Equal(b, map[string]int{"asleep": 3}, b.states(r))
				k := happens(b)
				b.settle(40 * time.Second)
				b.requireRanOnce(k)
				b.DelayStatistics(0)
				b.settle(time.Minute)
				require.Equal(b, map[string]int{"asleep": 3}, b.states(r))
			})
		})
	}
}

// TestThousandsOfDatabases: with few connections for very many databases, each of them is read as soon as
// connecting takes, and then they sleep. One that gets a job wakes alone.
func TestThousandsOfDatabases(t *testing.T) {
	inBubble(t, func(b *bench) {
		const n = 1000
		for i := range n {
			b.AddDatabase(fmt.Sprintf("db%03d", i))
		}
		cfg := b.config("root:4")
		cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second, Check: time.Hour, MaxAwake: 50}
		r := b.start(cfg)
		b.settle(2 * time.Second) // connecting takes no time here
		require.Equal(b, map[string]int{"asleep": n - 50, "ready": 50}, b.states(r))
		b.settle(time.Minute)
		require.Equal(b, map[string]int{"asleep": n}, b.states(r))
		k := b.one("db500", "a")
		b.settle(5 * time.Second)
		b.requireRanOnce(k)
		require.Equal(b, map[string]int{"asleep": n - 1, "ready": 1}, b.states(r))
	})
}

// TestWaitingIsNoNews: a database that cannot be reached, and has to wait before each attempt, is told of
// once.
func TestWaitingIsNoNews(t *testing.T) {
	inBubble(t, func(b *bench) {
		names := b.many(4)
		b.Fault("db00", func(f *mock.Faults) { f.OpenErr = errFault })
		b.SetPlan(mock.Plan{RunFor: time.Second})
		for _, name := range names {
			b.jobs(name, "", "job", 600)
		}
		lost, waits := 0, 0
		cfg := b.config("root:4")
		cfg.Connections = runner.ConnectionsLeast
		cfg.Events = func(ev runner.Event) {
			if ev.Kind == runner.EventDatabaseLost && ev.Database == "db00" {
				lost++
			}
		}
		r := b.start(cfg)
		for range 300 {
			b.settle(time.Second)
			waits += b.states(r)["waiting"]
		}
		require.NotZero(b, waits)
		require.Equal(b, 1, lost)
		require.Equal(b, 1, b.logged("database cannot be reached"))
	})
}
