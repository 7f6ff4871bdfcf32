package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// visitorWorkers are the workers of the one server, and visitorCount the visitors that keep as many
	// of them busy.
	visitorWorkers = 8
	visitorCount   = 6
	// pageMS and visitorJobMS are how long a page and a job take, in milliseconds.
	pageMS       = 50
	visitorJobMS = 100
	// warmUp is the time before measuring begins.
	warmUp = time.Second
)

// visitorCases are what jobs may do beside the visitors.
var visitorCases = []struct {
	name, options string
	jobs          bool
	bound         *bound
}{
	{"without jobs", "", false, nil},
	{"jobs at root:8", "", true, nil},
	{"jobs with reserve 1", "server {\nworkers 8\nmax_jobs 5\nreserve 1\n}", true, nil},
	{"jobs with reserve 2", "server {\nworkers 8\nmax_jobs 5\nreserve 2\n}", true, atMost(1.2)},
}

func visitorsAll(ctx context.Context, l *lab) error {
	stub, err := startPartner(ctx, "Stub", StubArgs{l.Postgres.DSN("postgres"), visitorWorkers}, &l.address)
	if err != nil {
		return err
	}
	l.stub = stub
	l.OnClose(stub.stop)
	for range l.runs {
		var alone float64
		for _, c := range visitorCases {
			if err := l.clear(ctx, benchDB); err != nil {
				return err
			}
			s := one(benchDB, "root:8")
			s.options, s.routes = c.options, "reverse_proxy "+l.address
			if s.site, err = testbed.FreeAddress(); err != nil {
				return err
			}
			pages, done, err := l.visit(ctx, s, c.jobs)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			p99 := testbed.Percentile(pages, 99)
			l.report.add("visitors, "+c.name+", p50", "ms", 1, nil, testbed.Percentile(pages, 50))
			l.report.add("visitors, "+c.name+", p99", "ms", 1, nil, p99)
			if !c.jobs {
				alone = p99
				continue
			}
			l.report.add("visitors, "+c.name+", p99 beside none", "", 2, c.bound, p99/alone)
			l.report.add(c.name+", jobs/s", "", 1, nil, done)
		}
	}
	return nil
}

// visit has visitors of a site ask for one page after the other, while jobs are queued, and returns how
// many milliseconds each page took, and how many jobs were done in a second.
func (l *lab) visit(ctx context.Context, s served, queue bool) (pages []float64, done float64, err error) {
	lasts := pick(l.bench, 20*time.Second, 2*time.Second)
	err = l.whileServed(ctx, s, func(*testbed.Caddy) error {
		if queue {
			most := int((lasts+2*warmUp)/time.Millisecond) * visitorWorkers / visitorJobMS
			if err := l.insert(ctx, benchDB, jobs{count: 2 * most, kwargs: fmt.Sprintf(`{"sleep_ms": %d}`, visitorJobMS)}); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, warmUp+lasts)
		defer cancel()
		from := time.Now().Add(warmUp)
		var mu sync.Mutex
		err := parallel(visitorCount, func(int) error {
			for ctx.Err() == nil {
				began := time.Now()
				if err := page(ctx, s.site); err != nil && ctx.Err() == nil {
					return err
				}
				if took := time.Since(began); ctx.Err() == nil && began.After(from) {
					mu.Lock()
					pages = append(pages, float64(took)/float64(time.Millisecond))
					mu.Unlock()
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		records, err := l.stub.take(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		for _, x := range records.Executions {
			if x.End.After(from) {
				done++
			}
		}
		done /= lasts.Seconds()
		return nil
	})
	return pages, done, err
}

// page asks a site for a page, on a connection that it keeps.
func page(ctx context.Context, site string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s%s?ms=%d", site, odoostub.PagePath, pageMS), nil)
	if err != nil {
		return fmt.Errorf("asking for a page: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("asking for a page: %w", err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return fmt.Errorf("reading a page: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for a page: %s", res.Status)
	}
	return nil
}
