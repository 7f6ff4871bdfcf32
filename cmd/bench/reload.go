package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// reloadWindow is the time that is considered after a reload has begun, and as a comparison before
// it.
const reloadWindow = time.Second

func reloadAll(ctx context.Context, l *lab) error {
	if err := l.insertBacklog(ctx, benchDB, pick(l.bench, 1_000_000, 50_000), 0); err != nil {
		return err
	}
	tree := func(n int) served { return one(benchDB, fmt.Sprintf("root:16,root.wait:1,root.run:%d", n)) }
	c, err := l.ready(ctx, tree(4))
	if err != nil {
		return err
	}
	reloads := l.runs * 2
	// Jobs of 10 ms; four at a time leave the machine room. Enough of them for all the time: four
	// at a time are at most 400 a second.
	seconds := 2 + 3*reloads
	if err := l.insert(ctx, benchDB, jobs{count: 400 * seconds, channel: "root.run", kwargs: `{"sleep_ms": 10}`, priority: 5}); err != nil {
		return err
	}
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	var began, ended []time.Time
	for i := range reloads {
		if err := sleep(ctx, reloadWindow); err != nil {
			return err
		}
		began = append(began, time.Now())
		// Between four and five: a real change, which alters the rate only a little.
		if err := c.Load(ctx, l.config(tree(4+(i+1)%2))); err != nil {
			return err
		}
		ended = append(ended, time.Now())
		if err := sleep(ctx, reloadWindow); err != nil {
			return err
		}
	}
	got, err := l.stub.take(ctx)
	if err != nil {
		return err
	}
	r := l.report
	for i := range began {
		r.add("a reload takes", "ms", 0, nil, testbed.Milliseconds(ended[i].Sub(began[i])))
		r.add("longest gap between dispatches within 1 s before a reload", "ms", 1, nil,
			testbed.Milliseconds(got.longestGap(began[i].Add(-reloadWindow), began[i])))
		r.add("longest gap within 1 s from a reload on", "ms", 1, atMost(50),
			testbed.Milliseconds(got.longestGap(began[i], ended[i].Add(reloadWindow))))
	}
	return nil
}

// longestGap is the longest time without a request that overlaps a window.
func (r *Records) longestGap(from, to time.Time) (longest time.Duration) {
	last := from
	for _, q := range r.Requests {
		if q.At.Before(from) {
			continue
		}
		if q.At.After(to) {
			break
		}
		longest, last = max(longest, q.At.Sub(last)), q.At
	}
	return max(longest, to.Sub(last))
}
