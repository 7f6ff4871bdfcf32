package runner

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// dozing lays databases to sleep in an engine without a loop, since a moment and at most until another.
func dozing(since, latest time.Time, names ...string) *engine {
	e := still(nil)
	e.with(func(cfg *Config) {
		cfg.Driver = nobody{}
		cfg.Hibernate = &Hibernate{After: time.Minute, Poll: time.Second, Check: time.Minute}
	})
	e.connections.known = true
	for i, name := range names {
		db := &database{Database: driver.Database{Name: name, OID: uint32(i)}, stage: stageAsleep, slept: &sleep{since: since, latest: latest}}
		e.databases.byName[name] = db
		e.rotation.asleep[db] = db.slept
	}
	return e
}

// nobody is a driver without databases.
type nobody struct{ driver.Driver }

func (nobody) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	return nil, driver.ErrLost
}

// awakeNow returns which databases are not asleep any more.
func awakeNow(e *engine, names ...string) (awake []string) {
	for _, name := range names {
		if _, asleep := e.rotation.asleep[e.databases.get(name)]; !asleep {
			awake = append(awake, name)
		}
	}
	return awake
}

// What wakes a database is what was written to it, or its next eta, and nothing before its time.
func TestWhatStirs(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	same := map[uint32]driver.Writes{7: {Rows: 1}}
	for name, c := range map[string]struct {
		s              sleep
		all            map[uint32]driver.Writes
		stirs, written bool
	}{
		"nothing":            {sleep{}, same, false, false},
		"something":          {sleep{}, map[uint32]driver.Writes{7: {Rows: 2}}, true, true},
		"not known":          {sleep{}, nil, true, true},
		"at the earliest":    {sleep{earliest: now}, nil, true, true},
		"too early":          {sleep{earliest: now.Add(1)}, nil, false, false},
		"an eta":             {sleep{rest: driver.Rest{Next: now.Add(etaAhead)}}, same, true, false},
		"a later eta":        {sleep{rest: driver.Rest{Next: now.Add(etaAhead + 1)}}, same, false, false},
		"an eta, too early":  {sleep{earliest: now.Add(1), rest: driver.Rest{Next: now.Add(etaAhead)}}, nil, true, false},
		"a later eta, early": {sleep{earliest: now.Add(1), rest: driver.Rest{Next: now.Add(etaAhead + 1)}}, nil, false, false},
	} {
		c.s.rest.Writes = same[7]
		db := &database{Database: driver.Database{OID: 7}}
		require.Equal(t, c.stirs, c.s.stir(db, c.all, now), name)
		require.Equal(t, c.written, c.s.stirred, name)
	}
}

// A database sleeps longer each time that it was woken for nothing, up to the time that one may sleep,
// and not beyond its next eta.
func TestHowLongADatabaseSleeps(t *testing.T) {
	t.Parallel()
	began := time.Now()
	for name, c := range map[string]struct {
		was      *sleep
		useful   time.Time
		vain     int
		earliest time.Duration
	}{
		"the first time":            {nil, time.Time{}, 0, 0},
		"woken by its time":         {&sleep{since: began}, time.Time{}, 0, 0},
		"woken for nothing":         {&sleep{since: began, stirred: true}, time.Time{}, 1, 2 * falseWake},
		"again":                     {&sleep{since: began, stirred: true, vain: 1}, time.Time{}, 2, 4 * falseWake},
		"woken by its time again":   {&sleep{since: began, vain: 1}, time.Time{}, 1, 2 * falseWake},
		"very often":                {&sleep{since: began, stirred: true, vain: 1000}, time.Time{}, 1001, time.Minute},
		"there was something to do": {&sleep{since: began, stirred: true, vain: 9}, began, 0, 0},
	} {
		e := dozing(began, began)
		db := &database{stage: stageServed, slept: c.was, useful: c.useful}
		e.asleep(db, driver.Rest{})
		require.Equal(t, c.vain, db.slept.vain, name)
		if c.earliest == 0 {
			require.Zero(t, db.slept.earliest, name)
		} else {
			require.WithinDuration(t, db.slept.since.Add(c.earliest), db.slept.earliest, 0, name)
		}
		require.InDelta(t, time.Minute, db.slept.latest.Sub(db.slept.since), float64(time.Minute)/4, name)
		require.True(t, db.quiet)
		require.True(t, e.watching.Load())
		require.Equal(t, stageAsleep, db.stage)
	}
	for after, want := range map[time.Duration]time.Duration{30 * time.Second: 30*time.Second - etaAhead, time.Hour: time.Minute} {
		e := dozing(began, began)
		db := &database{stage: stageServed}
		next := time.Now().Add(after)
		e.asleep(db, driver.Rest{Next: next})
		require.InDelta(t, want, db.slept.latest.Sub(next.Add(-after)), float64(time.Minute)/4)
		if after < time.Minute {
			require.Equal(t, next.Add(-etaAhead), db.slept.latest)
		}
	}
}

