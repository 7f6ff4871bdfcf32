package runner

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
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
