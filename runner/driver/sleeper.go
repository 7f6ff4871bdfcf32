package driver

import (
	"context"
	"time"
)

// Sleeper is implemented by sessions whose databases can do without a connection as long as there is
// nothing to do, because a [Watcher] shows whether something has been written there. It is optional:
// without it, a database keeps its connection.
type Sleeper interface {
	// Sleep reads how much has been written to the database, and after that, in another transaction,
	// what there is to do. The order matters: whatever is committed after the second has not been
	// counted by the first, so that it shows later. A pending job whose eta is further away than soon
	// is not to be done yet, nor are those whose uuids are barred. The session remains as it is.
	Sleep(ctx context.Context, soon time.Duration, barred []string) (Rest, error)
}

// Watcher is implemented by cluster connections that can tell of all databases, in one query, how
// much has been written to them. It is optional; see [Sleeper].
type Watcher interface {
	// Writes returns it by OID. What a transaction has written may be counted some seconds after its
	// end.
	Writes(ctx context.Context) (map[uint32]Writes, error)
}

// Writes tells how much has been written to a database. If two of them differ, something may have
// been written in between.
type Writes struct {
	// Rows counts rows that were inserted or updated, since Reset, which is in microseconds since the
	// Unix epoch, 0 if that is not known.
	Rows, Reset int64
}

// Rest is what a session finds before its database does without a connection.
type Rest struct {
	Writes Writes
	// Busy is set if there are jobs to be done, or that are being done.
	Busy bool
	// Next is the earliest eta of the others; zero if there is none.
	Next time.Time
}
