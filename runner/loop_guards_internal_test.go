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
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// may has an engine be one that may start jobs, for all that it knows itself.
func (e *engine) may() {
	e.leadership.leading, e.leadership.settled = true, true
}

// Nothing is started unless all says that it may be.
func TestWhenJobsMayBeStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, change := range map[string]func(*engine){
			"":            func(*engine) {},
			"not leading": func(e *engine) { e.leadership.leading = false },
			"not settled": func(e *engine) { e.leadership.settled = false },
			"stopping":    func(e *engine) { e.shutdown.begun = true },
			"paused":      func(e *engine) { e.pausedAll = &Pause{} },
			"exiting":     func(e *engine) { e.with(func(cfg *Config) { cfg.Exiting = func() bool { return true } }) },
			"no server": func(e *engine) {
				e.pool.Suspect("odoo0", errors.New("gone"))
				e.pool.Suspect("odoo1", errors.New("gone"))
			},
		} {
			e := paired(t)
			e.may()
			change(e)
			require.Equal(t, name == "", e.dispatchable(), name)
			db := e.databases.get("prod")
			e.databases.derive(db)
			e.waiting(time.Now().Add(-time.Hour))
			e.pass(time.Now())
			require.Equal(t, name == "", len(e.tasks) == 1, name)
			require.Equal(t, name == "", !db.useful.IsZero(), name)
		}
	})
}

// What is scheduled of a database that is not served goes back, and keeps nobody else from starting.
func TestScheduledOfADatabaseThatIsNotServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for name, state := range map[string]stage{"not known": 0, "unreachable": stageUnreachable} {
			e := paired(t)
			e.may()
			require.NoError(t, e.tree.Configure([]channels.Config{{Name: "root", Capacity: 20}}))
			if name != "not known" {
				e.databases.byName["lost"] = &database{Database: driver.Database{Name: "lost"}, stage: state}
			}
			e.waiting(time.Now())
			for i := range 8 {
				e.tree.Set(channels.Job{Key: channels.Key{DB: "lost", UUID: strconv.Itoa(i)}}, channels.Pending)
			}
			e.pass(time.Now())
			require.Len(t, e.tasks, 1)
			require.Contains(t, e.tasks, channels.Key{DB: "prod", UUID: "waits"})
			for i := range 8 {
				_, s, ok := e.tree.Lookup(channels.Key{DB: "lost", UUID: strconv.Itoa(i)})
				require.True(t, ok)
				require.Equal(t, channels.Pending, s)
			}
		}
	})
}

// The loop sleeps until the first of all that it has to do by itself, and no longer.
func TestWhatTheLoopWakesUpFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		soon := now.Add(time.Second)
		for name, c := range map[string]struct {
			set  func(*engine)
			want time.Time
		}{
			"the servers are looked up": {func(*engine) {}, now.Add(2 * time.Second)},
			"a pause ends":              {func(e *engine) { e.controls.Pauses = []Pause{{}, {Until: soon}} }, soon},
			"a pause without end":       {func(e *engine) { e.controls.Pauses = []Pause{{}} }, now.Add(2 * time.Second)},
			"a database is held": {func(e *engine) {
				db := e.databases.get("prod")
				db.hold.until = soon
				e.databases.held[db] = struct{}{}
			}, soon},
			"a new leader waits":          {func(e *engine) { e.leadership.settled, e.leadership.settleBy = false, soon }, soon},
			"it has waited":               {func(e *engine) { e.leadership.settleBy = soon }, now.Add(2 * time.Second)},
			"connections are to be found": {func(e *engine) { e.rotation.at = soon }, soon},
			"databases may sleep": {func(e *engine) {
				e.with(func(cfg *Config) { cfg.Hibernate = &Hibernate{After: time.Minute} })
				e.rotation.hibernateAt = soon
			}, soon},
			"none may":        {func(e *engine) { e.rotation.hibernateAt = soon }, now.Add(2 * time.Second)},
			"a job may start": {func(e *engine) { e.waiting(now) }, now},
			"a job may not":   {func(e *engine) { e.waiting(now); e.leadership.leading = false }, now.Add(2 * time.Second)},
			"an eta": {func(e *engine) {
				e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "later"}, ETA: soon.UnixMicro()}, channels.Pending)
				e.pass(now)
			}, time.UnixMicro(soon.UnixMicro())},
			"a lock is to be given up": {func(e *engine) {
				e.databases.get("prod").entered = time.Time{}
				e.leadership.lostAt = soon.Add(-leaderlessLimit)
			}, soon},
		} {
			e := paired(t)
			e.may()
			e.databases.derive(e.databases.get("prod"))
			e.targetsAt = now.Add(2 * time.Second)
			c.set(e)
			require.True(t, c.want.Equal(e.nextTick(now)), "%s: %s", name, e.nextTick(now).Sub(now))
		}
	})
}