// A database is awake again at once of which the engine knows a job that the database did not.
func TestAsleepWithAJob(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		jobs  int
		next  time.Time
		sleep bool
	}{
		"no job":  {0, time.Time{}, true},
		"a job":   {1, time.Time{}, false},
		"an eta":  {1, time.Now().Add(time.Hour), true},
		"no jobs": {0, time.Now().Add(time.Hour), true},
	} {
		e := dozing(time.Now(), time.Now())
		db := &database{Database: driver.Database{Name: "prod"}, stage: stageServed}
		e.databases.byName["prod"] = db
		for i := range c.jobs {
			e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: strconv.Itoa(i)}}, channels.Pending)
		}
		e.asleep(db, driver.Rest{Next: c.next})
		require.Equal(t, c.sleep, len(e.rotation.asleep) == 1, name)
		require.Equal(t, c.sleep, db.session == nil, name)
	}
}

// Of the databases that have slept for as long as one may, those are checked first that have done so for
// the longest time, and no more than the pace allows; those that may have something to do are connected.
func TestWhoIsWoken(t *testing.T) {
	t.Parallel()
	now := time.Now()
	names := make([]string, 12)
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	all := map[uint32]driver.Writes{}
	for i := range names {
		all[uint32(i)] = driver.Writes{}
	}
	e := dozing(now, now.Add(time.Hour), names...)
	e.written(all)
	require.Empty(t, awakeNow(e, names...))
	all[3] = driver.Writes{Rows: 1}
	e.written(all)
	require.Equal(t, []string{"3"}, awakeNow(e, names...))
	require.Equal(t, stageConnecting, e.databases.get("3").stage)
	require.Empty(t, e.rotation.checking)
	all[3] = driver.Writes{}

	for i, name := range names {
		e.databases.get(name).slept.latest = now.Add(time.Duration(-i) * time.Millisecond)
	}
	e.written(all)
	require.Equal(t, []string{"3", "8", "9", "10", "11"}, awakeNow(e, names...), "four a second")
	require.Len(t, e.rotation.checking, 4)
	require.Equal(t, stageAsleep, e.databases.get("8").stage, "it is only checked")
	require.True(t, e.watching.Load())

	// What is checked and has something to do by now is connected sooner, and what has been checked is not
	// checked any more.
	e.databases.get("9").stage = stageServed
	all[8] = driver.Writes{Rows: 1}
	e.hasten(all, now)
	require.Equal(t, stageConnecting, e.databases.get("8").stage)
	require.Len(t, e.rotation.checking, 2)

	// Without Hibernate, connections that nobody needs are used.
	e = dozing(now, now.Add(time.Hour), names...)
	e.with(func(cfg *Config) { cfg.Hibernate = nil })
	delete(all, 8)
	all[8] = driver.Writes{}
	e.connections.queue.Limit(2, "two")
	e.written(all)
	require.Len(t, awakeNow(e, names...), 2)
}

// A database that is asleep is woken, one that is only to be checked is connected sooner, and others are
// what they were.
func TestWake(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for u, want := range map[session.Urgency]struct {
		stage   stage
		checked bool
	}{session.Pressing: {stageConnecting, false}, session.Unknown: {stageAsleep, false}, session.Routine: {stageAsleep, true}} {
		e := dozing(now, now, "prod", "other")
		db, other := e.databases.get("prod"), e.databases.get("other")
		require.True(t, e.wake(db, u))
		require.Equal(t, want.stage, db.stage)
		_, checked := e.rotation.checking[db]
		require.Equal(t, want.checked, checked)
		require.NotNil(t, db.session)
		require.False(t, db.slept.until.IsZero())
		require.True(t, e.watching.Load(), "one still is")
		require.False(t, e.wake(db, session.Unknown), "it is not asleep")
		require.Equal(t, want.checked, e.wake(db, session.Pressing))
		require.Empty(t, e.rotation.checking)
		if want.checked {
			require.Equal(t, stageConnecting, db.stage)
		}
		require.True(t, e.wake(other, session.Pressing))
		require.False(t, e.watching.Load())
	}
	e := dozing(now, now, "a", "b", "c")
	require.True(t, e.wake(e.databases.get("a"), session.Routine))
	e.wakeAll()
	require.Empty(t, e.rotation.asleep)
	require.Empty(t, e.rotation.checking)
}

