package runner

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Seats are counted where servers have limits, once for each task.
func TestSeats(t *testing.T) {
	t.Parallel()
	var s seats
	var r seatRow
	var a, b task
	s.take(&a, &r)
	require.Zero(t, r.taken)
	s.limited = true
	s.take(&a, &r)
	s.take(&b, &r)
	require.Equal(t, 2, r.taken)
	s.leave(&a)
	s.leave(&a)
	require.Equal(t, 1, r.taken)
}

// waiting puts a job into the tree that has been ready since a moment.
func (e *engine) waiting(since time.Time) {
	e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "waits"}, Created: since.UnixMicro(), ETA: since.UnixMicro()}, channels.Pending)
}

// What is reserved to visitors is had by one job at a time, after no server has had room for ten minutes
// and a job has waited for as long.
func TestWhenTheReserveYields(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	reserved := upstream.Room{Reserved: 1}
	for name, c := range map[string]struct {
		room   upstream.Room
		taken  int
		shut   time.Duration
		waited time.Duration
		want   bool
	}{
		"after ten minutes":  {room: reserved, shut: 10 * time.Minute, waited: 10 * time.Minute, want: true},
		"shut for less":      {room: reserved, shut: 10*time.Minute - 1, waited: time.Hour},
		"waited for less":    {room: reserved, shut: time.Hour, waited: 10*time.Minute - time.Second},
		"never shut":         {room: reserved, shut: -1, waited: time.Hour},
		"nothing reserved":   {room: upstream.Room{}, shut: time.Hour, waited: time.Hour},
		"another job runs":   {room: upstream.Room{Reserved: 1, Jobs: 1}, shut: time.Hour, waited: time.Hour},
		"another is claimed": {room: reserved, taken: 1, shut: time.Hour, waited: time.Hour},
		"none of the two":    {room: upstream.Room{Reserved: 1, Jobs: 1}, taken: -1, shut: time.Hour, waited: time.Hour, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, _ := served()
			e.waiting(now.Add(-c.waited))
			row := e.seats.rows[0]
			if c.shut >= 0 {
				row.shutSince = now.Add(-c.shut)
			}
			require.Equal(t, c.want, e.yields(row, c.taken, c.room, now))
		})
	}
}

// A job that waits is searched for once a second.
func TestOverdue(t *testing.T) {
	t.Parallel()
	e, _ := served()
	now, row := time.Unix(1_800_000_000, 0), e.seats.rows[0]
	require.False(t, e.overdue(row, now))
	e.waiting(now.Add(-time.Hour))
	require.False(t, e.overdue(row, now.Add(time.Second-1)))
	require.True(t, e.overdue(row, now.Add(time.Second)))
	e.tree.Remove(channels.Key{DB: "prod", UUID: "waits"})
	require.True(t, e.overdue(row, now.Add(2*time.Second-1)))
	require.False(t, e.overdue(row, now.Add(2*time.Second)))
}

// The time without room begins with the first pass that finds none, and ends with one that does.
func TestShut(t *testing.T) {
	t.Parallel()
	var s seatRow
	now := time.Unix(1_800_000_000, 0)
	s.shut(false, now)
	require.Zero(t, s.shutSince)
	s.shut(true, now)
	s.shut(true, now.Add(time.Minute))
	require.Equal(t, now, s.shutSince)
	s.shut(false, now.Add(time.Minute))
	require.Zero(t, s.shutSince)
}

// A pass is due if something may start now, or was to wake up by now.
func TestDue(t *testing.T) {
	t.Parallel()
	e, _ := served()
	now := time.Unix(1_800_000_000, 0)
	require.False(t, e.due(now))
	e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "later"}, ETA: now.UnixMicro()}, channels.Pending)
	e.tree.Next(now.Add(-time.Hour), 0)
	require.False(t, e.due(now.Add(-time.Second)))
	require.True(t, e.due(now))
	require.True(t, e.due(now.Add(time.Second)))
	e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "now"}}, channels.Pending)
	require.True(t, e.due(now.Add(-time.Second)))
}

// Where servers have limits, a pass starts no more than they have room for.
func TestRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		now, row := time.Now(), e.seats.rows[0]
		row.shutSince = now
		require.Equal(t, passLimit, e.room(now), "without limits")
		require.Zero(t, row.shutSince)

		cfg := e.config()
		cfg.Server = upstream.Limits{MaxJobs: 2}
		e.pool = upstream.New(cfg.upstream, poolReports{e}, func(_ string, f func()) { go f() })
		e.pool.Reconfigured()
		e.pool.Refresh(t.Context(), false)
		synctest.Wait()
		e.seats.limited = true
		require.Equal(t, 4, e.room(now))
		row.taken = 3
		require.Equal(t, 1, e.room(now))
		require.Equal(t, now, e.roomAt(now, now))
		for _, row.taken = range []int{4, 5} {
			require.Zero(t, e.room(now))
			require.Zero(t, row.shutSince, "nothing could start")
		}
		e.waiting(now)
		require.Zero(t, e.room(now))
		require.Equal(t, now, row.shutSince)
		require.Equal(t, now.Add(upstream.RecheckInterval), e.roomAt(now, now))
		require.Equal(t, now.Add(time.Hour), e.roomAt(now.Add(time.Hour), now))
		timing.Sleep(t.Context(), time.Minute)
		row.taken = 0
		require.Equal(t, 4, e.room(time.Now()))
		require.Zero(t, row.shutSince)
	})
}

