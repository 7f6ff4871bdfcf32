package driver

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// Driver speaks the job contract of one application. It is safe for concurrent use.
type Driver interface {
	// Capabilities declares the optional abilities. The answer is always the same, and takes no
	// time.
	Capabilities() Capabilities

	// OpenCluster opens the maintenance connection of a PostgreSQL cluster, to the database that pg
	// names.
	OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (Cluster, error)

	// OpenSession opens the connection to one database. It takes no lock and changes nothing.
	OpenSession(ctx context.Context, pg *pgx.ConnConfig, database string) (Session, error)

	// Check reports whether an upstream would accept a task now: nil when it does. It never runs
	// one. An upstream that accepted the connection but did not answer before ctx ended gives an
	// error for which [ErrNoAnswer] holds: its workers may all be busy.
	Check(ctx context.Context, up Upstream) error

	// Run starts a claimed task on an upstream and waits until the application answered or the
	// exchange broke. It is sent at most once. The result is a hint: the row decides.
	Run(ctx context.Context, up Upstream, t Task) Result
}

// Cluster is the maintenance connection. It is owned by one goroutine.
type Cluster interface {
	// Databases lists the databases that may hold jobs. Without patterns these are the ones that
	// the application itself would list. Patterns are globs; a leading "!" excludes.
	Databases(ctx context.Context, patterns []string) ([]Database, error)

	// Busy lists the databases that are being dropped, renamed or copied right now, by name.
	// PostgreSQL waits five seconds for other connections to leave before it gives up on that.
	Busy(ctx context.Context) ([]string, error)

	// Lead tries to take the leader lock and reports who has it. Calling it again while holding it
	// is a check that it is still held.
	Lead(ctx context.Context, key int64) (Lock, error)

	// Unlead gives the leader lock back.
	Unlead(ctx context.Context, key int64) error

	// Close closes the connection; that releases the lock.
	Close(ctx context.Context) error
}

// Database is one database of a cluster.
type Database struct {
	Name string
	// OID tells a database from an earlier one of the same name.
	OID uint32
}

// Lock is the outcome of an attempt to take an advisory lock.
type Lock struct {
	// Held is true when this connection has the lock.
	Held bool
	// Holder describes the session that has it instead, for example "pid 4711, application odoo-14,
	// host 10.0.0.5"; empty if not known.
	Holder string
}

// Health is how well a task can be run. The words are Nomad's.
type Health uint8

const (
	// Undetected: there is nothing for this driver, and that is normal.
	Undetected Health = iota
	// Unhealthy: the application is there but cannot be served now.
	Unhealthy
	// Healthy: tasks can be claimed and run.
	Healthy
	// Neutralized: the application marks the database as a copy for trials, whose tasks must not
	// run, and that is normal. They can be listed and changed.
	Neutralized
)

// String returns the word.
func (h Health) String() string {
	switch h {
	case Undetected:
		return "undetected"
	case Unhealthy:
		return "unhealthy"
	case Healthy:
		return "healthy"
	case Neutralized:
		return "neutralized"
	}
	return "invalid"
}

// Fingerprint is what a driver found in a database.
type Fingerprint struct {
	Health Health
	// Description says why, in one sentence for an operator.
	Description string
	// Generation names the variant of the contract that the database speaks, for example
	// "queue_job+lock".
	Generation string
	// Version is the version of the add-on as installed.
	Version string
	// Locks is true when a lock row proves that a started task is alive.
	Locks bool
	// Unguarded is true when the application itself does not keep two requests for one task from
	// running it twice at the same time. A task that a request may still be waiting for must then
	// not be put back.
	Unguarded bool
	// Warnings are sentences for an operator about what does not hinder the service but should be
	// put right.
	Warnings []string
}

