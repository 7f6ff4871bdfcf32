package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// jobs describes rows that are inserted together.
type jobs struct {
	count    int
	state    string // default pending
	channel  string // default root
	priority int    // default 10
	kwargs   string // the behaviour as JSON; default {}
	// silent inserts without notifications, as rows that were there before.
	silent bool
}

// insertJobs is one statement, so one commit.
const insertJobs = `INSERT INTO queue_job (uuid, name, model_name, method_name, func_string, kwargs, state, channel,
		priority, date_created, retry, max_retries)
	SELECT gen_random_uuid(), 'bench', 'stub.model', 'run', 'stub.model().run()', $2, $3, $4, $5,
		now() AT TIME ZONE 'UTC', 0, 5 FROM generate_series(1, $1)`

// insert commits jobs in a database.
func (l *lab) insert(ctx context.Context, db string, j jobs) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	conn, err := l.connect(ctx, db)
	if err != nil {
		return err
	}
	j = j.withDefaults()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if j.silent {
			if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, insertJobs, j.count, j.kwargs, j.state, j.channel, j.priority)
		return err
	})
	if err != nil {
		return fmt.Errorf("inserting %d jobs in %s: %w", j.count, db, err)
	}
	return nil
}

func (j jobs) withDefaults() jobs {
	if j.state == "" {
		j.state = "pending"
	}
	if j.channel == "" {
		j.channel = "root"
	}
	if j.priority == 0 {
		j.priority = 10
	}
	if j.kwargs == "" {
		j.kwargs = "{}"
	}
	return j
}

// uuids returns those of all jobs of a database in a state.
func (l *lab) uuids(ctx context.Context, db, state string) ([]string, error) {
	conn, err := l.connect(ctx, db)
	if err != nil {
		return nil, err
	}
	rows, err := conn.Query(ctx, "SELECT uuid FROM queue_job WHERE state = $1 ORDER BY id", state)
	if err != nil {
		return nil, fmt.Errorf("reading the jobs of %s: %w", db, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the jobs of %s: %w", db, err)
	}
	return list, nil
}

// anyPending returns a job that waits.
func (l *lab) anyPending(ctx context.Context, db string) (uuid string, err error) {
	conn, err := l.connect(ctx, db)
	if err != nil {
		return "", err
	}
	const sql = "SELECT uuid FROM queue_job WHERE state = 'pending' ORDER BY id DESC LIMIT 1"
	if err := conn.QueryRow(ctx, sql).Scan(&uuid); err != nil {
		return "", fmt.Errorf("reading a job of %s: %w", db, err)
	}
	return uuid, nil
}

// clear empties the tables of some databases, and leaves nothing for the
// checkpointer and the vacuum to do in the next measurement.
func (l *lab) clear(ctx context.Context, databases ...string) error {
	for _, db := range databases {
		if err := l.exec(ctx, db, "TRUNCATE queue_job, queue_job_lock"); err != nil {
			return err
		}
	}
	if _, err := l.stub.take(ctx); err != nil {
		return err
	}
	return l.exec(ctx, "postgres", "CHECKPOINT")
}

// history empties the tables of some databases as clear does, and fills them with
// jobs that are done. On an empty table PostgreSQL prepares plans that read all of
// it, and keeps them while the table grows; where Odoo runs, there is a history.
func (l *lab) history(ctx context.Context, databases ...string) error {
	if err := l.clear(ctx, databases...); err != nil {
		return err
	}
	for _, db := range databases {
		if err := l.insert(ctx, db, jobs{count: historySize, state: "done", silent: true}); err != nil {
			return err
		}
		if err := l.settle(ctx, db); err != nil {
			return err
		}
	}
	return nil
}

// historySize is the number of jobs that are done already.
const historySize = 20_000

// settle makes the tables of a database what they are after a night: analyzed,
// vacuumed and on disk.
func (l *lab) settle(ctx context.Context, db string) error {
	if err := l.exec(ctx, db, "VACUUM ANALYZE queue_job"); err != nil {
		return err
	}
	return l.exec(ctx, "postgres", "CHECKPOINT")
}
