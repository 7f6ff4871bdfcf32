package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func burstAll(ctx context.Context, l *lab) error {
	for range l.runs {
		for _, size := range []struct {
			rows  int
			bound float64 // ms
		}{{pick(l.bench, 10_000, 1_000), 30}, {pick(l.bench, 100_000, 10_000), 250}} {
			latency, err := burstOnce(ctx, l, size.rows)
			if err != nil {
				return fmt.Errorf("%d rows: %w", size.rows, err)
			}
			l.report.add(fmt.Sprintf("first request after the commit of %d rows", size.rows), "ms", 1, atMost(size.bound),
				testbed.Milliseconds(latency))
		}
	}
	return nil
}

// burstOnce returns the time from the return of the commit to the first request. The jobs are slow
// enough that hardly any of them ends meanwhile.
func burstOnce(ctx context.Context, l *lab, rows int) (latency time.Duration, err error) {
	if err := l.clear(ctx, benchDB); err != nil {
		return 0, err
	}
	var committed time.Time
	err = l.whileServed(ctx, one(benchDB, "root:4"), func(*testbed.Caddy) error {
		if err := l.insert(ctx, benchDB, jobs{count: rows, kwargs: `{"sleep_ms": 200}`}); err != nil {
			return err
		}
		committed = time.Now()
		return l.stub.await(ctx, jobTimeout, func(n Counts) bool { return n.Started > 0 })
	})
	if err != nil {
		return 0, err
	}
	// The four that run end before the next burst.
	if err := l.stub.await(ctx, jobTimeout, func(n Counts) bool { return n.Running == 0 }); err != nil {
		return 0, err
	}
	r, err := l.stub.take(ctx)
	if err != nil {
		return 0, err
	}
	return max(0, r.Requests[0].At.Sub(committed)), nil
}
