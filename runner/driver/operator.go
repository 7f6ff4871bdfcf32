package driver

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// Operator is implemented by drivers that can list jobs and change them by hand. It is optional,
// and declared by [Capabilities.Operations].
type Operator interface {
	// OpenOperations opens a short-lived connection to one database. It takes no lock, does not
	// listen and never claims. In a database without jobs it gives an error for which
	// [ErrUndetected] holds.
	OpenOperations(ctx context.Context, pg *pgx.ConnConfig, database string) (Operations, error)
}

// ErrUndetected is matched, with errors.Is, by the error of OpenOperations in a database that the
// driver has nothing to do with.
var ErrUndetected = errors.New("there are no jobs in this database")

// Operations is that connection. It is owned by one goroutine.
type Operations interface {
	// List returns up to limit jobs, the newest first, with ids below before; 0 begins with the
	// newest. One call looks at a bounded number of rows, whatever the size of the table: it may
	// return fewer jobs than there are, and says where the search goes on.
	List(ctx context.Context, f Filter, before int64, limit int) (Listed, error)

	// Record returns all that people may want to know of one job, with what is confidential only if
	// payloads is set; nil if there is no such job.
	Record(ctx context.Context, uuid string, payloads bool) (*Record, error)

	// Change does one batch of an action: the first of at most limit matching jobs in the order of
	// their ids, with ids above after. With dryRun it changes nothing and only tells what it would
	// do. Jobs whose state does not permit the action, and locked rows, are left out.
	Change(ctx context.Context, a Change, f Filter, after int64, limit int, dryRun bool) (Changed, error)

	// Close closes the connection.
	Close(ctx context.Context) error
}

// Filter selects jobs. All conditions must hold; the zero value selects all.
type Filter struct {
	UUIDs []string
	// Prefix selects jobs whose uuid begins with it.
	Prefix string
	States []channels.State
	// Channel selects those of a channel and of those below it.
	Channel string
	// Exception is the exact name of the exception with which a job failed.
	Exception string
	// OlderThan selects jobs that were created longer ago than this, NewerThan those that were
	// created within it.
	OlderThan, NewerThan time.Duration
	// Function is what a job calls: its model and method with a dot between them, or one of the two.
	Function string
	// Name is a part of the job's description, in any case of letters.
	Name string
	// Identity is the exact identity key.
	Identity string
}

// Narrow reports whether the filter selects by anything at all.
func (f *Filter) Narrow() bool {
	return len(f.UUIDs) > 0 || f.Prefix != "" || len(f.States) > 0 || f.Channel != "" || f.Exception != "" ||
		f.OlderThan > 0 || f.NewerThan > 0 || f.Function != "" || f.Name != "" || f.Identity != ""
}

// Listed are jobs that were found.
type Listed struct {
	Jobs []Detail
	// Next is the id below which there may be more; 0 if there are none.
	Next int64
}

// Detail is a job as people want to see it. It holds neither arguments nor results nor messages of
// exceptions, because these can be confidential. Times are zero where the row has none.
type Detail struct {
	Row
	Model, Method string
	// Name describes the job to people, IdentityKey is what no other unfinished job may have.
	Name, IdentityKey string
	MaxRetries        int32
	Exception         string
	Started, Done     time.Time
	// WaitsFor counts the jobs that this one depends on and that are not done, for a job that waits
	// for dependencies; FirstParent is one of them.
	WaitsFor    int
	FirstParent string
}

// RelativesLimit is how many relatives of a job a [Record] names at most.
const RelativesLimit = 500

// Record is a job with all that people may want to know of it. What the row does not have, or has no
// column for, is zero.
type Record struct {
	Detail
	Cancelled time.Time
	// Ran is how long it ran, as the application says.
	Ran time.Duration
	// Worker is the process id of the worker that ran it last.
	Worker        int64
	Company, User int64
	// Message is that of the exception, cut to 2,000 characters.
	Message string
	// Graph names the graph of jobs that it belongs to.
	Graph string
	// Relatives are the jobs that it waits for, and then those that wait for it: the first
	// [RelativesLimit]. MoreRelatives counts the others, and RelativesProblem says why there are none
	// although there may be some.
	Relatives        []Relative
	MoreRelatives    int
	RelativesProblem string
	// Page is the address of the job's page in the application; empty if that is not known. A
	// [Linker] knows it.
	Page string
	// Payload is nil unless it was asked for.
	Payload *Payload
}

// Relative is a job that another one depends on, or that depends on it.
type Relative struct {
	UUID string
	// Child is set if it depends on the other one.
	Child bool
	// State is what its row says; empty if there is no such row.
	State         string
	Model, Method string
}

// Payload is what of a job can be confidential.
type Payload struct {
	Traceback, Records, Arguments, Keywords, Result Text
}

// Text is the beginning of a text, and the number of bytes that the whole has.
type Text struct {
	Text  string
	Bytes int64
}

// Action is something that people do to jobs.
type Action uint8

const (
	// Requeue makes failed, cancelled and done jobs pending again, as the application itself does
	// when asked to: counters and dates are reset.
	Requeue Action = iota + 1
	// Cancel cancels jobs that wait or failed, and those that wait for nothing but them.
	Cancel
	// SetDone marks jobs done that wait or failed, and releases those that waited for nothing but
	// them.
	SetDone
	// Postpone gives pending jobs another eta.
	Postpone
)

// String returns the action in lower case with underscores.
func (a Action) String() string {
	switch a {
	case Requeue:
		return "requeue"
	case Cancel:
		return "cancel"
	case SetDone:
		return "set_done"
	case Postpone:
		return "postpone"
	}
	return "invalid"
}

// Permits reports whether the action may be done to a job in a state. A job that is enqueued or
// started belongs to the application, and is never touched.
func (a Action) Permits(s channels.State) bool {
	switch s {
	case channels.Pending:
		return a == Cancel || a == SetDone || a == Postpone
	case channels.WaitDependencies:
		return a == Cancel || a == SetDone
	case channels.Failed:
		return a == Cancel || a == SetDone || a == Requeue
	case channels.Cancelled, channels.Done:
		return a == Requeue
	default:
		return false
	}
}

// Permitted are the states that an action may find, restricted to the wanted ones; none are all.
func (a Action) Permitted(wanted []channels.State) (states []channels.State) {
	for s := channels.WaitDependencies; s <= channels.Failed; s++ {
		if a.Permits(s) && (len(wanted) == 0 || slices.Contains(wanted, s)) {
			states = append(states, s)
		}
	}
	return states
}

// Change is an action with what it needs.
type Change struct {
	Action Action
	// Until is the new eta of Postpone.
	Until time.Time
	// By names the person who wants it. It is part of the result of jobs set done or cancelled.
	By string
}

// Changed is the outcome of a batch.
type Changed struct {
	// UUIDs are the jobs that were, or would be, changed.
	UUIDs []string
	// Followed is the number of jobs that changed because they depended on those.
	Followed int
	// Last is the greatest id that was visited; More is set when there may be jobs with greater
	// ones.
	Last int64
	More bool
}
