package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// limitDB is not served by any runner.
	limitDB  = "limit_db"
	writesDB = "writes_db"
	benchDB  = "bench_db"
)

// drainBounds are the capacities of root, how much of the limit is asked for, and the bound of the
// processor time of Caddy for 1,000 jobs, in seconds.
var drainBounds = []struct {
	capacity  int
	share     float64
	processor float64
}{{16, 0.8, 0.15}, {4, 0.85, 0.3}, {64, 0.95, 0.11}}

// writesShare is how much is asked for of the limit with a runner's writes.
const writesShare = 0.95

func drainAll(ctx context.Context, l *lab) error {
	j := jobs{count: pick(l.bench, 10_000, 1_000), analyze: true}
	for run := range l.runs {
		for _, d := range drainBounds {
			root := fmt.Sprintf("root:%d", d.capacity)
			m, err := l.drainAndLimits(ctx, run, d.capacity, j)
			if err != nil {
				return fmt.Errorf("run %d at %s: %w", run+1, root, err)
			}
			r := l.report
			r.add(root+", jobs/s of the limit", "", 0, nil, m.bare.rate())
			r.add(root+", jobs/s of the limit with a runner's writes", "", 0, nil, m.writes.rate())
			r.add(root+", jobs/s of the runner", "", 0, nil, m.got.rate())
			r.add(root+", ratio", "", 3, atLeast(d.share), m.got.rate()/m.bare.rate())
			r.add(root+", ratio to the limit with a runner's writes", "", 3, atLeast(writesShare), m.got.rate()/m.writes.rate())
			r.add(root+", most in flight", "", 0, nil, float64(m.got.Most))
			r.add(root+", CPU of Caddy per 1,000 jobs", "s", 3, atMost(d.processor), m.got.processor.Seconds()*1000/float64(j.count))
			m.addServer(r, root, j.count)
		}
	}
	return countStatements(ctx, l, j)
}

func slowAll(ctx context.Context, l *lab) error {
	const (
		capacity = 64
		ideal    = capacity * 10 // jobs of a tenth of a second
	)
	j := jobs{count: pick(l.bench, 3_000, 600), kwargs: `{"sleep_ms": 100}`}
	for run := range l.runs {
		m, err := l.drainAndLimits(ctx, run, capacity, j)
		if err != nil {
			return err
		}
		bare, got, r := m.bare, m.got, l.report
		r.add("jobs/s of the limit", "", 0, nil, bare.rate())
		r.add("jobs/s of the runner", "", 0, nil, got.rate())
		r.add("share of the ideal 640 jobs/s", "", 3, atLeast(0.95), got.rate()/ideal)
		r.add("ratio to the limit", "", 3, nil, got.rate()/bare.rate())
		r.add("most in flight", "", 0, nil, float64(got.Most))
	}
	return nil
}

// measured is what the limits and the runner did with as many jobs.
type measured struct{ bare, writes, got *drained }

// addServer adds what PostgreSQL took for a job: for the runner, and for Odoo more than in the limit.
func (m *measured) addServer(r *report, root string, count int) {
	per := func(d time.Duration) float64 { return testbed.Milliseconds(d) / float64(count) }
	odoo := func(w work) time.Duration { return w.all - w.sessions }
	r.add(root+", CPU of PostgreSQL for a job, limit", "ms", 3, nil, per(m.bare.server.all))
	for _, of := range []struct {
		name string
		work work
	}{{"the limit's writes", m.writes.server}, {"the runner", m.got.server}} {
		r.add(root+", CPU of PostgreSQL for a job, in the sessions of "+of.name, "ms", 3, nil, per(of.work.sessions))
		r.add(root+", CPU of PostgreSQL for a job, for Odoo, more than in the limit, with "+of.name, "ms", 3, nil,
			per(odoo(of.work)-odoo(m.bare.server)))
	}
}

// drainAndLimits measures the limits and the runner one after the other, each time in another order.
func (l *lab) drainAndLimits(ctx context.Context, run, capacity int, j jobs) (m measured, err error) {
	if err := l.clear(ctx, benchDB, limitDB, writesDB); err != nil {
		return m, err
	}
	parts := []func() error{
		func() (err error) { m.bare, err = l.limit(ctx, limitDB, capacity, j); return err },
		func() (err error) { m.writes, err = l.writingLimit(ctx, writesDB, capacity, j); return err },
		func() (err error) { m.got, err = l.drain(ctx, capacity, j); return err },
	}
	for i := range parts {
		if err := parts[(i+run)%len(parts)](); err != nil {
			return m, err
		}
	}
	return m, nil
}

