//go:build fault

package fault

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// postgresFaults happen to the server, or on the way to it.
var postgresFaults = []fault{
	{
		name: "PostgreSQL restarted, immediate", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(tb *testBed) { require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Immediate)) },
	},
	{
		name: "PostgreSQL killed", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(tb *testBed) {
			tb.Postgres.Kill()
			require.NoError(tb, tb.Postgres.StartAgain(tb.Context()))
		},
	},
	{
		name: "PostgreSQL down for 20 s", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(tb *testBed) {
			require.NoError(tb, tb.Postgres.Stop(tb.Context(), pgtest.Fast))
			tb.wait(20 * time.Second)
			require.NoError(tb, tb.Postgres.StartAgain(tb.Context()))
		},
	},
	{
		name: "PostgreSQL out of connections for 10 s", bound: 40 * time.Second,
		cluster: &pgtest.Options{Settings: map[string]string{"max_connections": "60"}},
		strike:  exhaustConnections,
	},
	{
		name: "PostgreSQL read-only for 10 s", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: readOnly,
	},
	{
		name: "connections black-holed towards the server", bound: 30 * time.Second, proxied: true,
		strike: func(tb *testBed) { blackhole(tb, faultproxy.ToServer) },
	},
	{
		name: "connections black-holed towards the client", bound: 30 * time.Second, proxied: true,
		strike: func(tb *testBed) { blackhole(tb, faultproxy.ToClient) },
	},
	{
		name: "connections black-holed in both directions", bound: 30 * time.Second, proxied: true,
		strike: func(tb *testBed) { blackhole(tb, faultproxy.Both) },
	},
	{
		name: "backends frozen for 15 s", bound: 40 * time.Second,
		strike: func(tb *testBed) { freezeBackends(tb, 15*time.Second) },
	},
	{
		name: "connections reset, again and again for 10 s", bound: 30 * time.Second, proxied: true,
		strike: func(tb *testBed) {
			for range 20 {
				tb.nodes[0].proxy.Reset()
				tb.wait(500 * time.Millisecond)
			}
		},
	},
}

// blackhole swallows bytes until the server gives the connections up, which the
// keepalives of the sessions let it do after 20 s (docs/contract.md 3.1). Those of the
// kernel end at the proxy, so that their work is done here.
func blackhole(tb *testBed, d faultproxy.Direction) {
	proxy := tb.nodes[0].proxy
	proxy.Blackhole(d)
	tb.wait(25 * time.Second)
	proxy.Reset()
	require.NoError(tb, proxy.Pass())
}

// freezeBackends stops the server processes of the node's sessions. They hold
// their locks meanwhile, and carry out afterwards what they had been asked for.
func freezeBackends(tb *testBed, d time.Duration) {
	var list string
	tb.until("the node has sessions", func() bool { // after another fault it may be connecting
		list = tb.ask("SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE application_name = $1", tb.nodes[0].name)
		return list != ""
	})
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		for field := range strings.FieldsSeq(list) {
			pid, err := strconv.Atoi(field)
			require.NoError(tb, err)
			require.NoError(tb, syscall.Kill(pid, s))
		}
		if s == syscall.SIGSTOP {
			tb.wait(d)
		}
	}
}

// exhaustConnections ends all sessions and takes every connection there is.
func exhaustConnections(tb *testBed) {
	var hoarded []*pgx.Conn
	require.NoError(tb, tb.Postgres.TerminateBackends(tb.Context(), ""))
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(tb.Context(), queryTimeout)
		conn, err := pgx.ConnectConfig(ctx, tb.Postgres.ConnConfig("postgres"))
		cancel()
		if err == nil {
			hoarded = append(hoarded, conn)
			continue
		}
		tb.wait(100 * time.Millisecond)
	}
	require.Greater(tb, len(hoarded), 40, "connections were taken")
	for _, conn := range hoarded {
		require.NoError(tb, conn.Close(tb.Context()))
	}
}

// readOnly does what a failover does to the sessions of the old primary.
func readOnly(tb *testBed) {
	conn := tb.connect("postgres")
	for _, sql := range []string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"} {
		_, err := conn.Exec(tb.Context(), sql)
		require.NoError(tb, err)
	}
	tb.wait(10 * time.Second)
	for _, sql := range []string{
		"SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()",
	} {
		_, err := conn.Exec(tb.Context(), sql)
		require.NoError(tb, err)
	}
	require.NoError(tb, conn.Close(tb.Context()))
}
