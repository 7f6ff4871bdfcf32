package postgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/hostile"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// hostileDatabase returns the configuration of a role without rights, in a database whose owner has
// put its own code before everything of PostgreSQL.
func hostileDatabase(t *testing.T, pg *pgtest.Cluster) (*pgx.ConnConfig, *postgres.Conn) {
	t.Helper()
	db := pg.NewDatabase(t)
	admin := connect(t, pg.ConnConfig(db))
	role := "victim_" + db
	_, err := admin.Exec(deadline(t), "CREATE ROLE "+role+" LOGIN")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pg.Exec(context.Background(), "postgres", "DROP ROLE "+role)) })
	for _, schema := range []string{"evil", "public"} {
		n, err := hostile.Shadow(deadline(t), admin, schema)
		require.NoError(t, err)
		require.Greater(t, n, 1000)
	}
	require.NoError(t, hostile.Path(deadline(t), admin, db, "evil, public, pg_catalog"))
	cfg := pg.ConnConfig(db)
	cfg.User = role
	return cfg, admin
}

// requireUncalled: the role has called nothing of the owner's.
func requireUncalled(t *testing.T, admin *postgres.Conn, cfg *pgx.ConnConfig) {
	t.Helper()
	calls, err := hostile.Calls(deadline(t), admin, cfg.User)
	require.NoError(t, err)
	require.Empty(t, calls, "called as %s", cfg.User)
}

// TestNothingOfOthersIsCalled: neither while the connection is made and set up, directly or through
// poolers, nor by the statements of this package.
func TestNothingOfOthersIsCalled(t *testing.T) {
	pg := pgtest.Shared(t)
	cfg, admin := hostileDatabase(t, pg)
	t.Run("the trap works", func(t *testing.T) {
		conn, err := pgx.ConnectConfig(deadline(t), cfg)
		require.NoError(t, err)
		_, err = conn.Exec(deadline(t), "SELECT pg_is_in_recovery() WHERE 'a'::varchar = 'b'::varchar")
		require.NoError(t, err)
		require.NoError(t, conn.Close(deadline(t)))
		calls, err := hostile.Calls(deadline(t), admin, cfg.User)
		require.NoError(t, err)
		require.Equal(t, "pg_is_in_recovery 1, varchar = varchar 1", calls)
		_, err = admin.Exec(deadline(t), "DELETE FROM hostile.calls")
		require.NoError(t, err)
	})
	wants := map[string]pgconn.ValidateConnectFunc{
		"default": nil, "primary": pgconn.ValidateConnectTargetSessionAttrsPrimary,
		"read-write": pgconn.ValidateConnectTargetSessionAttrsReadWrite,
	}
	for name, want := range wants {
		t.Run("target_session_attrs "+name, func(t *testing.T) {
			cfg := cfg.Copy()
			cfg.ValidateConnect = want
			useEverything(t, cfg)
			requireUncalled(t, admin, cfg)
		})
	}
	t.Run("through a pooler", func(t *testing.T) {
		cfg := drivertest.NewPooler(t, cfg, drivertest.PoolSession)
		c := connect(t, cfg)
		require.Equal(t, postgres.SessionPooling, c.Pooling)
		require.NoError(t, c.Probe(deadline(t), postgres.Expect{}))
		requireUncalled(t, admin, cfg)
	})
	t.Run("through a pooler that shares its backends", func(t *testing.T) {
		for _, mode := range []drivertest.PoolMode{drivertest.PoolTransaction, drivertest.PoolRoundRobin} {
			cfg := drivertest.NewPooler(t, cfg, mode)
			cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
			c := connect(t, cfg)
			require.Equal(t, postgres.TransactionPooling, c.Pooling)
			requireUncalled(t, admin, cfg)

			// What others find on these backends is as it was.
			var path, zone string
			row := c.QueryRow(deadline(t), "SELECT pg_catalog.current_setting('search_path'), pg_catalog.current_setting('lock_timeout')", pgx.QueryExecModeExec)
			require.NoError(t, row.Scan(&path, &zone))
			require.Equal(t, "evil, public, pg_catalog", path)
			require.Equal(t, "0", zone)
		}
	})
}

// useEverything runs each statement of the package.
func useEverything(t *testing.T, cfg *pgx.ConnConfig) {
	t.Helper()
	key := int64(77)
	c, other := connect(t, cfg), connect(t, cfg)
	lock, err := c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
	lock, err = other.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.NotEmpty(t, lock.Holder)
	_, err = c.Exec(deadline(t), "LISTEN queue_job")
	require.NoError(t, err)
	require.NoError(t, c.Probe(deadline(t), postgres.Expect{Lock: &key, Channel: "queue_job"}))
	require.NoError(t, c.Unlock(deadline(t), key))

	cluster, err := postgres.OpenCluster(deadline(t), cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, cluster.Close(deadline(t))) }()
	_, err = cluster.Databases(deadline(t), nil)
	require.NoError(t, err)
	_, err = cluster.Busy(deadline(t))
	require.NoError(t, err)
	_, err = cluster.Lead(deadline(t), key)
	require.NoError(t, err)
	require.NoError(t, cluster.Unlead(deadline(t), key))
}

// TestSettingsAreOurs: what a database and a role can set does not reach us.
func TestSettingsAreOurs(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	role := "odd_" + db
	require.NoError(t, pg.Exec(t.Context(), db, "CREATE ROLE "+role+" LOGIN"))
	t.Cleanup(func() { require.NoError(t, pg.Exec(context.Background(), "postgres", "DROP ROLE "+role)) })
	ours := map[string]string{
		"search_path": "pg_catalog, pg_temp", "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres",
		"TimeZone": "UTC", "standard_conforming_strings": "on", "transform_null_equals": "off",
		"default_transaction_isolation": "read committed", "default_transaction_read_only": "off",
		"default_transaction_deferrable": "off", "row_security": "off", "statement_timeout": "15min", "lock_timeout": "4s",
		"idle_in_transaction_session_timeout": "0", "client_connection_check_interval": "5s", "idle_session_timeout": "20s",
	}
	for name, value := range map[string]string{
		"search_path": "public", "client_encoding": "LATIN1", "DateStyle": "'SQL, DMY'", "IntervalStyle": "sql_standard",
		"TimeZone": "'Asia/Tokyo'", "standard_conforming_strings": "off", "transform_null_equals": "on",
		"default_transaction_isolation": "'repeatable read'", "default_transaction_read_only": "on",
		"default_transaction_deferrable": "on", "row_security": "on", "statement_timeout": "3000", "lock_timeout": "1",
		"idle_in_transaction_session_timeout": "1", "client_connection_check_interval": "0", "idle_session_timeout": "0",
	} {
		require.NoError(t, pg.Exec(t.Context(), db, "ALTER ROLE "+role+" SET "+name+" = "+value))
		require.Contains(t, ours, name)
	}
	cfg := pg.ConnConfig(db)
	cfg.User = role
	c := connect(t, cfg)
	for name, want := range ours {
		var got string
		require.NoError(t, c.QueryRow(deadline(t), "SELECT current_setting($1)", name).Scan(&got))
		require.Equal(t, want, got, name)
	}
}
