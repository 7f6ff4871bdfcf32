package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// testTimeout bounds one test's statements.
const testTimeout = 30 * time.Second

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func connect(t *testing.T, cfg *pgx.ConnConfig) *postgres.Conn {
	t.Helper()
	c, err := postgres.Connect(deadline(t), cfg, "", "test")
	require.NoError(t, err)
	t.Cleanup(func() { c.Abandon(context.Background()) })
	return c
}

func TestConnectSetsTheSessionUp(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	cfg := pg.ConnConfig("postgres")
	c, err := postgres.Connect(deadline(t), cfg, db, "test")
	require.NoError(t, err)
	defer c.Abandon(t.Context())
	require.Equal(t, "postgres", cfg.Database, "the caller's configuration is left alone")
	require.Equal(t, c.PgConn().PID(), c.PID)

	for name, want := range map[string]string{
		"application_name":                    "caddy-jobrunner/test",
		"TimeZone":                            "UTC",
		"statement_timeout":                   "15min",
		"lock_timeout":                        "4s",
		"idle_in_transaction_session_timeout": "0",
		"tcp_keepalives_idle":                 "8",
		"tcp_keepalives_interval":             "4",
		"tcp_keepalives_count":                "3",
		"tcp_user_timeout":                    "20000",
	} {
		var got string
		require.NoError(t, c.QueryRow(deadline(t), "SELECT current_setting($1)", name).Scan(&got))
		require.Equal(t, want, got, name)
	}
}

func TestConnectKeepsAnApplicationName(t *testing.T) {
	cfg := pgtest.Shared(t).ConnConfig("postgres")
	cfg.RuntimeParams["application_name"] = "mine"
	c := connect(t, cfg)
	var got string
	require.NoError(t, c.QueryRow(deadline(t), "SELECT current_setting('application_name')").Scan(&got))
	require.Equal(t, "mine", got)
}

func TestConnectOverUnixSocket(t *testing.T) {
	pg := pgtest.Shared(t)
	cfg, err := pgx.ParseConfig(pg.SocketDSN("postgres"))
	require.NoError(t, err)
	require.NoError(t, connect(t, cfg).Probe(deadline(t), postgres.Expect{}))
}

func TestConnectErrorsAreLostAndSecretFree(t *testing.T) {
	pg := pgtest.Shared(t)
	cfg := pg.ConnConfig("postgres")
	cfg.Password = "swordfish"
	_, err := postgres.Connect(deadline(t), cfg, "no_such_database", "test")
	require.ErrorIs(t, err, driver.ErrLost)
	require.ErrorContains(t, err, "no_such_database")
	require.NotContains(t, err.Error(), "swordfish")
}

func TestIsLost(t *testing.T) {
	pgErr := func(code, severity string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code, SeverityUnlocalized: severity})
	}
	tests := []struct {
		err  error
		lost bool
	}{
		{nil, false},
		{errors.New("anything"), false},
		{pgx.ErrNoRows, false},
		{pgErr("42P01", "ERROR"), false},
		{pgErr("55P03", "ERROR"), false},
		{pgErr("57014", "ERROR"), false},
		{pgErr("40001", "ERROR"), false},
		{pgErr("57P01", "FATAL"), true},
		{pgErr("57P02", "FATAL"), true},
		{pgErr("57P03", "FATAL"), true},
		{pgErr("57P05", "FATAL"), true},
		{pgErr("25006", "ERROR"), true},
		{pgErr("53300", "FATAL"), true},
		{pgErr("3D000", "FATAL"), true},
		{pgErr("08006", "ERROR"), true},
		{pgErr("28P01", "FATAL"), true},
		{pgErr("XX000", "PANIC"), true},
		{io.EOF, true},
		{fmt.Errorf("read: %w", io.ErrUnexpectedEOF), true},
		{context.DeadlineExceeded, true},
		{context.Canceled, true},
		{pgconn.ErrConnClosed, true},
		{driver.ErrLost, true},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.err), func(t *testing.T) {
			require.Equal(t, test.lost, postgres.IsLost(test.err))
			wrapped := postgres.Wrap(test.err, "try")
			require.Equal(t, test.lost, errors.Is(wrapped, driver.ErrLost))
			if test.err == nil {
				require.NoError(t, wrapped)
			} else {
				require.ErrorIs(t, wrapped, test.err)
				require.ErrorContains(t, wrapped, "try: ")
			}
		})
	}
}

