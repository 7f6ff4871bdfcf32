package main

import (
	"context"
	"flag"
	"fmt"
	"io"
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

// runFloor is the role of the floor: the least that gets a job from its commit to
// its request, in a loop and one at a time. It has no queue, no channels, and no
// idea of what to do when anything goes wrong.
func runFloor(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	dsn := flags.String("dsn", "", "the URL of the database")
	address := flags.String("stub", "", "the address of the stub")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, however that ends
		cancel()
	}()
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	// As the runner's claims, those of the floor do not wait for the disk.
	if _, err := conn.Exec(ctx, "SET synchronous_commit = off; LISTEN queue_job"); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	fmt.Println("listening")
	transport := bareTransport()
	for ctx.Err() == nil {
		n, err := conn.WaitForNotification(ctx)
		if ctx.Err() != nil {
			return nil // the parent ends it
		}
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
				if err := runjob(ctx, transport, *address, conn.Config().Database, n.Payload); err != nil && ctx.Err() == nil {
					fmt.Fprintln(os.Stderr, "bench floor:", err)
				}
			}()
		}
	}
	return nil
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
