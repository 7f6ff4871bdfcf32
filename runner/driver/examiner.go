package driver

import (
	"context"

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
	// DriverState is what a task of this database has for [Driver.Run].
	DriverState string
}
