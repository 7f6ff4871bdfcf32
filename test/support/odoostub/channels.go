package odoostub

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Channel is a row of queue_job_channel. A nil number is NULL.
type Channel struct {
	// Name is the full name.
	Name              string
	Capacity          *int
	Sequential        bool
	Throttle          *int // seconds
	Paused            bool
	CapacityDefault   *int
	SequentialDefault bool
}

// ReloadPayload is what the add-on of [Channels] notifies of such a change.
const ReloadPayload = "reload"

// SetChannels creates or changes channels as Odoo does: in one transaction, and
// with the notification (docs/contract.md 6.2). Other channels stay.
func SetChannels(ctx context.Context, db DB, list ...Channel) error {
	return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, c := range list {
			_, err := tx.Exec(ctx, `INSERT INTO queue_job_channel
				(name, complete_name, capacity, sequential, throttle, paused, capacity_default, sequential_default)
				VALUES (regexp_replace($1, '^.*\.', ''), $1, $2, $3, $4, $5, $6, $7)
				ON CONFLICT (complete_name) DO UPDATE SET capacity = $2, sequential = $3, throttle = $4, paused = $5,
					capacity_default = $6, sequential_default = $7`,
				c.Name, c.Capacity, c.Sequential, c.Throttle, c.Paused, c.CapacityDefault, c.SequentialDefault)
			if err != nil {
				return fmt.Errorf("writing channel %s: %w", c.Name, err)
			}
		}
		if _, err := tx.Exec(ctx, "SELECT pg_notify('queue_job', $1)", ReloadPayload); err != nil {
			return fmt.Errorf("notifying of channels: %w", err)
		}
		return nil
	})
}
