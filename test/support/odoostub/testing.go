package odoostub

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// Start starts a server that is closed when the test ends.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	s, err := New(opts)
	if err != nil {
		tb.Fatalf("starting a stub Odoo: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("closing a stub Odoo: %v", err)
		}
	})
	return s
}

// NewDatabase creates a database of Odoo with the add-on installed, and drops it
// when the test ends.
func NewDatabase(tb testing.TB, c *pgtest.Cluster, gen Generation) (name string, pool *pgxpool.Pool) {
	tb.Helper()
	name = c.NewDatabase(tb)
	pool, err := pgxpool.New(context.Background(), c.DSN(name))
	if err != nil {
		tb.Fatalf("opening a pool: %v", err)
	}
	tb.Cleanup(pool.Close)
	if err := Install(tb.Context(), pool, gen); err != nil {
		tb.Fatalf("installing the add-on: %v", err)
	}
	return name, pool
}
