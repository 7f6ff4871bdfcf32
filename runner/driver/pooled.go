package driver

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

// PoolDriver is implemented by drivers whose sessions can go through a connection pooler that gives
// each transaction another backend. It is optional; without it, a configuration that names a pooler is
// refused.
type PoolDriver interface {
	// OpenPooled is [Driver.OpenSession] through the pooler that pg names. The session has a [Poller],
	// [Session.Lock] only finds out whether another runner holds the lock, and whatever changes rows
	// takes it for as long as that lasts: if another runner holds it, nothing is changed, and the error
	// matches [ErrRival] and [ErrLost].
	OpenPooled(ctx context.Context, pg *pgx.ConnConfig, database string) (Session, error)
}

// Poller is implemented by sessions that may hear no notifications. It is optional.
type Poller interface {
	// Polls reports whether it hears none, so that all jobs have to be read every now and then.
	// [Session.Listen] then does nothing, and [Session.Wait] waits for the end of its context.
	Polls() bool
}

// ErrRival is matched, with errors.Is, by the errors of a session of a [PoolDriver] if another runner
// has taken the lock of the database.
var ErrRival = errors.New("another runner has taken the lock of the database")

// AsPoolDriver returns the driver's way through a pooler, and false if it does not declare or does not
// have one.
func AsPoolDriver(d Driver) (PoolDriver, bool) {
	if !d.Capabilities().Poolers {
		return nil, false
	}
	p, ok := d.(PoolDriver)
	return p, ok
}