// slow is a driver whose connections take for ever.
type slow struct{ driver.Driver }

func (slow) OpenSession(ctx context.Context, _ *pgx.ConnConfig, _ string) (driver.Session, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// crowded is an engine with one connection too few for each of three databases, and with others that are
// served. It is to be used in a bubble.
func crowded(t *testing.T, served ...string) *engine {
	t.Helper()
	e := still(nil)
	e.with(func(cfg *Config) { cfg.Driver, cfg.Hibernate = slow{}, nil })
	var cancel context.CancelFunc
	e.ctx, cancel = context.WithCancel(t.Context())
	t.Cleanup(cancel)
	e.spawn = func(_ string, f func()) { go f() }
	e.connections.queue.Limit(1, "one")
	for _, name := range []string{"one", "two", "three"} {
		db := &database{Database: driver.Database{Name: name}}
		e.databases.byName[name] = db
		e.startSession(db)
	}
	for _, name := range served {
		db := &database{Database: driver.Database{Name: name}, stage: stageServed, session: session.New(name, nil, nil)}
		e.databases.byName[name] = db
		e.databases.served[db] = struct{}{}
	}
	synctest.Wait()
	return e
}

// rests returns which databases have been ordered to sleep.
func rests(e *engine) (names []string) {
	for db := range e.rotation.resting {
		names = append(names, db.Name)
	}
	slices.Sort(names)
	return names
}

// leaves returns which databases are to leave their connections, or have.
func leaves(e *engine) (names []string) {
	for name, db := range e.databases.byName {
		if !db.leaving.IsZero() || db.stage == stageWaiting {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// As many databases sleep as others need connections, those first that have not had a job for the longest
// time, and none of which others need something.
func TestWhoGivesUpAConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		e := crowded(t, "a", "b", "c", "busy", "engaged")
		require.Equal(t, 2, e.connections.queue.Pressure().Over())
		require.Equal(t, 2, e.connections.used(), "one for maintenance, one of a database")
		e.databases.get("a").useful = now
		e.tree.Set(channels.Job{Key: channels.Key{DB: "busy", UUID: "a"}}, channels.Pending)
		e.tasks[channels.Key{DB: "engaged", UUID: "a"}] = &task{phase: phaseParked}
		e.rotate(now)
		require.Equal(t, []string{"b", "c"}, rests(e))
		require.Equal(t, now.Add(rotateInterval), e.rotation.at)
		e.rotate(now)
		require.Equal(t, []string{"b", "c"}, rests(e), "these are enough")

		e = crowded(t, "a", "b", "c")
		e.shutdown.begun = true
		e.rotate(now)
		require.Empty(t, rests(e))
		require.Zero(t, e.rotation.at)
		e = crowded(t, "a", "b", "c")
		e.connections.queue.Limit(3, "three")
		e.databases.get("a").leaving = now.Add(time.Hour)
		e.rotation.at = now
		e.rotate(now)
		require.Empty(t, rests(e))
		require.Zero(t, e.rotation.at, "none are missing")
		require.Empty(t, leaves(e), "one that was to leave stays")
	})
}

// Where not enough databases are idle, others leave their connections once somebody has waited for a while.
func TestWhenBusyDatabasesLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		busy := []string{"a", "b", "c"}
		e := crowded(t, append(busy, "idle")...)
		for _, name := range busy {
			e.tree.Set(channels.Job{Key: channels.Key{DB: name, UUID: "a"}}, channels.Pending)
			e.databases.get(name).entered = began.Add(-time.Hour)
		}
		timing.Sleep(t.Context(), turnPatience-1)
		e.rotate(time.Now())
		require.Equal(t, []string{"idle"}, rests(e))
		require.Empty(t, leaves(e))
		e.rotation.resting = map[*database]struct{}{}
		timing.Sleep(t.Context(), 1)
		e.rotate(time.Now())
		require.Equal(t, []string{"a"}, leaves(e), "one more is needed")
		require.Equal(t, time.Now().Add(turnPatience), e.databases.get("a").leaving)
		require.False(t, e.databases.get("a").serving())
		e.rotate(time.Now())
		require.Equal(t, []string{"a"}, leaves(e), "it leaves, since nothing of it runs")
		require.Equal(t, stageWaiting, e.databases.get("a").stage)
	})
}

