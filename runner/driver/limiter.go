package driver

import "context"

// Limiter is implemented by cluster connections that can tell how many connections PostgreSQL
// allows. It is optional: without it, a runner whose configuration sets no limit has none.
type Limiter interface {
	// Limits counts the connections. It changes nothing.
	Limits(ctx context.Context) (Limits, error)
}

// Limits are how many connections there may be, and how many there are, to all databases of the
// cluster together.
type Limits struct {
	// Server is how many connections there may be of roles without privileges, and ServerUsed how many
	// there are of all roles.
	Server, ServerUsed int
	// Role is how many connections the role may have, 0 without a limit, and RoleUsed how many it has.
	Role, RoleUsed int
	// Runners is how many of these belong to programs like this one.
	Runners int
	// Uncounted is set where PostgreSQL does not count what is written, so that a [Watcher] sees
	// nothing.
	Uncounted bool
}
