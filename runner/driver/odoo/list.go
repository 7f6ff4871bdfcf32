package odoo

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// windowSize is how many rows one statement of List looks at, at most.
	windowSize = 5000
	// listLimit is how long the server may take for one. A window is far below it, unless the disk is
	// slow, an index is missing or somebody writes texts of megabytes.
	listLimit = 5 * time.Second
)

// detailColumns are what a [driver.Detail] has beyond a row.
var detailColumns = []column{
	{"model_name", "varchar"}, {"method_name", "varchar"}, {"name", "varchar"}, {"identity_key", "varchar"},
	{"max_retries", "int4"}, {"exc_name", "varchar"}, {"date_started", "timestamp"}, {"date_done", "timestamp"},
}

// access is how the table can be searched.
type access struct {
	// indexed are the columns with which a whole index begins, and identity_key if any index does.
	indexed []string
	// bytewise is set where an index serves a search for the beginning of a text: where texts are
	// ordered byte by byte, as in the databases that Odoo makes.
	bytewise bool
}

// accessSQL asks for it. That the provider of the order is not the C library is known since
// PostgreSQL 15.
const accessSQL = `
SELECT coalesce((SELECT array_agg(DISTINCT attname::text) FROM pg_index
		JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam AND amname = 'btree'
		JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
		WHERE indrelid = to_regclass($1) AND indisvalid AND (indpred IS NULL OR attname = 'identity_key')), '{}'),
	datcollate IN ('C', 'POSIX') AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c'
FROM pg_database d WHERE datname = current_database()`

func (o *operations) readAccess(ctx context.Context) (a access, err error) {
	err = o.conn.QueryRow(ctx, accessSQL, pgx.QueryExecModeExec, o.g.tables.qualify("queue_job")).Scan(&a.indexed, &a.bytewise)
	return a, o.conn.Failed(err, "read the indexes of queue_job")
}

// List implements [driver.Operations]. Of the conditions that an index serves it tries one after the
// other: if no more than a window's rows meet one, these are all that there are to look at.
// Otherwise it looks at the next window in the order of the ids.
func (o *operations) List(ctx context.Context, f driver.Filter, before int64, limit int) (out driver.Listed, err error) {
	if before == 0 {
		before = math.MaxInt64
	}
	conditions := o.g.conditions(f)
	err = o.conn.Limited(ctx, listLimit, func() (err error) {
		out, err = o.list(ctx, conditions, before, limit)
		return err
	})
	if err != nil {
		return driver.Listed{}, o.conn.Failed(err, "list jobs")
	}
	if len(f.UUIDs) == 0 {
		return out, nil
	}
	for i := range out.Jobs {
		if out.Jobs[i].State == channels.WaitDependencies {
			if err := o.parents(ctx, &out.Jobs[i]); err != nil {
				return driver.Listed{}, err
			}
		}
	}
	return out, nil
}

func (o *operations) list(ctx context.Context, all conditions, before int64, limit int) (driver.Listed, error) {
	if len(all) > 0 {
		a, err := o.readAccess(ctx)
		if err != nil {
			return driver.Listed{}, err
		}
		for i := range all {
			if !a.serves(&all[i]) {
				continue
			}
			if out, few, err := o.few(ctx, all, i, before, limit); err != nil || few {
				return out, err
			}
		}
	}
	return o.window(ctx, all, before, limit)
}

// serves reports whether an index finds the rows that meet a condition, and no others.
func (a *access) serves(c *condition) bool {
	return c.column != "" && slices.Contains(a.indexed, c.column) && (a.bytewise || !c.begins)
}

// fewSQL reads the jobs that meet all conditions if no more than a window's rows meet one of them.
// Its last column says if more do. Each condition of that one is a part that an index serves alone.
const fewSQL = `
WITH c AS (SELECT id FROM (%[1]s) AS found LIMIT %[2]d), m AS (SELECT count(*) = %[2]d AS many FROM c)
SELECT f.*, m.many::int FROM m LEFT JOIN LATERAL (
	SELECT %[3]s FROM queue_job j
	WHERE NOT m.many AND j.id = ANY(ARRAY(SELECT id FROM c WHERE id < $1::int8)) AND %[4]s
	ORDER BY j.id DESC LIMIT $2::int8
) f ON true`

func (o *operations) few(ctx context.Context, all conditions, at int, before int64, limit int) (driver.Listed, bool, error) {
	sql, args := o.g.fewStatement(all, at, before, limit)
	list, many, err := o.found(ctx, sql, args)
	out := driver.Listed{Jobs: list}
	if len(list) == limit {
		out.Next = list[limit-1].ID
	}
	return out, many == 0, err
}

