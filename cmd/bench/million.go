package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// idleDB belongs to a second Caddy that has nothing to do: what the first one
	// is compared with, job by job.
	idleDB = "idle_db"
	// backlogTree lets one of the waiting jobs run, which never ends, and has
	// room for others beside it.
	backlogTree = "root:8,root.wait:1"
	waitChannel = "root.wait"
	gated       = `{"gate": "never"}`
)

var million = scenario{
	name: "million", about: "1,000,000 waiting jobs",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, idleDB}, millionAll)
	},
}

var fiveMillion = scenario{
	name: "5million", about: "5,000,000 waiting and 1,000,000 failed jobs",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, idleDB}, fiveMillionAll)
	},
}

func millionAll(ctx context.Context, l *lab) error {
	waiting := l.size(1_000_000, 50_000)
	if err := l.backlog(ctx, benchDB, waiting, 0); err != nil {
		return err
	}
	idleCaddy, err := l.startReady(ctx, config{Databases: idleDB, Channels: backlogTree})
	if err != nil {
		return err
	}
	for range l.runs {
		if err := backlogRun(ctx, l, idleCaddy, waiting, 0, backlogBounds{
			bytes: atMost(160), first: atMost(2), ratio: atMost(1.2),
		}); err != nil {
			return err
		}
	}
	return nil
}

func fiveMillionAll(ctx context.Context, l *lab) error {
	waiting, failed := l.size(5_000_000, 100_000), l.size(1_000_000, 20_000)
	if err := l.backlog(ctx, benchDB, waiting, failed); err != nil {
		return err
	}
	idleCaddy, err := l.startReady(ctx, config{Databases: idleDB, Channels: backlogTree})
	if err != nil {
		return err
	}
	for range min(l.runs, 3) {
		if err := backlogRun(ctx, l, idleCaddy, waiting, failed, backlogBounds{}); err != nil {
			return err
		}
	}
	return nil
}

// backlog fills a database with jobs that wait behind one that never ends.
func (l *lab) backlog(ctx context.Context, db string, waiting, failed int) error {
	if err := l.insert(ctx, db, jobs{count: waiting, channel: waitChannel, kwargs: gated, silent: true}); err != nil {
		return err
	}
	if failed > 0 {
		if err := l.insert(ctx, db, jobs{count: failed, state: "failed", channel: waitChannel, silent: true}); err != nil {
			return err
		}
	}
	return l.settle(ctx, db)
}

type backlogBounds struct{ bytes, first, ratio *bound }

// backlogRun starts a Caddy with the backlog and measures its start, its heap,
// and the latency of new jobs in comparison with an idle Caddy.
func backlogRun(ctx context.Context, l *lab, idleCaddy *caddy, waiting, failed int, bounds backlogBounds) (err error) {
	r := l.report
	if _, err := l.stub.take(ctx); err != nil {
		return err
	}
	if err := l.insert(ctx, benchDB, jobs{count: 1, priority: 1, silent: true}); err != nil {
		return err
	}
	c, err := l.startCaddy(ctx, config{Databases: benchDB, Channels: backlogTree})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := l.stub.awaitDone(ctx, 1); err != nil {
		return err
	}
	got, err := l.stub.take(ctx)
	if err != nil {
		return err
	}
	first := time.Unix(0, got.firstOf(got.Executions[0].UUID)).Sub(c.Began())
	if err := c.waitReady(ctx); err != nil {
		return err
	}
	s, err := c.status(ctx)
	if err != nil {
		return err
	}
	if known := s.Jobs.Pending + s.Jobs.Failed; known < waiting+failed-1 {
		return fmt.Errorf("the runner knows %d jobs of %d", known, waiting+failed)
	}
	if err := heapPerJob(ctx, c, idleCaddy, waiting+failed, bounds.bytes); err != nil {
		return err
	}
	r.figure("first dispatch after the start of Caddy", "s", 2, bounds.first).add(first.Seconds())

	loaded := &lane{name: "the loaded runner", databases: []string{benchDB}, channel: "root", priority: 1}
	empty := &lane{name: "the idle runner", databases: []string{idleDB}, channel: "root", priority: 1}
	if err := l.warm(ctx, loaded, empty); err != nil {
		return err
	}
	if err := l.alternate(ctx, l.size(300, 30), loaded, empty); err != nil {
		return err
	}
	r.figure("commit to request of an urgent job, p50", "ms", 2, nil).add(loaded.percentile(50))
	r.figure("commit to request of an urgent job, p99", "ms", 2, nil).add(loaded.percentile(99))
	r.figure("p50, ratio to an idle runner", "", 2, bounds.ratio).add(loaded.percentile(50) / empty.percentile(50))
	r.figure("p99, ratio to an idle runner", "", 2, nil).add(loaded.percentile(99) / empty.percentile(99))
	return nil
}

// heapPerJob compares the live heaps of two Caddys.
func heapPerJob(ctx context.Context, c, idleCaddy *caddy, known int, bnd *bound) error {
	full, err := c.liveHeap(ctx)
	if err != nil {
		return err
	}
	empty, err := idleCaddy.liveHeap(ctx)
	if err != nil {
		return err
	}
	c.lab.report.figure("live heap per job", "bytes", 0, bnd).add((full - empty) / float64(known))
	return nil
}

// firstOf returns when the first request of a job arrived.
func (r *records) firstOf(uuid string) int64 {
	for _, q := range r.Requests {
		if q.UUID == uuid {
			return q.At
		}
	}
	return 0
}
