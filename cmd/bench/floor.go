package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
)

// floorTimeout bounds the statements of the floor.
const floorTimeout = 10 * time.Second

// The statements of the floor read and write what a runner at least has to.
const (
	floorRead  = "SELECT id, uuid, channel, state, priority, date_created, eta, date_enqueued, retry FROM queue_job WHERE uuid = $1"
	floorClaim = `UPDATE queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')
		WHERE uuid = $1 AND state = 'pending'`
)

// FloorArgs are those of [Partner.Floor].
type FloorArgs struct {
	// Postgres is the URL of the database, Stub the address of the stub.
	Postgres, Stub string
}

// Floor starts the floor: the least that gets a job from its commit to its
// request, in a loop and one at a time. It has no queue, no channels, and no idea
// of what to do when anything goes wrong.
func (*Partner) Floor(args FloorArgs, _ *bool) error {
	ctx := context.Background() // it ends with the process
	conn, err := pgx.Connect(ctx, args.Postgres)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	// As the runner's claims, those of the floor do not wait for the disk.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off; LISTEN queue_job"); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	go func() {
		if err := serveFloor(ctx, conn, args.Stub); err != nil {
			fmt.Fprintln(os.Stderr, "bench: the floor:", err)
		}
	}()
	return nil
}

// serveFloor is the loop of the floor. It ends with an error.
func serveFloor(ctx context.Context, conn *pgx.Conn, stub string) error {
	transport := bareTransport()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("waiting: %w", err)
		}
		claimed, err := floorOne(ctx, conn, n.Payload)
		if err != nil {
			return err
		}
		if claimed {
			// In the background, so that the notifications of this job do not pile up.
			go func() {
				if err := runjob(ctx, transport, stub, conn.Config().Database, n.Payload); err != nil {
					fmt.Fprintln(os.Stderr, "bench: the floor:", err)
				}
			}()
		}
	}
}

// floorOne reads a row and claims it if it is pending.
func floorOne(ctx context.Context, conn *pgx.Conn, uuid string) (claimed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, floorTimeout)
	defer cancel()
	var state string
	// The rest of the row is read, too, but nobody needs it.
	err = conn.QueryRow(ctx, floorRead, uuid).Scan(nil, nil, nil, &state, nil, nil, nil, nil, nil)
	if err != nil {
		return false, fmt.Errorf("reading job %s: %w", uuid, err)
	}
	if state != "pending" {
		return false, nil
	}
	tag, err := conn.Exec(ctx, floorClaim, uuid)
	if err != nil {
		return false, fmt.Errorf("claiming job %s: %w", uuid, err)
	}
	return tag.RowsAffected() == 1, nil
}
