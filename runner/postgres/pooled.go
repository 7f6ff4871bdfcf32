package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// pooled is what a connection through a pooler brings along. A pooler in transaction mode may give
// each transaction another backend, which other clients use in between. So nothing is left there: a
// statement is sent with the beginning and the end of its transaction, the settings that it needs,
// and the locks that it may need, all in one message. Statements have no names.
type pooled struct {
	// names and values are the settings of a transaction, with that of the limit in one place.
	names, values []string
	limitAt       int
	// locks are the keys of [Conn.Exclude], fence shows that this process leads.
	locks []int64
	fence driver.Fence
	// descriptions are those of statements, by their text.
	descriptions map[string]*pgconn.StatementDescription
}

// ConnectPooled opens a connection to a database through a pooler in any mode. more are settings
// beyond those of every session, as far as the server knows them. Its statements, each of which is a
// transaction, run as those of [Connect] do. LISTEN, prepared statements and session locks are not
// to be used on it, and [Conn.Begin] neither.
//
// All errors match [driver.ErrLost].
func ConnectPooled(ctx context.Context, cfg *pgx.ConnConfig, database, applicationName string, more ...[2]string) (*Conn, error) {
	c, err := open(ctx, cfg, database, applicationName)
	if err != nil {
		return nil, err
	}
	c.pooled = &pooled{descriptions: map[string]*pgconn.StatementDescription{}}
	if err := c.findSettings(ctx, more); err != nil {
		c.Abandon(ctx)
		return nil, lost(err, "find the settings of "+c.Config().Database)
	}
	return c, nil
}

// Pooled reports whether the connection was made by [ConnectPooled].
func (c *Conn) Pooled() bool { return c.pooled != nil }

// Through reports whether there is a pooler before the server at all, as far as that can be told: it
// hands out process ids that are its own.
func (c *Conn) Through() bool { return c.PID != c.PgConn().PID() }

// sessionOnly are settings that mean nothing for one transaction, or that its beginning makes.
var sessionOnly = []string{
	"default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable",
	"idle_in_transaction_session_timeout", "idle_session_timeout", "client_connection_check_interval",
	"tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout",
}

const limitSetting = "statement_timeout"

// findSettings finds which of our settings the server knows. It runs under a path that is not ours.
func (c *Conn) findSettings(ctx context.Context, more [][2]string) error {
	names, values := settings()
	for _, m := range more {
		names, values = append(names, m[0]), append(values, m[1])
	}
	rows, err := c.Conn.Query(ctx, `
SELECT w.name, w.value
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS w (name, value)
JOIN pg_catalog.pg_settings s ON s.name OPERATOR(pg_catalog.=) w.name`, pgx.QueryExecModeExec, names, values)
	if err != nil {
		return err
	}
	p := c.pooled
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		if !slices.Contains(sessionOnly, name) {
			p.names, p.values = append(p.names, name), append(p.values, value)
		}
		return nil
	})
	if p.limitAt = slices.Index(p.names, limitSetting); err == nil && p.limitAt == -1 {
		return errors.New("the server does not know " + limitSetting)
	}
	return err
}

// bound sets how long a statement may take, until the function that it returns is called.
func (p *pooled) bound(limit time.Duration) (restore func()) {
	before := p.values[p.limitAt]
	p.values[p.limitAt] = strconv.FormatInt(limit.Milliseconds(), 10)
	return func() { p.values[p.limitAt] = before }
}

// Exclude has the transactions that follow, until the function that it returns is called, take
// exclusive advisory locks. One that does not get them changes nothing, and its error matches
// [driver.ErrRival]; the same if the fence does not hold, and the error matches [driver.ErrDeposed]. Without
// a pooler it does nothing: there, the session holds its locks.
func (c *Conn) Exclude(keys []int64, fence driver.Fence) (restore func()) {
	if c.pooled == nil {
		return nothing
	}
	c.pooled.locks, c.pooled.fence = keys, fence
	return func() { c.pooled.locks = nil }
}

var nothing = func() {}

const (
	// beginSQL makes of a transaction what it is by default, whatever the database or the role say.
	beginSQL = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE"
	// localSQL makes the settings. It runs under a path that is not ours yet.
	localSQL = `SELECT pg_catalog.count(pg_catalog.set_config(w.name, w.value, true))
FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS w (name, value)`
	// excludeSQL fails, by a value that no limit can have, if another session has one of the locks, or if
	// the fence does not hold. What is sent behind it is not executed then.
	excludeSQL = `SELECT CASE
	WHEN $2::int8 <> 0 AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.pid = $2
		AND l.classid = $3::oid AND l.objid = $4::oid AND l.objsubid = 1) THEN set_config('lock_timeout', '` + deposed + `', true)
	WHEN pg_try_advisory_xact_lock(k.key) THEN NULL
	ELSE set_config('lock_timeout', 'another runner', true) END FROM unnest($1::int8[]) AS k (key)`
	// excluded is the code of that error, whose text quotes the value.
	excluded = "22023"
	deposed  = "not the leader"
)

