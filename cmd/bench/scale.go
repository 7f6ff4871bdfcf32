package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// scaleChanges is how many jobs run while their processor time is taken.
	scaleChanges = 4_000
	// scaleConnections is what PostgreSQL allows where each of very many jobs that run, or databases, has
	// one.
	scaleConnections = 2_600
	neverEnds        = `{"gate": "never"}`
)

// sizes are three sizes of one thing that there can be many of, each ten times the one before or more,
// and what was measured at each.
type sizes struct {
	what string
	n    []int
	// at is what a change costs, what one of them takes in memory, and how long the start takes.
	at [3]map[int][]float64
}

// scaleOf are what [sizes] has of each size.
var scaleOf = [3]struct {
	name, unit string
	digits     int
}{{"processor for a change", "µs", 0}, {"live heap for each", "bytes", 0}, {"start", "s", 3}}

func newSizes(what string, n ...int) *sizes {
	s := &sizes{what: what, n: n}
	for i := range s.at {
		s.at[i] = make(map[int][]float64)
	}
	return s
}

// add notes what one run measured at a size.
func (s *sizes) add(n int, change time.Duration, heap float64, start time.Duration) {
	for i, v := range [3]float64{float64(change.Nanoseconds()) / 1000, heap, start.Seconds()} {
		s.at[i][n] = append(s.at[i][n], v)
	}
	say("   %d %s: a change %s, %.0f bytes each, start %s", n, s.what, change, heap, start)
}

// report writes a line for each size, and the exponent with which each figure grows: 0 is not at all, 1
// is in proportion.
func (s *sizes) report(r *report) {
	for i, of := range scaleOf {
		medians := make([]float64, len(s.n))
		for k, n := range s.n {
			for _, v := range s.at[i][n] {
				r.add(fmt.Sprintf("%d %s, %s", n, s.what, of.name), of.unit, of.digits, nil, v)
			}
			medians[k] = testbed.Percentile(s.at[i][n], 50)
		}
		r.add(fmt.Sprintf("%s, %s, exponent", s.what, of.name), "", 2, nil, exponent(s.n, medians))
	}
}

// exponent is the slope of the line that fits the logarithms best.
func exponent(n []int, v []float64) float64 {
	var x, y, xx, xy float64
	for i := range n {
		a, b := math.Log(float64(n[i])), math.Log(max(v[i], math.SmallestNonzeroFloat64))
		x, y, xx, xy = x+a, y+b, xx+a*a, xy+a*b
	}
	k := float64(len(n))
	return (k*xy - x*y) / (k*xx - x*x)
}

// scaleAll measures what grows with what. It has a lab for each part, because each of them leaves very
// much behind.
func scaleAll(ctx context.Context, l *lab) error {
	return errors.Join(
		l.withLab(ctx, []string{benchDB, idleDB}, scaleJobs),
		l.crowded(ctx, []string{benchDB, idleDB}, scaleOpen),
		l.crowded(ctx, []string{templateDB, idleDB}, scaleDatabases),
		scaleChannels(l.bench),
	)
}

// crowded is withLab with room for very many connections.
func (l *lab) crowded(ctx context.Context, databases []string, f func(context.Context, *lab) error) error {
	b := *l.bench
	b.connections = scaleConnections
	return b.withLab(ctx, databases, f)
}

// scaleJobs: jobs that wait. A start ends with the first request.
func scaleJobs(ctx context.Context, l *lab) error {
	s := newSizes("waiting jobs", pick(l.bench, []int{100_000, 1_000_000, 10_000_000}, []int{100, 1_000, 10_000})...)
	empty, err := l.emptyHeap(ctx)
	if err != nil {
		return err
	}
	there := 0
	for _, n := range s.n {
		if err := l.insertBacklog(ctx, benchDB, n-there, 0); err != nil {
			return err
		}
		there = n
		for range scaleRuns(l, n) {
			if err := l.scaleBacklog(ctx, s, n, empty); err != nil {
				return fmt.Errorf("%d jobs: %w", n, err)
			}
		}
	}
	s.report(l.report)
	return nil
}

// scaleRuns is how often a size is measured: the largest of the jobs takes minutes.
func scaleRuns(l *lab, n int) int { return pick(l.bench, min(l.runs, max(1, 5_000_000/n)), 1) }

// emptyHeap is that of a Caddy that serves a database without jobs.
func (l *lab) emptyHeap(ctx context.Context) (heap int, err error) {
	err = l.whileServed(ctx, one(idleDB, backlogTree), func(c *testbed.Caddy) error {
		heap, err = c.LiveHeap(ctx)
		return err
	})
	return heap, err
}