// A row for each class that policies name, and what is known of one that stays is kept.
func TestRows(t *testing.T) {
	t.Parallel()
	var s seats
	s.configure(false, nil)
	require.False(t, s.pools())
	first := s.rows[0]
	heavy, fallback := policy.Policy{Pool: &policy.Pool{Pool: "heavy"}}, policy.Policy{Pool: &policy.Pool{Pool: "heavy", Fallback: true}}
	s.configure(true, []policy.Policy{heavy, fallback, heavy})
	require.True(t, s.pools())
	require.Len(t, s.rows, 3)
	require.Same(t, first, s.rows[0])
	require.Same(t, s.rows[2], s.gated("pool heavy fallback"))
	require.Same(t, first, s.gated("a gate that a reload has removed"))
	kept := s.rows[2]
	s.configure(true, []policy.Policy{fallback})
	require.Same(t, kept, s.rows[1])
}

// visited is a server that belongs to no pool, and one of each of two pools, all with so many visitors.
type visited struct{ visitors *atomic.Int32 }

func (v visited) Upstreams(context.Context) (ups []driver.Upstream, _ error) {
	load := func() int { return int(v.visitors.Load()) }
	for _, pool := range []string{"", "heavy", "light"} {
		ups = append(ups, driver.Upstream{Name: "odoo" + pool, Pool: pool, Load: load})
	}
	return ups, nil
}

// pooling is an engine in a bubble whose servers have one worker for visitors and three for all, with the
// channels export, in the pool heavy or elsewhere, batch, in heavy only, and light.
func pooling(t *testing.T, visitors *atomic.Int32) *engine {
	t.Helper()
	e, _ := served()
	e.with(func(cfg *Config) {
		cfg.Targets, cfg.Driver, cfg.Server = visited{visitors}, well{}, upstream.Limits{Workers: 4, Reserve: 1}
		cfg.Pools = map[string]upstream.Limits{"heavy": {}, "light": {}}
		cfg.Policies = []policy.Policy{
			{Channels: []string{"root.export"}, Pool: &policy.Pool{Pool: "heavy", Fallback: true}},
			{Channels: []string{"root.batch"}, Pool: &policy.Pool{Pool: "heavy"}},
			{Channels: []string{"root.light"}, Pool: &policy.Pool{Pool: "light"}},
		}
	})
	e.pool = upstream.New(e.config().upstream, poolReports{e}, func(_ string, f func()) { go f() })
	e.pool.Reconfigured()
	e.pool.Refresh(t.Context(), false)
	synctest.Wait()
	require.NoError(t, e.tree.Configure([]channels.Config{{Name: "root", Capacity: 100}}))
	e.databases.share(e.config().Policies)
	e.seats.configure(true, e.config().Policies)
	return e
}

// wait puts ten jobs into each of some channels that have been ready for an hour.
func (e *engine) wait(of ...string) {
	at := time.Now().Add(-time.Hour).UnixMicro()
	for _, channel := range of {
		for i := range 10 {
			key := channels.Key{DB: "prod", UUID: channel + " " + strconv.Itoa(i)}
			e.tree.Set(channels.Job{Key: key, Channel: channel, Created: at, ETA: at}, channels.Pending)
		}
	}
}

// starts counts the jobs that a pass lets start, by their channels.
func (e *engine) starts() map[string]int {
	e.rooms(time.Now())
	n := make(map[string]int)
	for _, key := range e.tree.Next(time.Now(), passLimit) {
		channel, _, _ := strings.Cut(key.UUID, " ")
		n[channel]++
	}
	return n
}

// Jobs of one pool share its room, whatever becomes of them while it is down, and so do those that run
// elsewhere meanwhile.
func TestRoomOfPools(t *testing.T) {
	for name, c := range map[string]struct {
		visitors             int32
		set                  func(*engine)
		others, heavy, light int // export counts with those on whose servers it runs
		fallback             bool
	}{
		"free":    {0, func(*engine) {}, 3, 3, 3, false},
		"visited": {1, func(*engine) {}, 2, 2, 2, false},
		"full":    {3, func(*engine) {}, 0, 0, 0, false},
		"some are being claimed": {0, func(e *engine) {
			e.seats.rows[0].taken, e.seats.rows[1].taken, e.seats.rows[2].taken = 2, 1, 1
		}, 1, 1, 3, false},
		"heavy is down": {0, func(e *engine) { e.pool.Suspect("odooheavy", errors.New("gone")) }, 3, 0, 3, true},
		"and some are being claimed": {0, func(e *engine) {
			e.pool.Suspect("odooheavy", errors.New("gone"))
			e.seats.rows[0].taken, e.seats.rows[1].taken = 1, 1
		}, 1, 0, 3, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				visitors := new(atomic.Int32)
				visitors.Store(c.visitors)
				e := pooling(t, visitors)
				e.wait("export", "batch", "mail", "light")
				c.set(e)
				n := e.starts()
				if c.fallback {
					n["mail"] += n["export"]
				} else {
					n["batch"] += n["export"]
				}
				require.Equal(t, []int{c.others, c.heavy, c.light}, []int{n["mail"], n["batch"], n["light"]})
			})
		})
	}
}

