package odoostub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// concurrencyTries is how often Odoo repeats what met a concurrency error.
	concurrencyTries = 5
	// concurrencyDelay postpones a job that met one while it ran.
	concurrencyDelay = 5 * time.Second
)

// execution is one run of one job by one worker, in the transactions of
// docs/contract.md 1.5: A and B without the columns of 12.0, C without the lock table, E
// with it.
type execution struct {
	server *Server
	db     *database
	pid    int
	uuid   string
	fault  Fault

	conn      *pgxpool.Conn
	job       jobRow
	behaviour Behaviour
	// stopped is set when the job has learnt that its statement or its connection was ended.
	stopped bool
}

// jobRow is what a worker reads of a job.
type jobRow struct {
	id           int64
	channel      string
	kwargs       string
	retry        int32 // of this attempt: one more than in the row
	maxRetries   int32
	graph        *string
	dependencies *string
}

// run executes the job and returns the HTTP status. After an error the worker
// could not write down what became of the job.
func (x *execution) run(ctx context.Context) (status int, err error) {
	connectCtx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if x.conn, err = x.db.pool.Acquire(connectCtx); err != nil {
		return 0, fmt.Errorf("connecting to %s: %w", x.db.name, err)
	}
	defer func() {
		if err != nil {
			abort(x.conn)
		} else {
			x.conn.Release()
		}
	}()
	var mine bool
	for range concurrencyTries {
		if mine, err = x.start(ctx); !concurrency(err) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("starting job %s: %w", x.uuid, err)
	}
	if !mine {
		return http.StatusOK, nil
	}
	return x.perform(ctx)
}

// start is the transaction that commits started. It reports false when the job
// is not enqueued or another worker is about to start it.
func (x *execution) start(ctx context.Context) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	load := `SELECT id, coalesce(channel, ''), coalesce(kwargs, ''), coalesce(retry, 0) + 1, coalesce(max_retries, 0)`
	if x.db.connector {
		load = strings.Replace(load, `coalesce(kwargs, '')`, `coalesce(convert_from(func, 'UTF8'), '')`, 1)
		if !x.db.channel {
			load = strings.Replace(load, `coalesce(channel, '')`, `''`, 1)
		}
	}
	mark := `UPDATE queue_job SET state = 'started', date_started = @now`
	isolation := snapshot
	switch where := ` FROM queue_job WHERE uuid = $1 AND state = 'enqueued'`; {
	case x.db.locks:
		load += `, graph_uuid, dependencies` + where + ` FOR NO KEY UPDATE SKIP LOCKED`
		mark += `, worker_pid = @pid`
	case x.db.columns:
		load += `, graph_uuid, dependencies` + where + ` FOR UPDATE`
		mark += `, worker_pid = @pid`
	default:
		// Nothing keeps two workers from passing this check together.
		load += `, NULL, NULL` + where
		isolation.IsoLevel = pgx.ReadCommitted
	}
	err = pgx.BeginTxFunc(ctx, x.conn, isolation, func(tx pgx.Tx) error {
		j := &x.job
		err := tx.QueryRow(ctx, load, x.uuid).Scan(&j.id, &j.channel, &j.kwargs, &j.retry, &j.maxRetries, &j.graph, &j.dependencies)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the job: %w", err)
		}
		mine = true
		args := pgx.NamedArgs{"id": j.id, "now": time.Now().UTC(), "pid": x.pid}
		if _, err := tx.Exec(ctx, mark+` WHERE id = @id`, args); err != nil {
			return fmt.Errorf("marking the job started: %w", err)
		}
		if !x.db.locks {
			return nil
		}
		const lock = `INSERT INTO queue_job_lock (id, queue_job_id) VALUES ($1, $1) ON CONFLICT (id) DO NOTHING`
		if _, err := tx.Exec(ctx, lock, j.id); err != nil {
			return fmt.Errorf("inserting the lock row: %w", err)
		}
		return nil
	})
	return mine && err == nil, err
}

