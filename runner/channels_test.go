package runner_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// perDatabase returns a configuration in which channels stand in the databases.
func (b *bench) perDatabase(maxCapacity int, rules string) runner.Config {
	cfg := b.config("")
	cfg.DatabaseChannels = &channels.Capacities{Max: maxCapacity}
	if rules != "" {
		var err error
		cfg.DatabaseChannels.Rules, err = channels.ParseCapacityRules(rules)
		require.NoError(b, err)
	}
	return cfg
}

// of selects the runs of a database.
func of(db string) func(mock.Run) bool { return func(r mock.Run) bool { return r.Job.DB == db } }

func TestDatabaseChannels(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b", "c", "nothing")
		b.Undetected("nothing")
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 2}, channels.Config{Name: "root.mail", Capacity: 1})
		b.SetChannels("b", channels.Config{Name: "root"})
		b.SetPlan(mock.Plan{RunFor: time.Second})
		keys := b.jobs("a", "mail", "m", 10)
		keys = append(keys, b.jobs("a", "", "a", 10)...)
		keys = append(keys, b.jobs("b", "", "b", 20)...)
		keys = append(keys, b.jobs("c", "", "c", 20)...)
		r := b.start(b.perDatabase(5, "c:1"))
		st := b.status(r)
		require.True(b, st.DatabaseChannels)
		require.Equal(b, []int{5, 5}, []int{st.MaxCapacity, st.Running})
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 5, b.MaxConcurrent(nil), "max_capacity is for all of them")
		require.Equal(b, 2, b.MaxConcurrent(of("a")), "the root of the database")
		require.Equal(b, 1, b.MaxConcurrent(of("c")), "db_max_capacity")
		require.Equal(b, 1, b.MaxConcurrent(func(r mock.Run) bool { return r.Job.DB == "a" && r.Job.UUID[0] == 'm' }))
		b.requireIdle(r)
		var names []string
		for _, c := range b.status(r).Channels {
			names = append(names, c.DB+" "+c.FullName)
		}
		require.Equal(b, []string{"a root", "a root.mail", "b root", "c root"}, names)
	})
}

func TestDatabasesTakeTurns(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b", "c")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("a", "", "a", 20)
		b.jobs("b", "", "b", 3)
		b.jobs("c", "", "c", 3)
		b.start(b.perDatabase(1, ""))
		b.settle(time.Minute)
		require.Equal(b, []string{"a1", "b1", "c1", "a2", "b2", "c2", "a3", "b3", "c3", "a4"}, b.Order()[:10])
	})
}

func TestChannelsChangeWhileServed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b")
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 1})
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		b.jobs("a", "", "a", 9)
		b.jobs("b", "mail", "b", 9)
		r := b.start(b.perDatabase(20, "b:2"))
		require.Equal(b, 3, b.status(r).Open)
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 4})
		b.settle(time.Millisecond)
		require.Equal(b, 6, b.status(r).Open, "with the notification, and the running one stays counted")
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 1})
		b.settle(time.Millisecond)
		require.Equal(b, 6, b.status(r).Open, "nothing is stopped")
		require.Equal(b, 1, b.Calls("a", "OpenSession"))
		require.Equal(b, 1, b.Calls("a", "Snapshot"), "the jobs need not be read again")
		require.Equal(b, 1, b.Calls("b", "Channels"), "others are not concerned")

		// Somebody changes rows behind Odoo's back: the next full read sees it.
		b.Fault("a", func(f *mock.Faults) { f.Deaf = true })
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 7})
		b.Fault("a", func(f *mock.Faults) { f.Deaf = false })
		b.settle(time.Second)
		require.Equal(b, 6, b.status(r).Open)
		b.settle(10 * time.Minute)
		require.Equal(b, 9, b.status(r).Open)
		require.Equal(b, 4, b.logged("Configured channels"))
	})
}

// A change that is announced while all jobs are being read is not left lying.
func TestChannelsChangeDuringARead(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		b.jobs("a", "", "a", 9)
		cfg := b.perDatabase(20, "")
		b.SetChannels("a", channels.Config{Name: "root", Capacity: 1})
		once := true
		cfg.Driver = &fakeDriver{Driver: cfg.Driver, session: func(s driver.Session) driver.Session {
			return &readerSession{Session: s, channels: func() {
				if once {
					once = false
					b.SetChannels("a", channels.Config{Name: "root", Capacity: 3})
				}
			}}
		}}
		r := b.start(cfg)
		require.Equal(b, 3, b.status(r).Open)
	})
}

// readerSession calls a function when the channels have been read.
type readerSession struct {
	driver.Session
	channels func()
}

func (s *readerSession) Channels(ctx context.Context) ([]channels.Config, error) {
	cfgs, err := s.Session.(driver.ChannelReader).Channels(ctx)
	s.channels()
	return cfgs, err
}

