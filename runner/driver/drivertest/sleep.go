package drivertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// testSleep: a session tells what there is to do, and what is committed after that shows on the
// maintenance connection.
func testSleep(b *bench) {
	sleeper, ok := b.ready().(driver.Sleeper)
	if !ok {
		return // it is optional
	}
	sleep := func() driver.Rest {
		r, err := sleeper.Sleep(b.ctx, time.Minute, nil)
		require.NoError(b.t, err)
		return r
	}
	rest := func(busy bool, next time.Time) {
		b.t.Helper()
		r := sleep()
		require.Equal(b.t, busy, r.Busy)
		require.WithinDuration(b.t, next, r.Next, time.Second)
	}
	rest(false, time.Time{})
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	rest(true, time.Time{})
	for state, busy := range map[string]bool{
		"enqueued": true, "started": true, "failed": false, "done": false, "cancelled": false, "wait_dependencies": false, "strange": true,
	} {
		b.SetState(jobA, state)
		require.Equal(b.t, busy, sleep().Busy, state)
	}
	b.SetState(jobA, "failed")
	soon, later := time.Now().Add(30*time.Second), time.Now().Add(time.Hour)
	b.Insert(Job{UUID: jobB, State: "pending", Created: ago(time.Hour), ETA: later})
	rest(false, later)
	b.Insert(Job{UUID: nothing, State: "pending", Created: ago(time.Hour), ETA: soon})
	rest(true, soon)
	r, err := sleeper.Sleep(b.ctx, time.Minute, []string{nothing, jobC})
	require.NoError(b.t, err)
	require.False(b.t, r.Busy, "what is barred is not to be done")
	require.WithinDuration(b.t, later, r.Next, time.Second)
	r, err = sleeper.Sleep(b.ctx, time.Minute, []string{jobA, jobB})
	require.NoError(b.t, err)
	require.True(b.t, r.Busy)
	b.SetState(jobA, "started")
	r, err = sleeper.Sleep(b.ctx, time.Minute, []string{nothing, jobA})
	require.NoError(b.t, err)
	require.True(b.t, r.Busy, "what runs counts")
	b.SetState(jobA, "failed")
	b.Delete(nothing)

	watcher := b.cluster().(driver.Watcher)
	oid := b.oid()
	before := sleep().Writes
	b.Insert(Job{UUID: nothing, State: "pending", Created: ago(time.Hour), ETA: later})
	require.Eventually(b.t, func() bool {
		// A connection that has nothing else to do tells PostgreSQL after ten seconds what it has written.
		b.Notify(nothing)
		all, err := watcher.Writes(b.ctx)
		require.NoError(b.t, err)
		require.Contains(b.t, all, oid)
		return all[oid] != before
	}, 2*timeout, 50*time.Millisecond)
}

// oid is that of the database.
func (b *bench) oid() uint32 {
	b.t.Helper()
	dbs, err := b.cluster().Databases(b.ctx, []string{b.Database()})
	require.NoError(b.t, err)
	require.Len(b.t, dbs, 1)
	return dbs[0].OID
}

// testLimits: a maintenance connection counts itself and what a session adds.
func testLimits(b *bench) {
	limiter, ok := b.cluster().(driver.Limiter)
	if !ok {
		return // it is optional
	}
	before, err := limiter.Limits(b.ctx)
	require.NoError(b.t, err)
	require.Positive(b.t, before.Runners)
	b.open()
	after, err := limiter.Limits(b.ctx)
	require.NoError(b.t, err)
	require.Greater(b.t, after.Runners, before.Runners)
	require.GreaterOrEqual(b.t, after.RoleUsed, after.Runners)
	require.GreaterOrEqual(b.t, after.ServerUsed, after.RoleUsed)
}
