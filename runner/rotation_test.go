package runner_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
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
	} {
		most, why := runner.ConnectionsAllowed(c.limits, c.server, c.role)
		require.Equal(t, c.most, most, "%+v", c)
		require.Equal(t, most == 0, why == "")
		if most > 0 {
			require.Equal(t, c.sessions, runner.SessionsOf(most), "%+v", c)
		}
	}
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
			n, edges := 0, 0
			inserted := map[channels.Key]time.Time{}
			insert := func(name string, notified time.Duration) {
				n++
				j := mock.NewJob(name, fmt.Sprintf("job%d", n))
				inserted[j.Key] = time.Now()
				b.InsertLate(notified, j)
			}
			b.BetweenLooks(func(name string) {
				if random.IntN(4) == 0 {
					edges++
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
	})
}
