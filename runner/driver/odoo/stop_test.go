package odoo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// attempt inserts a job that has been started, with its lock row.
func (h *harness) attempt(uuid string) driver.Task {
	h.t.Helper()
	at := time.Now().Add(-time.Minute).Truncate(time.Second)
	h.Insert(drivertest.Job{UUID: uuid, State: "started", Enqueued: at, LockRow: h.gen.Locks()})
	return driver.Task{Key: channels.Key{DB: h.db, UUID: uuid}, Enqueued: at.UnixMicro()}
}

// stop stops an attempt.
func (h *harness) stop(s driver.Session, task driver.Task, terminate bool) driver.Stopped {
	h.t.Helper()
	list, err := s.(driver.Stopper).Stop(h.deadline(), []driver.Task{task}, terminate)
	require.NoError(h.t, err)
	require.Len(h.t, list, 1)
	return list[0]
}

// run starts a statement on a connection and waits until the server executes it.
func (h *harness) run(conn *pgx.Conn, sql string) <-chan error {
	h.t.Helper()
	ended := make(chan error, 1)
	ctx := h.deadline()
	go func() {
		_, err := conn.Exec(ctx, sql)
		ended <- err
	}()
	require.Eventually(h.t, func() bool {
		var active bool
		require.NoError(h.t, h.admin.QueryRow(ctx, "SELECT state = 'active' AND query = $2 FROM pg_stat_activity WHERE pid = $1",
			conn.PgConn().PID(), sql).Scan(&active))
		return active
	}, 30*time.Second, time.Millisecond)
	return ended
}

// code is the SQLSTATE of an error.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// A statement that runs is cancelled, with whatever savepoint it runs in, and its connection ended
// when that is wanted.
func TestStopOfAStatement(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	for _, savepoint := range []bool{false, true} {
		for _, terminate := range []bool{false, true} {
			uuid := fmt.Sprintf("savepoint %t, terminate %t", savepoint, terminate)
			task := h.attempt(uuid)
			pid := h.HoldLock(uuid)
			worker := h.workers[uuid]
			if savepoint {
				_, err := worker.Exec(h.deadline(), "SAVEPOINT a; CREATE TEMP TABLE made (n int)")
				require.NoError(t, err)
			}
			ended := h.run(worker, "SELECT pg_sleep(60)")
			stopped := h.stop(s, task, terminate)
			require.Equal(t, driver.Stopped{Task: task, Result: driver.Signalled, PID: pid}, stopped)
			want := "57014"
			if terminate {
				want = "57P01"
			}
			require.Equal(t, want, code(<-ended))
			if savepoint && !terminate {
				_, err := worker.Exec(h.deadline(), "ROLLBACK TO a")
				require.NoError(t, err)
				require.Equal(t, pid, h.stop(s, task, false).PID, "it holds its lock still")
			}
		}
	}
}

// A lock that was taken in a savepoint shows while the savepoint lasts, and is left alone afterwards.
func TestStopOfALockInASavepoint(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	task := h.attempt("a")
	worker := h.connect()
	_, err := worker.Exec(h.deadline(), "BEGIN; CREATE TEMP TABLE made (n int); SAVEPOINT a; SELECT FROM queue_job_lock FOR NO KEY UPDATE")
	require.NoError(t, err)
	stopped := h.stop(s, task, false)
	require.Equal(t, driver.Stopped{Task: task, Result: driver.Signalled, PID: worker.PgConn().PID()}, stopped)
	_, err = worker.Exec(h.deadline(), "RELEASE a")
	require.NoError(t, err)
	stopped = h.stop(s, task, true)
	require.Equal(t, driver.NotRunning, stopped.Result)
	require.Equal(t, "no backend shows that it holds the job's lock", stopped.Text)
	_, err = worker.Exec(h.deadline(), "COMMIT")
	require.NoError(t, err)
}

