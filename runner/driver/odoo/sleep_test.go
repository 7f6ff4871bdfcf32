package odoo_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestSleepLooksLast: what has been written is read before the look for jobs, so that whatever the look
// does not see is not among it: here, what is committed while the look waits.
func TestSleepLooksLast(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "done"})
	s := h.session().(driver.Sleeper)
	var before driver.Rest
	require.Eventually(t, func() bool { // what made the database is counted late
		was := before
		var err error
		before, err = s.Sleep(h.deadline(), time.Minute)
		require.NoError(t, err)
		return was.Writes == before.Writes
	}, 30*time.Second, 1500*time.Millisecond)
	require.False(t, before.Busy)

	writer := h.connect()
	tx := writes(t, writer, "LOCK TABLE queue_job IN ACCESS EXCLUSIVE MODE")
	type result struct {
		driver.Rest
		error
	}
	looked := make(chan result, 1)
	ctx := h.deadline()
	go func() {
		rest, err := s.Sleep(ctx, time.Minute)
		looked <- result{rest, err}
	}()
	require.Eventually(t, func() bool {
		var n int
		err := h.admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n)
		return err == nil && n > 0
	}, 10*time.Second, time.Millisecond)
	_, err := tx.Exec(t.Context(), "UPDATE queue_job SET priority = 1")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, writer.Close(t.Context()))
	r := <-looked
	require.NoError(t, r.error)
	require.Equal(t, before.Writes, r.Writes)
	require.Eventually(t, func() bool {
		now, err := s.Sleep(h.deadline(), time.Minute)
		return err == nil && now.Writes != r.Writes
	}, 30*time.Second, 50*time.Millisecond)
}

// TestSleepMeetsALock: a table that cannot be read is no reason to sleep, and costs no session.
func TestSleepMeetsALock(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	tx := writes(t, h.connect(), "LOCK TABLE queue_job IN ACCESS EXCLUSIVE MODE")
	r, err := s.(driver.Sleeper).Sleep(h.deadline(), time.Minute)
	require.NoError(t, err)
	require.True(t, r.Busy)
	require.NoError(t, tx.Rollback(t.Context()))
	r, err = s.(driver.Sleeper).Sleep(h.deadline(), time.Minute)
	require.NoError(t, err)
	require.False(t, r.Busy)
}
