package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// open opens a session that ends with the test.
func (h *harness) open(cfg *pgx.ConnConfig) (s driver.Session) {
	h.t.Helper()
	var err error
	if d := odoo.New(odoo.Options{}); h.pooled {
		s, err = d.OpenPooled(h.deadline(), h.through(cfg), h.db)
	} else {
		s, err = d.OpenSession(h.deadline(), cfg, h.db)
	}
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = s.Close(context.Background()) }) // it may be lost
	return s
}

// through is the way through a new pooler that gives each transaction another backend.
func (h *harness) through(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	h.t.Helper()
	cfg = cfg.Copy()
	cfg.Database = h.db
	return drivertest.NewPooler(h.t, cfg, drivertest.PoolRoundRobin)
}

// served returns a session through a pooler that may claim, and the way of it.
func (h *harness) served() (driver.Session, *pgx.ConnConfig) {
	h.t.Helper()
	cfg := h.through(h.Postgres())
	s, err := h.Driver().(*odoo.Driver).OpenPooled(h.deadline(), cfg, h.db)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = s.Close(context.Background()) }) // it may be lost
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, driver.Healthy, fp.Health, fp.Description)
	require.Equal(h.t, "ready, through the pooler", fp.Description)
	lock, err := s.Lock(h.deadline())
	require.NoError(h.t, err)
	require.True(h.t, lock.Held)
	return s, cfg
}

const lockOfOCA = int64(2293787760715711918)

// TestRivalOfAPooledSession: what writes does so only while no other runner has the lock, which may take
// it between any two statements, and finds it taken while something is written.
func TestRivalOfAPooledSession(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"a", "b", "c"} {
		h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
	}
	s, _ := h.served()
	claimed, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, claimed, 1)

	rival := h.connect()
	_, err = rival.Exec(h.deadline(), "SET application_name = 'rival'; SELECT pg_advisory_lock(2293787760715711918)")
	require.NoError(t, err)
	lock, err := s.Lock(h.deadline())
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.Contains(t, lock.Holder, "application rival")
	dead := driver.Liveness{Expired: true, Row: driver.Row{Job: channels.Job{Key: claimed[0].Key}, RawState: "enqueued", Enqueued: claimed[0].Enqueued}}
	for name, write := range map[string]func() error{
		"claim":   func() error { _, _, err := s.Claim(h.deadline(), []string{"b"}, []string{"c"}); return err },
		"unclaim": func() error { _, err := s.Unclaim(h.deadline(), claimed); return err },
		"fail unclaimed": func() error {
			_, err := s.(driver.Quarantiner).FailUnclaimed(h.deadline(), claimed, []string{"x"})
			return err
		},
		"rescue": func() error { _, err := s.Rescue(h.deadline(), []driver.Liveness{dead}); return err },
		"fail dead": func() error {
			_, err := s.(driver.Quarantiner).FailDead(h.deadline(), []driver.Liveness{dead}, []string{"x"})
			return err
		},
		"fail stopped": func() error {
			_, err := s.(driver.Stopper).FailStopped(h.deadline(), []driver.Liveness{dead}, []string{"x"})
			return err
		},
		"stop": func() error { _, err := s.(driver.Stopper).Stop(h.deadline(), claimed, true); return err },
		"account": func() error {
			_, err := s.(driver.Stopper).Account(h.deadline(), []driver.Cause{{Attempt: claimed[0], Text: "x"}})
			return err
		},
		"release": func() error { _, err := s.(driver.Releaser).Release(h.deadline(), []int64{1}, 0, nil); return err },
		"probe":   func() error { return s.Probe(h.deadline()) },
	} {
		t.Run(name, func(t *testing.T) {
			err := write()
			require.ErrorIs(t, err, driver.ErrRival)
			require.ErrorIs(t, err, driver.ErrLost)
		})
	}
	rows, err := s.Read(h.deadline(), []string{"a", "b", "c"})
	require.NoError(t, err, "what reads goes on")
	states := map[string]string{}
	for _, r := range rows {
		states[r.UUID] = r.RawState
	}
	require.Equal(t, map[string]string{"a": "enqueued", "b": "pending", "c": "pending"}, states)

	_, err = rival.Exec(h.deadline(), "SELECT pg_advisory_unlock($1)", lockOfOCA)
	require.NoError(t, err)
	lock, err = s.Lock(h.deadline())
	require.NoError(t, err)
	require.True(t, lock.Held)
	got, _, err := s.Claim(h.deadline(), []string{"b"}, nil)
	require.NoError(t, err)
	require.Len(t, got, 1)

	// A claim that is under way keeps the lock until it is committed.
	end := h.stall()
	done := make(chan error, 1)
	go func() { _, err := s.Unclaim(h.deadline(), got); done <- err }()
	const locks = `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`
	require.Eventually(t, func() bool { // to try for it would be to take it, for a moment
		var n int
		require.NoError(t, rival.QueryRow(h.deadline(), locks).Scan(&n))
		return n > 0
	}, timeLimit, time.Millisecond)
	var taken bool
	require.NoError(t, rival.QueryRow(h.deadline(), "SELECT pg_try_advisory_lock($1)", lockOfOCA).Scan(&taken))
	require.False(t, taken)
	end()
	require.NoError(t, <-done)
}

