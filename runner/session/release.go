package session

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	releaseTimeout = 30 * time.Second
	// releaseBatch bounds the jobs that one statement looks at. Other orders have their turn between two.
	releaseBatch = 100
)

// release is an order to release jobs that wait for others.
type release struct {
	// done are the jobs for which they waited; nil for all that wait.
	done  []string
	quiet time.Duration
	busy  []string
}

// dependents are jobs that are to be looked at.
type dependents struct {
	ids   []int64
	quiet time.Duration
	busy  []string
}

// Release orders to make those jobs pending that have waited for done ones whose workers died before they
// had released them, which [Listener.Released] answers; with nil, all that wait are looked at. Those are
// left alone of which a parent was done less than quiet ago, or is among busy.
func (s *Session) Release(done []string, quiet time.Duration, busy []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.releases = append(s.todo.releases, release{done, quiet, busy})
	s.wake()
}

// release looks at one batch of the jobs that wait for others, after it has found those of new orders.
func (s *Session) release(ctx context.Context, orders []release) error {
	releaser, ok := s.conn.(driver.Releaser)
	if !ok {
		return nil
	}
	for _, o := range orders {
		var ids []int64
		err := s.call(ctx, "find dependents", releaseTimeout, func(ctx context.Context) (err error) {
			ids, err = releaser.Dependents(ctx, o.done)
			return err
		})
		if err != nil {
			return err
		}
		if len(ids) > 0 {
			s.dependents = append(s.dependents, dependents{ids, o.quiet, o.busy})
		}
	}
	if len(s.dependents) == 0 {
		return nil
	}
	d := &s.dependents[0]
	n := min(len(d.ids), releaseBatch)
	var rows []driver.Row
	err := s.call(ctx, "release dependents", releaseTimeout, func(ctx context.Context) (err error) {
		rows, err = releaser.Release(ctx, d.ids[:n], d.quiet, d.busy)
		return err
	})
	if err != nil {
		return err
	}
	if d.ids = d.ids[n:]; len(d.ids) == 0 {
		s.dependents = s.dependents[1:]
	}
	if len(rows) > 0 {
		s.out.Released(rows)
	}
	return nil
}
