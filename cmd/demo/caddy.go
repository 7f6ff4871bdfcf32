package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddyproc"
)

const (
	// readyTimeout bounds the time until the runner serves all databases.
	readyTimeout = 20 * time.Second
	// publicTimeout bounds a request to the site.
	publicTimeout = 5 * time.Second
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
	*caddyproc.Process
	settings
}

// startCaddy runs the binary with everything that it writes in dir.
func startCaddy(ctx context.Context, binary, dir string, s settings) (*caddy, error) {
	var err error
	if s.AdminPort, err = caddyproc.FreePort(ctx); err != nil {
		return nil, err
	}
	if s.SitePort, err = caddyproc.FreePort(ctx); err != nil {
		return nil, err
	}
	s.LogFile = filepath.Join(dir, "caddy.log")
	var text bytes.Buffer
	if err := caddyfile.Execute(&text, s); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	p, err := caddyproc.Start(ctx, caddyproc.Options{
		Binary: binary, Dir: dir, Admin: fmt.Sprintf("127.0.0.1:%d", s.AdminPort), Caddyfile: text.Bytes(),
	})
	if err != nil {
		return nil, err
	}
	return &caddy{Process: p, settings: s}, nil
}

// waitReady waits until the runner says that it serves all the databases, with
// the words by which operators of queue_job know it.
func (c *caddy) waitReady(ctx context.Context, databases []string) error {
	err := c.WaitFor(ctx, readyTimeout, func(context.Context) (bool, error) {
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
		return fmt.Errorf("waiting for the runner to serve %s: %w\n%s", strings.Join(databases, ", "), err, caddyproc.Tail(c.LogFile))
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
