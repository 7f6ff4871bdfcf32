package mock

import (
	"context"
	"fmt"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Limiter = (*cluster)(nil)

// LimitConnections has PostgreSQL allow so many connections, of which others hold some; 0 is no
// limit. Those that there are stay.
func (w *World) LimitConnections(n, others int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.connections, w.others = n, others
}

// Connections counts the connections to databases and the maintenance connections, and says how many
// attempts were refused.
func (w *World) Connections() (open, refused int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open(), w.refusals
}

// open counts all connections of runners, with the mutex held.
func (w *World) open() int {
	n := len(w.clusters)
	for _, db := range w.databases {
		n += len(db.sessions)
	}
	return n
}

// crowded refuses a connection where there are too many, with the mutex held.
func (w *World) crowded() error {
	if w.connections == 0 || w.open()+w.others < w.connections {
		return nil
	}
	w.refusals++
	return fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrTooMany)
}

// Limits implements [driver.Limiter].
func (c *cluster) Limits(ctx context.Context) (l driver.Limits, err error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if err := c.reach(ctx, "Limits"); err != nil {
		return l, err
	}
	n := c.w.open()
	return driver.Limits{Server: c.w.connections, ServerUsed: n + c.w.others, RoleUsed: n, Runners: n, Uncounted: c.w.uncounted}, nil
}
