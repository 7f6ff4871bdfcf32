package main

import (
	"context"
	"fmt"
	"time"
)

var reload = scenario{
	name: "reload", about: "reloads with 1,000,000 jobs in memory while jobs run",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB}, reloadAll)
	},
}

const (
	// steadyKwargs are jobs of 10 ms; four at a time leave the machine room.
	steadyKwargs  = `{"sleep_ms": 10}`
	steadyChannel = "root.run"
	// reloadWindow is the time that is looked at after a reload has begun, and
	// as a comparison before it.
	reloadWindow = time.Second
)

func reloadAll(ctx context.Context, l *lab) error {
	if err := l.backlog(ctx, benchDB, l.size(1_000_000, 50_000), 0); err != nil {
		return err
	}
	tree := func(n int) string { return fmt.Sprintf("root:16,root.wait:1,root.run:%d", n) }
	c, err := l.startReady(ctx, config{Databases: benchDB, Channels: tree(4)})
	if err != nil {
		return err
	}
	reloads := l.runs * 2
	// Enough jobs for all the time: four at a time are at most 400 a second.
	seconds := 2 + 3*reloads
	if err := l.insert(ctx, benchDB, jobs{count: 400 * seconds, channel: steadyChannel, kwargs: steadyKwargs, priority: 5}); err != nil {
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
		if err := c.load(ctx, tree(4+(i+1)%2)); err != nil {
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
		r.figure("a reload takes", "ms", 0, nil).add(milliseconds(ended[i].Sub(began[i])))
		r.figure("longest gap between dispatches within 1 s before a reload", "ms", 1, nil).
			add(milliseconds(got.longestGap(began[i].Add(-reloadWindow), began[i])))
		r.figure("longest gap within 1 s from a reload on", "ms", 1, atMost(50)).
			add(milliseconds(got.longestGap(began[i], ended[i].Add(reloadWindow))))
	}
	return nil
}

// longestGap is the longest time without a request that overlaps a window.
func (r *records) longestGap(from, to time.Time) (longest time.Duration) {
	last := from.UnixNano()
	for _, q := range r.Requests {
		if q.At < from.UnixNano() {
			continue
		}
		if q.At > to.UnixNano() {
			break
		}
		longest, last = max(longest, time.Duration(q.At-last)), q.At
	}
	return max(longest, time.Duration(to.UnixNano()-last))
}
