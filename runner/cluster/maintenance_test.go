package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// town is a cluster that does as it is told, and notes what it is asked. Each connection to it is the
// same.
type town struct {
	driver.Driver
	driver.Cluster

	began time.Time
	lock  driver.Lock
	errs  map[string]error
	names []string // that are busy
	// panics has the next connection panic.
	panics bool
	// asked is what was asked for, by name, and when, since it began.
	asked map[string][]time.Duration
	keys  []int64 // given back
}

func newTown() *town {
	return &town{began: time.Now(), lock: driver.Lock{Held: true}, asked: map[string][]time.Duration{}}
}

// baton is held by the test, except while it lets time pass, and by the fakes then. A timer alone does not
// tell the race detector what happened before.
var baton sync.Mutex

// ask notes a question, which has a deadline that has not passed.
func (c *town) ask(ctx context.Context, what string, within time.Duration) error {
	baton.Lock()
	defer baton.Unlock()
	c.asked[what] = append(c.asked[what], time.Since(c.began))
	if at, ok := ctx.Deadline(); !ok || !at.Equal(time.Now().Add(within)) || ctx.Err() != nil {
		return fmt.Errorf("%s: deadline %s", what, time.Until(at))
	}
	return c.errs[what]
}

func (c *town) OpenCluster(ctx context.Context, _ *pgx.ConnConfig) (driver.Cluster, error) {
	err := c.ask(ctx, "open", connectTimeout)
	if c.panics {
		c.panics = false
		panic("on purpose")
	}
	return c, err
}
func (c *town) Close(ctx context.Context) error { return c.ask(ctx, "close", closeTimeout) }

func (c *town) Lead(ctx context.Context, _ int64) (driver.Lock, error) {
	err := c.ask(ctx, "lead", leadTimeout)
	return c.lock, err
}

func (c *town) Unlead(ctx context.Context, key int64) error {
	err := c.ask(ctx, "unlead", leadTimeout)
	c.keys = append(c.keys, key)
	return err
}

func (c *town) Busy(ctx context.Context) ([]string, error) {
	err := c.ask(ctx, "busy", discoverTimeout)
	return c.names, err
}

func (c *town) Databases(ctx context.Context, _ []string) ([]driver.Database, error) {
	return nil, c.ask(ctx, "list", discoverTimeout)
}

func (c *town) Warnings(ctx context.Context) ([]string, error) {
	return []string{"the role is a superuser"}, c.ask(ctx, "advise", discoverTimeout)
}

func (c *town) Limits(ctx context.Context) (driver.Limits, error) {
	return driver.Limits{Server: 97}, c.ask(ctx, "limits", discoverTimeout)
}

func (c *town) Writes(ctx context.Context) (map[uint32]driver.Writes, error) {
	return map[uint32]driver.Writes{7: {}}, c.ask(ctx, "writes", discoverTimeout)
}

// crier is a listener that notes what it is told, in words.
type crier struct{ told []string }

func (c *crier) tell(format string, args ...any) {
	baton.Lock()
	defer baton.Unlock()
	c.told = append(c.told, fmt.Sprintf(format, args...))
}
func (c *crier) Leading(yes bool, holder string)     { c.tell("leading %t %s", yes, holder) }
func (c *crier) Unreachable(err error)               { c.tell("unreachable: %s", err) }
func (c *crier) Discovered([]driver.Database)        { c.tell("discovered") }
func (c *crier) Busy(names []string)                 { c.tell("busy %v", names) }
func (c *crier) Limits(l driver.Limits)              { c.tell("%d allowed", l.Server) }
func (c *crier) Writes(all map[uint32]driver.Writes) { c.tell("%d written to", len(all)) }

// count returns how often it was told something.
func (c *crier) count(what string) (n int) {
	for _, told := range c.told {
		if told == what {
			n++
		}
	}
	return n
}