// What is due is done, at its time and not before.
func TestWhatTheLoopDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			set  func(e *engine, at time.Time)
			done func(*engine) bool
		}{
			"a pause ends": {
				func(e *engine, at time.Time) { e.control(Controls{Pauses: []Pause{{Until: at}}}) },
				func(e *engine) bool { return e.pausedAll == nil },
			},
			"a hold ends": {
				func(e *engine, at time.Time) {
					db := e.databases.get("prod")
					db.hold.until = at
					e.databases.held[db] = struct{}{}
				},
				func(e *engine) bool { return e.databases.get("prod").hold.until.IsZero() },
			},
			"the servers are looked up": {
				func(e *engine, at time.Time) { e.targetsAt = at },
				func(e *engine) bool { return e.targetsAt.Equal(now.Add(targetsInterval)) },
			},
			"connections are found": {
				func(e *engine, at time.Time) { e.rotation.at = at },
				func(e *engine) bool { return e.rotation.at.IsZero() },
			},
			"databases sleep": {
				func(e *engine, at time.Time) {
					e.with(func(cfg *Config) { cfg.Hibernate = &Hibernate{After: time.Minute} })
					e.rotation.hibernateAt = at
				},
				func(e *engine) bool { return e.rotation.hibernateAt.Sub(now) >= hibernateInterval/2 },
			},
			"none sleeps": {
				func(e *engine, at time.Time) { e.rotation.hibernateAt = at },
				func(*engine) bool { return true },
			},
			"tasks are checked": {
				func(e *engine, at time.Time) { e.scanAt = at },
				func(e *engine) bool { return e.scanAt.Sub(now) >= scanInterval/2 },
			},
			"a leader has waited": {
				func(e *engine, at time.Time) {
					e.databases.get("prod").stage = stageLoading
					e.leadership.settled, e.leadership.settleBy = false, at
				},
				func(e *engine) bool { return e.leadership.settled },
			},
			"a lock is given up": {
				func(e *engine, at time.Time) {
					e.databases.get("prod").entered = time.Time{}
					e.leadership.lostAt = at.Add(-leaderlessLimit)
				},
				func(e *engine) bool { return e.databases.get("prod") == nil },
			},
		} {
			for _, due := range []bool{true, false} {
				e := paired(t)
				e.may()
				e.targetsAt, e.scanAt = now.Add(time.Hour), now.Add(time.Hour)
				at := now
				if !due {
					at = now.Add(1)
				}
				c.set(e, at)
				e.tick(now)
				require.Equal(t, due || name == "none sleeps", c.done(e), "%s, due %t", name, due)
				if name == "none sleeps" {
					require.Equal(t, at, e.rotation.hibernateAt)
				}
				synctest.Wait()
			}
		}
	})
}

// bequest is a store of setbacks.
type bequest struct {
	left   []Setback
	stored int
	err    error
}

func (b *bequest) LoadSetbacks(context.Context) ([]Setback, error) { return b.left, b.err }

func (b *bequest) StoreSetbacks(context.Context, []Setback) error {
	b.stored++
	return b.err
}