func TestLostConnections(t *testing.T) {
	pg := pgtest.Shared(t)
	for name, lose := range map[string]func(t *testing.T, c *postgres.Conn, db string){
		"terminated": func(t *testing.T, _ *postgres.Conn, db string) {
			require.NoError(t, pg.TerminateBackends(t.Context(), db))
		},
		"closed": func(t *testing.T, c *postgres.Conn, _ string) { require.NoError(t, c.Close(t.Context())) },
		"interrupted": func(t *testing.T, c *postgres.Conn, _ string) {
			// A statement that time ran out for before it was sent ends nothing.
			for limit := time.Millisecond; !c.IsClosed(); limit *= 2 {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				_, err := c.Exec(ctx, "SELECT pg_sleep(60)")
				cancel()
				require.ErrorIs(t, c.Failed(err, "sleep"), driver.ErrLost)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := pg.NewDatabase(t)
			c := connect(t, pg.ConnConfig(db))
			lose(t, c, db)
			require.ErrorIs(t, c.Probe(deadline(t), postgres.Expect{}), driver.ErrLost)
			_, err := c.TryLock(deadline(t), 1)
			require.ErrorIs(t, err, driver.ErrLost)
			require.NotContains(t, err.Error(), "MiB", "no message was too large")
			require.ErrorIs(t, c.Unlock(deadline(t), 1), driver.ErrLost)
		})
	}
	t.Run("a failed statement is not lost", func(t *testing.T) {
		c := connect(t, pg.ConnConfig("postgres"))
		_, err := c.Exec(deadline(t), "SELECT 1/0")
		err = c.Failed(err, "divide")
		require.ErrorContains(t, err, "divide: ")
		require.NotErrorIs(t, err, driver.ErrLost)
		require.NoError(t, c.Failed(nil, "nothing"))
	})
}

func TestAdvisoryLock(t *testing.T) {
	pg := pgtest.Shared(t)
	for _, key := range []int64{2293787760715711918, 1, -1, -1 << 63} {
		t.Run(fmt.Sprint(key), func(t *testing.T) {
			db := pg.NewDatabase(t)
			first, second := connect(t, pg.ConnConfig(db)), connect(t, pg.ConnConfig(db))
			elsewhere := connect(t, pg.ConnConfig(pg.NewDatabase(t)))
			for range 2 { // the second time is a check
				lock, err := first.TryLock(deadline(t), key)
				require.NoError(t, err)
				require.Equal(t, driver.Lock{Held: true}, lock)
			}
			lock, err := second.TryLock(deadline(t), key)
			require.NoError(t, err)
			require.False(t, lock.Held)
			require.Equal(t, fmt.Sprintf("pid %d, application caddy-jobrunner/test, host 127.0.0.1", first.PID), lock.Holder)

			lock, err = elsewhere.TryLock(deadline(t), key)
			require.NoError(t, err)
			require.True(t, lock.Held, "advisory locks are per database")

			require.NoError(t, second.Unlock(deadline(t), key), "not holding it is no error")
			require.NoError(t, first.Unlock(deadline(t), key))
			lock, err = second.TryLock(deadline(t), key)
			require.NoError(t, err)
			require.True(t, lock.Held, "taking it twice must not count up")
		})
	}
}

func TestProbe(t *testing.T) {
	pg := pgtest.Shared(t)
	key := int64(42)
	c := connect(t, pg.ConnConfig(pg.NewDatabase(t)))
	require.NoError(t, c.Probe(deadline(t), postgres.Expect{}))
	require.ErrorContains(t, c.Probe(deadline(t), postgres.Expect{Lock: &key}), "advisory lock")
	_, err := c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.NoError(t, c.Probe(deadline(t), postgres.Expect{Lock: &key}))

	want := postgres.Expect{Lock: &key, Channel: "queue_job"}
	require.ErrorContains(t, c.Probe(deadline(t), want), "listen")
	_, err = c.Exec(deadline(t), "LISTEN queue_job")
	require.NoError(t, err)
	require.NoError(t, c.Probe(deadline(t), want))
	_, err = c.Exec(deadline(t), "UNLISTEN *")
	require.NoError(t, err)
	require.ErrorIs(t, c.Probe(deadline(t), want), driver.ErrLost)

	_, err = c.Exec(deadline(t), "SET default_transaction_read_only = on")
	require.NoError(t, err)
	require.ErrorContains(t, c.Probe(deadline(t), postgres.Expect{}), "read-only")
}

func TestPooling(t *testing.T) {
	pg := pgtest.Shared(t)
	for name, test := range map[string]struct {
		mode drivertest.PoolMode
		want postgres.Pooling
	}{
		"session":                  {drivertest.PoolSession, postgres.SessionPooling},
		"transaction, last used":   {drivertest.PoolTransaction, postgres.TransactionPooling},
		"transaction, round robin": {drivertest.PoolRoundRobin, postgres.TransactionPooling},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := drivertest.NewPooler(t, pg.ConnConfig(pg.NewDatabase(t)), test.mode)
			c := connect(t, cfg)
			require.Equal(t, test.want, c.Pooling)

			cluster, err := postgres.OpenCluster(deadline(t), cfg)
			if test.want == postgres.TransactionPooling {
				require.ErrorIs(t, err, postgres.ErrTransactionPooling)
				require.ErrorIs(t, err, driver.ErrLost)
				return
			}
			require.NoError(t, err)
			require.NoError(t, cluster.Close(deadline(t)))
		})
	}
	t.Run("none", func(t *testing.T) {
		require.Equal(t, postgres.Direct, connect(t, pg.ConnConfig("postgres")).Pooling)
	})
}
