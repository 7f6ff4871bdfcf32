package session

import (
	"context"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// settleQuiet is how long nobody may have been seen at work in a new database before it is
	// served, and settleInterval the time between two checks.
	settleQuiet    = 10 * time.Second
	settleInterval = 500 * time.Millisecond
	settleTimeout  = 5 * time.Second
	// settleLimit bounds the wait since a tool that fills databases was seen last: others may be
	// users.
	settleLimit = 20 * time.Second
)

// Expect tells the session, before it runs, that the database was made while this process watched, so
// that somebody may still be making it.
func (s *Session) Expect() { s.young = true }

// settle waits until a new database has been left in peace for a moment, and examines it again:
// whoever restores or copies a database sets the marks that keep its jobs from running at the end.
func (s *Session) settle(ctx context.Context, found *driver.Fingerprint) error {
	settler, ok := s.conn.(driver.Settler)
	if !s.young || !ok {
		return nil
	}
	began := time.Now()
	for quiet := began; time.Since(quiet) < settleQuiet && time.Since(began) < settleLimit; {
		var who string
		var sure bool
		err := timing.Within(ctx, settleTimeout, func(ctx context.Context) (err error) {
			who, sure, err = settler.Unsettled(ctx)
			return err
		})
		if err != nil {
			return fmt.Errorf("wait for a new database: %w", err)
		}
		if who != "" {
			quiet = time.Now()
		}
		if sure {
			began = quiet
		}
		detail := fmt.Sprintf("the database is new; it is served once nobody has been at work in it for %s", settleQuiet)
		if who != "" {
			detail += " (seen: " + who + ")"
		}
		s.out.State(Settling, detail)
		if !timing.Sleep(ctx, settleInterval) {
			return ctx.Err()
		}
	}
	if err := s.recheckAs(ctx, found); err != nil {
		return err
	}
	s.young = found.Health != driver.Healthy
	return nil
}
