package session

import (
	"context"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Listener is told what one session finds out about its database. Its methods are called from the
// session's goroutine and must not block, except SnapshotRows and Scheduled.
type Listener interface { //nolint:interfacebloat // what a session tells is one thing each
	// State reports a step towards readiness or a reason why not. detail is the error, or, for
	// [Standby], who has the lock.
	State(state State, detail string)
	Fingerprinted(fp driver.Fingerprint)
	// Channels brings the channels that are configured in the database; err says why there are none
	// that could be used.
	Channels(cfgs []channels.Config, err error)

	// Upgrading tells whether the database is being upgraded, so that nothing is claimed, and what is
	// seen of that: when the option is on, on each connection, and whenever it changes.
	Upgrading(u driver.Upgrade)

	// Counted brings the number of the jobs of a database that cannot be served.
	Counted(c channels.Count)
	// Running brings the jobs that are enqueued or started: before the first snapshot of a connection,
	// because that can take long; and, whenever it is examined, those of a neutralized database.
	Running(rows []driver.Row)

	// SnapshotBegin, SnapshotRows and SnapshotEnd bring a snapshot. SnapshotRows may block until the
	// listener has caught up; it reports whether it has taken all earlier rows, so that their memory
	// can be used again. named are the jobs that notifications have named and that have not been read
	// since; nil if more were named than were kept. keys are what the rows tell the jobs apart by.
	SnapshotBegin()
	SnapshotRows(ctx context.Context, rows []driver.Row) (earlier bool)
	SnapshotEnd(named map[string]struct{}, keys driver.Keys)

	// Rows brings rows that were read.
	Rows(r Reading)
	// Claimed brings the result of a claim.
	Claimed(c Claims)
	// Vacant answers [Session.Grant] when it was used: the row of one job, and the job itself if it was
	// claimed. Where that could not be tried, it is empty. [Session.Answered] is to be called then.
	Vacant(v Vacant)
	// Scheduled returns when the listener has taken in what it was told, and has given its orders.
	Scheduled(ctx context.Context)
	// Unclaimed brings the tasks that were to be put back, and the rows of those that were.
	Unclaimed(tasks []driver.Task, changed []driver.Row)
	Inspected(found []driver.Liveness)
	Rescued(rows []driver.Row)
	// Stopped brings what became of the attempts that were to be ended. err says why nothing is known
	// of them; they may be ordered again.
	Stopped(attempts []driver.Task, stopped []driver.Stopped, terminate bool, err error)
	// Accounted brings the rows that were changed for these causes; err says why none was.
	Accounted(causes []driver.Cause, changed []driver.Row, err error)
	// Asleep answers [Session.Sleep]: there was nothing to do, the connection is closed, and the session
	// has ended. Orders that it was given meanwhile were not carried out. Awake is the other answer: it
	// goes on.
	Asleep(r driver.Rest)
	Awake()
	// Released brings the rows of the jobs that were released.
	Released(rows []driver.Row)
}

// State is how far a session is that does not serve its database.
type State uint8

const (
	// Connecting: a connection is being made.
	Connecting State = iota
	// Settling: the database is new, and somebody may still be making it.
	Settling
	// Waiting: no connection is free for it; detail says why.
	Waiting
	// Unreachable: no connection could be established.
	Unreachable
	// Standby: another program holds the database's lock.
	Standby
	// Lost: the connection that served the database has ended.
	Lost
	// Changed: the same, because the database cannot be served as before.
	Changed
)

// Reading is the result of a read.
type Reading struct {
	Rows []driver.Row
	// Gone are the jobs that have no row.
	Gone []string
	// Read is the number of the last call of [Session.Read] that this answers.
	Read uint64
	// Notified is the number of notifications of others' changes that have arrived since the
	// reading before.
	Notified int
	// Locked is set if no row can be read now, or nothing inspected, because a table is locked, and nothing
	// else is: the orders to read are answered later, those to inspect not at all.
	Locked bool
}

// Claims is the result of a claim: the tasks that were got, and how the rows look of jobs that were
// not. Gone are those without a row. Locked are those that were not got, and whose rows cannot be read
// now, because the table is locked. Refused is set, and nothing else is, if the claim met a lock of the
// table, as others would.
type Claims struct {
	Got     []driver.Task
	Missed  []driver.Row
	Gone    []string
	Locked  []string
	Refused bool
}

// Vacant is what became of a grant.
type Vacant struct {
	Reading Reading
	Got     []driver.Task
}
