package driver

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Examiner is implemented by drivers that can tell more about a database to a person who sets a
// runner up than a [Fingerprint] does. It is optional, and declared by [Capabilities.Examination].
type Examiner interface {
	// Examine examines a database. It takes no lock and changes nothing.
	Examine(ctx context.Context, pg *pgx.ConnConfig, database string) (Examination, error)
}

// Examination is what an [Examiner] finds in a database.
type Examination struct {
	Fingerprint
	// Module is the add-on that a server must have loaded; empty if there is none.
	Module string
	// Holder describes the session that holds the runner's lock; empty if it is free.
	Holder string
	// Unstoppable says why no task of this database can be stopped, and what to do about it, as far as
	// that can be told before one runs; empty if nothing is known that forbids it. See [Stopper].
	Unstoppable string
	// StartedLimits are those after which the application itself puts back a task, whether it runs or
	// not; none where it does not, or where that cannot be seen.
	StartedLimits []StartedLimit
	// Upgrade says whether the application is being changed, as [Upgrader] does, and Marked since when
	// at the latest that has been ordered; zero if that is not known.
	Upgrade Upgrade
	Marked  time.Time
	// DriverState is what a task of this database has for [Driver.Run].
	DriverState string
}

// StartedLimit is how long a task may have been started before the application puts it back.
type StartedLimit struct {
	// After is that time. Default: 0, at once.
	After time.Duration
	// OfRequest is set where it is, in place of After, the application's own limit for one request, in
	// whole minutes, and a minute.
	OfRequest bool
}
