//go:build attack

package attack

import (
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// takeover is how long the good tenant may wait for another runner.
const takeover = 30 * time.Second

// clusterAttacks happen to the cluster of databases, or to the nodes.
var clusterAttacks = []attack{
	{
		name: "role that may only connect: locks and notifications",
		strike: func(b *bed) {
			const lock = "SELECT pg_advisory_lock(2293787760715711918)"
			for _, db := range []string{goodDB, "jobrunner"} {
				for _, sql := range []string{lock, "SELECT pg_notify('queue_job', 'x')"} {
					require.ErrorContains(b, b.try("visitor", db, sql), "permission denied for database")
				}
			}
			// Where there is something to connect to, it is not the good tenant's.
			require.NoError(b, b.try("visitor", "postgres", "SELECT count(pg_notify('queue_job', repeat('x', 7900) || i)) FROM generate_series(1, 10000) AS i"))
		},
	},
	{
		name: "databases whose names are a tab and a line feed",
		strike: func(b *bed) {
			for _, db := range []string{evilDB + "\tx", evilDB + "\r\nx: y"} {
				b.tenant(db, "evil")
				b.as("evil", db, `INSERT INTO queue_job (uuid, name, state, channel, priority, date_created, retry, max_retries)
					SELECT md5(i::text)::uuid, 'x', 'pending', 'root', 10, now(), 0, 5 FROM generate_series(1, 50) AS i`)
			}
			b.wait(10 * time.Second)
			b.note("server marked down %d times", b.logged("is down"))
		},
	},
	{
		name: "database whose name is in no encoding",
		strike: func(b *bed) {
			b.tenant(evilDB+"_x", "evil")
			b.exec("postgres", "UPDATE pg_database SET datname = 'evil_' || chr(1) || 'x' WHERE datname = 'evil_x'")
			b.exec("postgres", "CREATE DATABASE evil_latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0 OWNER evil")
			// A byte that is no character of UTF-8, which a database of another encoding can write.
			b.exec("evil_latin", `SET client_encoding = 'LATIN1'; DO $$ BEGIN EXECUTE 'CREATE DATABASE "evil_' || chr(233) || '"'; EXCEPTION WHEN OTHERS THEN NULL; END $$`)
			b.exec("evil_latin", "UPDATE pg_database SET datname = 'evil' || chr(233) WHERE datname LIKE 'evil_%x'")
			b.wait(5 * time.Second)
		},
	},
	{
		name: "60 databases against CONNECTION LIMIT 10",
		strike: func(b *bed) {
			b.exec("postgres", "ALTER ROLE jobrunner CONNECTION LIMIT 10")
			b.exec("postgres", "ALTER DATABASE evil IS_TEMPLATE true")
			b.reconnect(evilDB)
			for i := range 60 {
				b.until("the database can be copied", func() bool {
					b.reconnect(evilDB)
					b.Leave(evilDB)
					return b.try("postgres", "postgres", fmt.Sprintf("CREATE DATABASE evil%d TEMPLATE evil OWNER evil", i)) == nil
				})
				b.exec("postgres", fmt.Sprintf("GRANT CONNECT ON DATABASE evil%d TO jobrunner", i))
			}
			b.wait(20 * time.Second)
			b.exec("postgres", "ALTER DATABASE evil IS_TEMPLATE false") // or it could not be dropped
			n := b.logged("too many connections")
			b.note("%d refusals logged", n)
			require.LessOrEqual(b, n, 5, "the cause is said once a minute, not once for each database")
		},
	},
	{name: "frozen leader, Unix socket", nodes: 2, late: takeover, strike: freezeLeader},
	{name: "frozen leader, TCP", nodes: 2, late: takeover, tcp: true, strike: freezeLeader},
}

// freezeLeader stops the node that leads, and keeps its backend from noticing.
func freezeLeader(b *bed) {
	leads := func(n *testbed.Caddy) bool {
		states, err := n.Databases(b.Context())
		return err == nil && states[goodDB] == "ready"
	}
	leader, other := b.nodes[0], b.nodes[1]
	if !leads(leader) {
		leader, other = other, leader
	}
	require.True(b, leads(leader))
	require.False(b, leads(other))
	require.NoError(b, leader.Signal(syscall.SIGSTOP))
	began := time.Now()
	conn, err := pgx.ConnectConfig(b.Context(), b.Postgres.ConnConfig(goodDB))
	require.NoError(b, err)
	defer func() { _ = conn.Close(b.Context()) }()
	blocked := 0
	b.until("another node leads", func() bool {
		if blocked == 0 {
			_, err := conn.Exec(b.Context(), "SELECT count(pg_notify('queue_job', repeat('x', 7900) || i)) FROM generate_series(1, 2000) AS i")
			require.NoError(b, err)
			blocked = ask[int](b, "postgres", "SELECT count(*)::int FROM pg_stat_activity WHERE usename = 'jobrunner' AND wait_event = 'ClientWrite'")
		}
		return leads(other)
	})
	b.note("replaced after %.1f s, backend blocked: %t", time.Since(began).Seconds(), blocked > 0)
	require.NoError(b, leader.Signal(syscall.SIGCONT))
}