// The setbacks are stored by a leader that knows what runs, if they have changed, one write at a time and
// not too often; and at the end, if they have not been.
func TestWhenSetbacksAreStored(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	leads := func() (*engine, *bequest, *[]func()) {
		e, _ := served()
		b := &bequest{}
		e.with(func(cfg *Config) { cfg.Setbacks = b })
		writes := new([]func())
		e.spawn = func(_ string, f func()) { *writes = append(*writes, f) }
		e.may()
		e.setbacks.changed = true
		return e, b, writes
	}
	for name, change := range map[string]func(*engine){
		"":            func(*engine) {},
		"not leading": func(e *engine) { e.leadership.leading = false },
		"not settled": func(e *engine) { e.leadership.settled = false },
		"no change":   func(e *engine) { e.setbacks.changed = false },
		"no store":    func(e *engine) { e.with(func(cfg *Config) { cfg.Setbacks = nil }) },
	} {
		e, b, writes := leads()
		change(e)
		e.remember(now)
		require.Equal(t, name == "", len(*writes) == 1, name)
		e.bequeath()
		require.Equal(t, name == "", b.stored == 1, name)
	}

	e, b, writes := leads()
	finish := func() {
		(*writes)[0]()
		*writes = nil
		for _, f := range e.mail.take() {
			f()
		}
	}
	e.remember(now)
	e.setbacks.changed = true // meanwhile
	e.remember(now.Add(handoverInterval))
	require.Len(t, *writes, 1, "one is under way")
	finish()
	require.True(t, e.setbacks.changed)
	e.remember(now.Add(handoverInterval - 1))
	require.Empty(t, *writes, "too soon")
	b.err = errors.New("disk full")
	e.remember(now.Add(handoverInterval))
	require.False(t, e.setbacks.changed)
	finish()
	require.True(t, e.setbacks.changed, "it was not stored")
	require.False(t, e.setbacks.writing)
	b.err = nil
	e.remember(now.Add(2 * handoverInterval))
	finish()
	require.False(t, e.setbacks.changed)
	require.Equal(t, 3, b.stored)
	e.bequeath()
	require.Equal(t, 3, b.stored, "the last one was stored")

	core, logs := observer.New(zap.WarnLevel)
	e, b, _ = leads()
	e.with(func(cfg *Config) { cfg.Logger = zap.New(core) })
	e.bequeath()
	require.Zero(t, logs.Len())
	b.err = errors.New("disk full")
	e.bequeath()
	require.Equal(t, 1, logs.Len(), "that they are lost is told")
}

// What a former leader left counts if there is a quarantine, and it can be read.
func TestRecall(t *testing.T) {
	t.Parallel()
	left := []Setback{{Database: "prod", UUID: "a", At: time.Now()}}
	for name, c := range map[string]struct {
		change func(*Config, *bequest)
		want   int
	}{
		"":              {func(*Config, *bequest) {}, 1},
		"no quarantine": {func(cfg *Config, _ *bequest) { cfg.Quarantine = nil }, 0},
		"no store":      {func(cfg *Config, _ *bequest) { cfg.Setbacks = nil }, 0},
		"unreadable":    {func(_ *Config, b *bequest) { b.err = errors.New("corrupt") }, 0},
	} {
		e, _ := served()
		b := &bequest{left: left}
		e.with(func(cfg *Config) {
			cfg.Setbacks, cfg.Quarantine = b, &Quarantine{Attempts: 3, Within: time.Hour}
			c.change(cfg, b)
		})
		e.recall(t.Context(), e.config())
		for _, f := range e.mail.take() {
			f()
		}
		require.Len(t, e.setbacks.of, c.want, name)
	}
}

// Texts of others are kept as far as their lengths are those of texts.
func TestLongTextsOfSetbacks(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		b    Setback
		kept bool
	}{
		"as long as may be": {Setback{UUID: strings.Repeat("a", uuidLimit), Upstream: strings.Repeat("a", textLimit), Cause: strings.Repeat("a", textLimit)}, true},
		"uuid":              {Setback{UUID: strings.Repeat("a", uuidLimit+1)}, false},
		"server":            {Setback{Upstream: strings.Repeat("a", textLimit+1)}, false},
		"cause":             {Setback{Cause: strings.Repeat("a", textLimit+1)}, false},
	} {
		var s setbacks
		s.add(channels.Key{DB: "prod", UUID: "a"}, c.b, time.Hour)
		require.Equal(t, c.kept, len(s.of) == 1, name)
	}
}