func TestBadChannelsHoldOneDatabase(t *testing.T) {
	for name, c := range map[string]struct {
		bad, good func(*bench)
		want      string
		level     zapcore.Level
	}{
		"a mistake": {
			func(b *bench) {
				b.SetChannels("bad", channels.Config{Name: "root.mail", Capacity: 2, Sequential: true})
			},
			func(b *bench) { b.SetChannels("bad", channels.Config{Name: "root.mail", Capacity: 2}) },
			"channel root.mail: a sequential channel must have a capacity of 1", zapcore.WarnLevel,
		},
		"an old add-on": {
			func(b *bench) {
				b.Fault("bad", func(f *mock.Faults) { f.ChannelsErr = fmt.Errorf("%w: upgrade the add-on", driver.ErrChannels) })
			},
			func(b *bench) {
				b.Fault("bad", func(f *mock.Faults) { f.ChannelsErr = nil })
				b.SetChannels("bad")
			},
			"upgrade the add-on", zapcore.ErrorLevel,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("bad", "good")
				c.bad(b)
				waiting, fine := b.one("bad", "w"), b.one("good", "f")
				b.HoldLock(key("bad", "found"), 7)
				b.one("bad", "found", func(m *mock.Job) { m.State, m.Enqueued = channels.Started, time.Now().UnixMicro() })
				b.HoldLock(key("bad", "found"), 7)
				cfg := b.perDatabase(2, "")
				cfg.Events = j.add
				r := b.start(cfg)
				b.settle(time.Minute)
				b.requireRanOnce(fine)
				require.Empty(b, b.RunsOf(waiting))
				b.requireState(r, "bad", runner.DatabaseUnhealthy)
				b.requireState(r, "good", runner.DatabaseReady)
				require.Contains(b, b.status(r).Databases[0].Detail, c.want)
				require.True(b, b.status(r).Databases[0].Fresh(time.Now()), "its session lives")
				require.Equal(b, 1, b.status(r).Running, "what runs there is counted")
				w, err := r.Why(b.Context(), waiting)
				require.NoError(b, err)
				require.Equal(b, "database_unhealthy", w.Code)
				require.Contains(b, w.Text, c.want)
				require.Len(b, j.of("", runner.EventDatabaseUnhealthy), 1)
				logged := b.logs.FilterMessageSnippet(c.want)
				require.Equal(b, 1, logged.Len(), "said once")
				require.Equal(b, c.level, logged.All()[0].Level)

				c.good(b)
				b.settle(time.Second)
				b.requireRanOnce(waiting)
				b.requireState(r, "bad", runner.DatabaseReady)

				// And while it is served.
				c.bad(b)
				b.Notify("bad", mock.ReloadPayload)
				b.settle(time.Second)
				late := b.one("bad", "late")
				b.settle(time.Minute)
				require.Empty(b, b.RunsOf(late))
				b.requireState(r, "bad", runner.DatabaseUnhealthy)
				require.NoError(b, r.Reconfigure(b.config("root:5")))
				b.settle(time.Second)
				b.requireRanOnce(late)
				b.requireState(r, "bad", runner.DatabaseReady)
				require.Equal(b, 1, b.Calls("bad", "OpenSession"))
			})
		})
	}
}

// An error that is not about the channels ends the connection, and the next one
// reads them again.
func TestChannelsCannotBeRead(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) { f.ChannelsErr = errors.New("canceling statement") })
		k := b.one("prod", "a")
		r := b.start(b.perDatabase(1, ""))
		b.settle(10 * time.Second)
		b.requireState(r, "prod", runner.DatabaseUnreachable)
		require.Empty(b, b.RunsOf(k))
		b.Fault("prod", func(f *mock.Faults) { f.ChannelsErr = nil })
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
	})
}

func TestDriverWithoutChannels(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.perDatabase(1, "")
		cfg.Driver = &fakeDriver{Driver: cfg.Driver, session: func(s driver.Session) driver.Session { return &fakeSession{Session: s} }}
		r := b.start(cfg)
		b.requireState(r, "prod", runner.DatabaseUnhealthy)
		require.Contains(b, b.status(r).Databases[0].Detail, "the driver knows of none")
	})
}

func TestServerWideTreesReadNoChannels(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:2"))
		b.SetChannels("prod", channels.Config{Name: "root", Capacity: 1, Paused: true})
		k := b.one("prod", "a")
		b.settle(10 * time.Minute)
		b.requireRanOnce(k)
		require.Zero(b, b.Calls("prod", "Channels"))
		require.False(b, b.status(r).DatabaseChannels)
	})
}

