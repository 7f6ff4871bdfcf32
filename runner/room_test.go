package runner_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// visited is a set of servers with visitors.
type visited map[string]*atomic.Int64

func (v visited) Upstreams(context.Context) (ups []driver.Upstream, err error) {
	for _, name := range []string{"odoo1", "odoo2"} {
		if n := v[name]; n != nil {
			ups = append(ups, driver.Upstream{Name: name, Load: func() int { return int(n.Load()) }})
		}
	}
	return ups, nil
}

// withVisitors starts a runner with one server of eight workers, of which two are reserved, and with so
// many visitors.
func (b *bench) withVisitors(n int64, channels string) (*runner.Runner, *atomic.Int64) {
	visitors := new(atomic.Int64)
	visitors.Store(n)
	return b.prod(channels, func(cfg *runner.Config) {
		cfg.Targets = visited{"odoo1": visitors}
		cfg.Server = upstream.Limits{Workers: 8, Reserve: 2}
	}), visitors
}

// at limits a number to the requests to one server.
func at(server string) func(mock.Run) bool {
	return func(r mock.Run) bool { return r.Upstream == server }
}

// open counts the jobs that are claimed or run.
func (b *bench) open(db string) int {
	return b.Count(db, channels.Enqueued) + b.Count(db, channels.Started)
}

func TestServersGetNoMoreJobsThanTheyMayHave(t *testing.T) {
	for name, trees := range map[string]bool{"one tree": false, "tree for each database": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "test")
				b.SetPlan(mock.Plan{RunFor: time.Second})
				cfg := b.config("root:100")
				if trees {
					cfg = b.perDatabase(100, "*:100")
				}
				cfg.Targets = upstreams{"odoo1", "odoo2"}
				cfg.Server = upstream.Limits{MaxJobs: 3}
				r := b.start(cfg)
				keys := append(b.jobs("prod", "", "a", 30), b.jobs("test", "", "b", 30)...)
				b.settle(500 * time.Millisecond)
				require.Equal(b, 6, b.open("prod")+b.open("test"), "nothing is claimed that no server could take")
				b.settle(time.Minute)
				b.requireRanOnce(keys...)
				require.Equal(b, 3, b.MaxConcurrent(at("odoo1")))
				require.Equal(b, 3, b.MaxConcurrent(at("odoo2")))
				b.requireIdle(r)
			})
		})
	}
}

// A channel whose slots are held by jobs that wait for a server is not what keeps the others waiting.
func TestWhyBehindJobsThatNoServerTakes(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, visitors := b.withVisitors(5, "root:100,root.mail:2")
		keys := b.jobs("prod", "root.mail", "a", 4)
		b.settle(time.Second)
		require.Equal(b, 1, b.open("prod"))
		w, err := r.Why(b.Context(), keys[3])
		require.NoError(b, err)
		require.Equal(b, runner.WhyNoServer, w.Code)
		require.Contains(b, w.Text, "; 1 of the 2 slots of channel root.mail are held by jobs that wait for a server, too")
		visitors.Store(0)
		b.settle(upstream.RecheckInterval)
		w, err = r.Why(b.Context(), keys[3])
		require.NoError(b, err)
		require.Equal(b, "channel_full", w.Code, "both run now")
		visitors.Store(6)
		b.settle(upstream.RecheckInterval)
		w, err = r.Why(b.Context(), keys[3])
		require.NoError(b, err)
		require.Equal(b, "channel_full", w.Code, "no job waits in it for a server")
		visitors.Store(0)
		b.settle(2 * time.Hour)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

func TestVisitorsComeFirst(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, visitors := b.withVisitors(6, "root:100")
		keys := b.jobs("prod", "", "a", 10)
		b.settle(time.Minute)
		require.Zero(b, b.open("prod"))
		w, err := r.Why(b.Context(), keys[1])
		require.NoError(b, err)
		require.Equal(b, runner.WhyNoServer, w.Code)
		require.Equal(b, "no Odoo server takes another job now: odoo1: 0 jobs and 6 requests of visitors on 8 workers, of which 2 are reserved to visitors; 1 job goes before this one", w.Text)

		visitors.Store(3)
		b.settle(upstream.RecheckInterval)
		require.Equal(b, 3, b.open("prod"), "nothing else has told that visitors have left")
		visitors.Store(7)
		b.settle(time.Second)
		require.Equal(b, 3, b.open("prod"), "what runs goes on")
		up := b.status(r).Upstreams[0]
		require.Equal(b, 7, up.Visitors)
		require.Equal(b, "3 jobs and 7 requests of visitors on 8 workers, of which 2 are reserved to visitors", up.Full)
		visitors.Store(0)
		b.settle(upstream.RecheckInterval)
		require.Equal(b, 6, b.open("prod"))

		cfg := b.config("root:100")
		cfg.Targets = visited{"odoo1": visitors}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Second)
		require.Equal(b, 10, b.open("prod"), "the limits are gone")
		cfg.Server = upstream.Limits{MaxJobs: 4}
		require.NoError(b, r.Reconfigure(cfg))
		more := b.one("prod", "more")
		b.settle(10 * time.Second)
		require.Empty(b, b.RunsOf(more), "what runs counts against new limits")
		b.settle(2 * time.Hour)
		b.requireRanOnce(append(keys, more)...)
		b.requireIdle(r)
	})
}

