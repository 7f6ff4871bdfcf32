//go:build fault

package fault

import (
	"os"
	"strconv"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// bouncer is a PgBouncer.
type bouncer struct {
	*pgtest.Bouncer

	tb *testBed
	// dsn leads through it.
	dsn string
}

// behindBouncer starts a PgBouncer for all nodes to connect through.
func behindBouncer(tb *testBed, mode string) *bouncer {
	b := startBouncer(tb, mode)
	tb.dsn = b.dsn
	return b
}

// startBouncer starts a PgBouncer in front of PostgreSQL.
func startBouncer(tb *testBed, mode string) *bouncer {
	o := pgtest.BouncerOptions{Mode: mode}
	if *transport == "unix" {
		var err error
		o.Sockets, err = tb.Folder("")
		require.NoError(tb, err)
		require.NoError(tb, os.Chmod(o.Sockets, 0o777)) //nolint:gosec // another user runs it
	}
	started, err := tb.Postgres.StartBouncer(tb.Context(), o)
	require.NoError(tb, err)
	tb.Cleanup(started.Kill)
	b := &bouncer{Bouncer: started, tb: tb, dsn: tb.Postgres.ProxyDSN(started.Addr(), "postgres")}
	if o.Sockets != "" {
		b.dsn = tb.Postgres.ProxySocketDSN(o.Sockets, strconv.Itoa(started.Port()), "postgres")
	}
	return b
}

// start starts it again.
func (b *bouncer) start() { require.NoError(b.tb, b.Start(b.tb.Context())) }
