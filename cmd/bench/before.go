package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// steadyRate is how many jobs are committed in each second, one by one.
const steadyRate = 400

// beforeAll measures the Caddy of another revision and this one by turns, so that what the machine does
// at the time meets both. -before names the other one.
func beforeAll(ctx context.Context, l *lab) error {
	if l.before == "" {
		say("   left out: -before names the Caddy of another revision")
		return nil
	}
	now, b := l.binary, *l.bench
	l.bench = &b
	for run := range l.runs {
		var got [2]measures
		for i := range 2 {
			which := (run + i) % 2
			b.binary = [2]string{l.before, now}[which]
			m, err := l.measureRevision(ctx)
			if err != nil {
				return fmt.Errorf("run %d with %s: %w", run+1, b.binary, err)
			}
			got[which] = m
		}
		got[0].report(l.report, got[1])
	}
	return l.startsBefore(ctx, now)
}

// measures are what one revision needs.
type measures struct {
	drains [3]*drained
	count  int
	// p50 is from commit to request at a steady rate, and processor what a job takes of Caddy's then.
	p50       float64
	processor time.Duration
}

// comparedAt are the capacities at which runners are compared.
var comparedAt = [3]int{4, 16, 64}

func (l *lab) measureRevision(ctx context.Context) (m measures, err error) {
	m.count = pick(l.bench, 5_000, 300)
	for i, capacity := range comparedAt {
		if err := l.clear(ctx, benchDB); err != nil {
			return m, err
		}
		if m.drains[i], err = l.drain(ctx, capacity, jobs{count: m.count, analyze: true}); err != nil {
			return m, err
		}
	}
	if err := l.history(ctx, benchDB); err != nil {
		return m, err
	}
	err = l.whileServed(ctx, one(benchDB, "root:16"), func(c *testbed.Caddy) error {
		var o *offered
		var used time.Duration
		err := timeProcessor(c.PID(), &used, func() (err error) {
			o, err = l.offer(ctx, benchDB, steadyRate, pick(l.bench, 20*time.Second, 2*time.Second), nil)
			return err
		})
		if err == nil {
			m.p50, m.processor = p(50, o.latencies(0, time.Hour)), used/time.Duration(len(o.jobs))
		}
		return err
	})
	return m, err
}

// report adds what both need, and the ratios of the second one.
func (m *measures) report(r *report, now measures) {
	both := func(what, unit string, digits int, b *bound, before, after float64) {
		r.add(what+", before", unit, digits, nil, before)
		r.add(what, unit, digits, nil, after)
		r.add(what+", ratio", "", 2, b, after/before)
	}
	per := func(d *drained) float64 { return d.processor.Seconds() * 1000 / float64(m.count) }
	for i, capacity := range comparedAt {
		root := fmt.Sprintf("root:%d, ", capacity)
		both(root+"jobs/s of the runner", "", 0, nil, m.drains[i].rate(), now.drains[i].rate())
		both(root+"CPU of Caddy per 1,000 jobs", "s", 3, nil, per(m.drains[i]), per(now.drains[i]))
	}
	steady := fmt.Sprintf("%d jobs/s, ", steadyRate)
	both(steady+"commit to request, p50", "ms", 2, atMost(0.7), m.p50, now.p50)
	both(steady+"CPU of Caddy per 1,000 jobs", "s", 3, atMost(0.7), m.processor.Seconds()*1000, now.processor.Seconds()*1000)
}

// startsBefore compares how long it takes from the start of Caddy to the first request, with many jobs.
func (l *lab) startsBefore(ctx context.Context, now string) error {
	if err := l.clear(ctx, benchDB); err != nil {
		return err
	}
	waiting := pick(l.bench, 1_000_000, 1_000)
	if err := l.insertBacklog(ctx, benchDB, waiting, 0); err != nil {
		return err
	}
	for run := range l.runs {
		var took [2]float64
		for i := range 2 {
			which := (run + i) % 2
			l.binary = [2]string{l.before, now}[which]
			c, first, err := l.firstRequest(ctx)
			if err != nil {
				return err
			}
			took[which] = first.Seconds()
			if err := c.Stop(); err != nil {
				return err
			}
		}
		what := fmt.Sprintf("%d waiting jobs, start to the first request", waiting)
		l.report.add(what+", before", "s", 2, nil, took[0])
		l.report.add(what, "s", 2, atMost(1.2), took[1])
	}
	return nil
}
