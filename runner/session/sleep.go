package session

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	sleepTimeout = 10 * time.Second
	// SleepHorizon is how far away the next eta has to be for a database to do without a connection.
	SleepHorizon = time.Minute
	// lockPatience is how long a session waits for a lock while others wait for a connection.
	lockPatience = 10 * time.Second
)

// errAsleep ends a connection that is not needed, and errCrowded one that waits for a lock while
// others wait for a connection.
var (
	errAsleep  = errors.New("nothing to do")
	errCrowded = errors.New("others wait for a connection")
)

// Sleep orders to close the connection, and to end, if there is nothing to do, which
// [Listener.Asleep] answers; if there is something, [Listener.Awake] does. Pending jobs that are barred do
// not count.
func (s *Session) Sleep(barred []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.sleep, s.todo.barred = true, barred
	s.wake()
}

// sleep finds whether there is nothing to do. What was committed before the look, the look sees. What
// was committed after it has not been counted before it, so that it shows without a connection.
func (s *Session) sleep(ctx context.Context, barred []string) error {
	sleeper, ok := s.conn.(driver.Sleeper)
	if !ok || s.occupied() {
		s.out.Awake()
		return nil
	}
	var rest driver.Rest
	err := s.call(ctx, "look for jobs to do", sleepTimeout, func(ctx context.Context) (err error) {
		rest, err = sleeper.Sleep(ctx, SleepHorizon, barred)
		return err
	})
	if err == nil {
		err = s.collect()
	}
	switch {
	case err != nil:
		return err
	case rest.Busy || s.occupied():
		s.out.Awake()
		return nil
	}
	s.rest = rest
	return errAsleep
}

// occupied reports whether there is something to do as far as the session knows.
func (s *Session) occupied() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.todo.empty() || s.dirty.len() > 0 || s.overflow || s.reload || len(s.dependents) > 0 ||
		!s.echoSince.IsZero() || !s.foreseen.due().IsZero()
}
