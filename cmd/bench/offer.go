package main

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
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

// offered is what became of jobs that were committed at a steady rate, whether the runner kept up
// or not.
type offered struct {
	began time.Time
	jobs  []sentJob
	// throughput is the number of requests per second while jobs were offered.
	throughput float64
}

// sentJob is one job: when its commit returned, and how long after that its request arrived.
type sentJob struct {
	committed time.Time
	latency   time.Duration
}

// offer commits jobs, one by one, at random moments (a Poisson process) at a rate for some time.
// after, if any, is called when the first minute is over.
func (l *lab) offer(ctx context.Context, db string, rate float64, d time.Duration, after func() error) (*offered, error) {
	began := time.Now()
	due := make(chan struct{}, int(rate*d.Seconds())*2+1_000)
	committed := make([]map[string]time.Time, committers)
	var requests []request
	err := parallel(committers+2, func(i int) (err error) {
		switch i {
		case committers:
			defer close(due)
			return generate(ctx, began, rate, d, due)
		case committers + 1:
			requests, err = l.collect(ctx, requests, after, func(int) bool { return time.Since(began) < d })
		default:
			committed[i], err = l.commitWhenDue(ctx, db, due)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	all := make(map[string]time.Time)
	for _, m := range committed {
		maps.Copy(all, m)
	}
	deadline := time.Now().Add(backlogTimeout)
	requests, err = l.collect(ctx, requests, nil, func(n int) bool { return n < len(all) && time.Now().Before(deadline) })
	if err != nil {
		return nil, err
	}
	if len(requests) < len(all) {
		return nil, fmt.Errorf("only %d of %d jobs were sent", len(requests), len(all))
	}
	o := &offered{began: began}
	within := 0
	for _, q := range requests {
		if q.At.Before(began.Add(d)) {
			within++
		}
		if at, ok := all[q.UUID]; ok {
			o.jobs = append(o.jobs, sentJob{at, max(0, q.At.Sub(at))})
		}
	}
	o.throughput = float64(within) / d.Seconds()
	return o, l.stub.await(ctx, doneTimeout, func(n Counts) bool { return n.Running == 0 })
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

// commitWhenDue commits jobs on a separate connection, and returns when.
func (l *lab) commitWhenDue(ctx context.Context, db string, due <-chan struct{}) (map[string]time.Time, error) {
	conn, err := l.connect(ctx, db)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	committed := make(map[string]time.Time)
	for range due {
		uuid := odoostub.NewUUID()
		if committed[uuid], err = commitOne(ctx, conn, uuid, "pending", 10); err != nil {
			return nil, err
		}
	}
	return committed, nil
}

// connect opens one more connection to a database.
func (l *lab) connect(ctx context.Context, db string) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, l.Postgres.ConnConfig(db))
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", db, err)
	}
	return conn, nil
}

// collect takes the stub's records, and adds the requests to those so far, as long as there are to
// be more. after, if any, is called when a minute is over.
func (l *lab) collect(ctx context.Context, all []request, after func() error, more func(n int) bool) ([]request, error) {
	for began := time.Now(); more(len(all)); {
		if err := sleep(ctx, collectInterval); err != nil {
			return nil, err
		}
		got, err := l.stub.take(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, got.Requests...)
		if after != nil && time.Since(began) > time.Minute {
			if err := after(); err != nil {
				return nil, err
			}
			after = nil
		}
	}
	return all, nil
}

// latencies returns the latencies of the jobs that were committed in a window after the beginning.
func (o *offered) latencies(from, to time.Duration) []time.Duration {
	var list []time.Duration
	for _, j := range o.jobs {
		if at := j.committed.Sub(o.began); at >= from && at < to {
			list = append(list, j.latency)
		}
	}
	return list
}
