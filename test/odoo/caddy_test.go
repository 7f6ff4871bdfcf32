//go:build odoo

package odootest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	// caddyTimeout bounds the start of Caddy, and its stop.
	caddyTimeout = 30 * time.Second
	// readyTimeout bounds the time until the runner serves a database.
	readyTimeout = 30 * time.Second
)

// caddyfile is a site as people have it: the run route closed to the public, the
// websocket at a server of its own, and the runner beside it.
var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin 127.0.0.1:{{.AdminPort}}
	persist_config off
	log {
		output file {{.LogFile}}
		level DEBUG
	}
	jobrunner {
		postgres postgres://{{.Role}}@127.0.0.1:{{.PostgresPort}}/postgres?sslmode=disable
		postgres_password {env.ODOO_DB_PASSWORD}
		databases {{.Databases}}
		channels {{.Channels}}
		discover_interval 1s
		driver odoo {
{{- if .Host}}
			host {{.Host}}
{{- end}}
{{- if .Neutralized}}
			run_neutralized
{{- end}}
		}
	}
}

http://:{{.SitePort}} {
	bind 127.0.0.1
	@queue_job path /queue_job/*
	respond @queue_job 404
	@websocket path /websocket /longpolling/*
	reverse_proxy @websocket 127.0.0.1:{{.GeventPort}}
	reverse_proxy 127.0.0.1:{{.OdooPort}}
}
`))

// caddyOptions say what a Caddy serves.
type caddyOptions struct {
	// Databases are the globs of the databases.
	Databases string
	// Channels is the configuration string.
	Channels string
	// Host is the template of the Host header; optional.
	Host string
	// Neutralized lets the jobs of neutralized copies run.
	Neutralized bool
}

// caddy is the real binary, run as a child process.
type caddy struct {
	caddyOptions
	SitePort  int
	AdminPort int
	LogFile   string

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// startCaddy runs a Caddy in front of an Odoo until the test ends.
func startCaddy(t *testing.T, s *server, options caddyOptions) *caddy {
	t.Helper()
	dir := t.TempDir()
	c := &caddy{
		caddyOptions: options, SitePort: freePort(t), AdminPort: freePort(t),
		LogFile: filepath.Join(dir, "caddy.log"), ended: make(chan struct{}),
	}
	file := filepath.Join(dir, "Caddyfile")
	c.write(t, file, s)
	var output bytes.Buffer
	c.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), binary(), "run", "--config", file, "--adapter", "caddyfile")
	c.cmd.Stdout, c.cmd.Stderr = &output, &output
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
	c.cmd.Env = append(c.cmd.Env, "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir, "ODOO_DB_PASSWORD="+odooPassword)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, c.cmd.Start())
	go func() {
		_ = c.cmd.Wait() // how it ended stands in its output
		close(c.ended)
	}()
	t.Cleanup(func() {
		c.stop(t)
		if t.Failed() {
			t.Logf("Caddy's log ended with\n%s", lastLines(c.log()))
		}
	})
	answers := func() bool {
		select {
		case <-c.ended:
			return true
		default:
		}
		resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/config/", c.AdminPort))
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	}
	require.Eventually(t, answers, caddyTimeout, pollInterval)
	select {
	case <-c.ended:
		require.Fail(t, "Caddy has ended", output.String())
	default:
	}
	return c
}

// binary is the Caddy with this module.
func binary() string {
	if path := os.Getenv("ODOOTEST_CADDY"); path != "" {
		return path
	}
	return filepath.Join("..", "..", "bin", "caddy")
}

func (c *caddy) write(t *testing.T, file string, s *server) {
	t.Helper()
	var text bytes.Buffer
	require.NoError(t, caddyfile.Execute(&text, struct {
		*caddy
		Role                               string
		PostgresPort, OdooPort, GeventPort int
	}{c, odooRole, cluster.Port(), s.port, s.gevent}))
	require.NoError(t, os.WriteFile(file, text.Bytes(), 0o600))
}

// url is the address of the site.
func (c *caddy) url() string { return fmt.Sprintf("http://127.0.0.1:%d", c.SitePort) }

func (c *caddy) log() string {
	text, _ := os.ReadFile(c.LogFile) // a missing log says nothing yet
	return string(text)
}

// waitReady waits until the runner serves the databases.
func (c *caddy) waitReady(t *testing.T, databases ...string) {
	t.Helper()
	require.Eventually(t, func() bool {
		log := c.log()
		return !slices.ContainsFunc(databases, func(db string) bool {
			return !strings.Contains(log, "queue job runner ready for db "+db+`"`)
		})
	}, readyTimeout, pollInterval, "waiting for the runner to serve %v", databases)
}

// stop ends Caddy as a service manager does.
func (c *caddy) stop(t *testing.T) {
	t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended before
	select {
	case <-c.ended:
	case <-time.After(caddyTimeout):
		_ = c.cmd.Process.Kill() // it ended at this very moment, or it ends now
		require.Fail(t, "Caddy does not stop")
	}
}
