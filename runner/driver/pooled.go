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

// Fence is what shows, on any connection to the cluster, that this process leads: the backend of its
// maintenance connection holds the leader lock. The zero value shows nothing.
type Fence struct {
	PID uint32
	Key int64
}

// Fencer is implemented by cluster connections that can tell their [Fence]. It is optional.
type Fencer interface {
	// Fence returns that of a leader lock which the connection holds.
	Fence(key int64) Fence
}

// Fenced is implemented by sessions of a [PoolDriver] that change nothing as soon as this process does not
// lead: the error matches [ErrDeposed] and [ErrLost]. It is optional; other sessions of such a driver can go
// on for a moment when another process leads.
type Fenced interface {
	// SetFence gives the function that returns the present fence; a zero one is none, and so is no
	// function.
	SetFence(fence func() Fence)
}

// ErrDeposed is matched, with errors.Is, by the errors of a session that is [Fenced] if this process does not
// lead.
var ErrDeposed = errors.New("the connection for maintenance does not hold the leader lock on the server behind the pooler: " +
	"another process leads, or postgres and pooler lead to different servers")

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