// TestChangeOfMode goes to and fro under load: no job is lost or run twice, and
// what runs is counted.
func TestChangeOfMode(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
		for _, db := range []string{"a", "b"} {
			b.SetChannels(db, channels.Config{Name: "root", Capacity: 3})
			b.jobs(db, "mail", "m", 50)
			b.jobs(db, "", "r", 50)
		}
		wide, own := b.config("root:4"), b.perDatabase(6, "")
		r := b.start(wide)
		require.Equal(b, 4, b.status(r).Open)
		for _, step := range []struct {
			cfg  runner.Config
			open int
		}{{own, 6}, {wide, 6}, {b.config("root:8"), 8}, {own, 8}, {b.perDatabase(9, "*:1"), 8}} {
			require.NoError(b, r.Reconfigure(step.cfg))
			b.settle(time.Millisecond)
			require.Equal(b, step.open, b.status(r).Open)
		}
		for range 20 {
			require.NoError(b, r.Reconfigure(wide))
			b.settle(3 * time.Second)
			require.NoError(b, r.Reconfigure(own))
			b.settle(3 * time.Second)
		}
		b.settle(10 * time.Minute)
		require.Equal(b, 100, b.Count("a", channels.Done))
		require.Equal(b, 100, b.Count("b", channels.Done))
		require.Len(b, b.Runs(), 200)
		require.Equal(b, 1, b.Calls("a", "OpenSession"))
		b.requireIdle(r)
		bad := own
		bad.Channels = wide.Channels
		require.ErrorContains(b, r.Reconfigure(bad), "channels and database_channels exclude each other")
	})
}

func TestPausesInDatabaseChannels(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b", "closed")
		r := b.start(b.perDatabase(9, "closed:0"))
		pause := runner.Pause{Channel: "root.mail", By: "somebody"}
		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{pause}}))
		b.AddDatabase("new")
		b.settle(time.Minute)
		var held []channels.Key
		for _, db := range []string{"a", "b", "new"} {
			held = append(held, b.jobs(db, "mail", "m", 2)...)
			b.jobs(db, "", "r", 1)
		}
		shut := b.one("closed", "x")
		b.settle(time.Second)
		require.Len(b, b.Runs(), 3)
		w, err := r.Why(b.Context(), held[5])
		require.NoError(b, err)
		require.Equal(b, runner.WhyPausedChannel, w.Code)
		w, err = r.Why(b.Context(), shut)
		require.NoError(b, err)
		require.Equal(b, runner.WhyPausedConfig, w.Code)
		require.Contains(b, w.Text, "db_max_capacity")
		for _, c := range b.status(r).Channels {
			require.Equal(b, c.FullName == "root.mail", c.Pause != nil)
		}
		require.NoError(b, r.Control(b.Context(), runner.Controls{}))
		b.settle(time.Second)
		b.requireRanOnce(held...)
	})
}

func TestWhyMaxCapacity(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("a", "b")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		b.one("a", "1")
		r := b.start(b.perDatabase(1, ""))
		k := b.one("b", "2")
		b.settle(time.Second)
		w, err := r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, "max_capacity", w.Code)
		require.Equal(b, []int{1, 1}, []int{w.Running, w.Capacity})
	})
}

// A database that is not served any more leaves nothing behind once its last
// request has ended.
func TestTreeOfAnUnservedDatabaseEnds(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("gone", "stays")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		b.one("gone", "a")
		cfg := b.perDatabase(1, "")
		r := b.start(cfg)
		cfg.Databases = []string{"stays"}
		require.NoError(b, r.Reconfigure(cfg))
		k := b.one("stays", "b")
		b.settle(10 * time.Second)
		require.Empty(b, b.RunsOf(k), "the open request keeps its place")
		require.Len(b, b.status(r).Channels, 2)
		b.settle(2 * time.Minute)
		b.requireRanOnce(k)
		require.Len(b, b.status(r).Channels, 1)
	})
}

// A database that has become a copy for trials has no channels to show.
func TestChannelsOfANeutralizedDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("copy")
		b.one("copy", "a")
		r := b.start(b.perDatabase(1, ""))
		b.settle(time.Minute)
		require.Len(b, b.status(r).Channels, 1)
		b.Neutralized("copy")
		b.settle(10 * time.Minute)
		b.requireState(r, "copy", runner.DatabaseNeutralized)
		require.Empty(b, b.status(r).Channels)
	})
}

// What is wrong with the application is an error, whatever its channels are like.
func TestUnhealthyWithBadChannels(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("bad")
		b.SetChannels("bad", channels.Config{Name: "root.mail", Capacity: 2, Sequential: true})
		r := b.start(b.perDatabase(1, ""))
		b.requireState(r, "bad", runner.DatabaseUnhealthy)
		b.Unhealthy("bad", "trigger is missing")
		b.settle(10 * time.Minute)
		logged := b.logs.FilterMessageSnippet("cannot be served: trigger is missing")
		require.Equal(b, 1, logged.Len())
		require.Equal(b, zapcore.ErrorLevel, logged.All()[0].Level)
	})
}
