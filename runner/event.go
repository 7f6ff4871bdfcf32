package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// EventKind names what happened. The set is fixed: logs, metrics, Caddy's events
// and the admin API's stream all speak of these.
type EventKind string

// The kinds of events. Each names the fields that it fills beyond Time, Kind and
// Runner; those of one job also fill Database, UUID, Channel and, when the
// database tells them, Model, Method and Retry.
const (
	// EventClaimed: jobs of Database were marked enqueued (Count).
	EventClaimed EventKind = "claimed"
	// EventDispatched: a job was sent to Upstream, after Wait (Dispatch).
	EventDispatched EventKind = "dispatched"
	// EventAnswered: the request for a job ended (Upstream, Outcome, Status, Run;
	// Detail is the error). How the job ended is told by one of those that follow.
	EventAnswered EventKind = "answered"

	// EventJobDone and the next five end an attempt, each attempt once (Upstream,
	// Outcome and Status as far as a request of this process was involved, Wait, Run).
	EventJobDone EventKind = "job_done"
	// EventJobFailed: the application marked the job failed; or a rescue did, because it was
	// found dead and had no attempt left (Outcome "dead").
	EventJobFailed EventKind = "job_failed"
	// EventJobRetried: the job is pending again, because it was put back.
	EventJobRetried EventKind = "job_retried"
	// EventJobNotRun: the job was put back because its request did not run it (Detail).
	EventJobNotRun EventKind = "job_not_run"
	// EventJobRescued: the job was found dead and put back (Outcome "dead").
	EventJobRescued EventKind = "job_rescued"
	// EventJobGone: the job was cancelled or deleted, or its database is not
	// served any more (Detail).
	EventJobGone EventKind = "job_gone"

	// EventJobLost: the request for a job ended but the job may go on; it is
	// watched from now on (Upstream, Outcome, Status).
	EventJobLost EventKind = "job_lost"
	// EventUnclaimed: a claimed job is about to be put back (Detail: why).
	EventUnclaimed EventKind = "unclaimed"

	// EventTimeoutWarned and the next four say how far an attempt is with the time limit of its policy
	// (Upstream; Detail says what is done, or why nothing can be): the limit comes near.
	EventTimeoutWarned EventKind = "timeout_warned"
	// EventTimeoutReached: it has passed.
	EventTimeoutReached EventKind = "timeout_reached"
	// EventTimeoutCancelled: the attempt's statement was cancelled for the first time.
	EventTimeoutCancelled EventKind = "timeout_cancelled"
	// EventTimeoutTerminated: its connection to the database was closed.
	EventTimeoutTerminated EventKind = "timeout_terminated"
	// EventTimeoutStuck: it goes on all the same, or cannot be ended, and keeps its slot.
	EventTimeoutStuck EventKind = "timeout_stuck"

	// EventDatabaseReady: the jobs of Database are run.
	EventDatabaseReady EventKind = "database_ready"
	// EventDatabaseUnhealthy: Database cannot be served (Detail).
	EventDatabaseUnhealthy EventKind = "database_unhealthy"
	// EventDatabaseLost: the connection to Database failed (Detail).
	EventDatabaseLost EventKind = "database_lost"
	// EventDatabaseHeld: the jobs of Database are held back (Detail).
	EventDatabaseHeld EventKind = "database_held"
	// EventDatabaseUpgrading: the jobs of Database wait, because the application is being changed there
	// (Detail). EventDatabaseReady ends it.
	EventDatabaseUpgrading EventKind = "database_upgrading"
	// EventDatabaseStandby: another runner serves Database (Detail: which).
	EventDatabaseStandby EventKind = "database_standby"
	// EventResynced: a snapshot of Database ended (Count: jobs that it changed).
	EventResynced EventKind = "resynced"
	// EventResyncRepaired: a snapshot found what no notification had told (Count).
	EventResyncRepaired EventKind = "resync_repaired"
	// EventDependentsReleased: jobs of Database were released that dead workers had left waiting for
	// others (Count; UUID is one of them).
	EventDependentsReleased EventKind = "dependents_released"
	// EventNotifications: notifications of Database arrived (Count).
	EventNotifications EventKind = "notifications"

	// EventLeaderChanged: this process leads the runner (Detail "leading"), or
	// does not any more (Detail: who does, or why).
	EventLeaderChanged EventKind = "leader_changed"
	// EventUpstreamUp: Upstream takes jobs.
	EventUpstreamUp EventKind = "upstream_up"
	// EventUpstreamUnhealthy: Upstream takes no jobs (Detail).
	EventUpstreamUnhealthy EventKind = "upstream_unhealthy"
	// EventUpstreamDrained: an operator began to drain Upstream (Detail: who).
	EventUpstreamDrained EventKind = "upstream_drained"
	// EventUpstreamUndrained: an operator ended that (Detail: who).
	EventUpstreamUndrained EventKind = "upstream_undrained"
	// EventChannelBlocked: a job failed in a sequential Channel, which runs
	// nothing until it is dealt with (Database and UUID of the job).
	EventChannelBlocked EventKind = "channel_blocked"
	// EventJobQuarantined: a job has done harm too often and was failed, as the [EventJobFailed]
	// before it says, too (all that that one has; Detail: after how many attempts).
	EventJobQuarantined EventKind = "job_quarantined"
	// EventPaused: an operator paused Database, Channel, or, with neither,
	// everything (Detail: who and why).
	EventPaused EventKind = "paused"
	// EventResumed: that ended.
	EventResumed EventKind = "resumed"
	// EventObjectiveBurns: more jobs than the objective of a policy allows wait too long (Detail: of which,
	// and how many).
	EventObjectiveBurns EventKind = "objective_burns"
	// EventObjectiveKept: that ended (Detail: of which policy).
	EventObjectiveKept EventKind = "objective_kept"
)

