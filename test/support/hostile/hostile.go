// Package hostile makes databases whose owners want their code to run as the role
// that serves them: with functions and operators that go before PostgreSQL's own,
// and with settings that statements do not expect.
package hostile

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DB is a connection or pool to the database that is to become hostile.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

//go:embed shadow.sql
var shadowSQL string

// Shadow fills a schema with functions and operators that are named like those of
// PostgreSQL and fit better or as well. Each writes down that it was called, and as
// whom. It returns how many there are.
func Shadow(ctx context.Context, db DB, schema string) (n int, err error) {
	if _, err := db.Exec(ctx, shadowSQL); err != nil {
		return 0, fmt.Errorf("prepare the shadows: %w", err)
	}
	if err := db.QueryRow(ctx, "SELECT hostile.shadow($1)", schema).Scan(&n); err != nil {
		return 0, fmt.Errorf("fill %s: %w", schema, err)
	}
	return n, nil
}

// Path makes a path the one along which names are looked up in a database, for
// everybody who connects from now on.
func Path(ctx context.Context, db DB, database, path string) error {
	_, err := db.Exec(ctx, "ALTER DATABASE "+pgx.Identifier{database}.Sanitize()+" SET search_path = "+path)
	if err != nil {
		return fmt.Errorf("set the path of %s: %w", database, err)
	}
	return nil
}

// Calls tells which of the shadows were called by a role, with how often. It is to
// be empty.
func Calls(ctx context.Context, db DB, role string) (calls string, err error) {
	// Qualified, because this very session may be one that calls them.
	err = db.QueryRow(ctx, `SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('%s %s', name, n), ', '), '')
		FROM (SELECT name, pg_catalog.count(*) AS n FROM hostile.calls
			WHERE who OPERATOR(pg_catalog.=) $1::pg_catalog.text GROUP BY name ORDER BY name) AS c`, role).Scan(&calls)
	return calls, err
}
