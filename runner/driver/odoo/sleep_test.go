package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestSleepLooksLast: what has been written is read before the look for jobs, so that whatever the look
// does not see is not among it: here, what is counted while the look waits.
func TestSleepLooksLast(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "done"})
	s := h.session().(driver.Sleeper)
	var before driver.Rest
	require.Eventually(t, func() bool { // what made the database is counted late
		was := before
		var err error
		before, err = s.Sleep(h.deadline(), time.Minute, nil)
		require.NoError(t, err)
		return was.Writes == before.Writes
	}, 30*time.Second, 1500*time.Millisecond)
	require.False(t, before.Busy)

	tx := writes(t, h.connect(), "LOCK TABLE queue_job IN ACCESS EXCLUSIVE MODE")
	type result struct {
		driver.Rest
		error
	}
	looked := make(chan result, 1)
	ctx := h.deadline()
	go func() {
		rest, err := s.Sleep(ctx, time.Minute, nil)
		looked <- result{rest, err}
	}()
	require.Eventually(t, func() bool {
		var n int
		err := h.admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n)
		return err == nil && n > 0
	}, 10*time.Second, time.Millisecond)
	writer := h.connect()
	require.NoError(t, writes(t, writer, "UPDATE ir_module_module SET state = state").Commit(t.Context()))
	require.NoError(t, writer.Close(t.Context())) // it reports then at the latest
	require.Eventually(t, func() bool {
		var rows int64
		err := h.admin.QueryRow(t.Context(), "SELECT tup_inserted + tup_updated FROM pg_stat_database WHERE datname = $1", h.Database()).Scan(&rows)
		return err == nil && rows != before.Writes.Rows
	}, 4*time.Second, 10*time.Millisecond, "before the look gives up")
	require.NoError(t, tx.Rollback(t.Context()))
	r := <-looked
	require.NoError(t, r.error)
	require.False(t, r.Busy)
	require.Equal(t, before.Writes, r.Writes)
}

// TestSleepMeetsALock: a table that cannot be read is no reason to sleep, and costs no session.
func TestSleepMeetsALock(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	tx := writes(t, h.connect(), "LOCK TABLE queue_job IN ACCESS EXCLUSIVE MODE")
	r, err := s.(driver.Sleeper).Sleep(h.deadline(), time.Minute, nil)
	require.NoError(t, err)
	require.True(t, r.Busy)
	require.NoError(t, tx.Rollback(t.Context()))
	r, err = s.(driver.Sleeper).Sleep(h.deadline(), time.Minute, nil)
	require.NoError(t, err)
	require.False(t, r.Busy)
}

// TestSleepBeforeAnEtaThatNeverComes: a job that waits for ever is one that waits for its eta. Were none
// told, the engine would take it for one that is to be done, and connect at once, again and again.
func TestSleepBeforeAnEtaThatNeverComes(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	for _, eta := range []string{"infinity", "294270-01-01"} {
		h.exec("UPDATE queue_job SET eta = '" + eta + "'")
		r, err := h.session().(driver.Sleeper).Sleep(h.deadline(), time.Minute, nil)
		require.NoError(t, err)
		require.False(t, r.Busy, eta)
		require.True(t, r.Next.After(time.Now().AddDate(1000, 0, 0)), "%s: %s", eta, r.Next)
	}
}

// TestSleepWithoutStatistics: where nothing would tell that something was written, a database keeps its
// connection.
func TestSleepWithoutStatistics(t *testing.T) {
	t.Parallel()
	h := newHarness(t, odoostub.QueueJobLock)
	cfg := h.owner()
	h.exec("REVOKE SELECT ON pg_catalog.pg_stat_database FROM PUBLIC")
	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	_, err = s.Fingerprint(h.deadline())
	require.NoError(t, err)
	r, err := s.(driver.Sleeper).Sleep(h.deadline(), time.Minute, nil)
	require.NoError(t, err)
	require.True(t, r.Busy)
	require.NoError(t, s.Probe(h.deadline()))
}