// perform runs the job's code, with the lock row locked all the time, and writes
// down how that ended.
func (x *execution) perform(ctx context.Context) (status int, err error) {
	beginCtx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	tx, err := x.conn.BeginTx(beginCtx, snapshot)
	if err != nil {
		return 0, fmt.Errorf("beginning the job's transaction: %w", err)
	}
	defer func() {
		// The dead do not roll back, their session is aborted; nor does who has no connection any more.
		if !errors.Is(err, errKilled) && !(x.stopped && x.conn.Conn().IsClosed()) {
			err = cmp.Or(err, x.rollback(ctx, tx))
		}
	}()
	if locked, err := x.lock(beginCtx, tx); err != nil || !locked {
		return http.StatusOK, err
	}
	end := x.server.opts.Recorder.Begin(Execution{
		Server: x.server.opts.Name, DB: x.db.name, UUID: x.uuid, Channel: x.job.channel, Start: time.Now(),
	})
	outcome, err := x.work(ctx)
	if err != nil {
		end(time.Now(), Killed)
		return 0, err
	}
	// Before the outcome becomes visible: the next execution may follow at once. What the outcome is
	// in the end is known later; when the execution ended does not change by that.
	ended := time.Now()
	end(ended, outcome)
	switch outcome {
	case Done:
		status, outcome, err = x.finish(ctx, tx)
	case Retried:
		status, outcome, err = x.retry(ctx)
	default:
		status, err = x.fail(ctx, x.behaviour.Fail)
	}
	if err != nil && !errors.Is(err, errKilled) {
		outcome = Lost
	}
	end(ended, outcome)
	return status, err
}

// rollback ends a transaction that was not committed; otherwise it does nothing.
func (x *execution) rollback(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	if err := tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return fmt.Errorf("rolling back: %w", err)
	}
	return nil
}