// A setback counts for so long, and only for attempts after it.
func TestWhichSetbacksCount(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	key := channels.Key{DB: "prod", UUID: "a"}
	for name, c := range map[string]struct {
		b                Setback
		counted, suspect bool
	}{
		"before":       {Setback{At: now.Add(-1)}, true, false},
		"at that time": {Setback{At: now}, false, false},
		"long ago":     {Setback{At: now.Add(1 - time.Hour), Shared: true}, true, true},
		"too long ago": {Setback{At: now.Add(-time.Hour), Shared: true}, false, false},
		"excused":      {Setback{At: now.Add(-1), Shared: true, Excused: true}, false, true},
	} {
		s := setbacks{of: map[channels.Key][]Setback{key: {c.b}}}
		require.Equal(t, c.counted, len(s.counted(key, now, time.Hour)) == 1, name)
		require.Equal(t, c.suspect, s.suspect(key, now, time.Hour), name)
	}
}

// Whatever changes what is kept has it stored, and nothing else has.
func TestChangesOfSetbacks(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	key, other := channels.Key{DB: "prod", UUID: "a"}, channels.Key{DB: "prod", UUID: "b"}
	for name, c := range map[string]struct {
		do   func(*setbacks)
		left int
	}{
		"nothing is old":     {func(s *setbacks) { s.expire(now.Add(-time.Hour)) }, 3},
		"one is old":         {func(s *setbacks) { s.expire(now.Add(-time.Minute)) }, 2},
		"all are old":        {func(s *setbacks) { s.expire(now) }, 0},
		"a job has ended":    {func(s *setbacks) { s.forget(key) }, 1},
		"another one has":    {func(s *setbacks) { s.forget(channels.Key{DB: "prod", UUID: "c"}) }, 3},
		"forgiven":           {func(s *setbacks) { s.forgive("prod", []string{"c", "a"}, now) }, 2},
		"forgiven since":     {func(s *setbacks) { s.forgive("prod", []string{"a"}, now.Add(1)) }, 3},
		"of a database":      {func(s *setbacks) { s.forgive("test", []string{"a"}, now) }, 3},
		"not what was run":   {func(s *setbacks) { s.forgive("prod", []string{"b"}, now.Add(-time.Hour)) }, 3},
		"the oldest of prod": {func(s *setbacks) { s.forgetOldest("prod") }, 2},
		"of all":             {func(s *setbacks) { s.forgetOldest("") }, 2},
	} {
		s := setbacks{of: map[channels.Key][]Setback{
			key:   {{At: now.Add(-time.Minute)}, {At: now, NotRun: true}},
			other: {{At: now}},
		}}
		c.do(&s)
		require.Len(t, s.list(), c.left, name)
		require.Equal(t, c.left < 3, s.changed, name)
		if strings.HasSuffix(name, "prod") || name == "of all" {
			require.Equal(t, []Setback{{At: now, NotRun: true}}, s.of[key], name)
		}
	}
}

// The capacity of root follows the servers half a minute after they have changed for good, and at once
// while they are being found.
func TestFollowingTheServers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	var s size
	for i, c := range []struct {
		bear    int
		after   time.Duration // since the first server was known
		follows bool
		want    int
	}{
		{0, -time.Second, false, 0},
		{4, 0, true, 4},
		{4, time.Second, false, 4},
		{8, sizeDelay - 1, true, 8},  // another one is found
		{6, sizeDelay - 1, false, 8}, // fewer never count at once
		{8, sizeDelay, false, 8},
		{10, sizeDelay, false, 8},
		{10, 2*sizeDelay - 1, false, 8},
		{10, 2 * sizeDelay, true, 10},
		{5, 3 * sizeDelay, false, 10},
		{0, 4 * sizeDelay, false, 10}, // none takes jobs
		{0, 5 * sizeDelay, false, 10},
		{5, 6 * sizeDelay, false, 10},
		{6, 6*sizeDelay + 1, false, 10},
		{5, 7 * sizeDelay, false, 10},
		{5, 8 * sizeDelay, true, 5},
	} {
		require.Equal(t, c.follows, s.follow(c.bear, now.Add(c.after)), "%d: %+v", i, c)
		require.Equal(t, c.want, s.capacity, "%d: %+v", i, c)
	}
}