// timeLimit bounds what is waited for.
const timeLimit = 20 * time.Second

// stall has every change of jobs wait until end is called.
func (h *harness) stall() (end func()) {
	h.t.Helper()
	h.exec(`CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
		CREATE TRIGGER stall BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE stall()`)
	h.exec("SELECT pg_advisory_lock(4711)")
	return func() { h.exec("SELECT pg_advisory_unlock(4711)") }
}

// TestNothingStaysAtThePooler: the backends are left as others expect them to be.
func TestNothingStaysAtThePooler(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	s, cfg := h.served()
	claimed, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.NoError(t, s.Probe(h.deadline()))
	_, err = s.(driver.Releaser).Dependents(h.deadline(), nil)
	require.NoError(t, err)
	other, err := pgx.ConnectConfig(h.deadline(), cfg)
	require.NoError(t, err)
	defer other.Close(context.Background())
	for range 2 { // each of the two backends
		var locks, statements int
		var path, timeout, scans string
		require.NoError(t, other.QueryRow(h.deadline(), `SELECT current_setting('search_path'), current_setting('statement_timeout'),
				current_setting('enable_seqscan'),
				(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()),
				(SELECT count(*) FROM pg_prepared_statements)`, pgx.QueryExecModeExec).Scan(&path, &timeout, &scans, &locks, &statements))
		require.Equal(t, `"$user", public`, path)
		require.Equal(t, "0", timeout)
		require.Equal(t, "on", scans)
		require.Zero(t, locks)
		require.Zero(t, statements)
	}
}

// TestCommitOfAPooledClaimFails: a claim that is not committed has claimed nothing, and the session goes on.
func TestCommitOfAPooledClaimFails(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	s, _ := h.served()
	h.exec(`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
		CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON queue_job DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE PROCEDURE refuse()`)
	tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.ErrorContains(t, err, "not now")
	require.Empty(t, tasks)
	require.NotErrorIs(t, err, driver.ErrLost)
	h.exec("DROP TRIGGER refuse ON queue_job")
	tasks, _, err = s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)

	h.exec("ALTER TABLE queue_job RENAME TO jobs") // a statement that fails, and not at its end
	_, err = s.Read(h.deadline(), []string{"a"})
	require.Error(t, err)
	h.exec("ALTER TABLE jobs RENAME TO queue_job")
	rows, err := s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

// TestFenceOfAPooledSession: nothing is written once the maintenance connection of this process does not
// hold the leader lock any more, whoever holds it.
func TestFenceOfAPooledSession(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"a", "b"} {
		h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
	}
	const key = int64(4711)<<33 + 12
	lead := func() (driver.Cluster, driver.Fence) {
		c, err := h.Driver().OpenCluster(h.deadline(), h.Postgres())
		require.NoError(t, err)
		lock, err := c.Lead(h.deadline(), key)
		require.NoError(t, err)
		require.True(t, lock.Held)
		return c, c.(driver.Fencer).Fence(key)
	}
	first, fence := lead()
	s, _ := h.served()
	s.(driver.Fenced).SetFence(func() driver.Fence { return fence })
	claimed, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, claimed, 1)

	require.NoError(t, first.Unlead(h.deadline(), key))
	refused := func() {
		t.Helper()
		_, _, err = s.Claim(h.deadline(), []string{"b"}, nil)
		require.ErrorIs(t, err, driver.ErrDeposed)
		require.ErrorIs(t, err, driver.ErrLost)
		require.NotErrorIs(t, err, driver.ErrRival)
		require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrDeposed)
		rows, err := s.Read(h.deadline(), []string{"b"})
		require.NoError(t, err, "what reads goes on")
		require.Equal(t, "pending", rows[0].RawState)
	}
	refused()
	second, other := lead()
	defer func() { require.NoError(t, second.Close(context.Background())) }()
	refused() // the lock is held by another process
	require.NoError(t, first.Close(h.deadline()))
	refused()
	fence = other
	claimed, _, err = s.Claim(h.deadline(), []string{"b"}, nil)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.Equal(t, driver.Fence{PID: other.PID, Key: key}, other)
}

// A pooled session finds out that the database has changed by its probe, as others do.
func TestPooledProbeNoticesMarks(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s, _ := h.served()
	require.NoError(t, s.Probe(h.deadline()))
	h.exec("UPDATE ir_module_module SET latest_version = '99.0.1.0.0' WHERE name = 'queue_job'")
	require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
	h.exec("UPDATE ir_module_module SET state = 'uninstalled'")
	_, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.NoError(t, s.Probe(h.deadline()), "it is about the connection alone")
}
