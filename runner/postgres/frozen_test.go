package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// stopped is a connection whose client can stop reading, as a process that is stopped does: nothing
// is closed.
type stopped struct {
	net.Conn
	gate chan struct{} // closed while it reads
}

func (s *stopped) Read(b []byte) (int, error) {
	<-s.gate
	return s.Conn.Read(b)
}

// holdFrozen takes a lock on a connection that listens and then reads nothing any more, and has its
// backend block in sending notifications.
func holdFrozen(t *testing.T, pg *pgtest.Cluster, dsn string, key int64) (pid uint32) {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	require.NoError(t, err)
	dial := cfg.DialFunc
	gate := make(chan struct{})
	close(gate)
	var conn *stopped
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		conn = &stopped{Conn: c, gate: gate}
		return conn, err
	}
	c, err := postgres.Connect(deadline(t), cfg, "", "test")
	require.NoError(t, err)
	lock, err := c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
	_, err = c.Exec(deadline(t), "LISTEN noise")
	require.NoError(t, err)
	conn.gate = make(chan struct{})
	t.Cleanup(func() {
		close(conn.gate)
		_, _ = io.Copy(io.Discard, conn.Conn)
		_ = conn.Close()
	})
	admin := connect(t, pg.ConnConfig(cfg.Database))
	payload := fmt.Sprintf("%7000s", "x")
	blocked := func() (yes bool) {
		require.NoError(t, admin.QueryRow(deadline(t), `SELECT coalesce(bool_or(wait_event = 'ClientWrite'), false)
			FROM pg_stat_activity WHERE pid = $1`, c.PID).Scan(&yes))
		return yes
	}
	for range 2000 {
		_, err := admin.Exec(deadline(t), "SELECT pg_notify('noise', $1 || i) FROM generate_series(1, 20) i", payload)
		require.NoError(t, err)
		if blocked() {
			return c.PID
		}
	}
	require.Fail(t, "the backend does not block")
	return 0
}

// TestFrozenHolderLosesItsLock: over both transports, a runner that reads nothing any more is
// replaced as soon as it has been silent for too long, and no earlier, although its backend is
// blocked and its client lives.
func TestFrozenHolderLosesItsLock(t *testing.T) {
	pg := pgtest.Shared(t)
	for name, dsn := range map[string]func(string) string{"unix socket": pg.SocketDSN, "tcp": pg.DSN} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pg.NewDatabase(t)
			key := int64(5)
			began := time.Now()
			pid := holdFrozen(t, pg, dsn(db), key)
			rival := connect(t, pg.ConnConfig(db))
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				lock, err := rival.TryLock(deadline(t), key)
				require.NoError(t, err)
				if lock.Held {
					break
				}
				require.Contains(t, lock.Holder, fmt.Sprint(pid))
				require.Less(t, time.Since(began), postgres.SilentAfter+5*time.Second)
				<-tick.C
			}
			require.GreaterOrEqual(t, time.Since(began), postgres.SilentAfter)
		})
	}
}

// TestFrozenHolderLosesItsLockToALateRival: what the server remembers of a silent runner is enough,
// so that a leader which has just been elected does not wait for it once more.
func TestFrozenHolderLosesItsLockToALateRival(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	key := int64(5)
	admin := connect(t, pg.ConnConfig(db))
	pid := holdFrozen(t, pg, pg.SocketDSN(db), key)
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		var long bool
		require.NoError(t, admin.QueryRow(context.Background(), `SELECT clock_timestamp() - state_change >= $2::interval
			FROM pg_stat_activity WHERE pid = $1`, pid, postgres.SilentAfter).Scan(&long))
		require.True(t, long)
	}, 2*postgres.SilentAfter, 200*time.Millisecond)
	lock, err := connect(t, pg.ConnConfig(db)).TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held, lock.Holder)
}

// TestAwaitLock: a backend that was told to exit may take a while, for which its lock is asked for
// again and again.
func TestAwaitLock(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	key := int64(5)
	lock, err := connect(t, pg.ConnConfig(db)).TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
	began := time.Now()
	held, err := postgres.AwaitLock(deadline(t), connect(t, pg.ConnConfig(db)), key)
	require.NoError(t, err)
	require.False(t, held)
	require.GreaterOrEqual(t, time.Since(began), postgres.WaitForExit)
}

