package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// sustainedCapacity is the capacity of root, and the number of bare clients.
const sustainedCapacity = 16

func sweepAll(ctx context.Context, l *lab) error {
	limit, _, err := limitAndRunner(ctx, l)
	if err != nil {
		return err
	}
	return sweep(ctx, l, limit)
}

func sustainedAll(ctx context.Context, l *lab) error {
	limit, c, err := limitAndRunner(ctx, l)
	if err != nil {
		return err
	}
	return sustain(ctx, l, c, limit)
}

// limitAndRunner measures the limit, and starts a Caddy after that.
func limitAndRunner(ctx context.Context, l *lab) (limit float64, c *testbed.Caddy, err error) {
	if limit, err = committedLimit(ctx, l); err != nil {
		return 0, nil, err
	}
	c, err = l.ready(ctx, one(benchDB, fmt.Sprintf("root:%d", sustainedCapacity)))
	return limit, c, err
}

// committedLimit is what the machine can do without any runner if every job is committed by itself:
// clients that commit an enqueued row and have it run.
func committedLimit(ctx context.Context, l *lab) (limit float64, err error) {
	for range l.runs {
		if err := l.history(ctx, limitDB); err != nil {
			return 0, err
		}
		end := time.Now().Add(pick(l.bench, 10*time.Second, 2*time.Second))
		if err := parallel(sustainedCapacity, func(int) error { return l.commitAndRun(ctx, end) }); err != nil {
			return 0, err
		}
		got, err := l.stub.take(ctx)
		if err != nil {
			return 0, err
		}
		limit = l.report.add("jobs/s of the limit, each job committed by itself", "", 0, nil, got.rate()).median()
	}
	return limit, nil
}

// commitAndRun is one client of the limit.
func (l *lab) commitAndRun(ctx context.Context, end time.Time) error {
	conn, err := l.connect(ctx, limitDB)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for time.Now().Before(end) {
		uuid := odoostub.NewUUID()
		if _, err := commitOne(ctx, conn, uuid, "enqueued", 10); err != nil {
			return err
		}
		if err := runjob(ctx, l.address, limitDB, uuid); err != nil {
			return err
		}
	}
	return nil
}

// point is one load of the plot.
type point struct {
	// Load is the share of the limit, Offered and Done are jobs per second.
	Load    float64 `json:"load"`
	Offered float64 `json:"offered"`
	Done    float64 `json:"done"`
	// P50 and P99 are milliseconds from commit to request.
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// p is a percentile of latencies, in milliseconds.
func p(percent float64, latencies []time.Duration) float64 {
	return testbed.Milliseconds(testbed.Percentile(latencies, percent))
}

// sweep offers one load after the other, and in the end more than can be done: the queue grows, and as
// many jobs run as ever.
func sweep(ctx context.Context, l *lab, limit float64) error {
	loads := []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.1, 1.25}
	best, last := 0.0, 0.0
	for _, load := range pick(l.bench, loads, []float64{0.1, 0.5, 0.8, 1.25}) {
		q, err := sweepPoint(ctx, l, load, limit)
		if err != nil {
			return err
		}
		best, last = max(best, q.Done), q.Done
	}
	l.report.add("jobs/s with the highest load, to the most jobs/s with any", "", 2, atLeast(0.95), last/best)
	if l.plot == "" {
		return nil
	}
	return writePlot(l.plot, l.report.Sweep)
}

// sweepPoint offers one load for a while.
func sweepPoint(ctx context.Context, l *lab, load, limit float64) (q point, err error) {
	if err := l.history(ctx, benchDB); err != nil {
		return q, err
	}
	named := fmt.Sprintf("at %.0f %% of the limit", load*100)
	o, err := l.offer(ctx, benchDB, load*limit, pick(l.bench, 20*time.Second, 3*time.Second), nil)
	if err != nil {
		return q, fmt.Errorf("%s: %w", named, err)
	}
	all := o.latencies(0, time.Hour)
	q = point{Load: load, Offered: load * limit, Done: o.throughput, P50: p(50, all), P99: p(99, all)}
	r := l.report
	r.Sweep = append(r.Sweep, q)
	r.add(named+", jobs/s", "", 0, nil, q.Done)
	r.add(named+", p50", "ms", 2, nil, q.P50)
	r.add(named+", p99", "ms", 2, nil, q.P99)
	return q, nil
}

// sustain offers one load for long, and compares the last minute with the first.
func sustain(ctx context.Context, l *lab, c *testbed.Caddy, limit float64) error {
	if err := l.history(ctx, benchDB); err != nil {
		return err
	}
	length := pick(l.bench, l.sustain, 10*time.Second)
	window := min(time.Minute, length/3)
	var early int
	o, err := l.offer(ctx, benchDB, l.load*limit, length, func() (err error) {
		early, err = c.LiveHeap(ctx)
		return err
	})
	if err != nil {
		return err
	}
	late, err := c.LiveHeap(ctx)
	if err != nil {
		return err
	}
	first, last := p(99, o.latencies(0, window)), p(99, o.latencies(length-window, length))
	r, named := l.report, func(what string) string {
		return fmt.Sprintf("%s, %.0f %% of the limit for %s", what, l.load*100, length)
	}
	r.add(named("jobs/s"), "", 0, nil, o.throughput)
	r.add(named("p99 in the first minute"), "ms", 2, nil, first)
	r.add(named("p99 in the last minute"), "ms", 2, nil, last)
	r.add(named("p99, last minute to first"), "", 2, atMost(1.2), last/first)
	r.add(named("live heap at the end"), "MB", 1, nil, float64(late)/1e6)
	if early > 0 {
		r.add(named("live heap after the first minute"), "MB", 1, nil, float64(early)/1e6)
		r.add(named("live heap, end to first minute"), "", 2, atMost(1.1), float64(late)/float64(early))
	}
	return nil
}
