package odoo

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// The limits of looks at jobs that wait.
const (
	ReleaseLimit      = releaseLimit
	ReleaseLimitOfOne = releaseLimitOfOne
	WaitingLimit      = waitingLimit
)

// Unlock gives back one of the locks that a session holds, as if it had been lost.
func Unlock(ctx context.Context, s driver.Session, which int) error {
	c := s.(*session)
	return c.conn.Unlock(ctx, c.lockKeys[which])
}