// EventKinds returns every kind.
func EventKinds() []EventKind {
	return []EventKind{
		EventClaimed, EventDispatched, EventAnswered, EventJobDone, EventJobFailed, EventJobRetried, EventJobNotRun,
		EventJobRescued, EventJobGone, EventJobLost, EventUnclaimed, EventTimeoutWarned, EventTimeoutReached, EventTimeoutCancelled,
		EventTimeoutTerminated, EventTimeoutStuck, EventDatabaseReady, EventDatabaseUnhealthy,
		EventDatabaseLost, EventDatabaseHeld, EventDatabaseUpgrading, EventDatabaseStandby, EventResynced, EventResyncRepaired,
		EventDependentsReleased, EventNotifications, EventLeaderChanged, EventUpstreamUp, EventUpstreamUnhealthy, EventUpstreamDrained,
		EventUpstreamUndrained, EventChannelBlocked, EventJobQuarantined, EventPaused, EventResumed,
		EventObjectiveBurns, EventObjectiveKept,
	}
}

// Final reports whether events of the kind end an attempt at a job.
func (k EventKind) Final() bool {
	switch k {
	case EventJobDone, EventJobFailed, EventJobRetried, EventJobNotRun, EventJobRescued, EventJobGone:
		return true
	default:
		return false
	}
}

// Waited reports whether the event ends an attempt that was really started, and
// tells how long that was waited for.
func (ev *Event) Waited() bool {
	return ev.Kind.Final() && ev.Kind != EventJobNotRun && ev.Outcome != driver.NotSent.String() && ev.Wait > 0
}

// Event is something that happened. Fields that do not apply are zero. It holds
// neither arguments of jobs nor secrets.
type Event struct {
	Time     time.Time
	Kind     EventKind
	Runner   string
	Database string
	UUID     string
	// Channel is the full name.
	Channel       string
	Model, Method string
	Upstream      string
	// Outcome is how the request ended, in the words of [driver.Outcome], or "dead"
	// if a rescue ended the attempt.
	Outcome string
	// Status is the HTTP status of the answer.
	Status int
	// Wait is the time from a job's creation, or its eta, to its dispatch. It is
	// above 0 whenever it is known.
	Wait time.Duration
	// Dispatch is the time from the scheduler's choice to the dispatch.
	Dispatch time.Duration
	// Run is the time from its dispatch to its end. For a job that was found
	// running it is not known, and zero.
	Run time.Duration
	// Retry is the number of attempts before this one.
	Retry int32
	// Priority is that of the job, the lowest first, as it was when it was sent. It is told where Wait is.
	Priority int32
	Count    int
	// Exception is the name of the one with which a job failed (job_failed), if the database tells it.
	Exception string
	// Policy is whose objective is meant (objective_burns, objective_kept).
	Policy string
	Detail string
}
