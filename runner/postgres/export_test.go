package postgres

import "context"

// HolderIsOurs tells whether the holder of a lock counts as a runner like this one, for a maintenance
// connection or another one.
func HolderIsOurs(ctx context.Context, c *Conn, key int64, leads bool) bool {
	c.leads = leads
	classid, objid := lockHalves(key)
	h, err := c.lockHolder(ctx, classid, objid)
	return err == nil && h.ours
}
