package fault

import (
	"cmp"
	"net"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// node is a machine on which one Caddy at a time runs, in a process of its own.
type node struct {
	*testbed.Caddy // the last one

	tb *testBed
	// name is its application_name in PostgreSQL, which no other node has.
	name        string
	site, admin string
	// proxy is between the node and PostgreSQL, if the fault wants one.
	proxy *faultproxy.Proxy
	// dsn is what the configuration says.
	dsn string
	// more is what its jobrunner blocks have besides what those of every node have.
	more string
}

// addNode makes another node. It does not start it.
func (tb *testBed) addNode() {
	n := &node{
		tb: tb, name: tb.ID + "-" + strconv.Itoa(len(tb.nodes)+1),
		site: freeAddress(tb), admin: freeAddress(tb),
	}
	switch {
	case tb.fault.proxied:
		n.proxy, n.dsn = tb.addProxy()
	case *transport == "unix":
		n.dsn = tb.Postgres.SocketDSN("postgres")
	default:
		n.dsn = tb.Postgres.DSN("postgres")
	}
	tb.nodes = append(tb.nodes, n)
}

// addProxy makes a proxy to PostgreSQL, with the suite's transport on both sides,
// and returns how to connect through it.
func (tb *testBed) addProxy() (*faultproxy.Proxy, string) {
	if *transport == "unix" {
		const port = "5432"
		dir, err := tb.Folder("")
		require.NoError(tb, err)
		proxy, err := tb.AddSocketProxy(tb.Postgres.Socket(), pgtest.SocketPath(dir, port))
		require.NoError(tb, err)
		return proxy, tb.Postgres.ProxySocketDSN(dir, port, "postgres")
	}
	proxy, err := tb.AddProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(tb.Postgres.Port())))
	require.NoError(tb, err)
	return proxy, tb.Postgres.ProxyDSN(proxy.Addr(), "postgres")
}

func freeAddress(tb *testBed) string {
	address, err := testbed.FreeAddress()
	require.NoError(tb, err)
	return address
}

// config is the node's configuration as it is now.
func (n *node) config() testbed.Config {
	runners := n.tb.runners()
	for i := range runners {
		runners[i].Postgres = cmp.Or(n.tb.dsn, n.dsn) + "&application_name=" + n.name
		runners[i].Options = "discover_interval 500ms\n" + n.tb.more + "\n" + n.more
	}
	return testbed.Config{Admin: n.admin, Site: n.site, Runners: runners, Routes: "reverse_proxy" + n.tb.upstreams()}
}

// start starts the node and waits until it serves its site.
func (n *node) start() {
	n.tb.Helper()
	var err error
	n.Caddy, err = testbed.Start(n.tb.Context(), testbed.Options{
		Config: n.config(), Dir: n.tb.TempDir(), Log: filepath.Join(n.tb.ArtifactDir(), n.name+".log"),
	})
	require.NoError(n.tb, err)
	n.tb.Cleanup(n.Kill)
}

// logged counts how often a text is in the node's log.
func (n *node) logged(text string) int { return strings.Count(n.Output(), text) }
