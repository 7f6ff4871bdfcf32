package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

// planTimeout bounds one statement that is explained.
const planTimeout = time.Minute

// scanned is a line of a plan that reads the whole table of jobs.
var scanned = regexp.MustCompile(`Seq Scan on (\S+\.)?queue_job\b`)

// asksForJobs is in a statement that reads the table of jobs, with or without its schema.
var asksForJobs = regexp.MustCompile(`\bqueue_job"? j\b`)

// statements are those on jobs that a connection runs.
type statements struct{ list []pgx.TraceQueryStartData }

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if asksForJobs.MatchString(data.SQL) {
		s.list = append(s.list, data)
	}
	return ctx
}

func (*statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// plans prints how PostgreSQL answers each question in one database, and counts the sequential scans.
func (l *lab) plans(ctx context.Context, database string, questions []question) error {
	cfg, err := pgx.ParseConfig(l.Postgres.DSN(database))
	if err != nil {
		return fmt.Errorf("reading the address of %s: %w", database, err)
	}
	ran := new(statements)
	cfg.Tracer = ran
	ops, err := odoo.New(odoo.Options{}).OpenOperations(ctx, cfg, database)
	if err != nil {
		return err
	}
	defer func() { _ = ops.Close(context.WithoutCancel(ctx)) }()
	cfg.Tracer = nil
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", database, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "SET enable_seqscan = off; SET enable_bitmapscan = off"); err != nil {
		return fmt.Errorf("setting up the connection: %w", err)
	}
	scans := 0
	for _, q := range questions {
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/jobrunner/jobs?limit=50&"+q.query, nil)
		asked, _, err := admin.JobQuery(r)
		if err != nil {
			return err
		}
		ran.list = nil
		if _, err := ops.List(ctx, asked.Filter, 0, asked.Limit); err != nil {
			return err
		}
		if len(ran.list) == 0 {
			return fmt.Errorf("no statement on jobs was seen for %s", q.name)
		}
		for _, s := range ran.list {
			n, err := explained(ctx, conn, q.name, s)
			if err != nil {
				return err
			}
			scans += n
		}
	}
	l.report.add("sequential scans of the table in the plans", "", 0, atMost(0), float64(scans))
	return nil
}

// explained prints the plan of a statement, and returns how often it reads the whole table.
func explained(ctx context.Context, conn *pgx.Conn, name string, s pgx.TraceQueryStartData) (scans int, err error) {
	ctx, cancel := context.WithTimeout(ctx, planTimeout)
	defer cancel()
	rows, err := conn.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) "+s.SQL, s.Args...)
	if err != nil {
		return 0, fmt.Errorf("explaining %s: %w", name, err)
	}
	say("   plan of a window, %s:", name)
	var line string
	_, err = pgx.ForEachRow(rows, []any{&line}, func() error {
		say("      %s", line)
		if scanned.MatchString(line) && !strings.Contains(line, "never executed") {
			scans++
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("explaining %s: %w", name, err)
	}
	return scans, nil
}
