package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Cluster is the maintenance connection to a PostgreSQL cluster. It implements [driver.Cluster] and
// knows nothing about the application.
type Cluster struct{ conn *Conn }

var (
	_ driver.Cluster = (*Cluster)(nil)
	_ driver.Adviser = (*Cluster)(nil)
	_ driver.Fencer  = (*Cluster)(nil)
)

// OpenCluster connects to the database that cfg names. A pooler in transaction mode is refused: the
// leader lock would mean nothing.
func OpenCluster(ctx context.Context, cfg *pgx.ConnConfig) (*Cluster, error) {
	conn, err := Connect(ctx, cfg, "", "maintenance")
	if err != nil {
		return nil, err
	}
	if conn.Pooling == TransactionPooling {
		conn.Abandon(ctx)
		return nil, lost(ErrTransactionPooling, "connect to "+conn.Config().Database)
	}
	conn.leads = true
	return &Cluster{conn: conn}, nil
}

// Databases implements [driver.Cluster]. A name that matches patterns is listed, no matter which
// role owns the database.
func (c *Cluster) Databases(ctx context.Context, patterns []string) ([]driver.Database, error) {
	match, err := Patterns(patterns)
	if err != nil {
		return nil, err
	}
	own := !HasPositive(patterns)
	rows, err := c.conn.Query(ctx, `
		SELECT datname, oid FROM pg_database
		WHERE datallowconn AND NOT datistemplate AND (NOT $1::bool OR (
			pg_get_userbyid(datdba) = current_user AND datname NOT IN ('postgres', 'template0', 'template1')))
		ORDER BY datname`, own)
	if err != nil {
		return nil, c.conn.Failed(err, "list the databases")
	}
	var list []driver.Database
	var db driver.Database
	_, err = pgx.ForEachRow(rows, []any{&db.Name, &db.OID}, func() error {
		if match(db.Name) {
			list = append(list, db)
		}
		return nil
	})
	return list, c.conn.Failed(err, "list the databases")
}

// Busy implements [driver.Cluster]. DROP DATABASE and ALTER DATABASE ... RENAME take
// AccessExclusiveLock on the row of pg_database before they wait for other connections to leave,
// CREATE DATABASE ... TEMPLATE takes ShareLock (observed on PostgreSQL 15). A connection attempt
// takes RowExclusiveLock, so each mode that conflicts with it counts, granted or not.
func (c *Cluster) Busy(ctx context.Context) ([]string, error) {
	rows, err := c.conn.Query(ctx, `
		SELECT DISTINCT d.datname FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
		WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.database = 0
		AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
		ORDER BY d.datname`)
	if err != nil {
		return nil, c.conn.Failed(err, "list the databases that are being dropped, renamed or copied")
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return names, c.conn.Failed(err, "list the databases that are being dropped, renamed or copied")
}

// privileges are the attributes of a role that code of others could use, the one that implies the others
// first.
var privileges = []struct{ column, words string }{
	{"rolsuper", "is a superuser"},
	{"rolcreaterole", "may create and change roles (CREATEROLE)"},
	{"rolbypassrls", "reads rows that policies hide (BYPASSRLS)"},
}

// Warnings implements [driver.Adviser]. A trigger on a table runs as the role that
// writes to it, so the owner of one database has all rights of that role.
func (c *Cluster) Warnings(ctx context.Context) ([]string, error) {
	var role string
	has := make([]bool, len(privileges))
	targets := []any{&role}
	columns := []string{"rolname"}
	for i, p := range privileges {
		targets, columns = append(targets, &has[i]), append(columns, p.column)
	}
	err := c.conn.QueryRow(ctx, "SELECT "+strings.Join(columns, ", ")+" FROM pg_roles WHERE rolname = session_user").Scan(targets...)
	if err != nil {
		return nil, c.conn.Failed(err, "read the rights of the role")
	}
	var words []string
	for i, p := range privileges {
		if has[i] {
			words = append(words, p.words)
		}
	}
	if len(words) == 0 {
		return nil, nil
	}
	if has[0] {
		words = words[:1] // who is a superuser may all the rest
	}
	return []string{fmt.Sprintf("the role %s %s, and a trigger on queue_job runs with its rights, "+
		"so the owner of any of the databases has them too: connect as a role without them", role, strings.Join(words, " and "))}, nil
}

// Lead implements [driver.Cluster].
func (c *Cluster) Lead(ctx context.Context, key int64) (driver.Lock, error) {
	return c.conn.TryLock(ctx, key)
}

// Unlead implements [driver.Cluster].
func (c *Cluster) Unlead(ctx context.Context, key int64) error {
	return c.conn.Unlock(ctx, key)
}

// Fence implements [driver.Fencer].
func (c *Cluster) Fence(key int64) driver.Fence { return driver.Fence{PID: c.conn.PID, Key: key} }

// Close implements [driver.Cluster].
func (c *Cluster) Close(ctx context.Context) error {
	return Wrap(c.conn.Close(ctx), "close the maintenance connection")
}
