package driver

import "context"

// Stopper is implemented by sessions that can end attempts that run. It is optional, and declared
// by [Capabilities.Stopping].
type Stopper interface {
	// Stop signals the backend that executes each attempt, and no other one: it cancels the
	// backend's statement or, with terminate, ends its connection. Which backend that is, is found
	// out in the statement that signals it, so that a connection that serves another client by then
	// is left alone. There is one Stopped for each attempt, in their order.
	//
	// A signal is a request. A cancel does nothing to a backend that waits for its client between
	// two statements, which is what a job does that computes, sleeps, or calls another system. To
	// terminate always ends the transaction and frees the lock row, but the worker only learns of
	// it when it uses the database next, and runs until then: a lock row that is free proves an
	// attempt dead only if nothing was signalled or its exchange has ended, too.
	//
	// An error concerns the call, for example [ErrLost]; some of the attempts may have been
	// signalled then. To stop an attempt again does no harm.
	Stop(ctx context.Context, attempts []Task, terminate bool) ([]Stopped, error)

	// Account appends the cause to the rows of attempts that were stopped and ended failed, where
	// the application shows it to its users, and overwrites nothing. Those with Retry are made
	// pending again, unless they have used up their retries. Each is guarded by the row still being
	// that very attempt, as its claim and its failure left it; others are left alone, and so are
	// rows that another session has locked. It returns the rows that it changed. To account for the
	// same attempt again changes nothing.
	Account(ctx context.Context, causes []Cause) ([]Row, error)

	// FailStopped is [Session.Rescue] for attempts that were stopped and are not to be retried, under
	// the same conditions and in one statement as well, except that they end failed: their workers
	// did not live to write that. For each there is a text in why, for users of the application, which
	// is added to what the row says about failures already. The name of their exception is
	// [StoppedName], where the application keeps one.
	FailStopped(ctx context.Context, dead []Liveness, why []string) ([]Row, error)
}

// StoppedName is the name of the exception with which [Stopper.FailStopped] fails a task.
const StoppedName = "JobTimeLimitExceeded"

// StopResult says what became of the wish to stop an attempt.
type StopResult uint8

const (
	// NotRunning: no backend executes this attempt now. It has ended, or has not begun; or it holds
	// its lock in a way that its backend does not show for the moment. The caller may try again.
	NotRunning StopResult = iota
	// Signalled: PostgreSQL sent the signal.
	Signalled
	// Denied: the role may not signal that backend. This does not change before somebody grants it.
	Denied
	// Unstoppable: an attempt that cannot be told from others by its backend, or whose work another
	// backend does. It can only be waited for.
	Unstoppable
)

// String returns the word.
func (r StopResult) String() string {
	switch r {
	case NotRunning:
		return "not_running"
	case Signalled:
		return "signalled"
	case Denied:
		return "denied"
	case Unstoppable:
		return "unstoppable"
	}
	return "invalid"
}

// Stopped is what became of one attempt in [Stopper.Stop].
type Stopped struct {
	Task   Task
	Result StopResult
	// PID is the backend that executes the attempt, 0 if not known.
	PID uint32
	// Text says in one sentence why the attempt was not signalled, for an operator; empty for
	// Signalled.
	Text string
}

// Cause is why an attempt was stopped.
type Cause struct {
	Attempt Task
	// Text is for users of the application: one or a few sentences, without secrets.
	Text string
	// Retry makes the job pending again if it has retries left. Default: it stays failed.
	Retry bool
}