// maintain runs a maintenance connection in a bubble. at is called with what goes on, and ends it when it
// returns.
func maintain(t *testing.T, change func(*town, *Config), at func(*testing.T, *town, *crier, *Maintenance, *Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c, out := newTown(), &crier{}
		cfg := Config{Driver: c, Postgres: pgConfig("odoo"), DiscoverInterval: time.Hour, PollInterval: 2 * time.Second, Logger: zap.NewNop()}
		change(c, &cfg)
		m := New(func() Config {
			baton.Lock()
			defer baton.Unlock()
			return cfg
		}, out)
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() {
			defer close(over)
			m.Run(ctx)
		}()
		synctest.Wait()
		baton.Lock()
		at(t, c, out, m, &cfg)
		told := len(out.told)
		baton.Unlock()
		cancel()
		<-over
		require.Len(t, out.told, told, "its end is told to nobody")
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	baton.Unlock()
	defer baton.Lock()
	timing.Sleep(context.Background(), d)
	synctest.Wait()
}

// What a new leader does first, in that order: what was ordered elsewhere is in force, and how many
// connections there may be is known, before there is a database.
func TestNewLeader(t *testing.T) {
	elections, early := 0, errors.New("not elected")
	core, logs := observer.New(zap.WarnLevel)
	maintain(t, func(c *town, cfg *Config) {
		cfg.Logger = zap.New(core)
		cfg.Elected = func(ctx context.Context) {
			elections++
			if early = c.ask(ctx, "elected", electedTimeout); c.asked["limits"] != nil {
				early = errors.New("the listener has been told already")
			}
		}
	}, func(t *testing.T, c *town, out *crier, _ *Maintenance, _ *Config) {
		require.Equal(t, []string{"leading true ", "97 allowed", "discovered", "busy []"}, out.told)
		require.NoError(t, early)
		pass(time.Minute)
		require.Equal(t, 1, elections)
		require.Len(t, c.asked["advise"], 1)
		require.Equal(t, 1, logs.FilterMessage("the role is a superuser").Len())
		require.Len(t, c.asked["open"], 1)
		require.InDelta(t, time.Minute/leadInterval, len(c.asked["lead"]), 5)
		require.InDelta(t, time.Minute/limitsInterval, len(c.asked["limits"]), 2)
		require.InDelta(t, time.Minute/busyInterval, len(c.asked["busy"]), 2)
		require.Len(t, c.asked["list"], 1)
		require.Empty(t, c.asked["writes"])
		require.Equal(t, 1, out.count("busy []"), "nothing has changed")

		// Another one leads for a while.
		c.lock = driver.Lock{Holder: "pid 7"}
		pass(time.Minute)
		require.Equal(t, "leading false pid 7", out.told[len(out.told)-1])
		require.InDelta(t, 2*time.Minute/leadInterval, len(c.asked["lead"]), 10)
		lists, busy, limits := len(c.asked["list"]), len(c.asked["busy"]), len(c.asked["limits"])
		pass(time.Minute)
		require.Equal(t, []int{lists, busy, limits}, []int{len(c.asked["list"]), len(c.asked["busy"]), len(c.asked["limits"])})
		require.Equal(t, 1, elections)
		out.told, c.lock = nil, driver.Lock{Held: true}
		delete(c.asked, "limits")
		pass(3 * time.Second)
		require.Equal(t, 2, elections)
		require.NoError(t, early)
		require.Subset(t, out.told, []string{"97 allowed", "discovered", "busy []"}, "at once, and all of it")
		require.Len(t, c.asked["advise"], 2)
		require.Equal(t, 1, logs.Len(), "what is unwise is said once")
		require.Len(t, c.asked["open"], 1)
	})
}

// One that does not lead is not elected, and says nothing of what the connection is allowed.
func TestStandbyIsNotElected(t *testing.T) {
	maintain(t, func(c *town, cfg *Config) {
		c.lock = driver.Lock{Holder: "pid 7"}
		cfg.Elected = func(context.Context) { t.Error("elected") }
		cfg.Watching = func() bool { return true }
	}, func(t *testing.T, c *town, out *crier, m *Maintenance, _ *Config) {
		pass(time.Minute)
		m.Rediscover()
		pass(time.Second)
		require.Len(t, c.asked, 2, "it asks who leads, and nothing else")
		require.Len(t, out.told, out.count("leading false pid 7"))
	})
}

// What is busy is told when it changes, and then the databases are listed, because they are others.
func TestBusyDatabasesAreTold(t *testing.T) {
	maintain(t, func(c *town, _ *Config) { c.names = []string{"old"} }, func(t *testing.T, c *town, out *crier, _ *Maintenance, _ *Config) {
		require.Equal(t, []string{"leading true ", "97 allowed", "discovered", "busy [old]"}, out.told)
		pass(3 * time.Second)
		require.Len(t, c.asked["list"], 1, "they have just been listed")
		c.names = []string{"old", "new"}
		pass(busyInterval)
		require.Equal(t, 1, out.count("busy [old new]"))
		require.Len(t, c.asked["list"], 2)
		c.names = nil
		pass(busyInterval)
		require.Equal(t, 1, out.count("busy []"))
		require.Len(t, c.asked["list"], 3)
		require.Equal(t, 1, out.count("busy [old]"))
	})
}

// The databases are listed at the interval, and when somebody asks for it.
func TestRediscover(t *testing.T) {
	maintain(t, func(_ *town, cfg *Config) { cfg.DiscoverInterval = 10 * time.Second }, func(t *testing.T, c *town, _ *crier, m *Maintenance, _ *Config) {
		pass(time.Minute)
		require.InDelta(t, 7, len(c.asked["list"]), 2)
		before := len(c.asked["list"])
		m.Rediscover()
		pass(0)
		require.Len(t, c.asked["list"], before+1)
	})
}

// A runner that is to lead under another name gives the lock of the former one back first, and takes the
// new one at once.
func TestAnotherKey(t *testing.T) {
	maintain(t, func(*town, *Config) {}, func(t *testing.T, c *town, out *crier, m *Maintenance, cfg *Config) {
		old := leaderKey(*cfg)
		out.told = nil
		cfg.Name = "other"
		m.Rediscover()
		pass(0)
		require.Equal(t, []int64{old}, c.keys)
		require.Equal(t, []string{"leading false ", "leading true "}, out.told[:2])
		require.Equal(t, c.asked["unlead"][0], c.asked["lead"][len(c.asked["lead"])-1])

		c.lock = driver.Lock{Holder: "pid 7"}
		pass(5 * time.Second)
		cfg.Name = "third"
		pass(5 * time.Second)
		require.Len(t, c.keys, 1, "there was nothing to give back")

		c.lock, c.errs = driver.Lock{Held: true}, map[string]error{"unlead": errors.New("failed")}
		pass(5 * time.Second)
		cfg.Name = "fourth"
		pass(3 * time.Second)
		require.Equal(t, 1, out.count("unreachable: give the leader lock back: failed"))
		require.Len(t, c.asked["open"], 2)
	})
}

// Whatever fails that a leader depends on ends the connection; others follow, after a pause that grows.
// What it does not depend on ends it only if that is because the connection is lost, and is said once.
func TestWhatEndsTheConnection(t *testing.T) {
	failed := errors.New("failed")
	lost := fmt.Errorf("failed: %w", driver.ErrLost)
	for name, c := range map[string]struct {
		what string
		err  error
		text string
	}{
		"open":        {"open", failed, "connect to the maintenance database postgres: failed"},
		"lead":        {"lead", failed, "take the leader lock: failed"},
		"list":        {"list", failed, "list the databases: failed"},
		"busy":        {"busy", failed, "look for databases in use: failed"},
		"advise":      {"advise", failed, "look for rights that are not needed: failed"},
		"limits lost": {"limits", lost, lost.Error()},
		"writes lost": {"writes", lost, "watch the databases: " + lost.Error()},
		"limits":      {"limits", failed, ""},
		"writes":      {"writes", failed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zap.WarnLevel)
			maintain(t, func(town *town, cfg *Config) {
				town.errs = map[string]error{c.what: c.err}
				cfg.Postgres.Database = "postgres"
				cfg.Logger, cfg.Watching = zap.New(core), func() bool { return true }
			}, func(t *testing.T, town *town, out *crier, _ *Maintenance, _ *Config) {
				pass(time.Minute)
				if c.text == "" {
					require.Len(t, town.asked["open"], 1)
					require.Equal(t, 1, logs.FilterMessageSnippet(": failed").Len())
					require.Zero(t, out.count("97 allowed")*out.count("1 written to"))
					if c.what == "writes" {
						require.Len(t, town.asked["writes"], out.count("0 written to"))
						require.InDelta(t, 30, len(town.asked["writes"]), 3)
					}
					return
				}
				require.Len(t, town.asked["open"], out.count("unreachable: "+c.text))
				if c.what != "open" {
					require.Len(t, town.asked["close"], len(town.asked["open"]))
				}
				opened := town.asked["open"]
				require.InDelta(t, reconnectFirst, opened[1]-opened[0], float64(reconnectFirst)/4)
				require.InDelta(t, reconnectLimit, opened[len(opened)-1]-opened[len(opened)-2], float64(reconnectLimit)/4)
			})
		})
	}
}