func (g *generation) fewStatement(all conditions, at int, before int64, limit int) (sql string, args []any) {
	args = []any{before, limit}
	var parts []string
	for _, part := range all[at].parts {
		parts = append(parts, "SELECT j.id FROM queue_job j WHERE "+bind(part, &args))
	}
	return fmt.Sprintf(fewSQL, strings.Join(parts, " UNION ALL "), windowSize+1, g.detailList(), all.unindexed(&args)), args
}

// windowSQL reads the jobs that meet all conditions among the rows of the next window. Its last
// column is the lowest id of the window, NULL if that is the last one.
const windowSQL = `
WITH w AS (SELECT (SELECT j.id FROM queue_job j WHERE j.id < $1::int8 ORDER BY j.id DESC OFFSET %[1]d LIMIT 1) AS lowest)
SELECT f.*, w.lowest FROM w LEFT JOIN LATERAL (
	SELECT %[2]s FROM queue_job j
	WHERE j.id < $1::int8 AND j.id >= coalesce(w.lowest, -9223372036854775808) AND %[3]s
	ORDER BY j.id DESC LIMIT $2::int8
) f ON true`

func (o *operations) window(ctx context.Context, all conditions, before int64, limit int) (driver.Listed, error) {
	sql, args := o.g.windowStatement(all, before, limit)
	list, lowest, err := o.found(ctx, sql, args)
	out := driver.Listed{Jobs: list, Next: lowest}
	if len(list) == limit && (lowest != 0 || len(all) > 0) {
		out.Next = list[limit-1].ID
	}
	return out, err
}

func (g *generation) windowStatement(all conditions, before int64, limit int) (sql string, args []any) {
	args = []any{before, limit}
	size := windowSize
	if len(all) == 0 {
		size = limit
	}
	return fmt.Sprintf(windowSQL, size, g.detailList(), all.unindexed(&args)), args
}

// found runs one of them, and returns the last column with the jobs; NULL is 0.
func (o *operations) found(ctx context.Context, sql string, args []any) (list []driver.Detail, mark int64, err error) {
	rows, err := o.conn.Query(ctx, o.g.named(sql), append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	scan := &scanner{database: o.database}
	for rows.Next() {
		var last pgtype.Int8
		d, some, err := scan.detail(rows, &last)
		if err != nil {
			return nil, 0, err
		}
		if mark = last.Int64; some {
			list = append(list, d)
		}
	}
	return list, mark, rows.Err()
}

// detailList is the select list of a detail. What is not PostgreSQL's own is not read.
func (g *generation) detailList() string {
	return g.rowColumns() + ", " + selectList(detailColumns, g.plain())
}

// plain are the columns that the role may read without running code of their owner.
func (g *generation) plain() []string { return without(g.readable, g.typed) }

// detail reads a detail, if there is one, and what follows it.
func (s *scanner) detail(rows pgx.Rows, more ...any) (d driver.Detail, some bool, err error) {
	var model, method, name, key, exception pgtype.Text
	var limit pgtype.Int8
	var started, done pgtype.Timestamp
	targets := append([]any{&model, &method, &name, &key, &limit, &exception, &started, &done}, more...)
	if d.Row, err = s.scan(rows, targets...); err != nil {
		return d, false, err
	}
	d.Model, d.Method, d.Name, d.IdentityKey = model.String, method.String, name.String, key.String
	d.Exception, d.MaxRetries = exception.String, narrow(limit.Int64)
	if started.Valid {
		d.Started = started.Time
	}
	if done.Valid {
		d.Done = done.Time
	}
	return d, s.id.Valid, nil
}

// parents counts the jobs that a job waits for.
func (o *operations) parents(ctx context.Context, d *driver.Detail) error {
	if !o.g.graphs() {
		return nil
	}
	var first *string
	err := o.conn.QueryRow(ctx, o.g.named(`SELECT count(*), min(d.uuid) FROM queue_job j, `+dependsOn+`
		LEFT JOIN queue_job p ON p.uuid = d.uuid
		WHERE j.id = $1 AND p.state IS DISTINCT FROM 'done'`), d.ID).Scan(&d.WaitsFor, &first)
	if err != nil {
		return o.conn.Failed(err, "count the jobs that a job waits for")
	}
	if first != nil {
		d.FirstParent = *first
	}
	return nil
}
