package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// idleDB belongs to a second Caddy that has nothing to do: what the first one is compared with,
	// job by job.
	idleDB = "idle_db"
	// backlogTree lets one of the waiting jobs run, which never ends, and has room for others
	// beside it.
	backlogTree = "root:8,root.wait:1"
	waitChannel = "root.wait"
	gated       = `{"gate": "never"}`
)

// backlog is what waits while single jobs are measured, and what is asked for.
type backlog struct {
	waiting, failed     int
	bytes, first, ratio *bound
}

func millionAll(ctx context.Context, l *lab) error {
	return backlogAll(ctx, l, l.runs, backlog{
		waiting: pick(l.bench, 1_000_000, 50_000), bytes: atMost(160), first: atMost(1.2), ratio: atMost(1.2),
	})
}

func fiveMillionAll(ctx context.Context, l *lab) error {
	return backlogAll(ctx, l, min(l.runs, 3), backlog{
		waiting: pick(l.bench, 5_000_000, 100_000), failed: pick(l.bench, 1_000_000, 20_000),
	})
}

func backlogAll(ctx context.Context, l *lab, runs int, b backlog) error {
	if err := l.insertBacklog(ctx, benchDB, b.waiting, b.failed); err != nil {
		return err
	}
	idle, err := l.ready(ctx, one(idleDB, backlogTree))
	if err != nil {
		return err
	}
	for range runs {
		if err := backlogRun(ctx, l, idle, b); err != nil {
			return err
		}
	}
	return nil
}

// insertBacklog fills a database with jobs that wait behind one that never ends.
func (l *lab) insertBacklog(ctx context.Context, db string, waiting, failed int) error {
	if err := l.insert(ctx, db, jobs{count: waiting, channel: waitChannel, kwargs: gated, silent: true}); err != nil {
		return err
	}
	if err := l.insert(ctx, db, jobs{count: failed, state: "failed", channel: waitChannel, silent: true}); err != nil {
		return err
	}
	return l.settle(ctx, db)
}

// backlogRun starts a Caddy with the backlog and measures its start, its heap, and the latency of
// new jobs in comparison with an idle Caddy.
func backlogRun(ctx context.Context, l *lab, idle *testbed.Caddy, b backlog) (err error) {
	r := l.report
	c, first, err := l.firstRequest(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := heapPerJob(ctx, l, c, idle, b); err != nil {
		return err
	}
	r.add("first dispatch after the start of Caddy", "s", 2, b.first, first.Seconds())

	loaded, empty := &lane{databases: []string{benchDB}, priority: 1}, &lane{databases: []string{idleDB}, priority: 1}
	if err := l.compare(ctx, pick(l.bench, 300, 30), loaded, empty); err != nil {
		return err
	}
	r.add("commit to request of an urgent job, p50", "ms", 2, nil, loaded.percentile(50))
	r.add("commit to request of an urgent job, p99", "ms", 2, nil, loaded.percentile(99))
	r.add("p50, ratio to an idle runner", "", 2, b.ratio, loaded.percentile(50)/empty.percentile(50))
	r.add("p99, ratio to an idle runner", "", 2, nil, loaded.percentile(99)/empty.percentile(99))
	return nil
}

// firstRequest starts a Caddy while jobs wait behind one that never ends, and an urgent one waits, too,
// and returns how long that one takes to be sent.
func (l *lab) firstRequest(ctx context.Context) (c *testbed.Caddy, took time.Duration, err error) {
	if _, err := l.stub.take(ctx); err != nil {
		return nil, 0, err
	}
	if err := l.insert(ctx, benchDB, jobs{count: 1, priority: 1, silent: true}); err != nil {
		return nil, 0, err
	}
	if c, err = l.caddy(ctx, one(benchDB, backlogTree)); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Stop())
		}
	}()
	if err := l.stub.awaitDone(ctx, 1); err != nil {
		return c, 0, err
	}
	got, err := l.stub.take(ctx)
	if err != nil {
		return c, 0, err
	}
	i := slices.IndexFunc(got.Requests, func(q request) bool { return q.UUID == got.Executions[0].UUID })
	return c, got.Requests[i].At.Sub(c.Began), c.WaitReady(ctx, readyTimeout, benchDB)
}

// heapPerJob compares the live heap of a Caddy that knows the whole backlog with that of an idle
// one.
func heapPerJob(ctx context.Context, l *lab, c, idle *testbed.Caddy, b backlog) error {
	var doc struct {
		Runners []struct {
			Jobs struct{ Pending, Failed int } `json:"jobs"`
		} `json:"runners"`
	}
	if err := c.Decode(ctx, "/jobrunner/status", &doc); err != nil {
		return err
	}
	all := b.waiting + b.failed
	if known := doc.Runners[0].Jobs.Pending + doc.Runners[0].Jobs.Failed; known < all-1 {
		return fmt.Errorf("the runner knows %d jobs of %d", known, all)
	}
	full, err := c.LiveHeap(ctx)
	if err != nil {
		return err
	}
	empty, err := idle.LiveHeap(ctx)
	if err != nil {
		return err
	}
	l.report.add("live heap per job", "bytes", 0, b.bytes, float64(full-empty)/float64(all))
	return nil
}
