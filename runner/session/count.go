package session

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	countTimeout = 5 * time.Second
	// countInterval is the time between two counts of the jobs of a database that cannot be served,
	// and countRetry that after one that failed.
	countInterval = time.Minute
	countRetry    = time.Hour
)

// count counts the jobs of a database that cannot be served, if the driver can. If it cannot, their
// number stays unknown, and that is no reason to treat the database otherwise.
func (s *Session) count(ctx context.Context) {
	counter, ok := s.conn.(driver.Counter)
	if !ok || time.Now().Before(s.countAt) {
		return
	}
	s.countAt = time.Now().Add(countRetry)
	var c channels.Count
	err := s.call(ctx, "count the jobs", countTimeout, func(ctx context.Context) (err error) {
		c, err = counter.Count(ctx)
		return err
	})
	if err == nil {
		s.countAt = time.Now().Add(countInterval)
		s.out.Counted(c)
	}
}
