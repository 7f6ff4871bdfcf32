package pgtest

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// recoveryTimeout bounds what a test waits for.
const recoveryTimeout = 20 * time.Second

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), recoveryTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func TestDatabases(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	a := c.NewDatabase(t)
	conn := connect(t, c.SocketDSN(a))
	_, err := conn.Exec(t.Context(), "CREATE TABLE t AS SELECT 42 AS answer")
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	b := c.NewDatabaseFrom(t, a)
	require.NotEqual(t, a, b)
	var answer int
	require.NoError(t, connect(t, c.DSN(b)).QueryRow(t.Context(), "SELECT answer FROM t").Scan(&answer))
	require.Equal(t, 42, answer)

	require.NoError(t, c.DropDatabase(t.Context(), b), "also while somebody is connected")
	require.NoError(t, c.DropDatabase(t.Context(), b), "also when it does not exist")
}

func TestTerminateBackends(t *testing.T) {
	t.Parallel()
	c := Shared(t)
	a, b := c.NewDatabase(t), c.NewDatabase(t)
	victim, bystander := connect(t, c.DSN(a)), connect(t, c.DSN(b))
	require.NoError(t, c.TerminateBackends(t.Context(), a))
	require.Error(t, victim.Ping(t.Context()))
	require.NoError(t, bystander.Ping(t.Context()))
}

func TestPassword(t *testing.T) {
	t.Parallel()
	c := Own(t, Options{User: "odoo", Password: "p:a/s@s word", Durable: true, Settings: map[string]string{"max_connections": "20"}})
	for _, dsn := range []string{c.DSN("postgres"), c.SocketDSN("postgres")} {
		var user, fsync, connections string
		require.NoError(t, connect(t, dsn).QueryRow(t.Context(),
			"SELECT current_user, current_setting('fsync'), current_setting('max_connections')").Scan(&user, &fsync, &connections))
		require.Equal(t, []string{"odoo", "on", "20"}, []string{user, fsync, connections})
	}
	config := c.ConnConfig("postgres")
	config.Password = "wrong"
	_, err := pgx.ConnectConfig(t.Context(), config)
	require.ErrorContains(t, err, "28P01")
}

// Commits survive every way in which a server can go down, and the address stays.
func TestOutages(t *testing.T) {
	t.Parallel()
	c := Own(t, Options{})
	dsn := c.DSN("postgres")
	require.NoError(t, c.Exec(t.Context(), "postgres", "CREATE TABLE t (n int)"))
	outages := []func() error{
		func() error { return c.Restart(t.Context(), Fast) },
		func() error { return c.Restart(t.Context(), Immediate) },
		func() error {
			if err := c.Stop(t.Context(), Fast); err != nil {
				return err
			}
			require.False(t, c.Running())
			require.Error(t, c.Exec(t.Context(), "postgres", "SELECT 1"))
			return c.StartAgain(t.Context())
		},
		func() error {
			c.Kill()
			require.False(t, c.Running())
			return c.StartAgain(t.Context())
		},
	}
	for i, outage := range outages {
		conn := connect(t, dsn)
		_, err := conn.Exec(t.Context(), "INSERT INTO t VALUES ($1)", i)
		require.NoError(t, err)
		require.NoError(t, outage())
		require.Error(t, conn.Ping(t.Context()))
		var n int
		require.NoError(t, connect(t, dsn).QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n))
		require.Equal(t, i+1, n)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	c, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil && os.Geteuid() == 0 {
		// The test's own folder is closed to the server's user.
		require.ErrorContains(t, err, "initdb")
		c, err = Start(t.Context(), Options{})
	}
	require.NoError(t, err)
	pid := c.server.PID()
	all := append(child.Children(pid), pid)
	require.Greater(t, len(all), 1)
	require.NoError(t, c.Close())
	require.NoDirExists(t, c.Dir())
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(all, child.Lives)
	}, recoveryTimeout, 10*time.Millisecond)
	require.NoError(t, c.Close(), "closing twice is no error")
}

func TestStartReportsTheServersWords(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Options{Settings: map[string]string{"no_such_setting": "1"}})
	require.ErrorContains(t, err, "no_such_setting")
}

func TestDatabasePrefix(t *testing.T) {
	t.Parallel()
	require.Equal(t, "testx_case_1", databasePrefix("TestX/Case 1"))
	require.Len(t, databasePrefix("TestAVeryLongNameThatGoesOnAndOnAndOnWithoutEnd"), 40)
}
