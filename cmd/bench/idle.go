package main

import (
	"context"
	"errors"
)

// floorDB is served by the floor only.
const floorDB = "floor_db"

var idle = scenario{
	name: "idle", about: "single jobs, against the least that gets a job to Odoo",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, floorDB}, idleAll)
	},
}

func idleAll(ctx context.Context, l *lab) (err error) {
	if _, err := l.startReady(ctx, config{Databases: benchDB, Channels: "root:4"}); err != nil {
		return err
	}
	floor, err := startChild(ctx, "floor", "-dsn", l.pg.DSN(floorDB), "-stub", l.stub.address)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	if err := l.settle(ctx, benchDB); err != nil {
		return err
	}
	r := l.report
	for range l.runs {
		runner := &lane{name: "the runner", databases: []string{benchDB}, priority: 10}
		bare := &lane{name: "the floor", databases: []string{floorDB}, priority: 10}
		if err := l.warm(ctx, runner, bare); err != nil {
			return err
		}
		if err := l.alternate(ctx, l.size(500, 50), runner, bare); err != nil {
			return err
		}
		r.figure("commit to request, p50 of the floor", "ms", 2, nil).add(bare.percentile(50))
		r.figure("commit to request, p99 of the floor", "ms", 2, nil).add(bare.percentile(99))
		r.figure("commit to request, p50", "ms", 2, atMost(1)).add(runner.percentile(50))
		r.figure("commit to request, p99", "ms", 2, nil).add(runner.percentile(99))
		r.figure("p50, ratio to the floor", "", 2, atMost(1.3)).add(runner.percentile(50) / bare.percentile(50))
		r.figure("p99, ratio to the floor", "", 2, atMost(2)).add(runner.percentile(99) / bare.percentile(99))
	}
	return nil
}
