package odoo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// operations implements [driver.Operations] on a separate connection.
type operations struct {
	database string
	conn     *postgres.Conn
	g        *generation
}

var (
	_ driver.Operator   = (*Driver)(nil)
	_ driver.Operations = (*operations)(nil)
)

// OpenOperations implements [driver.Operator]. A database without the add-on is an error.
func (d *Driver) OpenOperations(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Operations, error) {
	conn, err := postgres.Connect(ctx, pg, database, "operations")
	if err != nil {
		return nil, err
	}
	o := &operations{database: database, conn: conn}
	if err := o.setUp(ctx); err != nil {
		conn.Abandon(ctx)
		return nil, err
	}
	if err := o.detect(ctx); err != nil {
		conn.Abandon(ctx)
		return nil, err
	}
	return o, nil
}

// setUp has plans of which each part is read only as far as it is wanted: by an index, row by row. A database
// that does not know its encoding sends its bytes as they are, in place of refusing rows that are not in ours.
func (o *operations) setUp(ctx context.Context) error {
	if o.conn.Pooling == postgres.TransactionPooling {
		return nil // detect refuses it
	}
	_, err := o.conn.Exec(ctx, `SELECT set_config('enable_seqscan', 'off', false), set_config('enable_bitmapscan', 'off', false),
		set_config('client_encoding', CASE current_setting('server_encoding') WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)`, pgx.QueryExecModeExec)
	return o.conn.Failed(err, "set up the connection for operations")
}

func (o *operations) detect(ctx context.Context) error {
	c, err := readCatalog(ctx, o.conn)
	if err != nil {
		return err
	}
	found, err := readModules(ctx, o.conn, c)
	if err != nil {
		return err
	}
	g, fp := detect(c, found)
	if g == nil {
		return fmt.Errorf("database %s: %s: %w", o.database, fp.Description, driver.ErrUndetected)
	}
	if odd := intersect(c.TypedColumns, g.used()); len(odd) > 0 {
		return fmt.Errorf("database %s: %s", o.database, fp.Description)
	}
	o.g = g
	return nil
}

// Close implements [driver.Operations].
func (o *operations) Close(ctx context.Context) error {
	return postgres.Wrap(o.conn.Close(ctx), "close the connection for operations")
}

// dependsOn are the jobs on which job j depends (docs/contract.md 1.2).
const dependsOn = `jsonb_array_elements_text(coalesce(j.dependencies::jsonb -> 'depends_on', '[]')) AS d(uuid)`

// graphs reports whether jobs can depend on each other, and we may see it.
func (g *generation) graphs() bool {
	return slices.Contains(g.readable, "graph_uuid") && slices.Contains(g.readable, "dependencies")
}

// errNoCancelled is about 7.0 to 11.0 and 13.0, whose Odoo could not read such a row
// (docs/contract.md 1.3).
var errNoCancelled = errors.New("this series of Odoo knows no cancelled jobs: set them done instead")

// Change implements [driver.Operations]. A batch is one transaction, with what follows from it.
func (o *operations) Change(ctx context.Context, a driver.Change, f driver.Filter, after int64, limit int, dryRun bool) (driver.Changed, error) {
	if a.Action == driver.Cancel && !slices.Contains(o.g.columns, "date_cancelled") {
		return driver.Changed{}, errNoCancelled
	}
	states := a.Action.Permitted(f.States)
	if len(states) == 0 {
		return driver.Changed{}, nil
	}
	f.States = states
	var out driver.Changed
	err := pgx.BeginFunc(ctx, o.conn, func(tx pgx.Tx) error {
		ids, last, err := o.choose(ctx, tx, f, after, limit, dryRun, &out)
		if err != nil {
			return err
		}
		out.Last, out.More = last, len(ids) == limit
		if dryRun || len(ids) == 0 {
			return nil
		}
		if err := o.apply(ctx, tx, a, ids, &out); err != nil || o.g.path == "" {
			return err
		}
		// For triggers that are deferred to the end of the transaction.
		_, err = tx.Exec(ctx, "SELECT "+o.g.pathSQL())
		return err
	})
	return out, o.conn.Failed(err, a.Action.String()+" jobs")
}

// choose finds the next jobs and, unless nothing shall change, locks them.
func (o *operations) choose(ctx context.Context, tx pgx.Tx, f driver.Filter, after int64, limit int, dryRun bool, out *driver.Changed) (ids []int64, last int64, err error) {
	where, args := o.g.where(f)
	args = append(args, after, limit)
	sql := fmt.Sprintf("SELECT j.id, j.uuid FROM queue_job j WHERE %s AND j.id > $%d::int8 ORDER BY j.id LIMIT $%d",
		where, len(args)-1, len(args))
	if !dryRun {
		sql += " FOR NO KEY UPDATE OF j SKIP LOCKED"
	}
	rows, err := tx.Query(ctx, o.g.named(sql), args...)
	if err != nil {
		return nil, 0, err
	}
	var id int64
	var uuid string
	_, err = pgx.ForEachRow(rows, []any{&id, &uuid}, func() error {
		ids, last = append(ids, id), max(last, id)
		out.UUIDs = append(out.UUIDs, uuid)
		return nil
	})
	return ids, last, err
}