// A database is idle if there is nothing to do in it, nor may be soon, as far as is known.
func TestIdleDatabases(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	later := now.Add(2 * session.SleepHorizon)
	for name, set := range map[string]func(*engine, *database){
		"nothing":           func(*engine, *database) {},
		"a job much later":  func(e *engine, _ *database) { e.put("root", later, channels.Pending) },
		"! a job soon":      func(e *engine, _ *database) { e.put("root", later.Add(-time.Microsecond), channels.Pending) },
		"! a job that runs": func(e *engine, _ *database) { e.put("root", later, channels.Started) },
		"jobs that have failed, or wait for others": func(e *engine, _ *database) {
			e.put("root", now, channels.Failed)
			e.put("root.a", now, channels.WaitDependencies)
		},
		"as many as are looked at": func(e *engine, _ *database) {
			for i := range etasLimit {
				e.put("root."+strconv.Itoa(i%10)+"_"+strconv.Itoa(i), later, channels.Pending)
			}
		},
		"! more": func(e *engine, _ *database) {
			for i := range etasLimit + 1 {
				e.put("root."+strconv.Itoa(i%10)+"_"+strconv.Itoa(i), later, channels.Pending)
			}
		},
		"one among many that have failed": func(e *engine, _ *database) {
			for i := range etasLimit - 1 {
				e.put("root."+strconv.Itoa(i%10)+"_"+strconv.Itoa(i), now, channels.Failed)
			}
			e.put("root", later, channels.Pending)
		},
		"! one among more that have failed": func(e *engine, _ *database) {
			for i := range etasLimit {
				e.put("root."+strconv.Itoa(i%10)+"_"+strconv.Itoa(i), now, channels.Failed)
			}
			e.put("root", later, channels.Pending)
		},
		"! sleeps soon":        func(e *engine, db *database) { e.rotation.resting[db] = struct{}{} },
		"! had something":      func(_ *engine, db *database) { db.restlessUntil = now.Add(1) },
		"had something before": func(_ *engine, db *database) { db.restlessUntil = now },
		"! no session":         func(_ *engine, db *database) { db.session = nil },
		"! a lost claim":       func(_ *engine, db *database) { db.lostClaims = map[string]lostClaim{"a": {}} },
		"! a cause to be written": func(_ *engine, db *database) {
			db.causes = map[string]unwritten{"a": {}}
		},
		"! reserved slots": func(_ *engine, db *database) { db.reserved = make([]channels.Key, 1) },
		"a job that is paused for long": func(e *engine, db *database) {
			e.put("root", now, channels.Pending)
			db.pause = &Pause{Until: later}
		},
		"! a job that is not paused for long": func(e *engine, db *database) {
			e.put("root", now, channels.Pending)
			db.pause = &Pause{Until: later.Add(-time.Microsecond)}
		},
		"! a paused job that runs": func(e *engine, db *database) {
			e.put("root", now, channels.Started)
			db.pause = &Pause{}
		},
	} {
		e, db := served()
		set(e, db)
		require.Equal(t, name[0] != '!', e.idle(db, now), name)
	}
}

// A database that had something to do after all is left alone for two seconds.
func TestRestlessDatabases(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e, db := served()
		e.awake(db)
		require.False(t, e.idle(db, time.Now().Add(2*time.Second-1)))
		require.True(t, e.idle(db, time.Now().Add(2*time.Second)))
	})
}

// put puts a job of its own into a channel.
func (e *engine) put(channel string, eta time.Time, s channels.State) {
	e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: channel}, Channel: channel, ETA: eta.UnixMicro()}, s)
}

