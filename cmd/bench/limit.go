package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
)

// bareTimeout bounds one request of a bare client.
const bareTimeout = time.Minute

// bareTransport opens a connection for each request, as the runner does.
var bareTransport = &http.Transport{DisableKeepAlives: true}

// runjob asks the stub to run one job, with nothing around it.
func runjob(ctx context.Context, address, db, uuid string) error {
	ctx, cancel := context.WithTimeout(ctx, bareTimeout)
	defer cancel()
	query := url.Values{"db": {db}, "job_uuid": {uuid}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/queue_job/runjob?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("running job %s: %w", uuid, err)
	}
	resp, err := bareTransport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("running job %s: %w", uuid, err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return fmt.Errorf("running job %s: %w", uuid, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("running job %s: %s", uuid, resp.Status)
	}
	return nil
}

// limit is what the machine can do without any runner: so many clients have the stub run jobs whose
// rows are enqueued already.
func (l *lab) limit(ctx context.Context, db string, clients int, j jobs) (*drained, error) {
	j.state = "enqueued"
	uuids, err := l.limitJobs(ctx, db, j)
	if err != nil {
		return nil, err
	}
	work := make(chan string, len(uuids))
	for _, uuid := range uuids {
		work <- uuid
	}
	close(work)
	return l.whileWorking(ctx, "false", func() error {
		return parallel(clients, func(int) error {
			for uuid := range work {
				if err := runjob(ctx, l.address, db, uuid); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// whileWorking returns what the stub recorded while f worked, and what PostgreSQL took for that. which
// selects the sessions that stand for a runner.
func (l *lab) whileWorking(ctx context.Context, which string, f func() error) (d *drained, err error) {
	d = new(drained)
	if d.server, err = l.serverWork(ctx, which, f); err != nil {
		return nil, err
	}
	d.Records, err = l.stub.take(ctx)
	return d, err
}

// limitJobs inserts jobs and returns their uuids.
func (l *lab) limitJobs(ctx context.Context, db string, j jobs) ([]string, error) {
	if err := l.insert(ctx, db, j); err != nil {
		return nil, err
	}
	// So many jobs at once are not what Odoo's statements meet otherwise; without statistics they would go
	// through all of them for each job.
	if err := l.exec(ctx, db, "ANALYZE queue_job"); err != nil {
		return nil, err
	}
	rows, _ := l.Pool(db).Query(ctx, "SELECT uuid FROM queue_job ORDER BY id") // rows has the error
	uuids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the jobs of %s: %w", db, err)
	}
	return uuids, nil
}
