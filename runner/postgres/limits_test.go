package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// maintain opens a maintenance connection of a role.
func maintain(t *testing.T, cfg *pgx.ConnConfig) *postgres.Cluster {
	t.Helper()
	c, err := postgres.OpenCluster(deadline(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close(context.WithoutCancel(t.Context()))) })
	return c
}

// TestLimits: the limits of the server and of the role, and who holds what of them. A role sees the
// connections of others, without rights on these.
func TestLimits(t *testing.T) {
	pg := pgtest.Own(t, pgtest.Options{Settings: map[string]string{"max_connections": "40", "superuser_reserved_connections": "3"}})
	admin := connect(t, pg.ConnConfig("postgres"))
	for _, sql := range []string{"CREATE ROLE bounded LOGIN CONNECTION LIMIT 10", "CREATE ROLE unbounded LOGIN"} {
		_, err := admin.Exec(deadline(t), sql)
		require.NoError(t, err)
	}
	cfg := pg.ConnConfig("postgres")
	cfg.User = "bounded"
	cluster := maintain(t, cfg)
	other, err := pgx.ConnectConfig(deadline(t), cfg) // of Odoo, say
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Close(context.WithoutCancel(t.Context())) })
	l, err := cluster.Limits(deadline(t))
	require.NoError(t, err)
	require.Equal(t, driver.Limits{Server: 37, ServerUsed: 3, Role: 10, RoleUsed: 2, Runners: 1}, l)

	cfg = pg.ConnConfig("postgres")
	cfg.User = "unbounded"
	l, err = maintain(t, cfg).Limits(deadline(t))
	require.NoError(t, err)
	require.Equal(t, driver.Limits{Server: 37, ServerUsed: 4, RoleUsed: 1, Runners: 1}, l)

	l, err = maintain(t, pg.ConnConfig("postgres")).Limits(deadline(t))
	require.NoError(t, err)
	require.Zero(t, l.Role, "CONNECTION LIMIT does not hold for superusers")
}

// TestWrites: what is written to a database shows on the maintenance connection, and reading does not.
func TestWrites(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	cluster := maintain(t, pg.ConnConfig("postgres"))
	here := connect(t, pg.ConnConfig(db))
	var oid uint32
	require.NoError(t, here.QueryRow(deadline(t), "SELECT oid FROM pg_database WHERE datname = $1", db).Scan(&oid))
	read := func() driver.Writes {
		all, err := cluster.Writes(deadline(t))
		require.NoError(t, err)
		require.Contains(t, all, oid)
		return all[oid]
	}
	// What made the database is counted late.
	before := read()
	require.Eventually(t, func() bool {
		was := before
		before = read()
		return was == before
	}, 30*time.Second, 1500*time.Millisecond)
	own, err := postgres.WritesHere(deadline(t), here)
	require.NoError(t, err)
	require.Equal(t, before, own)

	writer := connect(t, pg.ConnConfig(db))
	_, err = writer.Exec(deadline(t), "CREATE TABLE public.t (n int)")
	require.NoError(t, err)
	_, err = writer.Exec(deadline(t), "INSERT INTO public.t VALUES (1)")
	require.NoError(t, err)
	require.NoError(t, writer.Close(deadline(t))) // it reports then at the latest
	require.Eventually(t, func() bool { return read() != before }, 30*time.Second, 50*time.Millisecond)

	before = read()
	_, err = here.Exec(deadline(t), "SELECT pg_stat_reset()")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return read().Reset != before.Reset }, 30*time.Second, 50*time.Millisecond)
}