// What cannot be told from others is not signalled, and said.
func TestUnstoppable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*harness)
		want   driver.StopResult
		text   string
	}{
		"two jobs of one uuid": {func(h *harness) {
			h.exec("INSERT INTO queue_job (uuid, state, date_enqueued) SELECT uuid, state, date_enqueued FROM queue_job")
		}, driver.Unstoppable, "2 jobs have this uuid"},
		"two lock rows": {func(h *harness) {
			h.exec("INSERT INTO queue_job_lock (queue_job_id, id) SELECT queue_job_id, 77 FROM queue_job_lock")
		}, driver.Unstoppable, "the job has 2 lock rows"},
		"a second locker": {func(h *harness) {
			_, err := h.connect().Exec(h.deadline(), "BEGIN; SELECT FROM queue_job_lock FOR KEY SHARE")
			require.NoError(h.t, err)
		}, driver.Unstoppable, "several transactions may have locked"},
		"a job that is about to end": {func(h *harness) {
			_, err := h.workers["a"].Exec(h.deadline(), "UPDATE queue_job SET state = 'done'")
			require.NoError(h.t, err)
		}, driver.NotRunning, "the job may be ending"},
		"a row that a person has open": {func(h *harness) {
			_, err := h.connect().Exec(h.deadline(), "BEGIN; SELECT FROM queue_job FOR NO KEY UPDATE")
			require.NoError(h.t, err)
		}, driver.NotRunning, "the job may be ending"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			s := h.session()
			task := h.attempt("a")
			h.HoldLock("a")
			c.change(h)
			for _, terminate := range []bool{false, true} {
				stopped := h.stop(s, task, terminate)
				require.Equal(t, c.want, stopped.Result, stopped.Text)
				require.Contains(t, stopped.Text, c.text)
			}
		})
	}
}

// functions makes the table that says which jobs may commit, as the newest releases have it.
func (h *harness) functions() {
	h.t.Helper()
	h.exec(`CREATE TABLE queue_job_function (id serial PRIMARY KEY, name varchar, allow_commit boolean);
		ALTER TABLE queue_job ADD COLUMN job_function_id int;
		INSERT INTO queue_job_function (name, allow_commit) VALUES ('<res.partner>.merge', false), ('<res.partner>.send', true)`)
}

// The lock holder of a job that may commit waits for the connection that works: it is not signalled.
func TestStopOfAJobThatMayCommit(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.functions()
	s := h.session()
	task := h.attempt("a")
	pid := h.HoldLock("a")
	for _, c := range []struct {
		sql  string
		want driver.StopResult
	}{
		{"UPDATE queue_job SET model_name = 'res.partner', method_name = 'merge', job_function_id = 1", driver.Signalled},
		{"UPDATE queue_job SET job_function_id = 2", driver.Unstoppable},
		{"UPDATE queue_job SET method_name = 'send', job_function_id = 1", driver.Unstoppable},
		{"UPDATE queue_job SET job_function_id = NULL", driver.Unstoppable},
		{"UPDATE queue_job_function SET allow_commit = NULL", driver.Signalled},
		{"ALTER TABLE queue_job_function DROP COLUMN allow_commit", driver.Signalled},
		{"DROP TABLE queue_job_function", driver.Signalled},
	} {
		h.exec(c.sql)
		stopped := h.stop(s, task, false)
		require.Equal(t, c.want, stopped.Result, c.sql)
		if c.want == driver.Signalled {
			require.Equal(t, pid, stopped.PID)
		} else {
			require.Contains(t, stopped.Text, "allow_commit")
		}
	}
}

// Where it cannot be seen which jobs may commit, none is stopped; and nothing of others is read.
func TestStopWithHiddenFunctions(t *testing.T) {
	for name, sql := range map[string]string{
		"a view": `ALTER TABLE queue_job_function RENAME TO f;
			CREATE FUNCTION trap(b boolean) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'called'; END $$;
			CREATE VIEW queue_job_function AS SELECT id, name, trap(allow_commit) AS allow_commit FROM f`,
		"a type": `CREATE DOMAIN flag AS boolean; ALTER TABLE queue_job_function ALTER allow_commit TYPE flag`,
		"a policy": `ALTER TABLE queue_job_function ENABLE ROW LEVEL SECURITY;
			CREATE POLICY p ON queue_job_function USING (false)`,
		"no rights": "",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			h.functions()
			h.exec(sql)
			task := h.attempt("a")
			h.HoldLock("a")
			role := h.dedicated()
			if name != "no rights" {
				h.exec("GRANT SELECT ON queue_job_function TO " + role)
			}
			stopped := h.stop(h.sessionOf(role), task, true)
			require.Equal(t, driver.Unstoppable, stopped.Result)
			require.Contains(t, stopped.Text, "GRANT SELECT (id, name, allow_commit) ON queue_job_function")
		})
	}
}

