package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// A session that another backend serves now is not the one that was set up.
func TestProbeFindsAnotherBackend(t *testing.T) {
	c := connect(t, pgtest.Shared(t).ConnConfig("postgres"))
	c.PID++
	err := c.Probe(deadline(t), postgres.Expect{})
	require.ErrorIs(t, err, driver.ErrLost)
	require.ErrorContains(t, err, "the session moved from backend")
}

// Where the server can, it ends sessions that say nothing, statements whose client has gone, and
// no transaction of ours.
func TestServerEndsSilentSessions(t *testing.T) {
	c := connect(t, pgtest.Shared(t).ConnConfig("postgres"))
	for name, want := range map[string]string{
		"idle_session_timeout": "20s", "client_connection_check_interval": "5s", "transaction_timeout": "0",
		"search_path": "pg_catalog, pg_temp", "jit": "off", "row_security": "off",
	} {
		var got string
		require.NoError(t, c.QueryRow(deadline(t),
			"SELECT coalesce(current_setting($1, true), $2)", name, want).Scan(&got))
		require.Equal(t, want, got, name)
	}
}

// A trigger that is not there, or switched off, is found; one that fires always is as good.
func TestProbeFindsATriggerSwitchedOff(t *testing.T) {
	pg := pgtest.Shared(t)
	c := connect(t, pg.ConnConfig(pg.NewDatabase(t)))
	exec := func(sql string) {
		_, err := c.Exec(deadline(t), sql)
		require.NoError(t, err)
	}
	exec(`CREATE TABLE public.t (); CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'`)
	exec("CREATE TRIGGER x AFTER INSERT ON public.t EXECUTE PROCEDURE public.f()")
	var want postgres.Expect
	require.NoError(t, c.QueryRow(deadline(t), "SELECT oid FROM pg_trigger WHERE tgname = 'x'").Scan(&want.Trigger))
	require.NoError(t, c.Probe(deadline(t), want))
	exec("ALTER TABLE public.t ENABLE ALWAYS TRIGGER x")
	require.NoError(t, c.Probe(deadline(t), want))
	for _, sql := range []string{
		"ALTER TABLE public.t DISABLE TRIGGER x", "ALTER TABLE public.t ENABLE REPLICA TRIGGER x", "DROP TRIGGER x ON public.t",
	} {
		exec(sql)
		require.ErrorContains(t, c.Probe(deadline(t), want), "trigger", sql)
	}
}

// An attempt to connect has a limit, that of the configuration if it has one.
func TestConnectTimeout(t *testing.T) {
	cfg := pgtest.Shared(t).ConnConfig("postgres")
	cfg.ConnectTimeout = 0
	require.Equal(t, 10*time.Second, connect(t, cfg).Config().ConnectTimeout)
	cfg.ConnectTimeout = 3 * time.Second
	require.Equal(t, 3*time.Second, connect(t, cfg).Config().ConnectTimeout)
}

// A server that the configuration does not want is refused, whatever kind it is.
func TestUnwantedServer(t *testing.T) {
	cfg := pgtest.Shared(t).ConnConfig("postgres")
	for name, want := range map[string]pgconn.ValidateConnectFunc{
		"standby": pgconn.ValidateConnectTargetSessionAttrsStandby, "read-only": pgconn.ValidateConnectTargetSessionAttrsReadOnly,
	} {
		cfg.ValidateConnect = want
		_, err := postgres.Connect(deadline(t), cfg, "", "test")
		require.ErrorIs(t, err, driver.ErrLost, name)
	}
	cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	c := connect(t, cfg)
	require.Equal(t, "I", string(c.PgConn().TxStatus()), "no transaction is under way")
}

// A connection keeps few statements, and descriptions only where these are what it uses.
func TestMemoryOfAConnection(t *testing.T) {
	cfg := pgtest.Shared(t).ConnConfig("postgres")
	config := connect(t, cfg).Config()
	require.Equal(t, 64, config.StatementCacheCapacity)
	require.Zero(t, config.DescriptionCacheCapacity)
	cfg.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	require.Equal(t, cfg.DescriptionCacheCapacity, connect(t, cfg).Config().DescriptionCacheCapacity)
	cfg.RuntimeParams = nil
	connect(t, cfg)
}

// A wait ends with a notification or with its context, and only what ends the connection is an error.
func TestWaitHeard(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	c, other := connect(t, pg.ConnConfig(db)), connect(t, pg.ConnConfig(db))
	var heard []string
	c.Hear(func(pid uint32, payload []byte) {
		require.Equal(t, other.PID, pid)
		heard = append(heard, string(payload))
	})
	_, err := c.Exec(deadline(t), "LISTEN x")
	require.NoError(t, err)
	notify := func(payload string) {
		_, err := other.Exec(deadline(t), "SELECT pg_notify('x', $1)", payload)
		require.NoError(t, err)
	}
	for _, payload := range []string{"one", "two"} {
		notify(payload)
		require.NoError(t, c.WaitHeard(deadline(t)))
		require.Equal(t, []string{payload}, heard)
		heard = nil
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.NoError(t, c.WaitHeard(ctx))
	require.NoError(t, c.WaitHeard(ctx), "it is over")
	require.Empty(t, heard)
	require.NoError(t, c.Probe(deadline(t), postgres.Expect{Channel: "x"}), "the connection goes on")

	rows, err := c.Query(deadline(t), "SELECT 1")
	require.NoError(t, err)
	require.Error(t, c.WaitHeard(deadline(t)), "the connection is in use")
	rows.Close()
	require.NoError(t, pg.TerminateBackends(t.Context(), db))
	require.Error(t, c.WaitHeard(&ends{Context: deadline(t)}), "the connection ends at the same time")
	require.Error(t, c.WaitHeard(deadline(t)))
}

// ends is a context that has ended when it is asked for the second time, without having told.
type ends struct {
	context.Context

	asked int
}

func (c *ends) Err() error {
	if c.asked++; c.asked > 1 {
		return context.Canceled
	}
	return nil
}
