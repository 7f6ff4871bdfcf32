package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	// countInterval is the time between two looks at how many jobs are done. The
	// figures do not depend on it: they come from the stub's own records.
	countInterval = 20 * time.Millisecond
	// jobTimeout bounds the time until a job that was sent alone is done.
	jobTimeout = 20 * time.Second
	// doneTimeout bounds the time until all jobs are done, the start of a Caddy
	// with millions of them included.
	doneTimeout = 5 * time.Minute
)

// stub is the stub of Odoo, in its own process.
type stub struct {
	*child
	address, control string
}

// startStub starts a stub that works in any database of a cluster.
func startStub(ctx context.Context, dsn string, workers int) (*stub, error) {
	c, err := startChild(ctx, "stub", "-dsn", dsn, "-workers", strconv.Itoa(workers))
	if err != nil {
		return nil, err
	}
	if len(c.said) != 2 {
		return nil, fmt.Errorf("starting the stub: it said %q", c.said)
	}
	return &stub{child: c, address: c.said[0], control: "http://" + c.said[1]}, nil
}

// ask sends a request to the control endpoint and decodes the answer.
func (s *stub) ask(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.control+path, nil)
	if err != nil {
		return fmt.Errorf("asking the stub: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking the stub: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("asking the stub: %s", resp.Status)
	}
	if into == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("asking the stub: %w", err)
	}
	return nil
}

// take returns the records since the last time.
func (s *stub) take(ctx context.Context) (*records, error) {
	r := new(records)
	return r, s.ask(ctx, http.MethodPost, "/take", r)
}

// counts returns how far the jobs are since the last take.
func (s *stub) counts(ctx context.Context) (n counts, err error) {
	return n, s.ask(ctx, http.MethodGet, "/counts", &n)
}

// awaitDone waits until so many jobs are done.
func (s *stub) awaitDone(ctx context.Context, jobs int) error {
	return s.await(ctx, doneTimeout, func(n counts) bool { return n.Done >= jobs })
}

// await waits until the counts are what is waited for.
func (s *stub) await(ctx context.Context, limit time.Duration, holds func(counts) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		n, err := s.counts(ctx)
		if err == nil && holds(n) {
			return nil
		}
		if err == nil {
			err = sleep(ctx, countInterval)
		}
		if err != nil {
			return fmt.Errorf("waiting for the stub, %+v after %s: %w", n, limit, err)
		}
	}
}

// requestOf waits until a job that was sent alone is done, and returns when its
// request arrived.
func (s *stub) requestOf(ctx context.Context, db, uuid string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	var r record
	query := url.Values{"db": {db}, "uuid": {uuid}}
	if err := s.ask(ctx, http.MethodGet, "/done?"+query.Encode(), &r); err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, r.At), nil
}

// span is the time from the first request to the end of the last job.
func (r *records) span() time.Duration {
	if len(r.Requests) == 0 || len(r.Executions) == 0 {
		return 0
	}
	first, last := r.Requests[0].At, int64(0)
	for _, q := range r.Requests {
		first = min(first, q.At)
	}
	for _, x := range r.Executions {
		last = max(last, x.End)
	}
	return time.Duration(last - first)
}

// rate is the number of jobs done per second of the span.
func (r *records) rate() float64 {
	if span := r.span(); span > 0 {
		return float64(len(r.Executions)) / span.Seconds()
	}
	return 0
}
