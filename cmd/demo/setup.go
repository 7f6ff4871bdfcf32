package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// databases are those of the demonstration.
var databases = []string{"demo_factory", "demo_shop"}

const (
	odooServers = 2
	// odooWorkers is the number of worker processes that each server plays.
	odooWorkers = 8
	// readyTimeout bounds the time until the runner serves all databases.
	readyTimeout = 20 * time.Second
	// publicTimeout bounds a request to the site.
	publicTimeout = 5 * time.Second
	siteName      = "odoo.localhost"
)

// setup is everything that the demonstration runs: PostgreSQL, the databases, the servers and
// Caddy.
type setup struct {
	*testbed.Bed
	caddy *testbed.Caddy
	// ops is the address of the site with the dashboard and the metrics.
	ops string
}

// open starts everything. The bed that it returns has to be closed, also on error.
func open(ctx context.Context, binary string) (*setup, error) {
	say("starting PostgreSQL")
	// Commits are as slow as real ones: the latency is meant to be believed.
	bed, err := testbed.Open(ctx, pgtest.Options{Durable: true, Downloading: downloading})
	if err != nil {
		return nil, err
	}
	s := &setup{Bed: bed}
	if s.ops, err = testbed.FreeAddress(); err != nil {
		return s, err
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return s, fmt.Errorf("finding caddy: %w", err)
	}
	for _, db := range databases {
		if _, err := s.AddDatabase(ctx, db, odoostub.QueueJobLock); err != nil {
			return s, err
		}
	}
	say("starting %d Odoo servers with %d workers each", odooServers, odooWorkers)
	for i := range odooServers {
		if _, err := s.AddServer(odoostub.Options{Name: fmt.Sprintf("odoo-%d", i+1), Workers: odooWorkers}); err != nil {
			return s, err
		}
	}
	say("starting Caddy")
	if s.caddy, err = s.StartCaddy(ctx, testbed.Options{Binary: binary, Config: s.config()}); err != nil {
		return s, err
	}
	if err := s.caddy.WaitReady(ctx, readyTimeout, databases...); err != nil {
		return s, err
	}
	say("the dashboard is at %s, the metrics are at %s", s.url("/jobrunner/"), s.url("/metrics"))
	return s, nil
}

// downloading says what is fetched from elsewhere. It happens once.
func downloading(what, folder string) {
	say("this machine has no PostgreSQL: downloading the binaries of %s, once, into %s", what, folder)
}

// operations is the site of those who operate the runner: the dashboard and the metrics.
func operations(address string) string {
	return "http://localhost:" + portOf(address) + " {\n\tbind 127.0.0.1\n\tjobrunner_dashboard {\n\t\tactions\n\t}\n\tmetrics /metrics\n}\n"
}

// url is the address of a path of that site.
func (s *setup) url(path string) string { return "http://localhost:" + portOf(s.ops) + path }

// config is the configuration of a typical site: /websocket has a separate pool that jobs must not
// go to, and the run route is closed to the public.
func (s *setup) config() testbed.Config {
	var options, upstreams strings.Builder
	fmt.Fprintf(&options, "site %s\n", siteName)
	for _, c := range tree {
		fmt.Fprintf(&options, "channel %s %d", c.Name, c.Capacity)
		if c.Option != "" {
			fmt.Fprintf(&options, " {\n\t%s\n}", c.Option)
		}
		options.WriteString("\n")
	}
	for _, odoo := range s.Odoo {
		upstreams.WriteString(" " + odoo.Addr())
	}
	return testbed.Config{
		Runners:  []testbed.Runner{{Postgres: s.Postgres.DSN("postgres"), Databases: "demo_*", Options: options.String()}},
		Snippets: operations(s.ops),
		Host:     siteName,
		Routes: `jobrunner_guard
handle /websocket {
	reverse_proxy 127.0.0.1:1
}
handle {
	reverse_proxy` + upstreams.String() + `
}`,
	}
}

// publicStatus is the HTTP status with which the site answers the public's attempt to run a job.
func (s *setup) publicStatus(ctx context.Context) (int, error) {
	return getStatus(ctx, "http://"+s.caddy.Site+"/queue_job/runjob?db=demo_shop&job_uuid=0", siteName)
}

// getStatus asks a site, under a name if there is one, and returns the status of its answer.
func getStatus(ctx context.Context, url, host string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, publicTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("asking the site: %w", err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("asking the site: %w", err)
	}
	return resp.StatusCode, resp.Body.Close()
}

// leftovers returns the jobs of all databases that are not finished.
func (s *setup) leftovers(ctx context.Context) ([]odoostub.Leftover, error) {
	var all []odoostub.Leftover
	for _, db := range databases {
		left, err := odoostub.Leftovers(ctx, s.Pool(db))
		if err != nil {
			return nil, fmt.Errorf("in %s: %w", db, err)
		}
		all = append(all, left...)
	}
	return all, nil
}

// say tells what happens.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }
