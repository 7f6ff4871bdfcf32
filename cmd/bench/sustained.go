package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// sustainedCapacity is that of root, and the number of bare clients.
const sustainedCapacity = 16

var sustained = scenario{
	name: "sustained", about: "jobs that are committed one by one at a steady rate: all loads, then one for long",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{benchDB, limitDB}, sustainedAll)
	},
}

func sustainedAll(ctx context.Context, l *lab) error {
	if err := warmUp(ctx, l); err != nil {
		return err
	}
	limit, err := committedLimit(ctx, l)
	if err != nil {
		return err
	}
	c, err := l.startReady(ctx, config{Databases: benchDB, Channels: fmt.Sprintf("root:%d", sustainedCapacity)})
	if err != nil {
		return err
	}
	if err := sweep(ctx, l, limit); err != nil {
		return err
	}
	return sustain(ctx, l, c, limit)
}

// committedLimit is what the machine can do without any runner if every job is
// committed by itself: clients that commit an enqueued row and have it run.
func committedLimit(ctx context.Context, l *lab) (float64, error) {
	f := l.report.figure("jobs/s of the limit, each job committed by itself", "", 0, nil)
	for range l.runs {
		if err := l.history(ctx, limitDB); err != nil {
			return 0, err
		}
		end := time.Now().Add(l.duration(10*time.Second, 2*time.Second))
		errs := make([]error, sustainedCapacity)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = l.commitAndRun(ctx, end) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return 0, err
		}
		got, err := l.stub.take(ctx)
		if err != nil {
			return 0, err
		}
		f.add(got.rate())
	}
	return f.median(), nil
}

// commitAndRun is one client of the limit.
func (l *lab) commitAndRun(ctx context.Context, end time.Time) error {
	conn, err := pgx.ConnectConfig(ctx, l.pg.ConnConfig(limitDB))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", limitDB, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	transport := bareTransport()
	for time.Now().Before(end) {
		uuid := odoostub.NewUUID()
		const sql = `INSERT INTO queue_job (uuid, name, model_name, method_name, func_string, kwargs, state, channel,
				priority, date_created, retry, max_retries)
			VALUES ($1, 'bench', 'stub.model', 'run', 'stub.model().run()', '{}', 'enqueued', 'root', 10, now() AT TIME ZONE 'UTC', 0, 5)`
		if _, err := conn.Exec(ctx, sql, uuid); err != nil {
			return fmt.Errorf("inserting a job: %w", err)
		}
		if err := runjob(ctx, transport, l.stub.address, limitDB, uuid); err != nil {
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

// sweep offers one load after the other.
func sweep(ctx context.Context, l *lab, limit float64) error {
	loads := []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95}
	if l.quick {
		loads = []float64{0.1, 0.5, 0.8}
	}
	for _, load := range loads {
		if err := l.history(ctx, benchDB); err != nil {
			return err
		}
		o, err := l.offer(ctx, benchDB, load*limit, l.duration(20*time.Second, 3*time.Second), nil)
		if err != nil {
			return fmt.Errorf("at %.0f %% of the limit: %w", load*100, err)
		}
		all := o.latencies(0, time.Hour)
		p := point{
			Load: load, Offered: load * limit, Done: o.throughput,
			P50: milliseconds(percentile(all, 50)), P99: milliseconds(percentile(all, 99)),
		}
		l.report.Sweep = append(l.report.Sweep, p)
		r := l.report
		r.figure(fmt.Sprintf("at %.0f %% of the limit, jobs/s", load*100), "", 0, nil).add(p.Done)
		r.figure(fmt.Sprintf("at %.0f %% of the limit, p50", load*100), "ms", 2, nil).add(p.P50)
		r.figure(fmt.Sprintf("at %.0f %% of the limit, p99", load*100), "ms", 2, nil).add(p.P99)
	}
	if l.plot == "" {
		return nil
	}
	return writePlot(l.plot, l.report.Sweep)
}

// sustain offers one load for long, and compares the last minute with
// the first.
func sustain(ctx context.Context, l *lab, c *caddy, limit float64) error {
	if err := l.history(ctx, benchDB); err != nil {
		return err
	}
	length := l.sustain
	if l.quick {
		length = 10 * time.Second
	}
	window := min(time.Minute, length/3)
	var early float64
	o, err := l.offer(ctx, benchDB, l.load*limit, length, func() (err error) {
		early, err = c.liveHeap(ctx)
		return err
	})
	if err != nil {
		return err
	}
	late, err := c.liveHeap(ctx)
	if err != nil {
		return err
	}
	first, last := o.latencies(0, window), o.latencies(length-window, length)
	p99 := func(list []time.Duration) float64 { return milliseconds(percentile(list, 99)) }
	r, named := l.report, func(what string) string {
		return fmt.Sprintf("%s, %.0f %% of the limit for %s", what, l.load*100, length)
	}
	r.figure(named("jobs/s"), "", 0, nil).add(o.throughput)
	r.figure(named("p99 in the first minute"), "ms", 2, nil).add(p99(first))
	r.figure(named("p99 in the last minute"), "ms", 2, nil).add(p99(last))
	r.figure(named("p99, last minute to first"), "", 2, atMost(1.2)).add(p99(last) / p99(first))
	r.figure(named("live heap at the end"), "MB", 1, nil).add(late / 1e6)
	if early > 0 {
		r.figure(named("live heap after the first minute"), "MB", 1, nil).add(early / 1e6)
		r.figure(named("live heap, end to first minute"), "", 2, atMost(1.1)).add(late / early)
	}
	return nil
}