// A job that has waited for long gets a worker that is reserved, alone, but none that a visitor has.
func TestReserveYields(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, visitors := b.withVisitors(6, "root:100")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		keys := b.jobs("prod", "", "a", 3)
		b.Update(keys[2], func(j *mock.Job) { j.ETA = time.Now().Add(time.Minute).UnixMicro() })
		b.settle(10*time.Minute - time.Second)
		require.Zero(b, b.open("prod"))
		b.settle(2 * time.Second)
		require.Equal(b, 1, b.open("prod"))
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Done))
		b.settle(3 * time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))

		visitors.Store(8)
		last := b.one("prod", "last")
		b.settle(time.Hour)
		require.Empty(b, b.RunsOf(last))
		visitors.Store(7)
		b.settle(2 * time.Minute)
		b.requireRanOnce(last)
		b.requireIdle(r)
	})
}

// Room that is kept for jobs that are being claimed is given back however that ends.
func TestRoomIsGivenBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "gone")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		cfg := b.config("root:100")
		cfg.Server = upstream.Limits{MaxJobs: 1}
		r := b.start(cfg)
		var keys []channels.Key
		for range 20 {
			keys = append(keys, b.jobs("prod", "", "a"+time.Now().Format("150405.000"), 2)...)
			b.LoseSession("prod")
			b.one("gone", "g"+time.Now().Format("150405.000"))
			b.settle(time.Second)
		}
		b.DropDatabase("gone")
		b.settle(5 * time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))
		b.requireIdle(r)
		audit, err := r.Audit(b.Context())
		require.NoError(b, err)
		require.Empty(b, audit.Faults)
	})
}

// Among equals, the server is chosen that ran the last job of the database, where there are several.
func TestDatabasesStayWhereTheyAreWarm(t *testing.T) {
	three := []string{"one", "two", "three"}
	for name, c := range map[string]struct {
		limits upstream.Limits
		dbs    []string
		want   int
	}{
		"with limits":               {upstream.Limits{MaxJobs: 4}, three, 1},
		"without":                   {upstream.Limits{}, three, 2},
		"with limits, one database": {upstream.Limits{MaxJobs: 4}, three[:1], 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase(c.dbs...)
				b.SetPlan(mock.Plan{RunFor: time.Second})
				cfg := b.config("root:100")
				cfg.Targets, cfg.Server = upstreams{"odoo1", "odoo2"}, c.limits
				b.start(cfg)
				servers := make(map[string]map[string]bool)
				for i := range 9 {
					db := c.dbs[i%len(c.dbs)]
					k := b.one(db, db+time.Now().Format("150405.000"))
					b.settle(2 * time.Second)
					if servers[db] == nil {
						servers[db] = make(map[string]bool)
					}
					servers[db][b.RunsOf(k)[0].Upstream] = true
				}
				for db := range servers {
					require.Len(b, servers[db], c.want, db)
				}
			})
		})
	}
}

// What is reserved is not had for a date in a row, nor because a job waits that is paused.
func TestReserveIsNotHadByRows(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, _ := b.withVisitors(6, "root:100")
		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{Channel: "root.paused"}}}))
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("prod", "paused", "p", 1)
		b.settle(11 * time.Minute)
		old := mock.NewJob("prod", "old")
		old.Created = 1
		b.Insert(old)
		fresh := b.one("prod", "fresh")
		b.settle(9 * time.Minute)
		require.Zero(b, b.open("prod"))
		require.Empty(b, b.Runs())
		b.settle(2 * time.Minute)
		b.requireRanOnce(old.Key, fresh)
	})
}

// TestObjectives: what is reserved opens when jobs have waited for as long as the policy of their channel
// allows, and only if too many have.
func TestObjectives(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, visitors := b.withVisitors(6, "root:100")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		cfg := b.config("root:100")
		cfg.Targets = visited{"odoo1": visitors}
		cfg.Server = upstream.Limits{Workers: 8, Reserve: 2}
		cfg.Policies = []policy.Policy{
			{Channels: []string{"root.mail"}, Objective: &policy.Objective{Wait: time.Minute}},
			{Channels: []string{"root"}, Objective: &policy.Objective{Wait: time.Hour, Percent: 50}},
		}
		require.NoError(b, r.Reconfigure(cfg))
		others := b.jobs("prod", "root.export", "a", 2)
		b.settle(50 * time.Minute)
		require.Zero(b, b.open("prod"), "they may wait for an hour")
		more := b.jobs("prod", "root.export", "b", 3)
		b.settle(20 * time.Minute)
		require.Equal(b, 5, b.Count("prod", channels.Pending), "two of five have waited for longer than an hour")
		mail := b.one("prod", "m", inChannel("root.mail"), func(j *mock.Job) { j.Priority = 1 })
		b.settle(30 * time.Second)
		require.Zero(b, b.Count("prod", channels.Done))
		b.settle(40 * time.Second)
		b.requireDone(mail)
		require.Equal(b, 5, b.Count("prod", channels.Pending))
		b.settle(3 * time.Hour)
		b.requireRanOnce(append(others, more...)...)
		require.Equal(b, 1, b.MaxConcurrent(at("odoo1")))
	})
}
