package main

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// askInterval is the time between two questions: 20 a second.
	askInterval = 50 * time.Millisecond
	// trickleInterval is the time between two jobs that run meanwhile: 50 a second.
	trickleInterval = 20 * time.Millisecond
)

func statusAll(ctx context.Context, l *lab) error {
	names, err := l.copies(ctx)
	if err != nil {
		return err
	}
	loaded := names[0]
	if err := l.insertBacklog(ctx, loaded, pick(l.bench, 1_000_000, 50_000), 0); err != nil {
		return err
	}
	c, err := l.ready(ctx, many(names, backlogTree))
	if err != nil {
		return err
	}
	trickle := func(ctx context.Context) error { return l.insert(ctx, loaded, jobs{count: 1, priority: 1}) }
	if err := every(ctx, trickleInterval, trickle, func() error { return answerTimes(ctx, l, c, loaded) }); err != nil {
		return err
	}
	for range l.runs {
		if err := dispatchWhileAsked(ctx, l, c, names[1:11]); err != nil {
			return err
		}
	}
	return nil
}

// answerTimes asks every endpoint while jobs are dispatched.
func answerTimes(ctx context.Context, l *lab, c *testbed.Caddy, loaded string) error {
	var uuid string
	const sql = "SELECT uuid FROM queue_job WHERE state = 'pending' ORDER BY id DESC LIMIT 1"
	if err := l.Pool(loaded).QueryRow(ctx, sql).Scan(&uuid); err != nil {
		return fmt.Errorf("reading a job of %s: %w", loaded, err)
	}
	type question struct{ path, name string } // the names are the same in every run
	var questions []question
	for _, path := range []string{"status", "live", "ready", "databases", "channels", "upstreams", "tasks", "jobs?limit=100"} {
		questions = append(questions, question{path, path})
	}
	questions = append(questions,
		question{"jobs?database=" + loaded + "&state=pending&limit=100", "jobs of one database, pending"},
		question{"jobs/" + loaded + "/" + uuid, "jobs/{database}/{uuid}"})
	for _, q := range questions {
		var times []time.Duration
		for range pick(l.bench, 500, 50) {
			began := time.Now()
			if _, err := c.Get(ctx, "/jobrunner/"+q.path); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		l.report.add("GET /jobrunner/"+q.name+", p99 of 500", "ms", 1, atMost(50), testbed.Milliseconds(testbed.Percentile(times, 99)))
	}
	return nil
}

// dispatchWhileAsked measures the latency of single jobs, in turns with and without questions for
// the status.
func dispatchWhileAsked(ctx context.Context, l *lab, c *testbed.Caddy, names []string) error {
	quiet, asked, err := l.whileAsked(ctx, names, askInterval, func(ctx context.Context) error {
		_, err := c.Get(ctx, "/jobrunner/status")
		return err
	})
	if err != nil {
		return err
	}
	r := l.report
	r.add("commit to request, p50, not asked", "ms", 2, nil, quiet.percentile(50))
	r.add("commit to request, p50, 20 questions/s", "ms", 2, nil, asked.percentile(50))
	r.add("p50, ratio with 20 questions/s", "", 2, nil, asked.percentile(50)/quiet.percentile(50))
	r.add("p99, ratio with 20 questions/s", "", 2, nil, asked.percentile(99)/quiet.percentile(99))
	return nil
}
