package main

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"time"
)

var status = scenario{
	name: "status", about: "questions to the admin API with 1,000,000 jobs and 300 databases, while jobs run",
	run: func(ctx context.Context, b *bench) error {
		return b.withLab(ctx, []string{templateDB}, statusAll)
	},
}

const (
	// askInterval is the time between two questions: 20 a second.
	askInterval = 50 * time.Millisecond
	// trickle is how many jobs a second run meanwhile.
	trickle = 50
)

func statusAll(ctx context.Context, l *lab) error {
	names, err := l.copies(ctx, templateDB, l.size(300, 30))
	if err != nil {
		return err
	}
	if err := l.backlog(ctx, names[0], l.size(1_000_000, 50_000), 0); err != nil {
		return err
	}
	c, err := l.startReady(ctx, config{Databases: manyPattern, Count: len(names), Channels: backlogTree})
	if err != nil {
		return err
	}
	if err := answerTimes(ctx, l, c, names[0]); err != nil {
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
func answerTimes(ctx context.Context, l *lab, c *caddy, loaded string) (err error) {
	paths := []string{
		"status", "live", "ready", "databases", "channels", "upstreams", "tasks", "jobs?limit=100",
		"jobs?database=" + loaded + "&state=pending&limit=100",
	}
	uuid, err := l.anyPending(ctx, loaded)
	if err != nil {
		return err
	}
	paths = append(paths, "jobs/"+url.PathEscape(loaded)+"/"+uuid)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var trickleErr error
	wg.Go(func() { trickleErr = l.trickle(ctx, loaded) })
	defer func() {
		cancel()
		wg.Wait()
		if err == nil {
			err = trickleErr
		}
	}()
	for i, path := range paths {
		var times []time.Duration
		for range l.size(500, 50) {
			began := time.Now()
			if _, err := c.get(ctx, "/jobrunner/"+path); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		name := "GET /jobrunner/" + path
		switch {
		case i == len(paths)-1:
			name = "GET /jobrunner/jobs/{database}/{uuid}"
		case i == len(paths)-2:
			name = "GET /jobrunner/jobs of one database, pending"
		}
		l.report.figure(name+", p99 of 500", "ms", 1, atMost(50)).add(milliseconds(percentile(times, 99)))
	}
	return nil
}

// trickle commits jobs at a steady rate until ctx ends.
func (l *lab) trickle(ctx context.Context, db string) error {
	tick := time.NewTicker(time.Second / trickle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := l.insert(ctx, db, jobs{count: 1, priority: 1}); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// dispatchWhileAsked measures the latency of single jobs, in turns with and
// without somebody who asks for the status.
func dispatchWhileAsked(ctx context.Context, l *lab, c *caddy, names []string) error {
	quiet := &lane{name: "not asked", databases: names, priority: 1}
	asked := &lane{name: "asked", databases: names, priority: 1}
	if err := l.warm(ctx, quiet); err != nil {
		return err
	}
	const turns = 10
	each := l.size(300, 30) / turns
	for range turns {
		if err := l.alternate(ctx, each, quiet); err != nil {
			return err
		}
		if err := whileAsking(ctx, c, func() error { return l.alternate(ctx, each, asked) }); err != nil {
			return err
		}
	}
	r := l.report
	r.figure("commit to request, p50, not asked", "ms", 2, nil).add(quiet.percentile(50))
	r.figure("commit to request, p50, 20 questions/s", "ms", 2, nil).add(asked.percentile(50))
	r.figure("p50, ratio with 20 questions/s", "", 2, nil).add(asked.percentile(50) / quiet.percentile(50))
	r.figure("p99, ratio with 20 questions/s", "", 2, nil).add(asked.percentile(99) / quiet.percentile(99))
	return nil
}

// whileAsking runs f while somebody asks for the status 20 times a second.
func whileAsking(ctx context.Context, c *caddy, f func() error) error {
	asking, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var askErr error
	wg.Go(func() {
		tick := time.NewTicker(askInterval)
		defer tick.Stop()
		for {
			select {
			case <-asking.Done():
				return
			case <-tick.C:
			}
			if _, err := c.get(asking, "/jobrunner/status"); err != nil && asking.Err() == nil {
				askErr = fmt.Errorf("asking for the status: %w", err)
				return
			}
		}
	})
	err := f()
	cancel()
	wg.Wait()
	if err == nil {
		err = askErr
	}
	return err
}
