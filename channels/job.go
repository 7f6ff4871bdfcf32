package channels

import "fmt"

// Key identifies a job. A uuid alone does not: a cloned database holds the uuids of its original
// (docs/contract.md 5.4).
type Key struct {
	DB   string
	UUID string
}

// String returns "database/uuid".
func (k Key) String() string { return k.DB + "/" + k.UUID }

// Job is what the scheduler has to know of one row of queue_job.
type Job struct {
	Key

	// Channel is the name as the row has it: "root" may be left out, and the empty name means root
	// (docs/contract.md 1.2).
	Channel string

	// ID is the row's primary key, the last tie-break of the order.
	ID int64

	// Priority sorts first, smaller values earlier. Odoo's default is 10. A NULL priority counts as
	// 0.
	Priority int32

	// Created is date_created in microseconds since the Unix epoch, UTC.
	Created int64

	// Company is the id of the company that the job belongs to; 0 if it has none, or if no share asks
	// for it.
	Company int32

	// Identity stands for the identity key: jobs of one database that have the same have the same
	// key. 0 if it has none, or if no share asks for it.
	Identity uint64

	// ETA is the earliest start in microseconds since the Unix epoch, UTC. 0 means that there is
	// none (docs/contract.md 2.3).
	ETA int64
}

// State is the state of a job, as far as scheduling is concerned.
type State uint8

// The states of docs/contract.md 1.3.
const (
	// Unknown is a state this version has never heard of. It changes nothing.
	Unknown State = iota
	WaitDependencies
	Pending
	Enqueued
	Started
	Done
	Cancelled
	Failed
)

var stateNames = [...]string{
	Unknown:          "unknown",
	WaitDependencies: "wait_dependencies",
	Pending:          "pending",
	Enqueued:         "enqueued",
	Started:          "started",
	Done:             "done",
	Cancelled:        "cancelled",
	Failed:           "failed",
}

// ParseState reads a state as the database spells it. An empty state counts as done
// (docs/contract.md 1.3); one that is not known gives Unknown.
func ParseState(s string) State {
	if s == "" {
		return Done
	}
	for i := WaitDependencies; int(i) < len(stateNames); i++ {
		if stateNames[i] == s {
			return i
		}
	}
	return Unknown
}

// String returns the state as the database spells it.
func (s State) String() string {
	if int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", uint8(s))
	}
	return stateNames[s]
}

// Running reports whether a job in this state occupies a slot of its channel.
func (s State) Running() bool { return s == Enqueued || s == Started }

// Finished reports whether nothing is left to do for a job in this state unless it is requeued by
// hand.
func (s State) Finished() bool { return s == Done || s == Cancelled || s == Failed }