// dedicated makes a role that may do what SECURITY.md recommends, which is not to stop jobs.
func (h *harness) dedicated() (role string) {
	h.t.Helper()
	role = "runner_" + h.db
	h.exec("CREATE ROLE " + role + " LOGIN; GRANT SELECT ON ir_module_module, ir_config_parameter, queue_job, queue_job_lock TO " + role +
		"; GRANT UPDATE (state, date_enqueued, retry, exc_name, exc_info) ON queue_job TO " + role +
		"; GRANT UPDATE (queue_job_id) ON queue_job_lock TO " + role)
	h.t.Cleanup(func() {
		require.NoError(h.t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role))
	})
	return role
}

// sessionOf opens a session of a role, with a fingerprint.
func (h *harness) sessionOf(role string) driver.Session {
	h.t.Helper()
	cfg := h.Postgres()
	cfg.User = role
	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, s.Close(context.Background())) })
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, driver.Healthy, fp.Health, fp.Description)
	return s
}

// Whom PostgreSQL lets signal a backend: its role, members of it, members of pg_signal_backend, and
// superusers; those of superusers only superusers. Denied is what it says, not an error.
func TestStopNeedsRights(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	role := h.dedicated()
	worker := "worker_" + h.db
	h.exec("CREATE ROLE " + worker + " LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO " + worker)
	t.Cleanup(func() {
		require.NoError(t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+worker+" CASCADE; DROP ROLE "+worker))
	})
	task := h.attempt("a")
	hold := func(user string) (pid uint32, free func()) {
		cfg := h.pg.ConnConfig(h.db)
		cfg.User = user
		conn, err := pgx.ConnectConfig(h.deadline(), cfg)
		require.NoError(t, err)
		_, err = conn.Exec(h.deadline(), "BEGIN; SELECT FROM queue_job_lock FOR NO KEY UPDATE")
		require.NoError(t, err)
		return conn.PgConn().PID(), func() { require.NoError(t, conn.Close(context.Background())) }
	}
	s := h.sessionOf(role)
	h.exec("UPDATE queue_job SET state = 'failed'")
	rows, err := s.(driver.Stopper).Account(h.deadline(), []driver.Cause{{Attempt: task, Text: "Too long."}})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	h.exec("UPDATE queue_job SET state = 'started'")

	pid, free := hold(worker)
	stopped := h.stop(s, task, true)
	require.Equal(t, driver.Denied, stopped.Result)
	require.Equal(t, pid, stopped.PID)
	require.Equal(t, fmt.Sprintf(`the backend belongs to %s: GRANT pg_signal_backend TO "%s", or connect as %s`, worker, role, worker), stopped.Text)
	require.NoError(t, s.Probe(h.deadline()), "the session is well")
	h.exec("GRANT pg_signal_backend TO " + role)
	require.Equal(t, driver.Signalled, h.stop(s, task, false).Result)
	h.exec("REVOKE pg_signal_backend FROM " + role)
	require.Equal(t, driver.Denied, h.stop(s, task, false).Result)
	h.exec("GRANT " + worker + " TO " + role)
	require.Equal(t, driver.Signalled, h.stop(s, task, false).Result)
	require.Equal(t, driver.Signalled, h.stop(h.session(), task, false).Result, "of a superuser")
	free()

	h.exec("GRANT pg_signal_backend TO " + role)
	_, free = hold(h.Postgres().User)
	stopped = h.stop(s, task, true)
	require.Equal(t, driver.Denied, stopped.Result)
	require.Contains(t, stopped.Text, "whom only superusers may signal")
	require.Equal(t, driver.Signalled, h.stop(h.session(), task, false).Result)
	free()
}

// A server may have other rules than those that the statement knows: that it refuses is an answer, too.
// Another error is none.
func TestStopIsRefused(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	role := h.dedicated()
	task := h.attempt("a")
	h.HoldLock("a")
	s := h.sessionOf(role)
	h.exec("REVOKE EXECUTE ON FUNCTION pg_cancel_backend(int) FROM PUBLIC")
	stopped := h.stop(s, task, false)
	require.Equal(t, driver.Denied, stopped.Result)
	require.Contains(t, stopped.Text, "PostgreSQL refuses to signal the backend: permission denied for function pg_cancel_backend")
	require.NoError(t, s.Probe(h.deadline()), "the session is well")
	h.FreeLock("a")
	h.exec("ALTER TABLE queue_job RENAME date_enqueued TO other")
	_, err := s.(driver.Stopper).Stop(h.deadline(), []driver.Task{task}, false)
	require.ErrorContains(t, err, "stop a job")
}

