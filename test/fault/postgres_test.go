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
		strike: func(p *plant) { require.NoError(p, p.pg.Restart(p.Context(), pgtest.Immediate)) },
	},
	{
		name: "PostgreSQL killed", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(p *plant) {
			p.pg.Kill()
			require.NoError(p, p.pg.StartAgain(p.Context()))
		},
	},
	{
		name: "PostgreSQL down for 20 s", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(p *plant) {
			require.NoError(p, p.pg.Stop(p.Context(), pgtest.Fast))
			p.wait(20 * time.Second)
			require.NoError(p, p.pg.StartAgain(p.Context()))
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
		strike: func(p *plant) { blackhole(p, faultproxy.ToServer) },
	},
	{
		name: "connections black-holed towards the client", bound: 30 * time.Second, proxied: true,
		strike: func(p *plant) { blackhole(p, faultproxy.ToClient) },
	},
	{
		name: "connections black-holed in both directions", bound: 30 * time.Second, proxied: true,
		strike: func(p *plant) { blackhole(p, faultproxy.Both) },
	},
	{
		name: "backends frozen for 15 s", bound: 40 * time.Second,
		strike: func(p *plant) { freezeBackends(p, 15*time.Second) },
	},
	{
		name: "connections reset, again and again for 10 s", bound: 30 * time.Second, proxied: true,
		strike: func(p *plant) {
			for range 20 {
				p.nodes[0].proxy.Reset()
				p.wait(500 * time.Millisecond)
			}
		},
	},
}

// blackhole swallows bytes until the server gives the connections up, which the
// keepalives of the sessions let it do after 20 s (contract.md 3.1). Those of the
// kernel end at the proxy, so that their work is done here.
func blackhole(p *plant, d faultproxy.Direction) {
	proxy := p.nodes[0].proxy
	proxy.Blackhole(d)
	p.wait(25 * time.Second)
	proxy.Reset()
	require.NoError(p, proxy.Pass())
}

// freezeBackends stops the server processes of the node's sessions. They hold
// their locks meanwhile, and carry out afterwards what they had been asked for.
func freezeBackends(p *plant, d time.Duration) {
	var list string
	p.until("the node has sessions", func() bool { // after another fault it may be connecting
		list = p.ask("SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE application_name = $1", p.nodes[0].name)
		return list != ""
	})
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		for field := range strings.FieldsSeq(list) {
			pid, err := strconv.Atoi(field)
			require.NoError(p, err)
			require.NoError(p, syscall.Kill(pid, s))
		}
		if s == syscall.SIGSTOP {
			p.wait(d)
		}
	}
}

// exhaustConnections ends all sessions and takes every connection there is.
func exhaustConnections(p *plant) {
	var hoarded []*pgx.Conn
	require.NoError(p, p.pg.TerminateBackends(p.Context(), ""))
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(p.Context(), queryTimeout)
		conn, err := pgx.ConnectConfig(ctx, p.pg.ConnConfig("postgres"))
		cancel()
		if err == nil {
			hoarded = append(hoarded, conn)
			continue
		}
		p.wait(100 * time.Millisecond)
	}
	require.Greater(p, len(hoarded), 40, "connections were taken")
	for _, conn := range hoarded {
		require.NoError(p, conn.Close(p.Context()))
	}
}

// readOnly does what a failover does to the sessions of the old primary.
func readOnly(p *plant) {
	conn := p.connect("postgres")
	for _, sql := range []string{"ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"} {
		_, err := conn.Exec(p.Context(), sql)
		require.NoError(p, err)
	}
	p.wait(10 * time.Second)
	for _, sql := range []string{
		"SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()",
	} {
		_, err := conn.Exec(p.Context(), sql)
		require.NoError(p, err)
	}
	require.NoError(p, conn.Close(p.Context()))
}
