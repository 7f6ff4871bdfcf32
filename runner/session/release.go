package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	releaseTimeout = 30 * time.Second
	// releaseBatch bounds the jobs that one statement looks at, and releaseShort how long one takes after
	// which the next looks at more: how long their lists of parents are is up to others. Other orders have
	// their turn between two.
	releaseBatch = 100
	releaseShort = 250 * time.Millisecond
	// tooLongLimit bounds the jobs that are known to take too long. Of further ones, each is looked at
	// with each full read.
	tooLongLimit = 1000
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
	// all is set if they are all that waited, batch is how many are looked at next, and failed is set
	// if that failed once.
	all    bool
	batch  int
	failed bool
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

// release looks at one batch of the jobs that wait for others, after it has found those of new orders. An
// error ends the connection only if that is lost: nothing that the listener knows depends on it.
func (s *Session) release(ctx context.Context, orders []release) error {
	releaser, ok := s.conn.(driver.Releaser)
	if !ok {
		return nil
	}
	for _, o := range orders {
		if err := s.findDependents(ctx, releaser, o); err != nil {
			return err
		}
	}
	if len(s.dependents) == 0 {
		return nil
	}
	d := &s.dependents[0]
	n, began := min(len(d.ids), d.batch), time.Now()
	var rows []driver.Row
	err := s.call(ctx, "release dependents", releaseTimeout, func(ctx context.Context) (err error) {
		rows, err = releaser.Release(ctx, d.ids[:n], d.quiet, d.busy)
		return err
	})
	if isLost(ctx, err) {
		return err
	}
	if errors.Is(err, driver.ErrTooLong) {
		s.shorten(d, n)
		return nil
	}
	if err != nil && !d.failed {
		d.failed = true
		s.config().Logger.Error("jobs that wait for others cannot be released", zap.String("database", s.database), zap.Error(err))
	}
	if d.batch = min(2*d.batch, releaseBatch); time.Since(began) > releaseShort {
		d.batch = max(1, n/2)
	}
	s.looked(d, n)
	if err == nil && len(rows) > 0 {
		s.out.Released(rows)
	}
	return nil
}

// looked takes the first n jobs off the list.
func (s *Session) looked(d *dependents, n int) {
	if d.ids = d.ids[n:]; len(d.ids) == 0 {
		s.dependents = s.dependents[1:]
	}
}

// shorten halves a batch that takes too long. A single job that does is left alone for as long as the
// connection lasts, because nobody else's may wait for it.
func (s *Session) shorten(d *dependents, n int) {
	if n > 1 {
		d.batch = n / 2
		return
	}
	if id := d.ids[0]; !s.tooLong[id] && len(s.tooLong) < tooLongLimit {
		if s.tooLong == nil {
			s.tooLong = make(map[int64]bool)
		}
		s.tooLong[id] = true
		s.config().Logger.Warn("a job that waits for others takes too long to look at, and is not released",
			zap.String("database", s.database), zap.Int64("id", id))
	}
	s.looked(d, 1)
}

// findDependents finds the jobs of one order. While all that wait are being looked at, they are not listed
// again: where there are very many, snapshots may come faster.
func (s *Session) findDependents(ctx context.Context, releaser driver.Releaser, o release) error {
	all := o.done == nil
	if all && slices.ContainsFunc(s.dependents, func(d dependents) bool { return d.all }) {
		return nil
	}
	var ids []int64
	err := s.call(ctx, "find dependents", releaseTimeout, func(ctx context.Context) (err error) {
		ids, err = releaser.Dependents(ctx, o.done)
		return err
	})
	if isLost(ctx, err) {
		return err
	}
	if err != nil {
		s.config().Logger.Error("jobs that wait for others cannot be found", zap.String("database", s.database), zap.Error(err))
		return nil
	}
	ids = slices.DeleteFunc(ids, func(id int64) bool { return s.tooLong[id] })
	if len(ids) > 0 {
		s.dependents = append(s.dependents, dependents{ids: ids, quiet: o.quiet, busy: o.busy, all: all, batch: 1})
	}
	return nil
}
