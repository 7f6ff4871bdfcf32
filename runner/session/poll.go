package session

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// PollLeast is the least time between two reads of all jobs by a session that hears no
	// notifications, whatever is written to its database.
	PollLeast = 500 * time.Millisecond
	// pollShare is how many times as long as the last read took the next one is away, at least: a
	// database with very many jobs is not read all the time.
	pollShare = 20
)

// poll is when a session that hears no notifications reads all jobs next.
type poll struct {
	on bool
	// last is when it did so, which took so long.
	last time.Time
	took time.Duration
	// hinted is set once something was written since.
	hinted bool
}

// errNoPooler is a driver that declares what it does not have.
var errNoPooler = errors.New("the driver has no way through a pooler, although it says that it has")

// open makes the connection.
func open(ctx context.Context, cfg Config, database string) (driver.Session, error) {
	if cfg.Pooler == nil {
		return cfg.Driver.OpenSession(ctx, cfg.Postgres, database)
	}
	d, ok := driver.AsPoolDriver(cfg.Driver)
	if !ok {
		return nil, errNoPooler
	}
	s, err := d.OpenPooled(ctx, cfg.Pooler, database)
	if err != nil {
		return nil, err
	}
	if fenced, ok := s.(driver.Fenced); ok {
		fenced.SetFence(cfg.Fence)
	}
	return s, nil
}

// startPolling finds out whether the connection hears notifications.
func (s *Session) startPolling() {
	poller, ok := s.conn.(driver.Poller)
	s.polls = poll{on: ok && poller.Polls()}
}

// Written tells the session that something was written to its database, so that one that hears no
// notifications reads all jobs soon.
func (s *Session) Written() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.poll = true
	s.wake()
}

// pollAt is when all jobs are to be read next because changes are not heard; zero if they are.
func (s *Session) pollAt() time.Time {
	p := &s.polls
	if !p.on {
		return time.Time{}
	}
	wait := max(s.config().Poll, PollLeast)
	if p.hinted {
		wait = PollLeast
	}
	at := p.last.Add(max(wait, pollShare*p.took))
	if at.Before(s.lockedUntil) {
		return s.lockedUntil
	}
	return at
}

// poll reads all jobs. When the database is examined and probed next does not depend on it.
func (s *Session) poll(ctx context.Context) error {
	resync, probed := s.resyncAt, s.probed
	s.polls.hinted = false
	if err := s.checkChannels(ctx); err != nil {
		return err
	}
	if err := s.readAll(ctx); err != nil {
		return err
	}
	s.resyncAt, s.probed = resync, probed
	return nil
}

// probeDue reports whether it has to be found out whether the session still has what it should.
func (s *Session) probeDue(now time.Time) bool {
	limit := probeLimit
	if s.polls.on { // whether another runner has taken the lock shows only so
		limit = probeInterval
	}
	return now.Sub(s.heard) >= probeInterval || now.Sub(s.probed) >= limit
}