// Why no job can be stopped is found before one has to be: by the doctor.
func TestExaminedRightsToStop(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	require.Empty(t, h.examine().Unstoppable, "as a superuser")
	role := h.dedicated()
	worker := "worker_" + h.db
	h.exec("CREATE ROLE " + worker)
	t.Cleanup(func() {
		require.NoError(t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+worker+" CASCADE; DROP ROLE "+worker))
	})
	why := func() string {
		cfg := h.Postgres()
		cfg.User = role
		x, err := odoo.New(odoo.Options{}).Examine(h.deadline(), cfg, h.db)
		require.NoError(t, err)
		return x.Unstoppable
	}
	require.Contains(t, why(), "the table queue_job belongs to "+h.Postgres().User+", whom only superusers may signal, and "+role+" is none")
	h.exec("ALTER TABLE queue_job OWNER TO " + worker)
	require.Equal(t, fmt.Sprintf(`the table queue_job belongs to %s: GRANT pg_signal_backend TO "%s", or connect as %s`, worker, role, worker), why())
	h.exec("GRANT pg_signal_backend TO " + role)
	require.Empty(t, why())
	h.functions()
	require.Contains(t, why(), "the role cannot see which functions allow commits")
}

// The numbers of transactions and of groups of transactions count apart. A lock row that a group has
// locked does not lead to the transaction that has the group's number.
func TestStopTellsGroupsFromTransactions(t *testing.T) {
	pg := pgtest.Own(t, pgtest.Options{Settings: map[string]string{"max_prepared_transactions": "5"}})
	h := &harness{t: t, pg: pg, db: pg.NewDatabase(t), gen: odoostub.QueueJobLock, workers: map[string]*pgx.Conn{}}
	h.admin = h.connect()
	require.NoError(t, odoostub.Install(t.Context(), h.admin, h.gen))
	s := h.session()
	task := h.attempt("a")
	number := func(of string) (n int64) {
		require.NoError(t, h.admin.QueryRow(h.deadline(), "SELECT "+of+"::text::int8 FROM queue_job_lock").Scan(&n))
		return n
	}

	// A visitor's transaction, and as many groups as it takes until one has its number: each subset of
	// sessions is one.
	visitor := h.connect()
	var theirs int64
	_, err := visitor.Exec(h.deadline(), "BEGIN")
	require.NoError(t, err)
	require.NoError(t, visitor.QueryRow(h.deadline(), "SELECT txid_current()").Scan(&theirs))
	h.exec("CREATE TABLE rows AS SELECT n FROM generate_series(0, 4095) n; ALTER TABLE rows ADD PRIMARY KEY (n)")
	lockers := make([]*pgx.Conn, 12)
	for i := range lockers {
		lockers[i] = h.connect()
		_, err := lockers[i].Exec(h.deadline(), "BEGIN")
		require.NoError(t, err)
	}
	age := func() (n int64) { // how many groups are still to come before the visitor's number
		require.NoError(t, h.admin.QueryRow(h.deadline(), "SELECT -mxid_age($1::text::xid)", fmt.Sprint(theirs)).Scan(&n))
		return n
	}
	for n := range 4096 {
		for i, locker := range lockers {
			if n&(1<<i) != 0 && age() > 0 {
				_, err := locker.Exec(h.deadline(), "SELECT FROM rows WHERE n = $1 FOR KEY SHARE", n)
				require.NoError(t, err)
			}
		}
	}
	require.Zero(t, age(), "the next group gets the visitor's number")
	_, err = lockers[0].Exec(h.deadline(), "SELECT FROM queue_job_lock FOR NO KEY UPDATE")
	require.NoError(t, err)
	_, err = lockers[1].Exec(h.deadline(), "SELECT FROM queue_job_lock FOR KEY SHARE")
	require.NoError(t, err)
	require.Equal(t, theirs, number("xmax"))

	var naive uint32
	require.NoError(t, h.admin.QueryRow(h.deadline(), `SELECT a.pid FROM queue_job_lock l
		JOIN pg_stat_activity a ON a.backend_xid = l.xmax`).Scan(&naive))
	require.Equal(t, visitor.PgConn().PID(), naive, "that is whom the number alone leads to")
	stopped := h.stop(s, task, true)
	require.Equal(t, driver.Unstoppable, stopped.Result)
	require.Contains(t, stopped.Text, "several transactions")
	_, err = visitor.Exec(h.deadline(), "COMMIT")
	require.NoError(t, err, "the visitor was left alone")
	for _, locker := range lockers {
		_, err := locker.Exec(h.deadline(), "ROLLBACK")
		require.NoError(t, err)
	}

	// A prepared transaction has no backend.
	task = h.attempt("b")
	h.exec("BEGIN; CREATE TABLE made (n int); SELECT FROM queue_job_lock WHERE queue_job_id = 2 FOR NO KEY UPDATE; PREPARE TRANSACTION 'p'")
	stopped = h.stop(s, task, true)
	require.Equal(t, driver.Unstoppable, stopped.Result)
	h.exec("ROLLBACK PREPARED 'p'")
}