// A connection that has worked is followed by the next one without a growing pause.
func TestPauseAfterAConnectionThatWorked(t *testing.T) {
	maintain(t, func(c *town, _ *Config) { c.errs = map[string]error{"open": errors.New("failed")} }, func(t *testing.T, c *town, out *crier, _ *Maintenance, _ *Config) {
		pass(time.Minute)
		c.errs = nil
		pass(reconnectLimit * 2)
		c.errs = map[string]error{"busy": errors.New("failed")}
		tries := len(c.asked["open"])
		pass(busyInterval + reconnectFirst*5/4)
		require.InDelta(t, reconnectFirst, c.asked["open"][tries]-c.asked["close"][0], float64(reconnectFirst)/4)
		require.NotZero(t, out.count("unreachable: look for databases in use: failed"))
	})
}

// After a panic the next connection follows, not at once, and the lead is told to be lost.
func TestPanicEndsOneConnection(t *testing.T) {
	maintain(t, func(c *town, _ *Config) { c.panics = true }, func(t *testing.T, c *town, out *crier, _ *Maintenance, _ *Config) {
		require.Equal(t, []string{"unreachable: panic"}, out.told)
		pass(restartPause - 1)
		require.Len(t, c.asked["open"], 1)
		pass(1)
		require.Equal(t, []time.Duration{0, restartPause}, c.asked["open"])
		require.Equal(t, 1, out.count("leading true "))
	})
}

