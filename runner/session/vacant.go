package session

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// claimVacant reads one job and claims it, if it wants nothing but the slot that the listener has granted.
// The rows and the claim are told at once, so that nothing is scheduled in between.
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
