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
	_ driver.Fenced     = (*session)(nil)
	_ driver.Fencer     = (*cluster)(nil)
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

// Fence implements [driver.Fencer].
func (c *cluster) Fence(key int64) driver.Fence { return driver.Fence{PID: c.pid, Key: key} }

// SetFence implements [driver.Fenced].
func (s *session) SetFence(fence func() driver.Fence) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.fence = fence
}

// writes are the methods that another runner excludes, and Probe, which finds it out.
var writes = []string{"Claim", "ClaimVacant", "Unclaim", "FailUnclaimed", "Rescue", "FailDead", "FailStopped", "Probe"}

// excluded is the error of a session through a pooler while another runner has the lock, or another process
// leads.
func (s *session) excluded(method string) error {
	if !s.pooled || !slices.Contains(writes, method) {
		return nil
	}
	if s.fence != nil {
		f := s.fence()
		if leader := s.w.leaders[f.Key]; f.PID != 0 && (leader == nil || leader.pid != f.PID) {
			return s.failed(method, fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrDeposed))
		}
	}
	if s.db.foreign == "" {
		return nil
	}
	return s.failed(method, fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrRival))
}