// What is written is asked for at its interval, as long as somebody wants to know.
func TestWritesAreWatched(t *testing.T) {
	var watching atomic.Bool
	maintain(t, func(_ *town, cfg *Config) {
		cfg.Watching = watching.Load
	}, func(t *testing.T, c *town, out *crier, _ *Maintenance, _ *Config) {
		pass(10 * time.Second)
		require.Empty(t, c.asked["writes"])
		watching.Store(true)
		pass(20 * time.Second)
		require.InDelta(t, 10, len(c.asked["writes"]), 1)
		require.Len(t, c.asked["writes"], out.count("1 written to"))
		for i, at := range c.asked["writes"][1:] {
			require.Equal(t, 2*time.Second, at-c.asked["writes"][i], "it wakes up for it")
		}
		watching.Store(false)
		pass(time.Minute)
		require.InDelta(t, 10, len(c.asked["writes"]), 1)
	})
}

// Databases lists them on a connection that is closed again.
func TestDatabasesOnTheirOwnConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTown()
		cfg := Config{Driver: single{c}, Postgres: pgConfig("odoo")}
		_, err := Databases(t.Context(), cfg)
		require.NoError(t, err)
		require.Len(t, c.asked, 3)
		failed := errors.New("failed")
		for _, what := range []string{"open", "list"} {
			c.errs, c.asked["close"] = map[string]error{what: failed}, nil
			_, err = Databases(t.Context(), cfg)
			require.ErrorIs(t, err, failed)
			require.ErrorContains(t, err, "list the databases: ")
			require.Equal(t, what == "list", len(c.asked["close"]) == 1)
		}
	})
}

// single is a town in which the connection is part of the question.
type single struct{ *town }

func (s single) OpenCluster(_ context.Context, _ *pgx.ConnConfig) (driver.Cluster, error) {
	s.asked["open"] = append(s.asked["open"], 0)
	return s.town, s.errs["open"]
}
