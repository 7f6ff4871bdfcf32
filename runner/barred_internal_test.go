package runner

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// A pause may end when the session has found nothing else to do, and has not said so yet: then it does
// not carry orders out any more.
func TestUnbarredBeforeItSleeps(t *testing.T) {
	t.Parallel()
	for _, ends := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e := dozing(began, began, "prod")
			defer e.stopSession(e.databases.get("prod"))
			db := e.databases.get("prod")
			delete(e.rotation.asleep, db)
			db.stage = stageServed
			e.databases.served[db] = struct{}{}
			e.put("root.a", time.Unix(0, 0), channels.Pending)
			e.control(Controls{Pauses: []Pause{{Channel: "root.a"}}})
			db.barred = barred{uuids: []string{"root.a"}, opens: never}
			if ends {
				e.control(Controls{})
			}
			e.asleep(db, driver.Rest{})
			require.Equal(t, ends, len(awakeNow(e, "prod")) == 1)
		})
	}
}

// A database that sleeps is woken for a pending job that can start within the time for which it would
// stay connected, and for no other.
func TestUnbarred(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	soon := now.Add(session.SleepHorizon)
	for name, c := range map[string]struct {
		state channels.State
		until time.Time
		want  bool
	}{
		"pending, at once":     {channels.Pending, now, true},
		"pending, soon":        {channels.Pending, soon.Add(-time.Microsecond), true},
		"pending, not so soon": {channels.Pending, soon, false},
		"failed":               {channels.Failed, now, false},
		"started":              {channels.Started, now, false},
		"unknown":              {channels.Unknown, now, false},
	} {
		e := dozing(now, now, "prod")
		db := e.databases.get("prod")
		e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "a"}, Channel: "root.a"}, c.state)
		e.controls = Controls{Pauses: []Pause{{Channel: "root.a", Until: c.until}}}
		e.tree.Pause("root.a", true)
		db.barred = barred{uuids: []string{"a"}, opens: never}
		require.Equal(t, c.want, e.unbarred(db, now), name)
	}
}

// Pending jobs that cannot start for long are noted, with when the first of them can. Those of
// which nothing is to be done anyway are not.
func TestBarredJobsAreNoted(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	later := now.Add(2 * session.SleepHorizon)
	e, db := served()
	for channel, until := range map[string]time.Time{"root.a": later.Add(time.Hour), "root.b": later, "root.c": later, "root.d": later} {
		e.controls.Pauses = append(e.controls.Pauses, Pause{Channel: channel, Until: until})
		e.tree.Pause(channel, true)
	}
	e.put("root.a", now, channels.Pending)
	e.put("root.b", now, channels.Pending)
	e.put("root.c", now, channels.Failed)
	e.put("root.d", later, channels.Pending)
	require.True(t, e.idle(db, now))
	require.ElementsMatch(t, []string{"root.a", "root.b"}, db.barred.uuids)
	require.Equal(t, later.UnixMicro(), db.barred.opens)
	e.put("root", now, channels.Pending)
	require.False(t, e.idle(db, now))
	require.Empty(t, db.barred.uuids, "one of them may start")
}

// A database sleeps until shortly before the first of its barred jobs can start, if that is known.
func TestHowLongBarredJobsAreSleptOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			barred barred
			until  time.Duration // 0: as long as one sleeps at most
		}{
			"none":             {barred{opens: never}, 0},
			"at its time":      {barred{[]string{"a"}, now.Add(20 * time.Second).UnixMicro()}, 20*time.Second - etaAhead},
			"much later":       {barred{[]string{"a"}, now.Add(time.Hour).UnixMicro()}, 0},
			"nobody knows":     {barred{[]string{"a"}, never}, 0},
			"it is over":       {barred{nil, now.UnixMicro()}, 0},
			"it has just been": {barred{[]string{"a"}, now.UnixMicro()}, -etaAhead},
		} {
			e := dozing(now, now, "prod")
			db := e.databases.get("prod")
			db.barred = c.barred
			e.asleep(db, driver.Rest{})
			if c.until != 0 {
				require.Equal(t, c.until, db.slept.latest.Sub(now), name)
			} else {
				require.Greater(t, db.slept.latest.Sub(now), 20*time.Second, name)
			}
			require.Equal(t, len(c.barred.uuids) > 0, db.slept.barred, name)
			require.Equal(t, db.slept.barred, strings.HasPrefix(db.slept.detail(), "none of its jobs can start"), name)
		}
	})
}

// What is written is watched while a database is asleep, and where sessions hear nothing; these are
// told of what is new to them.
func TestWhatIsWrittenIsWatched(t *testing.T) {
	t.Parallel()
	for _, asleep := range []bool{false, true} {
		for _, pooled := range []bool{false, true} {
			e, _ := served()
			e.watching.Store(asleep)
			if pooled {
				e.with(func(cfg *Config) { cfg.Pooler = &pgx.ConnConfig{} })
			}
			require.Equal(t, asleep || pooled, e.watches())
		}
	}
	e, db := served()
	db.OID, db.writes = 7, driver.Writes{Rows: 1}
	e.databases.served[db] = struct{}{}
	e.tell(map[uint32]driver.Writes{8: {Rows: 3}})
	require.Equal(t, driver.Writes{Rows: 1}, db.writes)
	e.tell(map[uint32]driver.Writes{7: {Rows: 2}})
	require.Equal(t, driver.Writes{Rows: 2}, db.writes)
}
