package driver

import (
	"context"
	"time"
)

// Releaser is implemented by sessions of applications in which tasks wait for others, and whose
// workers release them: a worker that dies after a task was done, and before it has released those
// that waited for it, leaves them waiting for ever. It is optional, and declared by
// [Capabilities.Releases].
type Releaser interface {
	// Dependents returns the numbers of the tasks that wait for any of the given ones that are done;
	// with nil, of all that wait. Those come first that take longest to look at. It changes nothing. It
	// may give up with [ErrTooLong].
	Dependents(ctx context.Context, done []string) (ids []int64, err error)

	// Release makes those of the tasks pending that wait although all of those that they depend on
	// are done, in one statement, and returns their rows. It leaves alone a task of which one
	// parent was done less than quiet ago, or is among busy: its worker may be about to do
	// the same. Rows that others have locked are left out. It gives up with [ErrTooLong] after a time
	// that is longer for a single task; a caller then tries fewer.
	Release(ctx context.Context, ids []int64, quiet time.Duration, busy []string) ([]Row, error)
}
