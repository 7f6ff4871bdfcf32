package odoo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Stopper = (*session)(nil)

// stopSQL signals the backend that runs one attempt, if it can be told which one that is. Everything
// is decided in the order of the joins, each of which depends on the one before:
//
//	f  the rows that are that attempt, started: one, whose function does not allow commits
//	c  that row, locked until the signal has been sent
//	l  its lock row, with the number of the transaction that holds it
//	h  the backend of that transaction: one that runs holds a lock on its own number
//	t  whether that backend has locked rows of the lock table at all
//	a  whose backend it is, and whether we may signal it
//
// The lock on the job's row is what makes this safe, and not only likely: a worker writes to it
// before its transaction ends, be the job done, failed or to be retried (docs/contract.md 1.5). So
// from c until the signal has been sent, that transaction cannot end, and its backend, which may
// belong to a pooler, cannot begin another. If the worker was faster, the row is locked and the
// attempt is left alone. It is a lock that only writers wait for, for as long as this takes; a worker
// that wants to start a job looks for other states. It need not reach the disk.
//
// pg_locks is read as it is when the join comes to it; pg_stat_activity may show what was.
//
// xmax may also be the number of a group of transactions that have locked the row, which counts on
// its own. A number that such a group could have is not taken for that of a transaction. Those of
// transactions are far from there for most of a cluster's life, and t keeps a mistake from reaching
// anybody but another job.
//
// The number of a savepoint that still lasts is locked by its backend, too, so that a lock taken in
// one leads there. Of one that has ended, nothing shows.
const stopSQL = `
SELECT f.n, f.commits, c.id IS NOT NULL, l.n, l.several, h.n > 0, coalesce(h.pid, 0)::int8, t.holds,
	a.role, a.mighty, a.may, current_user::text,
	CASE WHEN h.pid <> pg_backend_pid() AND t.holds AND NOT l.several AND coalesce(a.may, true) THEN
		CASE WHEN $3 THEN pg_terminate_backend(h.pid) ELSE pg_cancel_backend(h.pid) END
	END
FROM (SELECT $1::varchar AS uuid, $2::timestamp AS enqueued, set_config('synchronous_commit', 'off', true) AS durable) d
LEFT JOIN LATERAL (
	SELECT count(*) AS n, max(j.id) AS id, coalesce(bool_or(%[1]s), false) AS commits
	FROM queue_job j WHERE j.uuid = d.uuid AND j.state = 'started' AND ` + sameAttempt + `
) f ON true
LEFT JOIN LATERAL (
	SELECT j.id FROM queue_job j
	WHERE j.id = f.id AND f.n = 1 AND NOT f.commits AND j.uuid = d.uuid AND j.state = 'started' AND ` + sameAttempt + `
	FOR NO KEY UPDATE OF j SKIP LOCKED
) c ON true
LEFT JOIN LATERAL (
	SELECT i.n, i.holder, NOT (i.holder = '0'::xid) AND mxid_age(i.holder) > 0
		AND mxid_age(i.holder) <= (SELECT max(mxid_age(datminmxid)) FROM pg_database) AS several
	FROM (
		SELECT count(*) AS n, (array_agg(l.xmax))[1] AS holder FROM queue_job_lock l WHERE l.queue_job_id = c.id
	) i OFFSET 0
) l ON true
LEFT JOIN LATERAL (
	SELECT count(*) AS n, max(h.pid) AS pid FROM pg_locks h
	WHERE l.n = 1 AND h.locktype = 'transactionid' AND h.mode = 'ExclusiveLock' AND h.granted AND h.transactionid = l.holder
) h ON true
LEFT JOIN LATERAL (
	SELECT count(*) > 0 AS holds FROM pg_locks t
	WHERE t.pid = h.pid AND t.locktype = 'relation' AND t.granted AND t.mode <> 'AccessShareLock'
	AND t.relation = to_regclass(%[2]s) AND t.database = (SELECT oid FROM pg_database WHERE datname = current_database())
) t ON true
LEFT JOIN LATERAL (
	SELECT r.rolname::text AS role, r.rolsuper AS mighty, ` + maySignalSQL + ` AS may
	FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid WHERE a.pid = h.pid OFFSET 0
) a ON true`

// functionSQL tells what we can see of the table of job functions: whether it is one, which of the
// columns that matter it has, and which of those we may read without running code of its owner's.
const functionSQL = `
SELECT c.relkind IN ('r', 'p') AND NOT row_security_active(c.oid),
	coalesce(array_agg(a.attname::text) FILTER (WHERE a.attname IS NOT NULL), '{}'),
	coalesce(array_agg(a.attname::text) FILTER (WHERE has_column_privilege(c.oid, a.attnum, 'SELECT') AND NOT ` + foreignType + `), '{}')
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname IN ('id', 'name', 'allow_commit') AND NOT a.attisdropped
LEFT JOIN pg_type ON pg_type.oid = a.atttypid
WHERE c.oid = to_regclass($1)
GROUP BY c.oid, c.relkind`

// commitsSQL is a condition on job j: whether its function allows commits, so that another
// connection does the work while the one that holds the lock row waits (docs/contract.md 1.5, G).
// Odoo looks the function up by its name when the job runs; the row names the one that it had when
// it was made. That Odoo has read the flag before it was changed cannot be seen here.
const commitsSQL = `EXISTS (SELECT FROM %s fn WHERE fn.allow_commit
	AND (fn.id = j.job_function_id OR fn.name = '<' || j.model_name || '>.' || j.method_name))`

