package postgres

import (
	"context"
	"time"
)

// HolderIsOurs tells whether the holder of a lock counts as a runner like this one, for a maintenance
// connection or another one.
func HolderIsOurs(ctx context.Context, c *Conn, key int64, leads bool) bool {
	c.leads = leads
	classid, objid := lockHalves(key)
	h, err := c.lockHolder(ctx, classid, objid)
	return err == nil && h.ours
}

// Holder is what a rival learns of the session that holds a lock.
type Holder struct {
	PID              uint32
	Started, Changed time.Time
	Blocked          bool
	Idle             time.Duration
}

// HolderOf asks for it.
func HolderOf(ctx context.Context, c *Conn, key int64) (Holder, error) {
	classid, objid := lockHalves(key)
	h, err := c.lockHolder(ctx, classid, objid)
	if h.pid == nil {
		return Holder{}, err
	}
	return Holder{*h.pid, h.started, h.changed, h.blocked, h.idle}, err
}

// AwaitLock waits for a lock whose holder is about to exit.
func AwaitLock(ctx context.Context, c *Conn, key int64) (bool, error) { return c.awaitLock(ctx, key) }

// WaitForExit is how long it waits at least for a holder that does not.
const WaitForExit = (exitChecks - 1) * exitInterval
