package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"
)

const (
	// caddyStartTimeout bounds the time until the admin API answers.
	caddyStartTimeout = 20 * time.Second
	// caddyStopTimeout is how long Caddy may take to end before it is killed.
	caddyStopTimeout = 10 * time.Second
	// readyTimeout bounds the time until the runner serves all databases.
	readyTimeout = 20 * time.Second
	// publicTimeout bounds a request to the site.
	publicTimeout = 5 * time.Second
	pollInterval  = 50 * time.Millisecond
)

// caddyfile is the configuration of the demonstration: a site as people have it,
// with a pool of its own for /websocket that jobs must not go to, and with the
// run route closed to the public.
var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin 127.0.0.1:{{.AdminPort}}
	persist_config off
	log {
		output file {{.LogFile}}
	}
	jobrunner {
		postgres {{.DSN}}
		databases {{.Databases}}
		site odoo.localhost
{{- range .Channels}}
		channel {{.Name}} {{.Capacity}}{{if .Option}} {
			{{.Option}}
		}{{end}}
{{- end}}
	}
}

http://odoo.localhost:{{.SitePort}} {
	bind 127.0.0.1
	handle /queue_job/* {
		respond 404
	}
	handle /websocket {
		reverse_proxy 127.0.0.1:1
	}
	handle {
		reverse_proxy{{range .Upstreams}} {{.}}{{end}}
	}
}
`))

// settings fill the Caddyfile.
type settings struct {
	AdminPort int
	SitePort  int
	LogFile   string
	DSN       string
	Databases string
	Channels  []channel
	Upstreams []string
}

// caddy is the real binary, run as a child process.
type caddy struct {
	settings
	file  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// startCaddy writes the configuration into dir and runs the binary there, with
// nothing of the user's own Caddy in reach.
func startCaddy(ctx context.Context, binary, dir string, s settings) (*caddy, error) {
	var err error
	if s.AdminPort, err = freePort(ctx); err != nil {
		return nil, err
	}
	if s.SitePort, err = freePort(ctx); err != nil {
		return nil, err
	}
	s.LogFile = filepath.Join(dir, "caddy.log")
	c := &caddy{settings: s, file: filepath.Join(dir, "Caddyfile"), ended: make(chan struct{})}
	var text bytes.Buffer
	if err := caddyfile.Execute(&text, s); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	if err := os.WriteFile(c.file, text.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	output, err := os.Create(filepath.Join(dir, "caddy.out"))
	if err != nil {
		return nil, fmt.Errorf("opening caddy's output: %w", err)
	}
	defer output.Close() // the child has its own descriptor

	// Not bound to ctx: an interrupt must not kill it, but have it stopped.
	c.cmd = exec.CommandContext(context.WithoutCancel(ctx), binary, "run", "--config", c.file, "--adapter", "caddyfile")
	c.cmd.Stdout, c.cmd.Stderr = output, output
	// PG* variables are meant for another PostgreSQL.
	c.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
	c.cmd.Env = append(c.cmd.Env, "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	// A group of its own: Ctrl-C is for the demonstration, which then stops Caddy.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	go func() {
		_ = c.cmd.Wait() // how it ended stands in its output
		close(c.ended)
	}()
	if err := c.waitFor(ctx, caddyStartTimeout, c.answers); err != nil {
		return nil, errors.Join(fmt.Errorf("starting caddy: %w\n%s", err, tail(output.Name())), c.stop())
	}
	return c, nil
}

// answers reports whether the admin API is there.
func (c *caddy) answers(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.admin("/config/"), nil)
	if err != nil {
		return false, fmt.Errorf("asking the admin API: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil //nolint:nilerr // not there yet
	}
	return resp.StatusCode == http.StatusOK, resp.Body.Close()
}

// waitReady waits until the runner says that it serves all the databases, with
// the words by which operators of queue_job know it.
func (c *caddy) waitReady(ctx context.Context, databases []string) error {
	err := c.waitFor(ctx, readyTimeout, func(context.Context) (bool, error) {
		log, err := os.ReadFile(c.LogFile)
		if err != nil {
			return false, fmt.Errorf("reading caddy's log: %w", err)
		}
		for _, db := range databases {
			if !bytes.Contains(log, []byte("queue job runner ready for db "+db)) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the runner to serve %s: %w\n%s", strings.Join(databases, ", "), err, tail(c.LogFile))
	}
	return nil
}

// publicStatus is the HTTP status with which the site answers the public's
// attempt to run a job.
func (c *caddy) publicStatus(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, publicTimeout)
	defer cancel()
	url := fmt.Sprintf("http://127.0.0.1:%d/queue_job/runjob?db=demo_shop&job_uuid=0", c.SitePort)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("asking the site: %w", err)
	}
	req.Host = fmt.Sprintf("odoo.localhost:%d", c.SitePort)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking the site: %w", err)
	}
	return resp.StatusCode, resp.Body.Close()
}

// waitFor polls until what is waited for holds, Caddy has ended, or the time is over.
func (c *caddy) waitFor(ctx context.Context, limit time.Duration, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if ok, err := holds(ctx); ok || err != nil {
			return err
		}
		select {
		case <-c.ended:
			return errors.New("caddy has ended")
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, ctx.Err())
		case <-tick.C:
		}
	}
}

// admin returns the address of a path of the admin API.
func (c *caddy) admin(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", c.AdminPort, path)
}

// stop ends Caddy as a service manager does, and waits until it is gone.
func (c *caddy) stop() error {
	select {
	case <-c.ended:
		return nil
	default:
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping caddy: %w", err)
	}
	late := time.NewTimer(caddyStopTimeout)
	defer late.Stop()
	select {
	case <-c.ended:
		return nil
	case <-late.C:
		_ = c.cmd.Process.Kill() // it ended at this very moment, or it ends now
		<-c.ended
		return fmt.Errorf("stopping caddy: killed it after %s", caddyStopTimeout)
	}
}

// freePort returns a TCP port of 127.0.0.1 that nobody uses now.
func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("finding a free port: %s is no TCP address", l.Addr())
	}
	return addr.Port, nil
}

// tail returns the last lines of a file, for error messages.
func tail(file string) string {
	const lines = 15
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
