package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// realTimeout bounds the time until all jobs of a real Odoo have ended, and callTimeout one call.
const (
	realTimeout = 3 * time.Minute
	callTimeout = time.Minute
)

// batch are jobs of a kind in a real Odoo.
type batch struct {
	key     string
	jobs    int
	channel string
	method  string
	args    []any // after the key
	// runs is how often the code of each is meant to run, fails whether it is meant to fail.
	runs  int
	fails bool
	// most is how many of them may run at the same time; 0 for what is not compared.
	most int
}

// realJobs are the jobs of the demonstration, by the methods of the test suite's add-on.
var realJobs = []batch{
	{key: "mail", jobs: 100, channel: "root.mail", method: "run", args: []any{0.05}, runs: 1, most: 3},
	{key: "stock", jobs: 60, channel: "root.stock", method: "run", args: []any{0.05}, runs: 1, most: 2},
	{key: "invoice", jobs: 20, channel: "root.invoices", method: "run", args: []any{0.05}, runs: 1, most: 1},
	{key: "bounced", jobs: 10, channel: "root.mail", method: "fail", args: []any{"validation"}, runs: 1, fails: true},
	{key: "later", jobs: 10, channel: "root.stock", method: "retry", args: []any{1, 1}, runs: 2},
}

// realResult is what became of the jobs.
type realResult struct {
	jobs, done, failed, fails int
	lost, repeated, above     int
	elapsed                   time.Duration
	public                    int
}

func (r *realResult) lines() []line {
	return []line{
		info("jobs committed", "%d", r.jobs),
		check("done", r.done, r.jobs-r.fails),
		check("failed on purpose", r.failed, r.fails),
		check("lost", r.lost, 0),
		check("duplicates", r.repeated, 0),
		check("channels above capacity", r.above, 0),
		check("run route, publicly", r.public, http.StatusNotFound),
		info("throughput", "%.0f jobs/s", float64(r.jobs)/r.elapsed.Seconds()),
	}
}

// work has Odoo enqueue jobs, and waits until they have ended, or the time is over.
func (o *realOdoo) work(ctx context.Context) (*realResult, error) {
	r := new(realResult)
	for _, b := range realJobs {
		r.jobs += b.jobs
		if b.fails {
			r.fails += b.jobs
		}
	}
	say("having Odoo enqueue %d jobs", r.jobs)
	started := time.Now()
	for _, b := range realJobs {
		var lists []any
		for i := range b.jobs {
			lists = append(lists, append([]any{fmt.Sprintf("%s-%d", b.key, i)}, b.args...))
		}
		if err := o.call(ctx, "jobrunner.test", "enqueue", nil, []any{}, b.method, lists, map[string]any{"channel": b.channel}); err != nil {
			return nil, fmt.Errorf("enqueueing: %w", err)
		}
	}
	if err := o.await(ctx, r); err != nil {
		return nil, err
	}
	r.elapsed = time.Since(started)
	if err := o.compare(ctx, r); err != nil {
		return nil, err
	}
	var err error
	r.public, err = getStatus(ctx, "http://"+o.caddy.Site+"/queue_job/runjob?db="+odooDB+"&job_uuid=0", "")
	return r, err
}

// await waits until all jobs have ended.
func (o *realOdoo) await(ctx context.Context, r *realResult) error {
	ctx, cancel := context.WithTimeout(ctx, realTimeout)
	defer cancel()
	bar := newProgress(os.Stdout, r.jobs)
	tick := time.NewTicker(drawInterval)
	defer tick.Stop()
	for {
		running := 0
		err := o.Pool(odooDB).QueryRow(ctx, `SELECT count(*) FILTER (WHERE state = 'done'), count(*) FILTER (WHERE state = 'failed'),
			count(*) FILTER (WHERE state IN ('enqueued', 'started')) FROM queue_job`).Scan(&r.done, &r.failed, &running)
		if err != nil {
			return fmt.Errorf("counting jobs: %w", err)
		}
		if r.done+r.failed == r.jobs {
			bar.finish(r.jobs, running)
			return nil
		}
		bar.show(r.done+r.failed, running)
		select {
		case <-ctx.Done():
			bar.finish(r.done+r.failed, running)
			return fmt.Errorf("waiting for the jobs: %w\n%s", ctx.Err(), o.caddy.Tail())
		case <-tick.C:
		}
	}
}

// compare counts what the jobs have written while they ran.
func (o *realOdoo) compare(ctx context.Context, r *realResult) error {
	for _, b := range realJobs {
		var keys, short, often, most int
		err := o.Pool(odooDB).QueryRow(ctx, `WITH runs AS (SELECT * FROM jobrunner_test WHERE key LIKE $1 || '-%'),
			counts AS (SELECT key, count(*) AS n FROM runs GROUP BY key)
			SELECT (SELECT count(*) FROM counts), (SELECT count(*) FROM counts WHERE n < $2), (SELECT count(*) FROM counts WHERE n > $2),
				(SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM runs a JOIN runs b
					ON b.started <= a.started AND a.started < b.ended GROUP BY a.id) AS together)`, b.key, b.runs).
			Scan(&keys, &short, &often, &most)
		if err != nil {
			return fmt.Errorf("reading what the jobs have written: %w", err)
		}
		r.lost += b.jobs - keys + short
		r.repeated += often
		if b.most > 0 && most > b.most {
			r.above++
		}
	}
	return nil
}

// call calls a method of a model in Odoo as the administrator, and decodes what it returned.
func (o *realOdoo) call(ctx context.Context, model, method string, result any, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	const admin = 2
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "method": "call", "id": 1, "params": map[string]any{
			"service": "object", "method": "execute_kw", "args": []any{odooDB, admin, "admin", model, method, args},
		},
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+o.site+"/jsonrpc", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	switch {
	case answer.Error != nil:
		return errors.New(string(answer.Error))
	case result == nil:
		return nil
	}
	return json.Unmarshal(answer.Result, result)
}
