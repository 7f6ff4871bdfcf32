//go:build odoo

package odootest

import (
	"cmp"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// readyTimeout bounds the time until the runner serves a database.
const readyTimeout = 30 * time.Second

// caddyOptions say what a Caddy serves.
type caddyOptions struct {
	// Databases are the globs of the databases.
	Databases string
	// Channels is the configuration string.
	Channels string
	// Host is the template of the Host header; optional.
	Host string
	// Routes is what the site does about the route that runs jobs: "open" for nothing, or a directive.
	// Default: it answers 404 to what is below /queue_job.
	Routes string
	// Upstream is where jobs are sent. Default: to the server of the site's proxy.
	Upstream string
	// Options are further lines of the runner's block.
	Options string
	// Neutralized lets the jobs of neutralized copies run.
	Neutralized bool
}

// caddy is the real binary, run as a child process.
type caddy struct{ *testbed.Caddy }

// startCaddy runs a Caddy in front of an Odoo until the test ends.
func startCaddy(t *testing.T, s *server, options caddyOptions) *caddy {
	t.Helper()
	started, err := testbed.Start(t.Context(), testbed.Options{
		Config: options.config(s), Binary: binary(), Dir: t.TempDir(), Environment: []string{"ODOO_DB_PASSWORD=" + odooPassword},
	})
	require.NoError(t, err)
	c := &caddy{started}
	t.Cleanup(func() {
		c.stop(t)
		if t.Failed() {
			t.Logf("Caddy's log ended with\n%s", c.Tail())
		}
	})
	return c
}

// config is a site as people have it: the run route closed to the public, the
// websocket at a server of its own, and the runner beside it.
func (o caddyOptions) config(s *server) testbed.Config {
	driver := ""
	if o.Host != "" {
		driver += "host " + o.Host + "\n"
	}
	if o.Neutralized {
		driver += "run_neutralized\n"
	}
	dsn := url.URL{
		Scheme: "postgres", User: url.User(odooRole), Host: fmt.Sprintf("127.0.0.1:%d", cluster.Port()),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}
	upstream := ""
	if o.Upstream != "" {
		upstream = "upstream http://" + o.Upstream + "\n"
	}
	closed := "@queue_job path /queue_job/*\nrespond @queue_job 404"
	switch o.Routes {
	case "":
	case "open":
		closed = ""
	default:
		closed = o.Routes
	}
	return testbed.Config{
		Global: "log {\nlevel DEBUG\n}",
		Runners: []testbed.Runner{{
			Postgres: dsn.String(), Databases: o.Databases, Channels: o.Channels,
			Options: upstream + o.Options + "\npostgres_password {env.ODOO_DB_PASSWORD}\ndiscover_interval 1s\ndriver odoo {\n" + driver + "}",
		}},
		Routes: closed + fmt.Sprintf(`
@websocket path /websocket /longpolling/*
reverse_proxy @websocket 127.0.0.1:%d
reverse_proxy 127.0.0.1:%d`, s.gevent, s.port),
	}
}

// binary is the Caddy with this module.
func binary() string {
	return cmp.Or(os.Getenv("ODOOTEST_CADDY"), filepath.Join("..", "..", "bin", "caddy"))
}

// url is the address of the site.
func (c *caddy) url() string { return "http://" + c.Site }

func (c *caddy) log() string { return c.Output() }

// waitReady waits until the runner serves the databases.
func (c *caddy) waitReady(t *testing.T, databases ...string) {
	t.Helper()
	require.NoError(t, c.WaitReady(t.Context(), readyTimeout, databases...))
}

// stop ends Caddy as a service manager does.
func (c *caddy) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, c.Stop())
}