// Session is the one connection to a database that holds the lock, listens, reads and claims; so a
// session that lost its lock cannot claim any more. It is owned by one goroutine. Calls after a
// lost connection return errors for which [ErrLost] holds.
type Session interface {
	// Fingerprint reports what is there. It changes nothing. It must have been called before any of
	// the methods below.
	Fingerprint(ctx context.Context) (Fingerprint, error)

	// Lock tries to become the only runner of this database, excluding other programs that speak
	// the same contract.
	Lock(ctx context.Context) (Lock, error)

	// Listen starts collecting notifications. It is committed on return. Where the application
	// leaves it to its runner to install what notifies, Listen installs what the fingerprint found
	// missing; that is the only change to a database beyond its jobs. It is called with the lock
	// held.
	Listen(ctx context.Context) error

	// Running reads the jobs that are enqueued or started. Other than a snapshot, it takes no longer
	// where many jobs wait: a new leader must know what runs before it starts anything.
	Running(ctx context.Context) ([]Row, error)

	// Snapshot reads every job that is not finished, and the failed ones.
	Snapshot(ctx context.Context, yield func(Row)) error

	// Read returns the rows of the given jobs; a job without a row is gone.
	Read(ctx context.Context, uuids []string) ([]Row, error)

	// Claim marks those of the given jobs enqueued that are pending, in one committed statement,
	// and returns those that are enqueued then. In the same round trip it reads others as Read
	// does; these rows are as they were before the claim. It claims nothing in a database whose
	// tasks must not run any more, as [ErrChanged] then tells.
	Claim(ctx context.Context, uuids, others []string) ([]Task, []Row, error)

	// Unclaim puts tasks back to pending that certainly never reached an upstream, provided their
	// rows are still as the claim left them. It returns the rows that it changed.
	Unclaim(ctx context.Context, tasks []Task) ([]Row, error)

	// Inspect tells, without disturbing the application, whether tasks are alive.
	Inspect(ctx context.Context, uuids []string) ([]Liveness, error)

	// Rescue puts those of the given dead tasks back that are still dead when it checks again, in
	// the same statement. It returns the rows it changed. Where no lock row can prove anything, it
	// puts those back that are expired and whose rows are unchanged.
	Rescue(ctx context.Context, dead []Liveness) ([]Row, error)

	// Wait blocks until at least one notification has arrived, and returns all that have. When ctx
	// ends first it returns the zero value and no error, and the session remains usable: ctx is how
	// the owner interrupts the wait. Notifications that this session caused itself are in Echoes
	// and not in Changed; no notification is ever lost, also not one that arrives while another
	// method runs.
	Wait(ctx context.Context) (Notifications, error)

	// Probe proves within ctx that the session is alive, writable, still listening and still
	// holding its lock, and that the database is what its fingerprint says, or returns
	// [ErrChanged].
	Probe(ctx context.Context) error

	// Close closes the connection; that releases the lock.
	Close(ctx context.Context) error
}

// Notifications is what arrived on a session.
type Notifications struct {
	// Changed holds the uuids of jobs that others changed, without duplicates.
	Changed []string
	// Echoes holds the uuids of jobs that this session's statements changed: those that they name,
	// and what triggers of others add to them.
	Echoes []string
	// Reload is set when the application announced a changed configuration.
	Reload bool
	// Overflow is set when more jobs were named than the session keeps: all jobs have to be read
	// anew.
	Overflow bool
}

// Row is the row of a job in the database.
type Row struct {
	channels.Job
	State channels.State
	// RawState is the state as the database spells it.
	RawState string
	// Enqueued is date_enqueued in microseconds since the Unix epoch, UTC; 0 if NULL.
	Enqueued int64
	// Retry is the number of attempts so far.
	Retry int32
	// Exception is the name of the exception with which the job failed; empty in any other state, where
	// the database does not tell, and in what [Session.Snapshot] reads.
	Exception string
	// Nameless is set for a row whose uuid is NULL. No request can name it, so it never runs; only
	// [Session.Snapshot] finds it.
	Nameless bool
}

// Task is one attempt at one job.
type Task struct {
	channels.Key
	// Enqueued is the date_enqueued that the claim wrote, in microseconds since the Unix epoch,
	// UTC. With the key it identifies the attempt.
	Enqueued int64

	// ID names the attempt in logs on both sides: 32 lower-case hexadecimal digits, which are a
	// trace id of W3C Trace Context too. The engine chooses it when it sends the task; empty
	// before.
	ID string
	// Model, Method and Retry, the number of attempts before this one, are what the claim found in
	// the row, for people. Zero when it does not tell.
	Model, Method string
	Retry         int32

	// Trace is the context of the attempt's trace, as the propagator in force writes it: names with
	// their values. A driver whose requests have headers sends them along. The engine sets it when
	// it sends the task. Default: nil, the attempt is not traced.
	Trace map[string]string

	// DriverState is what a driver's Claim wants to tell its own Run. Others only carry it.
	// Default: nothing.
	DriverState string
}

