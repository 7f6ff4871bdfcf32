package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// stay leaves everything running until ctx ends, and tells what to try. SIGUSR1 stops the last Odoo
// server, and starts it again.
func (s *setup) stay(ctx context.Context) {
	last := s.Odoo[len(s.Odoo)-1]
	toggle := make(chan os.Signal, 1)
	signal.Notify(toggle, syscall.SIGUSR1)
	defer signal.Stop(toggle)
	fmt.Fprintln(os.Stdout, s.suggestions(last.Name()))

	running := true
	for {
		select {
		case <-ctx.Done():
			say("\nstopping")
			return
		case <-s.caddy.Done():
			say("Caddy has ended, stopping")
			return
		case <-toggle:
		}
		if running {
			last.Refuse()
			say("%s is stopped", last.Name())
		} else if err := last.Accept(); err != nil {
			say("%s cannot start: %v", last.Name(), err)
			continue
		} else {
			say("%s is back", last.Name())
		}
		running = !running
	}
}

// suggestions are things to try while everything runs.
func (s *setup) suggestions(lastOdoo string) string {
	db := databases[0]
	const insert = `INSERT INTO queue_job (uuid, name, state, priority, date_created, retry, max_retries, channel, kwargs)
    SELECT gen_random_uuid(), 'by hand', 'pending', 10, now() AT TIME ZONE 'UTC', 0, 5, 'root.mail', '{"sleep_ms": 500}'
    FROM generate_series(1, 100);`
	return strings.TrimSpace(fmt.Sprintf(`
Everything is still running. In another terminal, try:

  # what the runner does, as it happens
  tail -f %[1]s

  # a hundred jobs of half a second each, six at a time
  psql '%[2]s' <<'SQL'
    %[3]s
SQL
  psql '%[2]s' -c "SELECT state, count(*) FROM queue_job GROUP BY state"

  # what it says itself; jobs, channels, tasks, why, pause, requeue... are others
  %[10]s jobrunner status --address %[6]s

  # let more of them run at once: in force for the next job, running ones go on
  curl -X PATCH -H 'Content-Type: application/json' -d 12 \
    %[4]s

  # a reload with the file as it was
  %[10]s reload --config %[5]s --adapter caddyfile --address %[6]s --force

  # stop %[7]s; once more starts it again
  kill -USR1 %[8]d

  # the public cannot run jobs: 404
  curl -i 'http://odoo.localhost:%[9]s/queue_job/runjob'

Ctrl-C stops everything and removes it.`,
		s.caddy.Log, s.Postgres.DSN(db), insert,
		s.caddy.URL("/config/apps/jobrunner/runners/default/channels/root.mail/capacity"),
		s.caddy.File, s.caddy.Admin, lastOdoo, os.Getpid(), strings.TrimPrefix(s.caddy.Site, "127.0.0.1:"), s.caddy.Binary))
}
