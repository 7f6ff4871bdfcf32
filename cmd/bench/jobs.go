package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
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
	// analyze tells the planner of them in the same transaction. A table that was empty a moment ago has
	// no statistics, and Odoo's statements would not find a job by its index, which no site sees.
	analyze bool
}

const (
	insertInto = `INSERT INTO queue_job (name, model_name, method_name, func_string, date_created, retry, max_retries,
		uuid, kwargs, state, channel, priority)
	SELECT 'bench', 'stub.model', 'run', 'stub.model().run()', now() AT TIME ZONE 'UTC', 0, 5, `
	// insertMany is one statement, so one commit.
	insertMany = insertInto + "gen_random_uuid(), $2, $3, $4, $5 FROM generate_series(1, $1)"
	insertOne  = insertInto + "$1, '{}', $2, 'root', $3"
)

// insert commits jobs in a database.
func (l *lab) insert(ctx context.Context, db string, j jobs) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	pool, err := l.pool(db)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if j.silent {
			if _, err := tx.Exec(ctx, "SET LOCAL session_replication_role = replica"); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, insertMany, j.count,
			cmp.Or(j.kwargs, "{}"), cmp.Or(j.state, "pending"), cmp.Or(j.channel, "root"), cmp.Or(j.priority, 10))
		if err == nil && j.analyze {
			_, err = tx.Exec(ctx, "ANALYZE queue_job")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("inserting %d jobs in %s: %w", j.count, db, err)
	}
	return nil
}

// commitOne commits one job and returns when that was known here.
func commitOne(ctx context.Context, conn odoostub.DB, uuid, state string, priority int32) (time.Time, error) {
	if _, err := conn.Exec(ctx, insertOne, uuid, state, priority); err != nil {
		return time.Time{}, fmt.Errorf("inserting a job: %w", err)
	}
	return time.Now(), nil
}

// clear empties the tables of some databases, and leaves nothing for the checkpointer and the
// vacuum to do in the next measurement.
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

// historySize is the number of jobs that are done already.
const historySize = 20_000

// history empties the table of a database as clear does, and fills it with jobs that are done. On
// an empty table PostgreSQL prepares plans that read all of it, and keeps them while the table
// grows; where Odoo runs, there is a history.
func (l *lab) history(ctx context.Context, db string) error {
	if err := l.clear(ctx, db); err != nil {
		return err
	}
	if err := l.insert(ctx, db, jobs{count: historySize, state: "done", silent: true}); err != nil {
		return err
	}
	return l.settle(ctx, db)
}

// settle makes the tables of a database what they are after a night: analyzed, vacuumed and on
// disk.
func (l *lab) settle(ctx context.Context, db string) error {
	if err := l.exec(ctx, db, "VACUUM ANALYZE queue_job"); err != nil {
		return err
	}
	return l.exec(ctx, "postgres", "CHECKPOINT")
}
