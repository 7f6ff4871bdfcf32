package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddyproc"
)

const (
	// readyTimeout bounds the time until the runner serves all its databases.
	readyTimeout = 5 * time.Minute
	// adminTimeout bounds one question to the admin API.
	adminTimeout = 2 * time.Minute
)

var caddyfile = template.Must(template.New("Caddyfile").Parse(`{
	admin {{.Admin}}
	persist_config off
	log {
		output file {{.Log}}
	}
	jobrunner {
		postgres {{.DSN}}
		databases {{.Databases}}
		upstream http://{{.Upstream}}
		channels {{.Channels}}
		shutdown_timeout 1s
	}
}
`))

// config is what differs between the Caddys of the scenarios.
type config struct {
	// Databases is the pattern, Count how many there are of it.
	Databases string
	Count     int
	// Channels is the configuration string.
	Channels string
	// Profiled switches the profiles on that cost something.
	Profiled bool
}

// caddy is a running Caddy.
type caddy struct {
	*caddyproc.Process
	lab    *lab
	dir    string
	admin  string
	config config
}

// startCaddy starts a Caddy; it may not be ready yet.
func (l *lab) startCaddy(ctx context.Context, cfg config) (*caddy, error) {
	port, err := caddyproc.FreePort(ctx)
	if err != nil {
		return nil, err
	}
	c := &caddy{lab: l, admin: "127.0.0.1:" + strconv.Itoa(port), config: cfg}
	if c.dir, err = os.MkdirTemp(l.dir, "caddy-"); err != nil {
		return nil, fmt.Errorf("making a folder: %w", err)
	}
	o := caddyproc.Options{Binary: l.caddy, Dir: c.dir, Admin: c.admin}
	if cfg.Profiled {
		if o.Binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		o.Arguments = []string{profiledRole}
	}
	if o.Caddyfile, err = c.text(cfg.Channels); err != nil {
		return nil, err
	}
	if c.Process, err = caddyproc.Start(ctx, o); err != nil {
		return nil, err
	}
	l.caddies = append(l.caddies, c)
	return c, nil
}

// startReady starts a Caddy and waits until it serves all databases.
func (l *lab) startReady(ctx context.Context, cfg config) (*caddy, error) {
	c, err := l.startCaddy(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return c, c.waitReady(ctx)
}

func (c *caddy) log() string { return filepath.Join(c.dir, "caddy.log") }

// text is the Caddyfile with some channels.
func (c *caddy) text(channels string) ([]byte, error) {
	var text bytes.Buffer
	err := caddyfile.Execute(&text, map[string]string{
		"Admin": c.admin, "Log": c.log(), "DSN": c.lab.runnerDSN(), "Databases": c.config.Databases,
		"Upstream": c.lab.stub.address, "Channels": channels,
	})
	if err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	return text.Bytes(), nil
}

// get asks the admin API and returns the body.
func (c *caddy) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.AdminURL(path), nil)
	if err != nil {
		return nil, fmt.Errorf("asking caddy: %w", err)
	}
	return c.do(req)
}

func (c *caddy) do(req *http.Request) ([]byte, error) {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking caddy: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	if err != nil {
		return nil, fmt.Errorf("asking caddy for %s: %w", req.URL.Path, err)
	}
	return body, nil
}

// load is a reload with other channels, as `caddy reload` does it.
func (c *caddy) load(ctx context.Context, channels string) error {
	text, err := c.text(channels)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.AdminURL("/load"), bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("reloading caddy: %w", err)
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	_, err = c.do(req)
	return err
}

func (c *caddy) status(ctx context.Context) (api.Status, error) {
	client, err := api.NewClient(c.admin)
	if err != nil {
		return api.Status{}, fmt.Errorf("asking for the status: %w", err)
	}
	all, err := client.Status(ctx, "")
	switch {
	case err != nil:
		return api.Status{}, fmt.Errorf("asking for the status: %w", err)
	case len(all) != 1:
		return api.Status{}, fmt.Errorf("reading the status: %d runners", len(all))
	}
	return all[0], nil
}

// waitReady waits until all databases are served.
func (c *caddy) waitReady(ctx context.Context) error {
	count := max(c.config.Count, 1)
	err := c.WaitFor(ctx, readyTimeout, func(ctx context.Context) (bool, error) {
		s, err := c.status(ctx)
		return err == nil && s.Databases["ready"] == count, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for the runner to serve %s: %w\n%s", c.config.Databases, err, caddyproc.Tail(c.log()))
	}
	return nil
}

// liveHeap returns the bytes that are in use after a collection.
func (c *caddy) liveHeap(ctx context.Context) (float64, error) {
	const name = "# HeapAlloc = "
	if _, err := c.get(ctx, "/debug/pprof/heap?gc=1&debug=1"); err != nil { // the second finds what finalizers let go
		return 0, err
	}
	body, err := c.get(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(body), name)
	if !ok {
		return 0, errors.New("reading the heap: there is no HeapAlloc in the profile")
	}
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, fmt.Errorf("reading the heap: %w", err)
	}
	return n, nil
}

// processorTime is what Caddy has used so far.
func (c *caddy) processorTime() (time.Duration, error) { return processTime(c.PID()) }
