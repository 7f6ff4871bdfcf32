package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// limitDB is not served by any runner.
	limitDB = "limit_db"
	benchDB = "bench_db"
)

var drain = scenario{
	name: "drain", about: "10,000 jobs that do nothing, against bare HTTP clients",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, limitDB}, drainAll)
	},
}

// drainBounds are the capacities of root, and how much of the limit is asked for.
var drainBounds = []struct {
	capacity int
	share    float64
}{{16, 0.85}, {4, 0.8}, {64, 0.8}}

func drainAll(ctx context.Context, l *lab) error {
	count := l.size(10_000, 1_000)
	if err := warmUp(ctx, l); err != nil {
		return err
	}
	for run := range l.runs {
		for _, d := range drainBounds {
			if err := drainOnce(ctx, l, run, d.capacity, count, d.share); err != nil {
				return fmt.Errorf("run %d at root:%d: %w", run+1, d.capacity, err)
			}
		}
	}
	return countStatements(ctx, l, count)
}

// warmUp opens the connections of all of the stub's workers to both databases.
func warmUp(ctx context.Context, l *lab) error {
	for _, db := range []string{benchDB, limitDB} {
		if _, err := l.limit(ctx, db, stubWorkers, jobs{count: 1_000}); err != nil {
			return err
		}
	}
	return nil
}

// drainOnce measures limit and runner after each other, every other time in the
// other order.
func drainOnce(ctx context.Context, l *lab, run, capacity, count int, share float64) error {
	if err := l.clear(ctx, benchDB, limitDB); err != nil {
		return err
	}
	root := fmt.Sprintf("root:%d", capacity)
	var bare *records
	var got *drained
	measure := []func() error{
		func() (err error) { bare, err = l.limit(ctx, limitDB, capacity, jobs{count: count}); return err },
		func() (err error) { got, err = l.drain(ctx, root, jobs{count: count}); return err },
	}
	for i := range measure {
		if err := measure[(i+run)%2](); err != nil {
			return err
		}
	}
	r := l.report
	r.figure(root+", jobs/s of the limit", "", 0, nil).add(bare.rate())
	r.figure(root+", jobs/s of the runner", "", 0, nil).add(got.rate())
	r.figure(root+", ratio", "", 3, atLeast(share)).add(got.rate() / bare.rate())
	r.figure(root+", most in flight", "", 0, nil).add(float64(got.Most))
	per := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(count) }
	var bnd *bound
	if capacity == 16 {
		bnd = atMost(0.15)
	}
	r.figure(root+", CPU of Caddy per 1,000 jobs", "s", 3, bnd).add(per(got.processor))
	return nil
}

// drained is what was measured in one drain.
type drained struct {
	*records
	processor time.Duration
}

// drain starts a Caddy, commits jobs at once while it is idle, and waits until
// all are done.
func (l *lab) drain(ctx context.Context, channels string, j jobs) (d *drained, err error) {
	c, err := l.startReady(ctx, config{Databases: benchDB, Channels: channels})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	before, err := c.processorTime()
	if err != nil {
		return nil, err
	}
	if err := l.insert(ctx, benchDB, j); err != nil {
		return nil, err
	}
	if err := l.stub.awaitDone(ctx, j.count); err != nil {
		return nil, err
	}
	d = new(drained)
	if d.records, err = l.stub.take(ctx); err != nil {
		return nil, err
	}
	after, err := c.processorTime()
	d.processor = after - before
	return d, err
}

// countStatements drains once more, while PostgreSQL counts what the runner's
// role executes. Counting costs time, so this drain is not measured otherwise.
func countStatements(ctx context.Context, l *lab, count int) error {
	if err := l.exec(ctx, "postgres", "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		say("   statements are not counted: %v", err)
		return nil
	}
	// A role's setting is in force from its next connection on, and for nobody else.
	// What the trigger executes within a statement does not count.
	if err := l.exec(ctx, "postgres", "ALTER ROLE "+runnerRole+" SET pg_stat_statements.track = 'top'"); err != nil {
		return err
	}
	for range l.runs {
		if err := l.clear(ctx, benchDB, limitDB); err != nil {
			return err
		}
		if err := countOnce(ctx, l, count); err != nil {
			return err
		}
	}
	return nil
}

func countOnce(ctx context.Context, l *lab, count int) (err error) {
	c, err := l.startReady(ctx, config{Databases: benchDB, Channels: "root:16"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := l.exec(ctx, "postgres", "SELECT pg_stat_statements_reset()"); err != nil {
		return err
	}
	if err := l.insert(ctx, benchDB, jobs{count: count}); err != nil {
		return err
	}
	if err := l.stub.awaitDone(ctx, count); err != nil {
		return err
	}
	if err := l.addStatements(ctx, count); err != nil {
		return err
	}
	_, err = l.stub.take(ctx)
	return err
}

// addStatements reads what PostgreSQL has counted.
func (l *lab) addStatements(ctx context.Context, count int) error {
	var all, reads, claims float64
	const sql = `SELECT coalesce(sum(calls), 0)::float8,
			coalesce(sum(calls) FILTER (WHERE query LIKE '%j.uuid = ANY%' AND query NOT LIKE '%UPDATE%'), 0)::float8,
			coalesce(sum(calls) FILTER (WHERE query LIKE '%UPDATE%'), 0)::float8
		FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid WHERE r.rolname = $1`
	if err := l.conns["postgres"].QueryRow(ctx, sql, runnerRole).Scan(&all, &reads, &claims); err != nil {
		return fmt.Errorf("reading the statements: %w", err)
	}
	per := func(n float64) float64 { return n * 1000 / float64(count) }
	r := l.report
	r.figure("root:16, statements of the runner per 1,000 jobs", "", 0, atMost(600)).add(per(all))
	r.figure("root:16, of these reads", "", 0, nil).add(per(reads))
	r.figure("root:16, of these claims", "", 0, nil).add(per(claims))
	return nil
}
