package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	stopTimeout = 10 * time.Second
	// stopBatch bounds the attempts of one call, which takes a statement for each.
	stopBatch      = 50
	accountTimeout = 30 * time.Second
)

// errNoStopper is told of every attempt that a driver was to end which declared that it can.
var errNoStopper = errors.New("the driver declares that it can end attempts, and cannot")

// end ends attempts, and writes down why others have been.
func (s *Session) end(ctx context.Context, o *orders) error {
	if len(o.cancels)+len(o.terminates)+len(o.causes)+len(o.failStopped.tasks) == 0 {
		return nil
	}
	stopper, ok := s.conn.(driver.Stopper)
	if !ok {
		s.out.Stopped(append(o.cancels, o.terminates...), nil, false, errNoStopper)
		return nil
	}
	if err := s.stop(ctx, stopper, o.cancels, false); err != nil {
		return err
	}
	if err := s.stop(ctx, stopper, o.terminates, true); err != nil {
		return err
	}
	if err := s.failStopped(ctx, stopper, &o.failStopped); err != nil {
		return err
	}
	if len(o.causes) == 0 {
		return nil
	}
	var rows []driver.Row
	err := s.call(ctx, "account for jobs", accountTimeout, func(ctx context.Context) (err error) {
		rows, err = stopper.Account(ctx, o.causes)
		return err
	})
	if isLost(ctx, err) {
		return err
	}
	s.out.Accounted(o.causes, rows, err)
	return nil
}

// failStopped fails dead attempts that have been ended.
func (s *Session) failStopped(ctx context.Context, stopper driver.Stopper, dead *condemned[driver.Liveness]) error {
	if len(dead.tasks) == 0 {
		return nil
	}
	return s.rescue(ctx, "fail jobs that were ended", func(ctx context.Context) ([]driver.Row, error) {
		return stopper.FailStopped(ctx, dead.tasks, dead.why)
	})
}

func (s *Session) stop(ctx context.Context, stopper driver.Stopper, attempts []driver.Task, terminate bool) error {
	for batch := range slices.Chunk(attempts, stopBatch) {
		var stopped []driver.Stopped
		err := s.call(ctx, "stop jobs", stopTimeout, func(ctx context.Context) (err error) {
			stopped, err = stopper.Stop(ctx, batch, terminate)
			return err
		})
		if isLost(ctx, err) {
			return err
		}
		s.out.Stopped(batch, stopped, terminate, err)
	}
	return nil
}

// isLost reports whether an error ends the connection. Unlike any other statement, one that ends or
// accounts for attempts may fail without that: nothing that the listener knows depends on it, and a
// database must not be lost again and again because it cannot be carried out there.
func isLost(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || errors.Is(err, driver.ErrLost) || errors.Is(err, context.DeadlineExceeded))
}