// Of databases with jobs, those leave first that have had their connections for the longest time, after
// their turn, and as soon as nothing of them runs.
func TestTurns(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	begin := func(names ...string) *engine {
		e := still(nil)
		for _, name := range names {
			db := &database{Database: driver.Database{Name: name}, stage: stageServed, session: session.New(name, nil, nil), entered: now.Add(-turnLength)}
			e.databases.byName[name] = db
			e.databases.served[db] = struct{}{}
			e.tasks[channels.Key{DB: name, UUID: "a"}] = &task{phase: phaseOpen}
		}
		return e
	}
	e := begin("old", "older", "short", "resting", "remains", "remained")
	e.databases.get("older").entered = now.Add(-time.Hour)
	e.databases.get("short").entered = now.Add(1 - turnLength)
	e.rotation.resting[e.databases.get("resting")] = struct{}{}
	e.databases.get("remains").remains = now.Add(1)
	e.databases.get("remained").remains = now
	e.take(now, 1)
	require.Equal(t, []string{"older"}, leaves(e))
	e.take(now, 3)
	require.Equal(t, []string{"old", "older", "remained"}, leaves(e))
	e.take(now, 9)
	require.Equal(t, []string{"old", "older", "remained"}, leaves(e))

	e = begin("ran", "runs", "runs on", "next")
	for _, name := range []string{"ran", "runs"} {
		e.databases.get(name).leaving = now.Add(1)
	}
	e.databases.get("runs on").leaving = now
	delete(e.tasks, channels.Key{DB: "ran", UUID: "a"})
	e.take(now, 2)
	require.Equal(t, []string{"ran", "runs"}, leaves(e), "two leave already")
	require.Equal(t, stageWaiting, e.databases.get("ran").stage)
	require.Equal(t, stageServed, e.databases.get("runs").stage)
	require.Equal(t, now.Add(turnLength), e.databases.get("runs on").remains)
	e.take(now, 2)
	require.Equal(t, []string{"next", "ran", "runs"}, leaves(e))
	require.Equal(t, now.Add(turnPatience), e.databases.get("next").leaving)
}

// A job holds others up until its eta in a channel that is sequential, or below one.
func TestSequentialJobsAreNotSleptOver(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	later := now.Add(time.Hour)
	for channel, idle := range map[string]bool{"root.a": true, "root.s": false, "root.s.below": false} {
		e, db := served()
		require.NoError(t, e.tree.Configure([]channels.Config{{Name: "root", Capacity: 2}, {Name: "a", Capacity: 2}, {Name: "s", Capacity: 1, Sequential: true}}))
		e.put(channel, later, channels.Pending)
		require.Equal(t, idle, e.idle(db, now), channel)
	}
}

// nowhere is where no server is.
type nowhere struct{}

func (nowhere) Upstreams(context.Context) ([]driver.Upstream, error) { return nil, nil }

// Should it have been missed that some wait for a connection, the next look-up of the servers finds it.
func TestWhoWaitsIsNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct{ due, at, want time.Time }{
			"missed":        {now, time.Time{}, now.Add(rotateInterval)},
			"between those": {now.Add(1), time.Time{}, time.Time{}},
			"known":         {now, now.Add(1), now.Add(1)},
		} {
			e := crowded(t, "a", "b")
			e.with(func(cfg *Config) { cfg.Targets = nowhere{} })
			e.pool = upstream.New(e.config().upstream, poolReports{e}, e.spawn)
			e.targetsAt, e.rotation.at = c.due, c.at
			e.tick(now)
			require.Equal(t, c.want, e.rotation.at, name)
			require.Equal(t, name == "missed", len(rests(e)) == 2, name)
			synctest.Wait()
		}
	})
}