// apply changes locked jobs and then those that depend on them.
func (o *operations) apply(ctx context.Context, tx pgx.Tx, a driver.Change, ids []int64, out *driver.Changed) error {
	set, args, err := o.g.assignments(a)
	if err != nil {
		return err
	}
	sql := "WITH path AS (SELECT " + o.g.pathSQL() + " AS path) UPDATE queue_job j SET " + set + " FROM path WHERE j.id = ANY($1)"
	if _, err := o.write(ctx, tx, sql, append([]any{ids}, args...)...); err != nil {
		return err
	}
	if !o.g.graphs() || a.Action != driver.Cancel && a.Action != driver.SetDone {
		return nil
	}
	out.Followed, err = o.follow(ctx, tx, a, ids)
	return err
}

// write changes rows. The path that it opens for the triggers of others is closed again before the
// names of the next statement are looked up.
func (o *operations) write(ctx context.Context, tx pgx.Tx, sql string, args ...any) (tag pgconn.CommandTag, err error) {
	if tag, err = tx.Exec(ctx, o.g.named(sql), args...); err == nil && o.g.path != "" {
		_, err = tx.Exec(ctx, "SET LOCAL search_path = "+postgres.SearchPath)
	}
	return tag, err
}

// assignments are the SET clause of an action; its arguments begin with $2. Columns that do not
// exist, or that the role may not write, are left alone.
func (g *generation) assignments(a driver.Change) (string, []any, error) {
	var set []string
	var args []any
	put := func(column, value string, arg ...any) {
		if slices.Contains(g.writable, column) {
			for range arg {
				value = strings.ReplaceAll(value, "$", fmt.Sprintf("$%d", len(args)+2))
			}
			args = append(args, arg...)
			set = append(set, column+" = "+value)
		}
	}
	const now = "date_trunc('second', now() AT TIME ZONE 'UTC')"
	switch a.Action {
	case driver.Requeue:
		state := "'pending'"
		if g.graphs() {
			state = `CASE WHEN EXISTS (SELECT FROM ` + dependsOn + ` LEFT JOIN queue_job p ON p.uuid = d.uuid
				WHERE p.state IS DISTINCT FROM 'done') THEN 'wait_dependencies' ELSE 'pending' END`
		}
		put("state", state)
		put("retry", "0")
		for _, column := range []string{"date_enqueued", "date_started", "date_done", "date_cancelled", "worker_pid", "exec_time"} {
			put(column, "NULL")
		}
	case driver.Cancel:
		put("state", "'cancelled'")
		put("date_cancelled", now)
		put("result", "$", "Cancelled by "+a.By)
	case driver.SetDone:
		put("state", "'done'")
		put("date_done", now)
		put("exc_name", "NULL")
		put("exc_info", "NULL")
		put("result", "$", "Manually set to done by "+a.By)
	case driver.Postpone:
		put("eta", "$", a.Until.UTC().Truncate(time.Second))
	}
	if len(set) == 0 || a.Action != driver.Postpone && !strings.HasPrefix(set[0], "state") {
		return "", nil, errors.New("the role may not write the columns of queue_job that this needs")
	}
	return strings.Join(set, ", "), args, nil
}

// followRounds bounds how deep a graph of jobs is cancelled in one batch.
const followRounds = 1000

// follow does to the jobs that waited for changed ones what Odoo does (docs/contract.md 1.5): those
// whose parents are all done become pending, those whose parents are all cancelled are cancelled,
// and so on down the graph.
func (o *operations) follow(ctx context.Context, tx pgx.Tx, a driver.Change, ids []int64) (n int, err error) {
	to, needed := "pending", "done"
	set := "state = $3"
	if a.Action == driver.Cancel {
		to, needed = "cancelled", "cancelled"
		if slices.Contains(o.g.writable, "date_cancelled") {
			set += ", date_cancelled = date_trunc('second', now() AT TIME ZONE 'UTC')"
		}
	}
	sql := `
WITH path AS (SELECT ` + o.g.pathSQL() + ` AS path), c AS (
	SELECT j.id FROM queue_job j
	WHERE j.state = 'wait_dependencies'
	AND j.graph_uuid IN (SELECT graph_uuid FROM queue_job WHERE id = ANY($1))
	AND EXISTS (SELECT FROM ` + dependsOn + `)
	AND NOT EXISTS (SELECT FROM ` + dependsOn + ` LEFT JOIN queue_job p ON p.uuid = d.uuid WHERE p.state IS DISTINCT FROM $2)
	FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE queue_job j SET ` + set + ` FROM path, c WHERE j.id = c.id AND j.state = 'wait_dependencies'`
	for range followRounds {
		tag, err := o.write(ctx, tx, sql, ids, needed, to)
		if err != nil {
			return n, err
		}
		if tag.RowsAffected() == 0 {
			return n, nil
		}
		n += int(tag.RowsAffected())
	}
	return n, nil
}