// How long there has been no room counts where visitors may have taken it, and a job waits for it; in the
// end it yields one place to such a job, unless another one has that.
func TestReserveOfPools(t *testing.T) {
	row := map[string]int{"mail": 0, "export": 1, "batch": 1, "light": 3}
	for channel, at := range row {
		t.Run(channel, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				visitors := new(atomic.Int32)
				visitors.Store(3)
				e := pooling(t, visitors)
				e.wait(channel)
				require.Empty(t, e.starts())
				require.Empty(t, e.starts())
				for i, r := range e.seats.rows {
					require.Equal(t, i == at, !r.shutSince.IsZero(), i)
				}
				timing.Sleep(t.Context(), defaultObjective.Wait)
				for _, r := range e.seats.rows {
					if r.class.Pool == e.seats.rows[at].class.Pool {
						r.taken = 1
						require.Empty(t, e.starts(), "another one is being claimed")
						r.taken = 0
					}
				}
				timing.Sleep(t.Context(), overdueInterval)
				require.Equal(t, map[string]int{channel: 1}, e.starts())
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := pooling(t, new(atomic.Int32))
		e.with(func(cfg *Config) { cfg.Server = upstream.Limits{MaxJobs: 1} })
		e.pool = upstream.New(e.config().upstream, poolReports{e}, func(_ string, f func()) { go f() })
		e.pool.Reconfigured()
		e.pool.Refresh(t.Context(), false)
		synctest.Wait()
		e.wait("mail")
		e.seats.rows[0].taken = 1
		require.Empty(t, e.starts())
		require.Empty(t, e.starts())
		require.Zero(t, e.seats.rows[0].shutSince, "it is not visitors who have taken it")
	})
}

// Room that visitors may leave at any time is looked for soon while jobs wait for it, and only then.
func TestWhenRoomIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		visitors := new(atomic.Int32)
		visitors.Store(3)
		e := pooling(t, visitors)
		now, none := time.Now(), time.Time{}
		soon := now.Add(upstream.RecheckInterval)
		require.Empty(t, e.starts())
		require.Equal(t, none, e.roomAt(none, now), "nothing waits")
		e.wait("mail")
		require.Empty(t, e.starts())
		require.Equal(t, soon, e.roomAt(none, now))
		require.Equal(t, now, e.roomAt(now, now))
		require.Equal(t, soon, e.roomAt(now.Add(time.Hour), now))
		visitors.Store(2)
		require.Equal(t, none, e.roomAt(none, now), "there is room")

		e.with(func(cfg *Config) { cfg.Server = upstream.Limits{MaxJobs: 1} })
		e.pool = upstream.New(e.config().upstream, poolReports{e}, func(_ string, f func()) { go f() })
		e.pool.Reconfigured()
		e.pool.Refresh(t.Context(), false)
		synctest.Wait()
		_, ok := e.pool.Pick(upstream.Class{}, "", nil)
		require.True(t, ok)
		require.Empty(t, e.starts())
		require.Equal(t, none, e.roomAt(none, now), "its end is told")
	})
}

// Where servers have limits, and there are several databases, the jobs of one go where its last one ran.
func TestWhichServerIsPreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			change func(*engine)
			stays  bool
		}{
			"limits":       {func(*engine) {}, true},
			"no limits":    {func(e *engine) { e.seats.limited = false }, false},
			"one database": {func(e *engine) { delete(e.databases.byName, "lost") }, false},
		} {
			e := paired(t)
			e.seats.limited = true
			c.change(e)
			db, picked := e.databases.get("prod"), make(map[string]bool)
			for range 4 {
				up, ok := e.pick(channels.Key{DB: "prod", UUID: "a"}, &task{})
				require.True(t, ok, name)
				require.Equal(t, up.Name, db.server, name)
				e.pool.Release(up.Name, driver.Result{})
				picked[up.Name] = true
			}
			require.Equal(t, c.stays, len(picked) == 1, name)
			_, ok := e.pick(channels.Key{DB: "unknown", UUID: "a"}, &task{})
			require.True(t, ok, name)
			_, ok = e.pick(channels.Key{DB: "prod", UUID: "a"}, &task{tried: []string{"odoo0", "odoo1"}})
			require.False(t, ok, name)
			require.NotEmpty(t, db.server, name)
		}
	})
}
