package main

import (
	"context"
	"errors"
)

// floorDB is served by the floor only.
const floorDB = "floor_db"

func idleAll(ctx context.Context, l *lab) (err error) {
	if _, err := l.ready(ctx, one(benchDB, "root:4")); err != nil {
		return err
	}
	floor, err := startPartner(ctx, "Floor", FloorArgs{l.Postgres.DSN(floorDB), l.address}, new(bool))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	if err := l.settle(ctx, benchDB); err != nil {
		return err
	}
	for range l.runs {
		runner, bare := &lane{databases: []string{benchDB}, priority: 10}, &lane{databases: []string{floorDB}, priority: 10}
		if err := l.compare(ctx, pick(l.bench, 500, 50), runner, bare); err != nil {
			return err
		}
		r := l.report
		r.add("commit to request, p50 of the floor", "ms", 2, nil, bare.percentile(50))
		r.add("commit to request, p99 of the floor", "ms", 2, nil, bare.percentile(99))
		r.add("commit to request, p50", "ms", 2, atMost(1), runner.percentile(50))
		r.add("commit to request, p99", "ms", 2, nil, runner.percentile(99))
		r.add("p50, ratio to the floor", "", 2, atMost(1.3), runner.percentile(50)/bare.percentile(50))
		r.add("p99, ratio to the floor", "", 2, atMost(2), runner.percentile(99)/bare.percentile(99))
	}
	return nil
}
