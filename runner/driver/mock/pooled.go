package mock

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var (
	_ driver.PoolDriver = (*Driver)(nil)
	_ driver.Poller     = (*session)(nil)
)

// OpenPooled implements [driver.PoolDriver]. The configuration is ignored.
func (d *Driver) OpenPooled(ctx context.Context, _ *pgx.ConnConfig, name string) (driver.Session, error) {
	opened, err := d.OpenSession(ctx, nil, name)
	if err != nil {
		return nil, err
	}
	s := opened.(*session) //nolint:forcetypeassert // it is ours
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	s.pooled = true
	return s, nil
}

// Polls implements [driver.Poller].
func (s *session) Polls() bool { return s.pooled }

// writes are the methods that another runner excludes, and Probe, which finds it out.
var writes = []string{"Claim", "Unclaim", "FailUnclaimed", "Rescue", "FailDead", "FailStopped", "Probe"}

// excluded is the error of a session through a pooler while another runner has the lock.
func (s *session) excluded(method string) error {
	if !s.pooled || s.db.foreign == "" || !slices.Contains(writes, method) {
		return nil
	}
	return s.failed(method, fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrRival))
}
