package main

import (
	"context"
)

var slow = scenario{
	name: "slow", about: "3,000 jobs of 100 ms at root:64",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, limitDB}, slowAll)
	},
}

func slowAll(ctx context.Context, l *lab) error {
	const (
		capacity = 64
		ideal    = capacity * 10 // jobs of a tenth of a second
		sleeping = `{"sleep_ms": 100}`
	)
	j := jobs{count: l.size(3_000, 600), kwargs: sleeping}
	if err := warmUp(ctx, l); err != nil {
		return err
	}
	r := l.report
	for run := range l.runs {
		if err := l.clear(ctx, benchDB, limitDB); err != nil {
			return err
		}
		var bare *records
		var got *drained
		measure := []func() error{
			func() (err error) { bare, err = l.limit(ctx, limitDB, capacity, j); return err },
			func() (err error) { got, err = l.drain(ctx, "root:64", j); return err },
		}
		for i := range measure {
			if err := measure[(i+run)%2](); err != nil {
				return err
			}
		}
		r.figure("jobs/s of the limit", "", 0, nil).add(bare.rate())
		r.figure("jobs/s of the runner", "", 0, nil).add(got.rate())
		r.figure("share of the ideal 640 jobs/s", "", 3, atLeast(0.95)).add(got.rate() / ideal)
		r.figure("ratio to the limit", "", 3, nil).add(got.rate() / bare.rate())
		r.figure("most in flight", "", 0, nil).add(float64(got.Most))
	}
	return nil
}