// Databases hibernate that have had nothing to do for so long, since they were read first if there was
// never anything, where what is written to them would be seen.
func TestWhatHibernates(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	const after = time.Minute
	long, short := now.Add(-after), now.Add(1-after)
	for name, set := range map[string]func(*engine, *database){
		"":                  func(*engine, *database) {},
		"! a job lately":    func(_ *engine, db *database) { db.useful = short },
		"! read lately":     func(_ *engine, db *database) { db.entered = short },
		"woken for nothing": func(_ *engine, db *database) { db.entered, db.slept = short, &sleep{} },
		"! a parked task":   func(e *engine, _ *database) { e.tasks[channels.Key{DB: "prod", UUID: "a"}] = &task{phase: phaseParked} },
		"! a job others wait for": func(e *engine, _ *database) {
			e.releases = releases{channels.Key{DB: "prod", UUID: "a"}: {}}
		},
		"another database's":   func(e *engine, _ *database) { e.tasks[channels.Key{DB: "lost", UUID: "a"}] = &task{phase: phaseParked} },
		"! a job that waits":   func(e *engine, _ *database) { e.put("root", now, channels.Pending) },
		"! stopping":           func(e *engine, _ *database) { e.shutdown.begun = true },
		"! nothing is known":   func(e *engine, _ *database) { e.connections.known = false },
		"! nothing is counted": func(e *engine, _ *database) { e.connections.limits.Uncounted = true },
		"! not wanted":         func(e *engine, _ *database) { e.with(func(cfg *Config) { cfg.Hibernate = nil }) },
	} {
		e, db := served()
		e.with(func(cfg *Config) { cfg.Hibernate = &Hibernate{After: after} })
		e.connections.known = true
		e.databases.served[db] = struct{}{}
		db.useful, db.entered = long, long
		set(e, db)
		e.hibernate(now)
		_, rests := e.rotation.resting[db]
		require.Equal(t, name == "" || name[0] != '!', rests, name)
		require.Greater(t, e.rotation.hibernateAt.Sub(now), hibernateInterval/2)
	}
}

// counting notes how many servers are checked.
type counting struct {
	well
	checks *atomic.Int64
}

func (c counting) Check(context.Context, driver.Upstream) error {
	c.checks.Add(1)
	return nil
}

// Servers are looked up every two seconds, and those that are up and idle are checked every fifth time.
func TestHowOftenIdleServersAreChecked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		checks := new(atomic.Int64)
		e.with(func(cfg *Config) { cfg.Driver = counting{checks: checks} })
		e.pool = upstream.New(e.config().upstream, poolReports{e}, func(_ string, f func()) { go f() })
		e.pool.Refresh(t.Context(), false)
		synctest.Wait()
		require.EqualValues(t, 2, checks.Swap(0), "they were not known")
		for range 50 {
			e.tick(time.Now())
			synctest.Wait()
			timing.Sleep(t.Context(), targetsInterval)
		}
		require.EqualValues(t, 2*10, checks.Load())
	})
}

// A job that died together with another one waits while that one is tried, and keeps no other from
// starting.
func TestSuspectsAreTriedOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		e.may()
		require.NoError(t, e.tree.Configure([]channels.Config{{Name: "root", Capacity: 20}}))
		e.databases.derive(e.databases.get("prod"))
		now := time.Now()
		for i, uuid := range []string{"suspect", "another", "x", "y"} {
			key := channels.Key{DB: "prod", UUID: uuid}
			e.tree.Set(channels.Job{Key: key, Priority: int32(i)}, channels.Pending)
			if i < 2 {
				e.setbacks.add(key, Setback{UUID: uuid, At: now, Shared: true}, time.Hour)
			}
		}
		e.pass(now.Add(time.Second))
		for _, uuid := range []string{"suspect", "x", "y"} {
			require.Contains(t, e.tasks, channels.Key{DB: "prod", UUID: uuid})
		}
		require.Len(t, e.tasks, 3)
		job, s, _ := e.tree.Lookup(channels.Key{DB: "prod", UUID: "another"})
		require.Equal(t, channels.Pending, s)
		require.Positive(t, job.ETA)
	})
}