func (l *lab) scaleBacklog(ctx context.Context, s *sizes, n, empty int) (err error) {
	c, start, err := l.firstRequest(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	return l.measureSize(ctx, c, s, n, empty, start, benchDB)
}

// measureSize runs jobs before all others and takes the processor time, and the heap afterwards.
func (l *lab) measureSize(ctx context.Context, c *testbed.Caddy, s *sizes, n, empty int, start time.Duration, databases ...string) error {
	if _, err := l.stub.take(ctx); err != nil {
		return err
	}
	var used time.Duration
	count := pick(l.bench, scaleChanges, 40) / len(databases)
	err := timeProcessor(c.PID(), &used, func() error {
		for _, db := range databases {
			if err := l.insert(ctx, db, jobs{count: count, priority: 1}); err != nil {
				return err
			}
		}
		return l.stub.awaitDone(ctx, count*len(databases))
	})
	if err != nil {
		return err
	}
	heap, err := c.LiveHeap(ctx)
	if err != nil {
		return err
	}
	s.add(n, used/time.Duration(count*len(databases)), float64(heap-empty)/float64(n), start)
	return nil
}

// scaleOpen: requests that wait for their answers. A start ends when all of them have been sent and the
// jobs run, each with a connection of Odoo's.
func scaleOpen(ctx context.Context, l *lab) error {
	s := newSizes("open requests", pick(l.bench, []int{20, 200, 2_000}, []int{2, 4, 8})...)
	empty, err := l.emptyHeap(ctx)
	if err != nil {
		return err
	}
	for _, n := range s.n {
		for range scaleRuns(l, n) {
			if err := l.scaleRequests(ctx, s, n, empty); err != nil {
				return fmt.Errorf("%d requests: %w", n, err)
			}
		}
	}
	s.report(l.report)
	return nil
}

func (l *lab) scaleRequests(ctx context.Context, s *sizes, n, empty int) (err error) {
	// Its jobs never end, so it is another one each time.
	stub, err := startPartner(ctx, "Stub", StubArgs{l.Postgres.DSN("postgres"), n + stubWorkers}, &l.address)
	if err != nil {
		return err
	}
	before := l.stub
	l.stub = stub
	defer func() {
		err = errors.Join(err, stub.stop())
		l.stub = before
	}()
	if err := l.clear(ctx, benchDB); err != nil {
		return err
	}
	if err := l.insert(ctx, benchDB, jobs{count: n, channel: "root.open", kwargs: neverEnds, silent: true, analyze: true}); err != nil {
		return err
	}
	c, err := l.caddy(ctx, one(benchDB, fmt.Sprintf("root:%d,root.open:%d", n+8, n)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := stub.await(ctx, doneTimeout, func(k Counts) bool { return k.Running >= n }); err != nil {
		return err
	}
	start := time.Since(c.Began)
	return l.measureSize(ctx, c, s, n, empty, start, benchDB)
}

// scaleDatabases: databases that are awake, each with a connection. A start ends when all are served.
func scaleDatabases(ctx context.Context, l *lab) error {
	s := newSizes("databases awake", pick(l.bench, []int{10, 100, 1_000}, []int{2, 4, 8})...)
	names, err := l.copiesOf(ctx, s.n[len(s.n)-1])
	if err != nil {
		return err
	}
	empty, err := l.emptyHeap(ctx)
	if err != nil {
		return err
	}
	for i, n := range s.n {
		// By their numbers: 000 to 009, 000 to 099, 000 to 999.
		pattern := manyPrefix + []string{"00[0-9]", "0[0-9][0-9]", "[0-9][0-9][0-9]"}[i]
		if l.quick {
			pattern = fmt.Sprintf("%s00[0-%d]", manyPrefix, n-1)
		}
		for range scaleRuns(l, n) {
			served := served{pattern: pattern, databases: names[:n], channels: "root:8"}
			err := l.whileServed(ctx, served, func(c *testbed.Caddy) error {
				return l.measureSize(ctx, c, s, n, empty, time.Since(c.Began), names[:min(n, 10)]...)
			})
			if err != nil {
				return fmt.Errorf("%d databases: %w", n, err)
			}
		}
	}
	s.report(l.report)
	return nil
}

// scaleChannels: channels, of the scheduler alone, with as many jobs in all of them. A start is that the
// jobs are taken in; the heap is what a channel takes beyond the jobs.
func scaleChannels(b *bench) error {
	s := newSizes("channels", pick(b, []int{1_000, 10_000, 100_000}, []int{10, 100, 1_000})...)
	count := pick(b, 1_000_000, 10_000)
	for range b.runs {
		few, _, _, err := weighTree(count, 1)
		if err != nil {
			return err
		}
		for _, n := range s.n {
			heap, start, t, err := weighTree(count, n)
			if err != nil {
				return err
			}
			const changes = 100_000
			took, err := t.change(changes)
			if err != nil {
				return err
			}
			s.add(n, took/changes, (heap-few)/float64(n), start)
		}
	}
	s.report(b.report)
	return nil
}

// weighTree makes a tree and tells what it takes.
func weighTree(jobs, channels int) (heap float64, start time.Duration, t *tree, err error) {
	before := ownHeap()
	began := time.Now()
	t, err = newTree(jobs, channels)
	start = time.Since(began)
	heap = ownHeap() - before
	runtime.KeepAlive(t)
	return heap, start, t, err
}

// ownHeap is what this process uses after a collection.
func ownHeap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}