// What is told is told whatever is in it, and no row grows for ever.
func TestAccountOfAnyText(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	account := func(uuid, text string) int {
		rows, err := s.(driver.Stopper).Account(h.deadline(), []driver.Cause{{Attempt: h.failed(uuid), Text: text}})
		require.NoError(t, err)
		return len(rows)
	}
	require.Equal(t, 1, account("a", "It's over: \x00\xff'; DROP TABLE queue_job; -- ä\n"))
	require.Equal(t, "It's over: \uFFFD'; DROP TABLE queue_job; -- ä", h.Cause("a"))
	h.exec("UPDATE queue_job SET exc_info = 'Traceback'")
	require.Equal(t, 1, account("a", "Too long."))
	require.Equal(t, "Traceback\n\nToo long.", h.Cause("a"))
	require.Zero(t, account("a", ""), "nothing to tell")
	require.Equal(t, 1, account("b", strings.Repeat("ä", 10_000)))
	require.Len(t, []rune(h.Cause("b")), 4000)
	h.exec("UPDATE queue_job SET exc_info = repeat('x', 1048576)")
	require.Zero(t, account("a", "Too long."), "the row is full")
}

// failed makes a job that failed, unless there is one, and returns the attempt.
func (h *harness) failed(uuid string) driver.Task {
	h.t.Helper()
	var n int
	require.NoError(h.t, h.admin.QueryRow(h.deadline(), "SELECT count(*) FROM queue_job WHERE uuid = $1", uuid).Scan(&n))
	at := time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC)
	if n == 0 {
		h.Insert(drivertest.Job{UUID: uuid, State: "failed", Enqueued: at, MaxRetries: 5, Retry: 1})
	}
	return driver.Task{Key: channels.Key{DB: h.db, UUID: uuid}, Enqueued: at.UnixMicro()}
}

// A retry leaves nothing behind but the counter, the cause and what Odoo wrote of the exception; a
// row that another session has locked is left alone.
func TestAccountRetriesAsOdooDoes(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	task := h.failed("a")
	h.exec(`UPDATE queue_job SET exc_name = 'psycopg2.errors.QueryCanceled', exc_info = 'Traceback', exc_message = 'canceling statement',
		date_started = '2026-03-29 02:30:01', date_done = '2026-03-29 02:30:02', worker_pid = 7, eta = '2026-03-29 02:00:00'`)
	causes := []driver.Cause{{Attempt: task, Text: "It ran for too long.", Retry: true}}
	before := h.job("a")
	locker := h.connect()
	_, err := locker.Exec(h.deadline(), "BEGIN; SELECT FROM queue_job FOR NO KEY UPDATE")
	require.NoError(t, err)
	rows, err := s.(driver.Stopper).Account(h.deadline(), causes)
	require.NoError(t, err)
	require.Empty(t, rows)
	_, err = locker.Exec(h.deadline(), "ROLLBACK")
	require.NoError(t, err)

	rows, err = s.(driver.Stopper).Account(h.deadline(), causes)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	want := before
	want["state"], want["exc_info"] = "pending", "Traceback\n\nIt ran for too long."
	want["date_enqueued"], want["date_started"], want["worker_pid"] = nil, nil, nil
	require.Equal(t, want, h.job("a"))
}

// A role that may write no more than it must tells nothing, and still retries.
func TestAccountWithFewRights(t *testing.T) {
	h := newHarness(t, odoostub.QueueJob12)
	role := "few_" + h.db
	h.exec("CREATE ROLE " + role + " LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO " + role +
		"; GRANT UPDATE (state, date_enqueued, retry) ON queue_job TO " + role)
	t.Cleanup(func() {
		require.NoError(t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role))
	})
	s := h.sessionOf(role)
	rows, err := s.(driver.Stopper).Account(h.deadline(), []driver.Cause{
		{Attempt: h.failed("a"), Text: "Too long."}, {Attempt: h.failed("b"), Text: "Too long.", Retry: true},
	})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, "b", rows[0].UUID)
	require.Empty(t, h.Cause("b"))
}