// Who needs a connection gets that of one with jobs after its time, and those that only wait to be read
// for the first time do if none becomes free otherwise.
func TestForWhomBusyDatabasesLeave(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    session.Pressure
		want int
	}{
		"just now":                  {session.Pressure{Stuck: turnPatience - 1, Pressed: turnPatience - 1, Held: 4}, 0},
		"pressed":                   {session.Pressure{Pressed: turnPatience, Held: 4}, 1},
		"stuck, and others are new": {session.Pressure{Stuck: turnPatience, Held: 5}, 0},
		"stuck, and none is new":    {session.Pressure{Stuck: turnPatience, Held: 4}, 2},
		"stuck, and some are free":  {session.Pressure{Stuck: turnPatience, Held: 3}, 2},
		"not stuck for long":        {session.Pressure{Stuck: turnPatience - 1, Held: 4}, 0},
		"stuck for long":            {session.Pressure{Stuck: turnLength, Held: 5}, 2},
		"not quite":                 {session.Pressure{Stuck: turnLength - 1, Held: 5}, 0},
		"stuck and pressed":         {session.Pressure{Stuck: turnLength - 1, Pressed: turnPatience, Held: 5}, 1},
	} {
		c.p.Pressing, c.p.Needy = 1, 2
		require.Equal(t, c.want, wanting(c.p, 4), name)
	}
}

// A database whose job was claimed a moment ago keeps its connection, unless the jobs of another one
// wait for it.
func TestAJobOfAMomentAgo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			useful  time.Duration
			pressed bool
			want    []string
		}{
			"a moment ago":             {usefulPause - 1, false, nil},
			"a while ago":              {usefulPause, false, []string{"a"}},
			"a moment ago, and needed": {0, true, []string{"a"}},
		} {
			e := crowded(t, "a")
			e.databases.get("a").useful = now.Add(-c.useful)
			if c.pressed {
				for _, name := range []string{"one", "two", "three"} {
					e.connections.queue.Hasten(e.databases.get(name).session, session.Pressing)
				}
			}
			e.rotate(now)
			require.Equal(t, c.want, rests(e), name)
		}
	})
}

// Who was to leave its connection keeps it when idle ones are enough.
func TestIdleDatabasesAreEnough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		e := crowded(t, "a", "b", "busy")
		for _, name := range []string{"one", "two", "three"} {
			e.connections.queue.Hasten(e.databases.get(name).session, session.Pressing)
		}
		timing.Sleep(t.Context(), turnPatience)
		busy := e.databases.get("busy")
		e.tree.Set(channels.Job{Key: channels.Key{DB: "busy", UUID: "a"}}, channels.Pending)
		busy.leaving = now.Add(time.Hour)
		e.rotate(time.Now())
		require.Equal(t, []string{"a", "b"}, rests(e))
		require.Equal(t, stageServed, busy.stage)
		require.Zero(t, busy.leaving)
	})
}

// Once the last of those that were ordered to sleep does, it is tried at once to find more.
func TestMoreConnectionsAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		e := crowded(t, "a", "b")
		e.rotate(now)
		require.Equal(t, []string{"a", "b"}, rests(e))
		e.rotation.at = time.Time{}
		e.asleep(e.databases.get("a"), driver.Rest{})
		require.Zero(t, e.rotation.at, "the other one is on its way")
		e.asleep(e.databases.get("b"), driver.Rest{})
		require.Equal(t, now.Add(rotateInterval), e.rotation.at)
	})
}

// A database that has something to do waits, where others wait for a connection, and says for what.
func TestPressedDatabasesWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, wait := range []bool{true, false} {
			e := crowded(t, "a")
			e.connections.why = "there is one connection"
			db := e.databases.get("a")
			db.stage, db.slept = stageAsleep, &sleep{}
			e.rotation.checking[db] = struct{}{}
			if !wait {
				e.connections.queue.Limit(0, "")
				synctest.Wait()
			}
			e.press(db)
			require.Empty(t, e.rotation.checking)
			if wait {
				require.Equal(t, stageWaiting, db.stage)
				require.Equal(t, "there is one connection", db.detail)
			} else {
				require.Equal(t, stageConnecting, db.stage)
			}
		}
	})
}
