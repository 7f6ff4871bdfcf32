package runner

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// releasingEngine is an engine with release_dependents, and without a loop.
func releasingEngine() *engine {
	e, _ := served()
	cfg := e.config()
	cfg.ReleaseDependents = true
	e.config = func() Config { return cfg }
	return e
}

// A job leaves others behind if it is done and Odoo has not answered that it is.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	answered := func(status int) *driver.Result {
		return &driver.Result{Outcome: driver.Answered, Status: status}
	}
	for name, c := range map[string]struct {
		task task
		want bool
	}{
		"nothing is known":     {task{}, false},
		"not done":             {task{row: jobRow(key, channels.Failed, 1)}, false},
		"no answer":            {task{row: jobRow(key, channels.Done, 1)}, true},
		"answered":             {task{row: jobRow(key, channels.Done, 1), result: answered(200)}, false},
		"the last good answer": {task{row: jobRow(key, channels.Done, 1), result: answered(399)}, false},
		"an error":             {task{row: jobRow(key, channels.Done, 1), result: answered(400)}, true},
		"broken":               {task{row: jobRow(key, channels.Done, 1), result: &driver.Result{Outcome: driver.Broken}}, true},
	} {
		require.Equal(t, c.want, c.task.leftBehind(), name)
	}
}

// Dependents are looked at ten seconds after a worker was lost, and 45 after a request was given up.
func TestWhenDependentsAreLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, now := releasingEngine(), time.Now()
		lost, givenUp := channels.Key{DB: "prod", UUID: "lost"}, channels.Key{DB: "prod", UUID: "given up"}
		require.Equal(t, now.Add(time.Hour), e.releases.due(now.Add(time.Hour)))
		e.bereave(lost, &task{row: jobRow(lost, channels.Done, 1)})
		e.bereave(givenUp, &task{row: jobRow(givenUp, channels.Done, 1), abandoned: true})
		e.bereave(channels.Key{UUID: "well"}, &task{row: jobRow(lost, channels.Done, 1), result: &driver.Result{Status: 200}})
		require.Equal(t, releases{lost: now.Add(10 * time.Second), givenUp: now.Add(45 * time.Second)}, e.releases)
		require.Equal(t, now.Add(10*time.Second), e.releases.due(now.Add(time.Hour)))
		require.Equal(t, now, e.releases.due(now))
		e.release(now.Add(10*time.Second - 1))
		require.Len(t, e.releases, 2)
		e.release(now.Add(10 * time.Second))
		require.Len(t, e.releases, 1)
		require.Contains(t, e.releases, givenUp)

		e.releases[channels.Key{DB: "lost", UUID: "b"}], e.releases[channels.Key{DB: "gone", UUID: "b"}] = now, now
		require.NotPanics(t, func() { e.release(now) }, "their next full reads bring them")
		require.Len(t, e.releases, 1)

		e, _ = served()
		e.bereave(lost, &task{row: jobRow(lost, channels.Done, 1)})
		require.Empty(t, e.releases, "without the option")
	})
}

// The workers of jobs that are done may still be about to release others, as long as their requests are
// open.
func TestReleasing(t *testing.T) {
	t.Parallel()
	e := releasingEngine()
	done := func(db, uuid string, p phase, s channels.State) {
		key := channels.Key{DB: db, UUID: uuid}
		e.holds(db, uuid, &task{phase: p, row: jobRow(key, s, 1), attempt: driver.Task{Key: key, Enqueued: 1}})
	}
	done("prod", "busy", phaseOpen, channels.Done)
	done("prod", "watched", phaseWatched, channels.Done)
	done("prod", "running", phaseOpen, channels.Started)
	done("lost", "elsewhere", phaseOpen, channels.Done)
	require.Equal(t, []string{"busy"}, e.releasing("prod"))
}

// All that waits is looked at with each full read, and once a minute where there is one every few
// seconds.
func TestHowOftenAllThatWaitsIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		for name, c := range map[string]struct {
			pooled bool
			ago    time.Duration
			looks  bool
		}{
			"a moment ago":                {false, 1, true},
			"pooled, and long ago":        {true, sweepLeast, true},
			"pooled, and not so long ago": {true, sweepLeast - 1, false},
		} {
			e := releasingEngine()
			if c.pooled {
				e.with(func(cfg *Config) { cfg.Pooler = &pgx.ConnConfig{} })
			}
			db := e.databases.get("prod")
			db.swept = now.Add(-c.ago)
			e.sweep(db)
			require.Equal(t, c.looks, db.swept.Equal(now), name)
		}
	})
}