// drained is what was measured in one drain, or of a limit, where no Caddy takes processor time.
type drained struct {
	*Records
	processor time.Duration
	server    work
}

// drain starts a Caddy, commits jobs at once while it is idle, and waits until all are done.
func (l *lab) drain(ctx context.Context, capacity int, j jobs) (d *drained, err error) {
	err = l.whileServed(ctx, one(benchDB, fmt.Sprintf("root:%d", capacity)), func(c *testbed.Caddy) error {
		d, err = l.drainBy(ctx, c.PID(), j)
		return err
	})
	return d, err
}

// drainBy is drain with a runner that is ready, by the number of its process.
func (l *lab) drainBy(ctx context.Context, pid int, j jobs) (*drained, error) {
	d := new(drained)
	return d, timeProcessor(pid, &d.processor, func() error {
		if err := l.insert(ctx, benchDB, j); err != nil {
			return err
		}
		done, err := l.whileWorking(ctx, "usename = '"+runnerRole+"'", func() error { return l.stub.awaitDone(ctx, j.count) })
		if err == nil {
			d.Records, d.server = done.Records, done.server
		}
		return err
	})
}

// timeProcessor measures what a process uses of the processors while f runs.
func timeProcessor(pid int, used *time.Duration, f func() error) error {
	before, err := testbed.ProcessorTime(pid)
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	after, err := testbed.ProcessorTime(pid)
	*used = after - before
	return err
}

// insertAndWait commits jobs at once and waits until all are done.
func (l *lab) insertAndWait(ctx context.Context, j jobs) error {
	if err := l.insert(ctx, benchDB, j); err != nil {
		return err
	}
	return l.stub.awaitDone(ctx, j.count)
}

// countStatements drains once more, while PostgreSQL counts what the runner's role executes.
// Counting costs time, so this drain is not measured otherwise.
func countStatements(ctx context.Context, l *lab, j jobs) error {
	if err := l.exec(ctx, "postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		say("   statements are not counted: %v", err)
		return nil
	}
	// A role's setting is in force from its next connection on, and for no other. What the trigger
	// executes within a statement does not count.
	if err := l.exec(ctx, "postgres", "ALTER ROLE "+runnerRole+" SET pg_stat_statements.track = 'top'"); err != nil {
		return err
	}
	for range l.runs {
		if err := l.clear(ctx, benchDB, limitDB, writesDB); err != nil {
			return err
		}
		err := l.whileServed(ctx, one(benchDB, "root:16"), func(*testbed.Caddy) error {
			if err := l.exec(ctx, "postgres", "SELECT pg_stat_statements_reset()"); err != nil {
				return err
			}
			if err := l.insertAndWait(ctx, j); err != nil {
				return err
			}
			return l.addStatements(ctx, j.count)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addStatements reads what PostgreSQL has counted.
func (l *lab) addStatements(ctx context.Context, count int) error {
	var all, reads, claims, time, claiming float64
	const sql = `SELECT coalesce(sum(calls), 0)::float8,
			coalesce(sum(calls) FILTER (WHERE query LIKE '%j.uuid = ANY%' AND query NOT LIKE '%UPDATE%'), 0)::float8,
			coalesce(sum(calls) FILTER (WHERE query LIKE '%UPDATE%'), 0)::float8,
			coalesce(sum(total_exec_time + total_plan_time), 0)::float8,
			coalesce(sum(total_exec_time) FILTER (WHERE query LIKE '%UPDATE%'), 0)::float8
		FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = $1`
	if err := l.admin.QueryRow(ctx, sql, runnerRole).Scan(&all, &reads, &claims, &time, &claiming); err != nil {
		return fmt.Errorf("reading the statements: %w", err)
	}
	per := func(n float64) float64 { return n * 1000 / float64(count) }
	r := l.report
	r.add("root:16, statements of the runner per 1,000 jobs", "", 0, atMost(600), per(all))
	r.add("root:16, of these reads", "", 0, nil, per(reads))
	r.add("root:16, of these claims", "", 0, nil, per(claims))
	r.add("root:16, time of PostgreSQL in them per 1,000 jobs", "ms", 0, nil, per(time))
	r.add("root:16, of a claim", "ms", 3, nil, claiming/claims)
	return nil
}