// lock locks the lock row. It reports false when somebody else has it. Either
// way it takes the transaction's snapshot, as a job does that reads its records.
func (x *execution) lock(ctx context.Context, tx pgx.Tx) (bool, error) {
	if !x.db.locks {
		if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
			return false, fmt.Errorf("reading the job's records: %w", err)
		}
		return true, nil
	}
	tag, err := tx.Exec(ctx, `SELECT id FROM queue_job_lock
		WHERE queue_job_id IN (SELECT id FROM queue_job WHERE uuid = $1 AND state = 'started')
		FOR NO KEY UPDATE SKIP LOCKED`, x.uuid)
	if err != nil {
		return false, fmt.Errorf("locking the lock row: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// work is the job's code. It fails when the worker dies.
func (x *execution) work(ctx context.Context) (Outcome, error) {
	b := &x.behaviour
	if x.job.kwargs != "" {
		if err := json.Unmarshal([]byte(x.job.kwargs), b); err != nil {
			*b = Behaviour{Fail: "ValueError"}
		}
	}
	if x.fault.Kind == KillWorker {
		return "", errors.Join(errKilled, sleep(ctx, x.fault.After))
	}
	if b.Gate != "" {
		if err := x.server.opts.Gates.pass(ctx, b.Gate); err != nil {
			return "", errors.Join(errKilled, err)
		}
	}
	if err := sleep(ctx, time.Duration(b.SleepMS)*time.Millisecond); err != nil {
		return "", errors.Join(errKilled, err)
	}
	if b.Hang {
		<-ctx.Done()
		return "", errKilled
	}
	attempt := x.job.retry - 1 // what the row says
	if attempt < b.HangTimes {
		if err := x.hang(ctx); err != nil {
			return Failed, ctx.Err()
		}
	}
	switch {
	case attempt < b.KillTimes:
		return "", errKilled
	case attempt < b.RetryTimes:
		return Retried, nil
	case b.Fail != "":
		return Failed, nil
	}
	return Done, nil
}

// hang does what a job does that should have a time limit. An error is that of its connection.
func (x *execution) hang(ctx context.Context) error {
	b := &x.behaviour
	query, idle := float64(b.HangMS)/1000, time.Duration(0)
	if b.HangIdle {
		query, idle = 0, time.Duration(b.HangMS)*time.Millisecond
	}
	if err := sleep(ctx, idle); err != nil {
		return err
	}
	_, err := x.conn.Exec(ctx, "SELECT pg_sleep($1)", query)
	if err != nil {
		b.Fail, x.stopped = "OperationalError", true
	}
	return err
}

// finish commits done together with the job's work, then releases the jobs that
// waited for this one. A concurrency error postpones the job.
func (x *execution) finish(ctx context.Context, tx pgx.Tx) (int, Outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	done := `UPDATE queue_job SET state = 'done', date_done = $2, retry = $3, exc_info = NULL`
	if x.db.columns {
		done += `, exc_name = NULL, exc_message = NULL, exec_time = extract(epoch FROM $2 - date_started)`
	}
	_, err := tx.Exec(ctx, done+` WHERE id = $1`, x.job.id, time.Now().UTC(), x.job.retry)
	if err == nil {
		err = tx.Commit(ctx)
	}
	if concurrency(err) {
		return http.StatusOK, Retried, x.postpone(ctx, concurrencyDelay)
	}
	if err != nil {
		return 0, Lost, fmt.Errorf("marking job %s done: %w", x.uuid, err)
	}
	if x.behaviour.KillAfterDone {
		return 0, Done, errKilled
	}
	for range concurrencyTries {
		if err = x.releaseDependents(ctx); !concurrency(err) {
			break
		}
	}
	if err != nil {
		// The job is done all the same; its children stay where they are.
		return http.StatusInternalServerError, Done, nil
	}
	return http.StatusOK, Done, nil
}

// releaseDependents makes jobs pending all of whose parents are done now.
func (x *execution) releaseDependents(ctx context.Context) error {
	if x.job.graph == nil || x.job.dependencies == nil {
		return nil
	}
	var deps dependencies
	if err := json.Unmarshal([]byte(*x.job.dependencies), &deps); err != nil {
		return fmt.Errorf("decoding dependencies: %w", err)
	}
	if len(deps.ReverseDependsOn) == 0 {
		return nil
	}
	rows, err := x.conn.Query(ctx, `UPDATE queue_job child SET state = 'pending'
		WHERE graph_uuid = $1 AND uuid = ANY ($2) AND state = 'wait_dependencies' AND NOT `+waiting("child")+` RETURNING uuid`,
		*x.job.graph, deps.ReverseDependsOn)
	if err != nil {
		return fmt.Errorf("releasing dependents: %w", err)
	}
	released, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("releasing dependents: %w", err)
	}
	x.server.opts.Recorder.addReleases(x.db.name, released)
	return nil
}

// waiting is the condition that a parent of a job is not done.
func waiting(alias string) string {
	return fmt.Sprintf(`EXISTS (SELECT FROM queue_job parent WHERE parent.graph_uuid = %[1]s.graph_uuid
		AND parent.state <> 'done' AND (%[1]s.dependencies::jsonb -> 'depends_on') ? parent.uuid)`, alias)
}

// retry handles a retryable error of the job.
func (x *execution) retry(ctx context.Context) (int, Outcome, error) {
	if x.job.maxRetries != 0 && x.job.retry >= x.job.maxRetries {
		status, err := x.fail(ctx, "FailedJobError")
		return status, Failed, err
	}
	delay := time.Duration(math.Round(x.behaviour.RetrySeconds * float64(time.Second)))
	return http.StatusOK, Retried, x.postpone(ctx, delay)
}

// postpone puts the job back, through a second connection.
func (x *execution) postpone(ctx context.Context, delay time.Duration) error {
	state := `'pending'`
	reset := ``
	if x.db.columns {
		state = `CASE WHEN ` + waiting("job") + ` THEN 'wait_dependencies' ELSE 'pending' END`
		reset = `, worker_pid = NULL`
	}
	return x.writeBack(ctx, `UPDATE queue_job job SET state = `+state+reset+`, eta = @eta, retry = @retry,
		date_enqueued = NULL, date_started = NULL WHERE id = @id`,
		pgx.NamedArgs{"id": x.job.id, "eta": time.Now().UTC().Add(delay), "retry": x.job.retry})
}

// fail marks the job failed, through a second connection, and returns the HTTP
// status that the exception leads to.
func (x *execution) fail(ctx context.Context, exception string) (int, error) {
	columns := ``
	if x.db.columns {
		columns = `, exc_name = @exception, exc_message = 'raised on purpose'`
	}
	err := x.writeBack(ctx, `UPDATE queue_job SET state = 'failed', retry = @retry, exc_info = @info`+columns+` WHERE id = @id`,
		pgx.NamedArgs{"id": x.job.id, "retry": x.job.retry, "exception": exception, "info": exception + ": raised on purpose"})
	return cmp.Or(x.behaviour.FailStatus, http.StatusInternalServerError), err
}

// writeBack updates the row while the job's own transaction, on another
// connection, still holds the lock row.
func (x *execution) writeBack(ctx context.Context, sql string, args pgx.NamedArgs) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := pgx.BeginTxFunc(ctx, x.db.pool, snapshot, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, sql, args)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing back job %s: %w", x.uuid, err)
	}
	return nil
}
