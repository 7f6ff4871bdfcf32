package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// moreJobs is how many jobs SIGUSR2 enqueues, and moreTimeout how long that may take.
const (
	moreJobs    = 100
	moreTimeout = 10 * time.Second
)

// stay leaves everything running until ctx ends, and tells what to try. SIGUSR1 stops the last Odoo
// server, and starts it again; SIGUSR2 enqueues more jobs.
func (s *setup) stay(ctx context.Context) {
	last := s.Odoo[len(s.Odoo)-1]
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	suggest(s.suggestions(last.Name()))

	running := true
	for {
		var got os.Signal
		select {
		case <-ctx.Done():
			say("\nstopping")
			return
		case <-s.caddy.Done():
			say("Caddy has ended, stopping")
			return
		case got = <-signals:
		}
		switch {
		case got == syscall.SIGUSR2:
			s.more(ctx)
			continue
		case running:
			last.Refuse()
			say("%s is stopped", last.Name())
		default:
			if err := last.Accept(); err != nil {
				say("%s cannot start: %v", last.Name(), err)
				continue
			}
			say("%s is back", last.Name())
		}
		running = !running
	}
}

// more enqueues jobs that take half a second each.
func (s *setup) more(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, moreTimeout)
	defer cancel()
	var jobs []odoostub.JobSpec
	for range moreJobs {
		jobs = append(jobs, mail.job(ordinary, odoostub.Behaviour{SleepMS: 500}))
	}
	if _, err := odoostub.Enqueue(ctx, s.Pool(databases[1]), jobs); err != nil {
		say("enqueueing more jobs: %v", err)
		return
	}
	say("%d jobs more in %s", len(jobs), databases[1])
}

// suggestion is something to try, with the program that it needs.
type suggestion struct{ what, program, command string }

// suggest prints those suggestions whose programs this machine has.
func suggest(list []suggestion) {
	say("Everything is still running. In a browser, or in another terminal:")
	for _, s := range list {
		if s.program != "" {
			if _, err := exec.LookPath(s.program); err != nil {
				continue
			}
		}
		say("\n  # %s\n  %s", s.what, strings.ReplaceAll(s.command, "\n", "\n  "))
	}
	say("\nCtrl-C stops everything and removes it.")
}

// common are the suggestions for any Odoo.
func common(c *testbed.Caddy, url func(path string) string) []suggestion {
	caddy := short(c.Binary)
	run := func(args string) string { return caddy + " jobrunner " + args + " --address " + string(c.Admin) }
	return []suggestion{
		{"the dashboard, and what Prometheus would read", "", url("/jobrunner/") + "\n" + url("/metrics")},
		{"what the runner says of itself; databases, upstreams, tasks, events... are others", "", run("status") + "\n" + run("channels --watch")},
		{"the jobs that failed on purpose, and one more attempt at them", "", run("jobs --state failed") + "\n" + run("requeue --state failed")},
		{"no job of this channel starts, until it is resumed", "", run("pause --channel mail --for 1m") + "\n" + run("resume --channel mail")},
		{
			"more of them run at once: in force for the next job, running ones go on", "curl",
			"curl -X PATCH -H 'Content-Type: application/json' -d 12 \\\n  " + c.URL("/config/apps/jobrunner/runners/default/channels/root.mail/capacity"),
		},
		{"a reload with the file as it was", "", fmt.Sprintf("%s reload --config %s --address %s --force", caddy, c.File, c.Admin)},
		{"its log", "tail", "tail -f " + c.Log},
	}
}

// suggestions are things to try while everything runs.
func (s *setup) suggestions(lastOdoo string) []suggestion {
	return append(
		common(s.caddy, s.url),
		suggestion{fmt.Sprintf("%d jobs more, of half a second each", moreJobs), "", fmt.Sprintf("kill -USR2 %d", os.Getpid())},
		suggestion{fmt.Sprintf("stop %s; once more starts it again", lastOdoo), "", fmt.Sprintf("kill -USR1 %d", os.Getpid())},
		suggestion{"the public cannot run jobs: 404", "curl", fmt.Sprintf("curl -i -H 'Host: %s' 'http://%s/queue_job/runjob'", siteName, s.caddy.Site)},
		suggestion{"the jobs as Odoo sees them", "psql", fmt.Sprintf("psql '%s' -c 'SELECT state, count(*) FROM queue_job GROUP BY state'", s.Postgres.DSN(databases[0]))},
	)
}

// short is a path as one would type it here.
func short(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
