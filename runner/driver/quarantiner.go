package driver

import "context"

// Quarantiner is implemented by sessions that can fail a task in place of putting it back, because
// it has done harm too often. It is optional, and declared by [Capabilities.Quarantine].
//
// For each task there is a text in why, for users of the application: a first line that says what
// has happened, and details below it. It is added to what the row says about failures already.
// What fails that way has [QuarantineName] as the name of its exception, where the application keeps
// one.
type Quarantiner interface {
	// FailDead is [Session.Rescue], under the same conditions and in one statement as well, except
	// that the tasks end failed.
	FailDead(ctx context.Context, dead []Liveness, why []string) ([]Row, error)

	// FailUnclaimed is [Session.Unclaim], under the same conditions, except that the tasks end
	// failed.
	FailUnclaimed(ctx context.Context, tasks []Task, why []string) ([]Row, error)
}

// QuarantineName is the name of the exception with which such a task has failed.
const QuarantineName = "JobQuarantined"
