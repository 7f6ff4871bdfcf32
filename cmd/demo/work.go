package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

const (
	// workTimeout bounds the time until all jobs have ended.
	workTimeout = 90 * time.Second
	// settleTimeout bounds the time until the last ends are visible in the rows.
	settleTimeout = 5 * time.Second
	drawInterval  = 100 * time.Millisecond

	// probes is the number of jobs that are sent one at a time to measure the dispatch latency, and
	// probeTimeout how long one may take.
	probes       = 40
	probeTimeout = 10 * time.Second
)

// work enqueues all jobs and waits until they have ended, or the time is over.
func (s *setup) work(ctx context.Context, jobs int) (*result, error) {
	say("enqueueing %d jobs in %d databases", jobs, len(databases))
	r := &result{recorder: s.Recorder}
	started := time.Now()
	enqueued := make(chan error, 1)
	go func() { enqueued <- s.enqueueAll(ctx, jobs, r) }()

	ctx, cancel := context.WithTimeout(ctx, workTimeout)
	defer cancel()
	bar := newProgress(os.Stdout, jobs)
	tick := time.NewTicker(drawInterval)
	defer tick.Stop()
	settled, running := 0, 0
	for settled < jobs && ctx.Err() == nil {
		select {
		case err := <-enqueued:
			if err != nil {
				return nil, err
			}
			enqueued = nil
		case <-s.caddy.Done():
			return nil, fmt.Errorf("caddy has ended\n%s", s.caddy.Tail())
		case <-tick.C:
		case <-ctx.Done():
		}
		settled, running = s.count()
		bar.show(settled, running)
	}
	bar.finish(settled, running)
	if err := ctx.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("interrupted: %w", err)
	}
	if enqueued != nil {
		if err := <-enqueued; err != nil {
			return nil, err
		}
	}
	r.elapsed = time.Since(started)
	var err error
	r.leftBehind, err = s.settle(context.WithoutCancel(ctx))
	return r, err
}

// enqueueAll commits the jobs of all databases at the same time.
func (s *setup) enqueueAll(ctx context.Context, jobs int, r *result) error {
	tickets := make([][]ticket, len(databases))
	errs := make([]error, len(databases))
	var wg sync.WaitGroup
	for i, db := range databases {
		share := jobs / len(databases)
		if i == 0 {
			share += jobs % len(databases)
		}
		wg.Go(func() { tickets[i], errs[i] = enqueue(ctx, s.Pool(db), db, plan(share)) })
	}
	wg.Wait()
	for _, t := range tickets {
		r.tickets = append(r.tickets, t...)
	}
	return errors.Join(errs...)
}

// count returns how many jobs have ended and how many run now.
func (s *setup) count() (settled, running int) {
	n := s.Recorder.CountOutcomes()
	return n[odoostub.Done] + n[odoostub.Failed], n[""]
}

// settle waits until the rows say what the servers have recorded a moment before, and returns the
// jobs that remain all the same.
func (s *setup) settle(ctx context.Context) ([]odoostub.Leftover, error) {
	deadline := time.Now().Add(settleTimeout)
	tick := time.NewTicker(drawInterval)
	defer tick.Stop()
	for {
		left, err := s.leftovers(ctx)
		if err != nil || len(left) == 0 || time.Now().After(deadline) {
			return left, err
		}
		<-tick.C
	}
}

// probe measures the dispatch latency of an idle runner: from the moment at which the commit of a
// single job has returned until an Odoo server has read its request.
func (s *setup) probe(ctx context.Context) ([]time.Duration, error) {
	say("measuring the dispatch latency with %d single jobs", probes)
	var latencies []time.Duration
	for i := range probes {
		latency, err := s.probeOnce(ctx, databases[i%len(databases)])
		if err != nil {
			return nil, fmt.Errorf("measuring the dispatch latency: %w", err)
		}
		latencies = append(latencies, latency)
	}
	return latencies, nil
}

func (s *setup) probeOnce(ctx context.Context, db string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	uuid := odoostub.NewUUID()
	before, _ := s.count()
	if _, err := odoostub.Enqueue(ctx, s.Pool(db), []odoostub.JobSpec{{UUID: uuid}}); err != nil {
		return 0, fmt.Errorf("in %s: %w", db, err)
	}
	committed := time.Now()
	err := s.Recorder.Await(ctx, func() bool {
		settled, running := s.count()
		return settled > before && running == 0
	})
	if err != nil {
		return 0, fmt.Errorf("waiting for job %s of %s to end: %w", uuid, db, err)
	}
	// The request may arrive while the commit is still on its way to this process.
	return max(0, s.Recorder.FirstRequestAt(db, uuid).Sub(committed)), nil
}
