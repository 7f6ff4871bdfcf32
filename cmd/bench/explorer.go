package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const explorerDatabases = 50

// question is one that people ask, as the query of a request.
type question struct{ name, query string }

// archive fills a table with the jobs of years: of a hundred, 97 are done, one failed, one was
// cancelled, and one waits for another. Each has arguments, and a failed one a traceback.
const archive = `
INSERT INTO queue_job (uuid, state, channel, name, model_name, method_name, func_string, args, kwargs, date_created, date_enqueued,
	date_started, date_done, retry, max_retries, priority, exc_name, exc_message, exc_info, identity_key, graph_uuid)
SELECT gen_random_uuid(),
	CASE i %% 100 WHEN 0 THEN 'failed' WHEN 1 THEN 'cancelled' WHEN 2 THEN 'wait_dependencies' ELSE 'done' END,
	'root.c' || i %% 23, 'Send the document ' || i, 'model.number' || i %% 17, 'method' || i %% 5, 'model.number.method()',
	repeat('argument ', 30), '{}', at, at, at, at, 0, 5, 10,
	CASE WHEN i %% 100 = 0 THEN 'odoo.exceptions.Error' || i %% 700 END, CASE WHEN i %% 100 = 0 THEN 'no address' END,
	CASE WHEN i %% 100 = 0 THEN repeat('  File "/odoo/models.py", line 7, in method' || chr(10), 40) END, 'key ' || i, 'graph ' || i / 10
FROM generate_series(1, %[1]d) i, LATERAL (SELECT now() AT TIME ZONE 'UTC' - (%[1]d - i) * interval '5 minutes') AS t (at)`

// explorerAll asks for jobs as people do, among millions of them.
func explorerAll(ctx context.Context, l *lab) error {
	each := pick(l.bench, l.archived, 10_000)
	if err := l.exec(ctx, templateDB, "SET session_replication_role = replica; "+fmt.Sprintf(archive, each)+"; RESET session_replication_role"); err != nil {
		return err
	}
	if err := l.settle(ctx, templateDB); err != nil {
		return err
	}
	databases := pick(l.bench, explorerDatabases, 20)
	if err := l.fits(ctx, databases); err != nil {
		return err
	}
	names, err := l.copiesOf(ctx, databases)
	if err != nil {
		return err
	}
	l.report.know("explorer", fmt.Sprintf("%d jobs in %d databases", each*len(names), len(names)))
	c, err := l.ready(ctx, many(names, "root:4"))
	if err != nil {
		return err
	}
	if err := l.pages(ctx, c, names); err != nil {
		return err
	}
	for range l.runs {
		if err := dispatchWhileSearched(ctx, l, c, names[1:11]); err != nil {
			return err
		}
	}
	return nil
}

// pages asks each question again and again, and one of them to the end.
func (l *lab) pages(ctx context.Context, c *testbed.Caddy, names []string) error {
	var uuid string
	pool, err := l.pool(names[7])
	if err != nil {
		return err
	}
	if err := pool.QueryRow(ctx, "SELECT uuid FROM queue_job WHERE id = 77").Scan(&uuid); err != nil {
		return fmt.Errorf("reading a job of %s: %w", names[7], err)
	}
	questions := []question{
		{"no filter", ""}, {"one database", "database=" + names[len(names)/2]}, {"failed", "state=failed"}, {"done", "state=done"},
		{"a channel", "channel=root.c7"}, {"failed in a channel", "state=failed&channel=root.c7"}, {"a function", "function=model.number3.method2"},
		{"an exception", "exception=odoo.exceptions.Error300"}, {"failed with an exception", "state=failed&exception=odoo.exceptions.Error300"},
		{"older than 300 d", "older_than=300d"}, {"newer than 1 h", "newer_than=1h"}, {"an identity key", "identity=key+500"},
		{"a part of a name", "name=document+777"}, {"a name that no job has", "name=nothing"}, {"the first letters of a uuid", "uuid=" + uuid[:8]},
		{"a uuid", "uuid=" + uuid}, {"a uuid in a database", "database=" + names[7] + "&uuid=" + uuid},
	}
	if err := l.plans(ctx, names[7], questions); err != nil {
		return err
	}
	for _, q := range questions {
		var times []time.Duration
		for range pick(l.bench, 100, 20) {
			began := time.Now()
			if _, err := c.Get(ctx, "/jobrunner/jobs?within=100ms&limit=50&"+q.query); err != nil {
				return err
			}
			times = append(times, time.Since(began))
		}
		l.report.add("first page, "+q.name+", p50", "ms", 0, nil, testbed.Milliseconds(testbed.Percentile(times, 50)))
		l.report.add("first page, "+q.name+", p99 of 100", "ms", 0, atMost(200), testbed.Milliseconds(testbed.Percentile(times, 99)))
	}
	return l.toTheEnd(ctx, c, "name=nothing")
}

// toTheEnd follows the pages of a search that finds nothing.
func (l *lab) toTheEnd(ctx context.Context, c *testbed.Caddy, query string) error {
	var times []time.Duration
	began, cursor := time.Now(), ""
	for more := true; more; more = cursor != "" {
		asked := time.Now()
		raw, err := c.Get(ctx, "/jobrunner/jobs?within=100ms&limit=50&"+query+"&cursor="+cursor)
		if err != nil {
			return err
		}
		times = append(times, time.Since(asked))
		var page struct {
			Next string `json:"next"`
		}
		if err := json.Unmarshal([]byte(raw), &page); err != nil {
			return fmt.Errorf("reading a page: %w", err)
		}
		cursor = page.Next
	}
	l.report.add("a search of all jobs that finds none", "s", 1, nil, time.Since(began).Seconds())
	l.report.add("its pages", "", 0, nil, float64(len(times)))
	l.report.add("its pages, p99", "ms", 0, atMost(200), testbed.Milliseconds(testbed.Percentile(times, 99)))
	return nil
}

// dispatchWhileSearched measures the latency of single jobs, in turns with and without searches.
func dispatchWhileSearched(ctx context.Context, l *lab, c *testbed.Caddy, names []string) error {
	// One search after the other, as a person does who waits for each page.
	quiet, asked, err := l.whileAsked(ctx, names, time.Second, func(ctx context.Context) error {
		_, err := c.Get(ctx, "/jobrunner/jobs?within=100ms&limit=50&name=nothing")
		return err
	})
	if err != nil {
		return err
	}
	r := l.report
	r.add("commit to request, p50, nobody searches", "ms", 2, nil, quiet.percentile(50))
	r.add("commit to request, p50, a search each second", "ms", 2, nil, asked.percentile(50))
	r.add("p50, ratio with a search each second", "", 2, nil, asked.percentile(50)/quiet.percentile(50))
	r.add("p99, ratio with a search each second", "", 2, nil, asked.percentile(99)/quiet.percentile(99))
	return nil
}
