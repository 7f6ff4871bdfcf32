package driver

import "context"

// Settler is implemented by sessions that can tell whether a database that has just been made is
// still being made: restored, copied, or set up by the application. Marks that keep its tasks from
// running may come last. It is optional; without it, such a database is served at once.
type Settler interface {
	// Unsettled names who is at work in the database, for an operator; empty if nobody seems to be.
	// sure is set if it is a tool that fills databases, and not somebody who may as well use it. It changes nothing.
	Unsettled(ctx context.Context) (who string, sure bool, err error)
}
