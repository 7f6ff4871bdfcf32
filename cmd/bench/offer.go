package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

const (
	// committers is the number of connections that commit jobs, as many users do.
	committers = 8
	// collectInterval is the time between two collections of the stub's records.
	collectInterval = time.Second
	// backlogTimeout bounds the time until the last offered job has been sent.
	backlogTimeout = 2 * time.Minute
)

// offered is what became of jobs that were committed at a rate of their own,
// whether the runner kept up or not.
type offered struct {
	began time.Time
	// jobs are in the order of their commits, roughly.
	jobs []sentJob
	// throughput is the number of requests per second while jobs were offered.
	throughput float64
}

// sentJob is one job: when its commit returned, and how long after that its
// request arrived.
type sentJob struct {
	committed time.Time
	latency   time.Duration
}

// offer commits jobs, one by one, at random moments (a Poisson process) at a
// rate for some time. after, if any, is called when the first minute is over.
func (l *lab) offer(ctx context.Context, db string, rate float64, d time.Duration, after func() error) (*offered, error) {
	began := time.Now()
	due := make(chan struct{}, int(rate*d.Seconds())*2+1_000)
	committed := make([]map[string]time.Time, committers)
	errs := make([]error, committers+2)
	var wg sync.WaitGroup
	for i := range committers {
		committed[i] = make(map[string]time.Time)
		wg.Go(func() { errs[i] = l.commitWhenDue(ctx, db, due, committed[i]) })
	}
	wg.Go(func() {
		defer close(due)
		errs[committers] = generate(ctx, began, rate, d, due)
	})
	all := new(records)
	errs[committers+1] = l.collect(ctx, all, began, d, after)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	total := 0
	for _, m := range committed {
		total += len(m)
	}
	o := &offered{began: began}
	within := 0
	for _, q := range all.Requests {
		if q.At < began.Add(d).UnixNano() {
			within++
		}
	}
	o.throughput = float64(within) / d.Seconds()
	for deadline := time.Now().Add(backlogTimeout); len(all.Requests) < total; {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("only %d of %d jobs were sent", len(all.Requests), total)
		}
		if err := l.collectOnce(ctx, all); err != nil {
			return nil, err
		}
	}
	for _, q := range all.Requests {
		for _, m := range committed {
			if at, ok := m[q.UUID]; ok {
				o.jobs = append(o.jobs, sentJob{at, max(0, time.Unix(0, q.At).Sub(at))})
				break
			}
		}
	}
	return o, l.stub.await(ctx, doneTimeout, func(n counts) bool { return n.Running == 0 })
}

// generate says when a job is due.
func generate(ctx context.Context, began time.Time, rate float64, d time.Duration, due chan<- struct{}) error {
	for at := began; ; {
		at = at.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		if at.Sub(began) > d {
			return nil
		}
		if wait := time.Until(at); wait > 0 {
			if err := sleep(ctx, wait); err != nil {
				return err
			}
		}
		due <- struct{}{} // never blocks: there is room for twice as many as expected
	}
}

// commitWhenDue commits jobs on a connection of its own.
func (l *lab) commitWhenDue(ctx context.Context, db string, due <-chan struct{}, committed map[string]time.Time) error {
	conn, err := pgx.ConnectConfig(ctx, l.pg.ConnConfig(db))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", db, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for range due {
		uuid := odoostub.NewUUID()
		if committed[uuid], err = commitOne(ctx, conn, uuid, "root", 10); err != nil {
			return err
		}
	}
	return nil
}

// collect takes the stub's records while jobs are offered.
func (l *lab) collect(ctx context.Context, all *records, began time.Time, d time.Duration, after func() error) error {
	for time.Since(began) < d {
		if err := l.collectOnce(ctx, all); err != nil {
			return err
		}
		if after != nil && time.Since(began) > time.Minute {
			if err := after(); err != nil {
				return err
			}
			after = nil
		}
	}
	return nil
}

func (l *lab) collectOnce(ctx context.Context, all *records) error {
	if err := sleep(ctx, collectInterval); err != nil {
		return err
	}
	got, err := l.stub.take(ctx)
	if err != nil {
		return err
	}
	all.Requests = append(all.Requests, got.Requests...)
	return nil
}

// latencies returns those of the jobs that were committed in a window after the
// beginning.
func (o *offered) latencies(from, to time.Duration) []time.Duration {
	var list []time.Duration
	for _, j := range o.jobs {
		if at := j.committed.Sub(o.began); at >= from && at < to {
			list = append(list, j.latency)
		}
	}
	return list
}
