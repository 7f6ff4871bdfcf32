package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// TestTooManyConnections: the limit of a role concerns all databases, that of a database does not.
// Each limit has a role of its own: PostgreSQL counts a refused connection until its backend ends.
func TestTooManyConnections(t *testing.T) {
	pg := pgtest.Shared(t)
	admin := connect(t, pg.ConnConfig("postgres"))
	db := pg.NewDatabase(t)
	for _, sql := range []string{
		"CREATE ROLE visitor LOGIN",
		"CREATE ROLE crowd LOGIN CONNECTION LIMIT 1",
		"ALTER DATABASE " + pgx.Identifier{db}.Sanitize() + " CONNECTION LIMIT 0",
	} {
		_, err := admin.Exec(deadline(t), sql)
		require.NoError(t, err)
	}
	t.Cleanup(func() {
		_, err := admin.Exec(context.WithoutCancel(t.Context()), "DROP ROLE crowd, visitor")
		require.NoError(t, err)
	})
	cfg := pg.ConnConfig(db)
	cfg.User = "visitor"
	_, err := postgres.Connect(deadline(t), cfg, "", "test")
	require.ErrorContains(t, err, "too many connections for database")
	require.ErrorIs(t, err, driver.ErrLost)
	require.NotErrorIs(t, err, driver.ErrTooMany)

	cfg = pg.ConnConfig("postgres")
	cfg.User = "crowd"
	connect(t, cfg)
	_, err = postgres.Connect(deadline(t), cfg, "", "test")
	require.ErrorContains(t, err, "too many connections for role")
	require.ErrorIs(t, err, driver.ErrLost)
	require.ErrorIs(t, err, driver.ErrTooMany)
}