// begin starts a pipeline with what comes before the statement of a transaction. It returns how many
// results that has.
func (c *Conn) begin(ctx context.Context) (*pgconn.Pipeline, int, error) {
	var local, locks pgx.ExtendedQueryBuilder
	if err := local.Build(c.TypeMap(), nil, []any{c.pooled.names, c.pooled.values}); err != nil {
		return nil, 0, err
	}
	leaderClass, leaderObject := lockHalves(c.pooled.fence.Key)
	if err := locks.Build(c.TypeMap(), nil, []any{c.pooled.locks, int64(c.pooled.fence.PID), leaderClass, leaderObject}); err != nil {
		return nil, 0, err
	}
	p := c.PgConn().StartPipeline(ctx)
	p.SendQueryParams(beginSQL, nil, nil, nil, nil)
	p.SendQueryParams(localSQL, local.ParamValues, nil, local.ParamFormats, nil)
	if len(c.pooled.locks) == 0 {
		return p, 2, nil
	}
	p.SendQueryParams(excludeSQL, locks.ParamValues, nil, locks.ParamFormats, nil)
	return p, 3, nil
}

// began reads the results of begin.
func began(p *pgconn.Pipeline, n int) error {
	for i := range n {
		err := skip(p)
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && i == 2 && pgErr.Code == excluded {
			if strings.Contains(pgErr.Message, deposed) {
				return fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrDeposed)
			}
			return fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrRival)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// skip reads one result for nothing but its error.
func skip(p *pgconn.Pipeline) error {
	result, err := p.GetResults()
	if r, ok := result.(*pgconn.ResultReader); ok {
		_, err = r.Close()
	}
	return err
}

// end reads what is left of a transaction, and makes sure that it is over.
func (c *Conn) end(ctx context.Context, p *pgconn.Pipeline) error {
	failed := p.Close()
	const idle = 'I'
	if c.PgConn().TxStatus() != idle {
		if err := c.PgConn().Exec(ctx, "ROLLBACK").Close(); err != nil {
			c.Abandon(ctx) // nobody must inherit it
		}
	}
	return failed
}

// describe finds the types of a statement's parameters and results, in a transaction that is rolled
// back: names are looked up there where ours are.
func (c *Conn) describe(ctx context.Context, sql string) (*pgconn.StatementDescription, error) {
	if d, ok := c.pooled.descriptions[sql]; ok {
		return d, nil
	}
	defer func(locks []int64) { c.pooled.locks = locks }(c.pooled.locks)
	c.pooled.locks = nil
	p, n, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	p.SendPrepare("", sql, nil)
	p.SendQueryParams("ROLLBACK", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	var result any
	if err = began(p, n); err == nil {
		result, err = p.GetResults()
	}
	if failed := c.end(ctx, p); err == nil {
		err = failed
	}
	d, ok := result.(*pgconn.StatementDescription)
	if err == nil && !ok {
		err = errors.New("the server does not describe a statement")
	}
	if err != nil {
		return nil, err
	}
	c.pooled.descriptions[sql] = d
	return d, nil
}

// Query is that of pgx. Through a pooler the statement is a transaction, and rows are to be read to
// their end: only then it is known that it was committed.
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if c.pooled == nil {
		return c.Conn.Query(ctx, sql, args...)
	}
	var d *pgconn.StatementDescription
	var oids []uint32
	var err error
	if len(args) > 0 && args[0] == pgx.QueryExecModeExec { // so it is not to be remembered
		args = args[1:]
	} else if d, err = c.describe(ctx, sql); err != nil {
		return nil, err
	} else {
		oids = d.ParamOIDs
	}
	var values pgx.ExtendedQueryBuilder
	if err := values.Build(c.TypeMap(), d, args); err != nil {
		return nil, err
	}
	p, n, err := c.begin(ctx)
	if err != nil {
		return nil, err
	}
	p.SendQueryParams(sql, values.ParamValues, oids, values.ParamFormats, values.ResultFormats)
	p.SendQueryParams("COMMIT", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	var result any
	if err = began(p, n); err == nil {
		result, err = p.GetResults()
	}
	reader, ok := result.(*pgconn.ResultReader)
	if err == nil && !ok {
		err = errors.New("the server has no result")
	}
	if err != nil {
		_ = c.end(ctx, p) // what follows from the first error
		return nil, err
	}
	return &pooledRows{Rows: pgx.RowsFromResultReader(c.TypeMap(), reader), conn: c, ctx: ctx, pipeline: p}, nil
}

// QueryRow is that of pgx.
func (c *Conn) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if c.pooled == nil {
		return c.Conn.QueryRow(ctx, sql, args...)
	}
	rows, err := c.Query(ctx, sql, args...)
	return &pooledRow{rows, err}
}

// Exec is that of pgx.
func (c *Conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if c.pooled == nil {
		return c.Conn.Exec(ctx, sql, args...)
	}
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// pooledRows are the rows of a statement that ends a transaction.
type pooledRows struct {
	pgx.Rows

	conn     *Conn
	ctx      context.Context //nolint:containedctx // as in pgx's own
	pipeline *pgconn.Pipeline
	over     bool
	err      error
}

// Next implements [pgx.Rows].
func (r *pooledRows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

// Close implements [pgx.Rows].
func (r *pooledRows) Close() {
	r.Rows.Close()
	if r.over {
		return
	}
	r.over = true
	if err := r.conn.end(r.ctx, r.pipeline); r.Rows.Err() == nil {
		r.err = err
	}
}

// Err implements [pgx.Rows].
func (r *pooledRows) Err() error {
	if r.err != nil {
		return r.err
	}
	return r.Rows.Err()
}

// pooledRow is the first of them.
type pooledRow struct {
	rows pgx.Rows
	err  error
}

// Scan implements [pgx.Row].
func (r *pooledRow) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}