// Same reports whether two tasks are the same attempt.
func (t *Task) Same(o *Task) bool {
	return t.Key == o.Key && t.Enqueued == o.Enqueued && t.ID == o.ID
}

// Verdict is what is known about a task.
type Verdict uint8

const (
	// Uncertain: nothing proves it alive or dead. It must not be started again.
	Uncertain Verdict = iota
	// Alive: it is being run.
	Alive
	// Dead: it is not being run, as far as the database can tell.
	Dead
)

// String returns the word.
func (v Verdict) String() string {
	switch v {
	case Uncertain:
		return "uncertain"
	case Alive:
		return "alive"
	case Dead:
		return "dead"
	}
	return "invalid"
}

// Liveness is the result of an inspection.
type Liveness struct {
	Row Row
	// Gone is set when the job has no row any more.
	Gone    bool
	Verdict Verdict
	// Expired is set by the engine for a started task that nothing proves alive or dead when the
	// operator's limit for such tasks has passed.
	Expired bool
	// PID is the backend that runs the task, 0 if not known.
	PID uint32
	// Age is the time since the task was claimed, by the database's clock; 0 when the row does not
	// tell.
	Age time.Duration
}

// Outcome says how an exchange with an upstream ended.
type Outcome uint8

const (
	// Answered: the application answered, whatever it said.
	Answered Outcome = iota
	// NotSent: not a byte of the request was delivered. The task did not start.
	NotSent
	// Broken: the exchange broke after the request may have been read.
	Broken
	// Refused: an answer that did not come from the application, or said that it cannot run this
	// task (a redirect, a login page, an unknown route). It concerns one database, not the
	// upstream.
	Refused
	// Unavailable: an answer that says that the upstream cannot run any task now. To the engine, it
	// is down until a check succeeds. Whether the task was started is not known.
	Unavailable
)

// String returns the word. Operators know Unavailable as "refused", too: to them, what matters is
// that the answer was none of the application, and the status tells the two apart.
func (o Outcome) String() string {
	switch o {
	case Answered:
		return "answered"
	case NotSent:
		return "not_sent"
	case Broken:
		return "broken"
	case Refused, Unavailable:
		return "refused"
	}
	return "invalid"
}

// Result is how an exchange with an upstream ended.
type Result struct {
	Outcome Outcome
	// Status is the HTTP status, 0 without an answer.
	Status int
	// RetryAfter is how long the upstream asks not to be sent anything, when Outcome is Unavailable.
	// Default: 0, it does not ask.
	RetryAfter time.Duration
	// Err says what went wrong; nil when Outcome is Answered.
	Err error
}

// ErrLost is matched, with errors.Is, by errors after which a session or cluster connection cannot
// be used any more.
var ErrLost = errors.New("connection lost")

// ErrChanged is matched, with errors.Is, by the errors of a session whose database is not what its
// fingerprint says any more. The engine then examines it on a new connection.
var ErrChanged = errors.New("the database has changed")

// ErrUpgrading is matched, with errors.Is, by the errors of a [Session] whose statements would have had
// to wait for too long for what somebody has locked, as an upgrade of the application does. Nothing was
// claimed or changed, what an earlier fingerprint says still holds, and the session can be used. The
// engine tries again later; only after [Session.Unclaim], and before a session serves, it connects anew.
var ErrUpgrading = errors.New("the application is being changed")

// ErrTooLong is matched, with errors.Is, by the errors of a [Releaser] that has stopped because it took
// too long. Nothing was changed, and the session can be used.
var ErrTooLong = errors.New("it takes too long")

// ErrTooMany is matched, with errors.Is, by the error of a connection that was refused because there
// are too many, not only to that database: another database would have been refused, too.
var ErrTooMany = errors.New("too many connections")

// ErrNoAnswer is matched, with errors.Is, by the error of [Driver.Check] when the upstream accepted
// the connection and did not answer in time.
var ErrNoAnswer = errors.New("no answer in time")
