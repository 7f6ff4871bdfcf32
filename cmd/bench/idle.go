package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// floorDB is served by the floor only.
const floorDB = "floor_db"

func idleAll(ctx context.Context, l *lab) (err error) {
	if _, err := l.ready(ctx, one(benchDB, "root:4")); err != nil {
		return err
	}
	floor, err := startPartner(ctx, "Floor", FloorArgs{l.Postgres.DSN(floorDB), l.address}, new(bool))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, floor.stop()) }()
	if err := l.settle(ctx, benchDB); err != nil {
		return err
	}
	for range l.runs {
		runner, bare := &lane{databases: []string{benchDB}, priority: 10}, &lane{databases: []string{floorDB}, priority: 10}
		if err := l.compare(ctx, pick(l.bench, 500, 50), runner, bare); err != nil {
			return err
		}
		r := l.report
		r.add("commit to request, p50 of the floor", "ms", 2, nil, bare.percentile(50))
		r.add("commit to request, p99 of the floor", "ms", 2, nil, bare.percentile(99))
		r.add("commit to request, p50", "ms", 2, atMost(1), runner.percentile(50))
		r.add("commit to request, p99", "ms", 2, nil, runner.percentile(99))
		r.add("p50, ratio to the floor", "", 2, atMost(1), runner.percentile(50)/bare.percentile(50))
		r.add("p99, ratio to the floor", "", 2, atMost(1.1), runner.percentile(99)/bare.percentile(99))
	}
	return nil
}

// floorTimeout bounds the statements of the floor.
const floorTimeout = 10 * time.Second

// The statements of the floor read and write what a runner at least has to.
const (
	floorRead  = "SELECT id, uuid, channel, state, priority, date_created, eta, date_enqueued, retry FROM queue_job WHERE uuid = $1"
	floorClaim = `UPDATE queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')
		WHERE uuid = $1 AND state = 'pending'`
)

// FloorArgs are the arguments of [Partner.Floor].
type FloorArgs struct {
	// Postgres is the URL of the database, Stub the address of the stub.
	Postgres, Stub string
}

// Floor starts the floor: the least that gets a job from its commit to its request, in a loop and
// one at a time. It has no queue, no channels, and no idea of what to do when anything goes wrong.
func (*Partner) Floor(args FloorArgs, _ *bool) error {
	ctx := context.Background() // it ends with the process
	conn, err := pgx.Connect(ctx, args.Postgres)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// Like the runner's claims, the floor's claims do not wait for the disk.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off; LISTEN queue_job"); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	go func() {
		for {
			if err := floorOnce(ctx, conn, args.Stub); err != nil {
				say("the floor: %v", err)
				return
			}
		}
	}()
	return nil
}

// floorOnce waits for a notification, reads the row, and has the job run if it was pending and
// could be claimed.
func floorOnce(ctx context.Context, conn *pgx.Conn, stub string) error {
	n, err := conn.WaitForNotification(ctx)
	if err != nil {
		return fmt.Errorf("waiting: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, floorTimeout)
	defer cancel()
	var state string
	// The rest of the row is read, too, but not needed.
	err = conn.QueryRow(bounded, floorRead, n.Payload).Scan(nil, nil, nil, &state, nil, nil, nil, nil, nil)
	if err != nil {
		return fmt.Errorf("reading job %s: %w", n.Payload, err)
	}
	if state != "pending" {
		return nil
	}
	tag, err := conn.Exec(bounded, floorClaim, n.Payload)
	if err != nil {
		return fmt.Errorf("claiming job %s: %w", n.Payload, err)
	}
	if tag.RowsAffected() == 1 {
		// In the background, so that the notifications of this job do not pile up.
		go func() {
			if err := runjob(ctx, stub, conn.Config().Database, n.Payload); err != nil {
				say("the floor: %v", err)
			}
		}()
	}
	return nil
}