// errFunctionsUnreadable is why nothing can be stopped where the flag that forbids it is hidden.
var errFunctionsUnreadable = errors.New("the role cannot see which functions allow commits: " +
	"GRANT SELECT (id, name, allow_commit) ON queue_job_function, and on all of queue_job")

// commits returns the condition for the functions of this database. It is asked for with each order
// and not once: the column may appear, or be hidden, while the connection lasts, and orders are rare.
func (s *session) commits(ctx context.Context) (string, error) {
	// Odoo keeps all its tables in one schema.
	table := schemas{"queue_job_function": s.generation.tables["queue_job"]}.qualify("queue_job_function")
	var isTable bool
	var there, readable []string
	err := s.conn.QueryRow(ctx, functionSQL, table).Scan(&isTable, &there, &readable)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "false", nil
	case err != nil:
		return "", s.conn.Failed(err, "check which functions allow commits")
	case !slices.Contains(there, "allow_commit"):
		return "false", nil
	case !isTable || len(readable) < 3 ||
		len(without([]string{"job_function_id", "model_name", "method_name"}, s.generation.readable)) > 0:
		return "", errFunctionsUnreadable
	}
	return fmt.Sprintf(commitsSQL, table), nil
}

// Stop implements [driver.Stopper]. Without a lock table, nothing tells which backend runs a job.
func (s *session) Stop(ctx context.Context, attempts []driver.Task, terminate bool) ([]driver.Stopped, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	defer s.excluding()()
	list := make([]driver.Stopped, 0, len(attempts))
	commits, err := "", errNoLockTable
	if s.generation.locks {
		commits, err = s.commits(ctx)
	}
	switch {
	case errors.Is(err, errNoLockTable), errors.Is(err, errFunctionsUnreadable):
		for _, t := range attempts {
			list = append(list, driver.Stopped{Task: t, Result: driver.Unstoppable, Text: err.Error()})
		}
		return list, nil
	case err != nil:
		return nil, err
	}
	sql := s.generation.named(fmt.Sprintf(stopSQL, commits, literal(s.generation.tables.qualify("queue_job_lock"))))
	for _, t := range attempts {
		stopped, err := s.stop(ctx, sql, t, terminate)
		if err != nil {
			return list, err
		}
		list = append(list, stopped)
	}
	return list, nil
}

// trail is what the statement found on the way to the backend.
type trail struct {
	rows            int64
	commits, locked bool
	lockRows        int64
	several, found  pgtype.Bool
	pid             int64
	holds           bool
	role            pgtype.Text
	mighty, may     pgtype.Bool
	we              string
	signalled       pgtype.Bool
}

// stop stops one attempt.
func (s *session) stop(ctx context.Context, sql string, t driver.Task, terminate bool) (driver.Stopped, error) {
	var r trail
	err := s.conn.QueryRow(ctx, sql, t.UUID, timestamp(t.Enqueued), terminate).Scan(&r.rows, &r.commits, &r.locked,
		&r.lockRows, &r.several, &r.found, &r.pid, &r.holds, &r.role, &r.mighty, &r.may, &r.we, &r.signalled)
	stopped := driver.Stopped{Task: t}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == "42501" {
		// The server has other rules than those that the statement knows.
		stopped.Result, stopped.Text = driver.Denied, "PostgreSQL refuses to signal the backend: "+refused.Message
		return stopped, nil
	}
	if err != nil {
		return stopped, s.conn.Failed(err, "stop a job")
	}
	stopped.PID = uint32(r.pid) //nolint:gosec // a process id
	stopped.Result, stopped.Text = r.verdict()
	return stopped, nil
}

// verdict says in words where the way ended.
func (r *trail) verdict() (driver.StopResult, string) {
	switch {
	case r.rows == 0:
		return driver.NotRunning, "the job's row is not this attempt, or it has not been started"
	case r.rows > 1:
		return driver.Unstoppable, fmt.Sprintf("%d jobs have this uuid", r.rows)
	case r.commits:
		return driver.Unstoppable, "the job's function allows commits (allow_commit), so another connection does its work " +
			"than the one that holds its lock"
	case !r.locked:
		return driver.NotRunning, "another transaction is changing the job's row; the job may be ending"
	case r.lockRows == 0:
		return driver.NotRunning, "the job has no lock row"
	case r.lockRows > 1:
		return driver.Unstoppable, fmt.Sprintf("the job has %d lock rows", r.lockRows)
	case r.several.Bool:
		return driver.Unstoppable, "several transactions may have locked the job's lock row"
	case r.found.Bool && r.pid == 0:
		return driver.Unstoppable, "a prepared transaction holds the job's lock"
	case r.pid == 0 || !r.holds:
		return driver.NotRunning, "no backend shows that it holds the job's lock"
	case r.may.Valid && !r.may.Bool:
		return driver.Denied, "the backend " + signalRefused(r.role.String, r.we, r.mighty.Bool, false)
	case !r.signalled.Bool:
		return driver.NotRunning, "the backend has ended"
	}
	return driver.Signalled, ""
}
