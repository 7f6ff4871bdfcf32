package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// The statement that claims jobs for the second limit is the least that a runner writes: guarded, so
// that no job is claimed twice, for many jobs at once, and without a wait for the disk.
const leastClaim = `UPDATE queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')
	WHERE uuid = ANY ($1) AND state = 'pending' RETURNING uuid`

// writingLimit is what the machine can do with the writes that no runner can do without, and nothing
// else: so many clients have the stub run jobs that one connection claims for them, as many at once
// as clients are free. It listens, so that PostgreSQL signals and sends what it sends to a runner. It
// knows all jobs beforehand and reads no row.
func (l *lab) writingLimit(ctx context.Context, db string, clients int, j jobs) (*drained, error) {
	conn, err := l.connect(ctx, db)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off; LISTEN queue_job"); err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	uuids, err := l.limitJobs(ctx, db, j)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	free, work := make(chan struct{}, clients), make(chan string, clients)
	for range clients {
		free <- struct{}{}
	}
	return l.whileWorking(ctx, fmt.Sprint("pid = ", conn.PgConn().PID()), func() error {
		return parallel(clients+1, func(i int) error {
			if i == clients {
				defer close(work)
				return claimAll(ctx, conn, uuids, free, work)
			}
			for uuid := range work {
				if err := runjob(ctx, l.address, db, uuid); err != nil {
					cancel() // the others may wait for this one
					return err
				}
				free <- struct{}{}
			}
			return nil
		})
	})
}

// claimAll claims jobs for those who are free.
func claimAll(ctx context.Context, conn *pgx.Conn, uuids []string, free <-chan struct{}, work chan<- string) error {
	for len(uuids) > 0 {
		n := 0
		select {
		case <-free:
			n++
		case <-ctx.Done():
			return nil // a client has the error
		}
		for more := true; more && n < len(uuids); {
			select {
			case <-free:
				n++
			default:
				more = false
			}
		}
		rows, _ := conn.Query(ctx, leastClaim, uuids[:n]) // rows has the error
		claimed, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err == nil && len(claimed) != n {
			err = errors.New("jobs of the limit are not pending any more")
		}
		if err != nil {
			return fmt.Errorf("claiming %d jobs: %w", n, err)
		}
		uuids = uuids[n:]
		for _, uuid := range claimed {
			work <- uuid
		}
	}
	return nil
}