// TestSlowReaderKeepsItsLock: a runner that needs long to read one result lives. Nothing is heard of
// it meanwhile, and its backend is blocked at each check.
func TestSlowReaderKeepsItsLock(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	key := int64(5)
	c := connect(t, pg.ConnConfig(db))
	lock, err := c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
	rows, err := c.Query(t.Context(), "SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
	require.NoError(t, err)
	require.True(t, rows.Next())

	rival, admin := connect(t, pg.ConnConfig(db)), connect(t, pg.ConnConfig(db))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	read, blocked := 1, 0
	for began := time.Now(); time.Since(began) < postgres.SilentAfter+postgres.FrozenAfter/5; <-tick.C {
		lock, err := rival.TryLock(deadline(t), key)
		require.NoError(t, err)
		require.False(t, lock.Held)
		var waits bool
		require.NoError(t, admin.QueryRow(deadline(t), `SELECT coalesce(state = 'active' AND wait_event = 'ClientWrite', false)
			FROM pg_stat_activity WHERE pid = $1`, c.PID).Scan(&waits))
		if waits {
			blocked++
		}
		for range 1000 {
			require.True(t, rows.Next())
			read++
		}
	}
	require.Greater(t, blocked, 10)
	for rows.Next() {
		read++
	}
	require.NoError(t, rows.Err())
	require.Equal(t, 100000, read)
	lock, err = c.TryLock(deadline(t), key)
	require.NoError(t, err)
	require.True(t, lock.Held)
}

// TestUninterruptibleStatementEnds: a statement whose trigger traps every interruption does not
// keep its backend, nor its locks, when its client is gone. pgx waits 15 s for the statement to end
// before it closes the connection.
func TestUninterruptibleStatementEnds(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	c := connect(t, pg.ConnConfig(db))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := c.Exec(ctx, `DO $$ BEGIN LOOP
		BEGIN PERFORM pg_sleep(3600); EXCEPTION WHEN query_canceled THEN END;
	END LOOP; END $$`)
	require.Error(t, err)
	admin := connect(t, pg.ConnConfig("postgres"))
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		var n int
		require.NoError(t, admin.QueryRow(context.Background(), "SELECT count(*) FROM pg_stat_activity WHERE pid = $1", c.PID).Scan(&n))
		require.Zero(t, n)
	}, 15*time.Second+2*postgres.ClientCheckInterval, 200*time.Millisecond)
}

// TestOursByAnyName: a session of ours is known by its mark, whatever it calls itself. What has no
// mark and another name is another program's, such as OCA's runner, which says nothing for a long
// time, unless it has the lock of a leader: that only runners like this one take.
func TestOursByAnyName(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	cfg := pg.ConnConfig(db)
	cfg.RuntimeParams["application_name"] = "something else"
	rival := connect(t, pg.ConnConfig(db))

	ours := connect(t, cfg)
	lock, err := ours.TryLock(deadline(t), 8)
	require.NoError(t, err)
	require.True(t, lock.Held)
	require.True(t, postgres.HolderIsOurs(deadline(t), rival, 8, false))

	other, err := pgx.ConnectConfig(deadline(t), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.Close(context.WithoutCancel(t.Context()))) })
	_, err = other.Exec(deadline(t), "SELECT pg_advisory_lock(9)")
	require.NoError(t, err)
	require.False(t, postgres.HolderIsOurs(deadline(t), rival, 9, false))
	require.True(t, postgres.HolderIsOurs(deadline(t), rival, 9, true))
}

// TestWhatARivalLearns: of a session that says nothing, how long that has been so; of one whose
// statement is under way, that it is not idle.
func TestWhatARivalLearns(t *testing.T) {
	pg := pgtest.Shared(t)
	db := pg.NewDatabase(t)
	rival := connect(t, pg.ConnConfig(db))
	found, err := postgres.HolderOf(deadline(t), rival, 12)
	require.NoError(t, err)
	require.Zero(t, found)

	c := connect(t, pg.ConnConfig(db))
	lock, err := c.TryLock(deadline(t), 12)
	require.NoError(t, err)
	require.True(t, lock.Held)
	_, err = rival.Exec(deadline(t), "SELECT pg_sleep(0.2)")
	require.NoError(t, err)
	found, err = postgres.HolderOf(deadline(t), rival, 12)
	require.NoError(t, err)
	require.Equal(t, c.PID, found.PID)
	require.WithinDuration(t, time.Now(), found.Started, time.Minute)
	require.WithinDuration(t, time.Now(), found.Changed, time.Minute)
	require.True(t, found.Changed.After(found.Started))
	require.False(t, found.Blocked)
	require.GreaterOrEqual(t, found.Idle, 200*time.Millisecond)
	require.Less(t, found.Idle, time.Minute)

	slept := make(chan error, 1)
	go func() {
		_, err := c.Exec(t.Context(), "SELECT pg_sleep(3)")
		slept <- err
	}()
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		found, err = postgres.HolderOf(context.Background(), rival, 12)
		require.NoError(t, err)
		require.Zero(t, found.Idle)
	}, 2*time.Second, 20*time.Millisecond)
	require.False(t, found.Blocked)
	require.NoError(t, <-slept)
}
