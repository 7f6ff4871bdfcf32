package session

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Grant lets the session claim one job along with its first read, if that wants nothing but a slot
// of root, which [Listener.Vacant] answers. The driver must be capable of vacant claims. A job that
// open names is only read: its row may say pending while an earlier request for it is still open. The
// session's goroutine calls open. The grant ends with the connection.
func (s *Session) Grant(open func(uuid string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.granted = open
}

// Withdraw takes that back. It reports whether it could: otherwise the claim is under way, and the
// answer is to come unless the session is lost.
func (s *Session) Withdraw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.granted = nil
	return s.claiming == ""
}

// Claiming returns the job that is being claimed like that, and since when; empty if none is.
func (s *Session) Claiming() (uuid string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claiming, s.claimingAt
}

// Answered says that the answer has been taken in.
func (s *Session) Answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claiming = ""
}

// useGrant begins to claim a job, if that is allowed.
func (s *Session) useGrant(uuid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.granted == nil || s.claiming != "" || s.granted(uuid) {
		return false
	}
	s.granted, s.claiming, s.claimingAt = nil, uuid, time.Now()
	return true
}

// claimVacant reads one job and claims it, if it wants nothing but the slot that the listener has
// granted. The rows and the claim are told at once, so that nothing is scheduled in between.
func (s *Session) claimVacant(ctx context.Context, reads []string) error {
	open, err := s.open(ctx)
	if err != nil {
		return err
	}
	c, able := s.conn.(driver.VacantClaimer)
	if able && open && !time.Now().Before(s.claimAfter) {
		var v Vacant
		var rows []driver.Row
		err := s.call(ctx, "claim jobs", claimTimeout, func(ctx context.Context) (err error) {
			v.Got, rows, err = c.ClaimVacant(ctx, reads[0])
			return err
		})
		if err == nil {
			v.Reading = s.reading(reads, rows)
			s.claimed(v.Got)
			s.out.Vacant(v)
			s.out.Scheduled(ctx)
			return nil
		}
		if s.unlessLocked(err) != nil {
			return err
		}
		s.claimAfter = s.heard.Add(lockedPause)
	}
	s.out.Vacant(Vacant{})
	return s.claimAll(ctx, nil, reads)
}
