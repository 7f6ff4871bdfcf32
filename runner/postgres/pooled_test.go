package postgres_test

import (
	"context"
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

// pooledConn is a connection to a new database through a pooler that gives each transaction another
// backend, and one past it.
func pooledConn(t *testing.T, more ...[2]string) (c, direct *postgres.Conn) {
	t.Helper()
	pg := pgtest.Shared(t)
	cfg := pg.ConnConfig(pg.NewDatabase(t))
	direct = connect(t, cfg)
	through := drivertest.NewPooler(t, cfg, drivertest.PoolRoundRobin)
	c, err := postgres.ConnectPooled(deadline(t), through, "", "test", more...)
	require.NoError(t, err)
	t.Cleanup(func() { c.Abandon(context.Background()) })
	require.True(t, c.Pooled())
	require.True(t, c.Through())
	require.False(t, direct.Pooled())
	require.False(t, direct.Through())
	return c, direct
}

// idle requires that no transaction is under way, and that the connection can be used.
func idle(t *testing.T, c *postgres.Conn) {
	t.Helper()
	require.Equal(t, "I", string(c.PgConn().TxStatus()))
	for range 2 { // on each of the backends
		var n int
		require.NoError(t, c.QueryRow(deadline(t), "SELECT $1::int4 + 1", 1).Scan(&n))
		require.Equal(t, 2, n)
	}
}

// What a statement through a pooler returns is what it returns without one.
func TestPooledStatements(t *testing.T) {
	c, direct := pooledConn(t)
	for _, c := range []*postgres.Conn{c, direct} {
		idle(t, c)
		tag, err := c.Exec(deadline(t), "CREATE TABLE IF NOT EXISTS public.t (n int8 PRIMARY KEY, word text)")
		require.NoError(t, err)
		require.Equal(t, "CREATE TABLE", tag.String())
		tag, err = c.Exec(deadline(t), "INSERT INTO public.t SELECT n, word FROM unnest($1::text[]) WITH ORDINALITY AS w (word, n)", []string{"a", "b"})
		require.NoError(t, err)
		require.EqualValues(t, 2, tag.RowsAffected())

		type row struct {
			N    int64
			Word *string
		}
		for _, args := range [][]any{{int64(0), "c"}, {pgx.QueryExecModeExec, int64(0), "c"}} {
			rows, err := c.Query(deadline(t), "SELECT n, nullif(word, $2::text) FROM public.t WHERE n > $1::int8 ORDER BY n", args...)
			require.NoError(t, err)
			list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
			require.NoError(t, err)
			require.Equal(t, []row{{1, new("a")}, {2, new("b")}}, list)
			idle(t, c)
		}
		var n int64
		require.ErrorIs(t, c.QueryRow(deadline(t), "SELECT n FROM public.t WHERE n > 5").Scan(&n), pgx.ErrNoRows)
		require.Error(t, c.QueryRow(deadline(t), "SELECT word FROM public.t").Scan(&n), "a word is no number")
		idle(t, c)
		require.NoError(t, c.QueryRow(deadline(t), "SELECT n FROM public.t ORDER BY n DESC").Scan(&n), "the rest is not read")
		require.EqualValues(t, 2, n)
		idle(t, c)

		rows, err := c.Query(deadline(t), "SELECT n FROM public.t ORDER BY n")
		require.NoError(t, err)
		require.True(t, rows.Next())
		rows.Close()
		rows.Close()
		require.NoError(t, rows.Err())
		require.False(t, rows.Next())
		idle(t, c)
		_, err = c.Exec(deadline(t), "DELETE FROM public.t")
		require.NoError(t, err)
		require.NoError(t, c.Probe(deadline(t), postgres.Expect{}), "whichever backend it has")
	}
}

// A statement that fails, at whatever moment, leaves no transaction behind, and has done nothing.
func TestPooledStatementsThatFail(t *testing.T) {
	c, direct := pooledConn(t)
	_, err := direct.Exec(deadline(t), `CREATE TABLE public.t (n int4 UNIQUE DEFERRABLE INITIALLY DEFERRED)`)
	require.NoError(t, err)
	code := func(err error) string {
		t.Helper()
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.NotErrorIs(t, c.Failed(err, "try"), driver.ErrLost)
		return pgErr.Code
	}
	for sql, want := range map[string]string{
		"SELECT FROM nothing":                                "42P01", // where it is described
		"SELECT 1 / (n - n) FROM generate_series(1, 1) AS n": "22012",
		"SELECT 1 / (n - 4) FROM generate_series(1, 9) AS n": "22012", // after some rows
		"INSERT INTO public.t VALUES (1), (1)":               "23505", // where it is committed
	} {
		for _, args := range [][]any{nil, {pgx.QueryExecModeExec}} {
			_, err := c.Exec(deadline(t), sql, args...)
			require.Equal(t, want, code(err), sql)
			idle(t, c)
			var n int
			require.Equal(t, want, code(c.QueryRow(deadline(t), sql+" -- a row", args...).Scan(&n)), sql)
			idle(t, c)
			rows, err := c.Query(deadline(t), sql+" -- rows", args...)
			if err == nil {
				for rows.Next() {
					require.NoError(t, rows.Err())
				}
				err = rows.Err()
			}
			require.Equal(t, want, code(err), sql)
			idle(t, c)
		}
	}
	_, err = c.Query(deadline(t), "SELECT $1::int4", struct{}{}) //nolint:sqlclosecheck // there are no rows
	require.Error(t, err, "it cannot be encoded")
	idle(t, c)
	var n int
	require.NoError(t, direct.QueryRow(deadline(t), "SELECT count(*) FROM public.t").Scan(&n))
	require.Zero(t, n)

	_, err = c.Exec(deadline(t), "SELECT pg_terminate_backend(pg_backend_pid())")
	require.ErrorIs(t, c.Failed(err, "try"), driver.ErrLost)
}

// The settings of a transaction are ours, and those that the server knows of the others; what it does not
// take is no sign of a rival.
func TestPooledSettings(t *testing.T) {
	c, _ := pooledConn(t, [2]string{"work_mem", "5MB"}, [2]string{"no_such_setting", "x"})
	for name, want := range map[string]string{
		"search_path": "pg_catalog, pg_temp", "statement_timeout": "15min", "lock_timeout": "4s", "jit": "off", "work_mem": "5MB",
		"transaction_isolation": "read committed", "transaction_read_only": "off", "TimeZone": "UTC",
	} {
		var got string
		require.NoError(t, c.QueryRow(deadline(t), "SELECT current_setting($1)", name).Scan(&got))
		require.Equal(t, want, got, name)
	}
	odd, _ := pooledConn(t, [2]string{"work_mem", "nonsense"})
	defer odd.Exclude([]int64{1}, driver.Fence{})()
	_, err := odd.Exec(deadline(t), "SELECT 1")
	require.ErrorContains(t, err, "work_mem")
	require.NotErrorIs(t, err, driver.ErrRival)
}

// A statement has its limit, and those that follow have the usual one.
func TestPooledLimit(t *testing.T) {
	c, _ := pooledConn(t)
	limit := func() (setting string) {
		require.NoError(t, c.QueryRow(deadline(t), "SELECT current_setting('statement_timeout')").Scan(&setting))
		return setting
	}
	var meanwhile string
	require.NoError(t, c.Limited(deadline(t), 7*time.Second, func() error { meanwhile = limit(); return nil }))
	require.Equal(t, "7s", meanwhile)
	require.Equal(t, "15min", limit())
	require.ErrorIs(t, c.Limited(deadline(t), 50*time.Millisecond, func() error {
		_, err := c.Exec(deadline(t), "SELECT pg_sleep(60)")
		return err
	}), driver.ErrTooLong)
	require.Equal(t, "15min", limit())
	idle(t, c)
}

// What excludes other runners does so in each transaction, and in no other; a lock that somebody else has
// is told from a statement that fails with the same code.
func TestPooledExclusion(t *testing.T) {
	c, direct := pooledConn(t)
	const key = 4711 << 33
	write := func() error { _, err := c.Exec(deadline(t), "SELECT 1"); return err }
	held := func() (yes bool) {
		const sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'ExclusiveLock')"
		require.NoError(t, c.QueryRow(deadline(t), sql).Scan(&yes))
		return yes
	}
	lock, err := c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.Equal(t, driver.Lock{Held: true}, lock)
	require.False(t, held(), "it was for a moment")
	for range 2 { // the statement is described with the first
		restore := c.Exclude([]int64{1, key}, driver.Fence{})
		require.True(t, held())
		_, err = c.Exec(deadline(t), "SELECT set_config('lock_timeout', 'another runner', true)")
		require.Error(t, err)
		require.NotErrorIs(t, err, driver.ErrRival)
		restore()
		require.False(t, held())
	}

	lock, err = direct.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
	lock, err = c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.False(t, lock.Held)
	require.Contains(t, lock.Holder, "application caddy-jobrunner/test")
	restore := c.Exclude([]int64{1, key}, driver.Fence{})
	require.ErrorIs(t, write(), driver.ErrRival)
	require.ErrorIs(t, write(), driver.ErrLost)
	require.NotErrorIs(t, write(), driver.ErrDeposed)
	restore()
	require.NoError(t, write())
	require.NoError(t, direct.Unlock(deadline(t), key))

	lock, err = direct.TryLock(deadline(t), 9)
	require.NoError(t, err)
	require.True(t, lock.Held)
	for fence, want := range map[driver.Fence]error{
		{PID: direct.PID, Key: 9}: nil, {PID: direct.PID, Key: 8}: driver.ErrDeposed, {PID: direct.PID + 1, Key: 9}: driver.ErrDeposed,
	} {
		restore := c.Exclude([]int64{key}, fence)
		err := write()
		restore()
		require.ErrorIs(t, err, want)
		require.NotErrorIs(t, err, driver.ErrRival)
		require.Equal(t, want != nil, postgres.IsLost(err))
	}
	direct.Exclude([]int64{key}, driver.Fence{})() // it holds its locks itself
	idle(t, c)
}
