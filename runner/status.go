package runner

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// DatabaseState is how far a database is from being served.
type DatabaseState uint8

const (
	// DatabaseConnecting: a connection is being made.
	DatabaseConnecting DatabaseState = iota
	// DatabaseUnreachable: the last connection failed; it is tried again.
	DatabaseUnreachable
	// DatabaseUndetected: there is nothing to run, and no connection is kept.
	DatabaseUndetected
	// DatabaseUnhealthy: the add-on is there but cannot be served now.
	DatabaseUnhealthy
	// DatabaseStandby: another runner serves it.
	DatabaseStandby
	// DatabaseLoading: its jobs are being read.
	DatabaseLoading
	// DatabaseReady: its jobs are run.
	DatabaseReady
	// DatabaseHeld: its jobs wait, because the last ones were not run.
	DatabaseHeld
	// DatabaseYielding: it is being dropped, renamed or copied.
	DatabaseYielding
	// DatabaseNeutralized: it is a copy whose jobs must not run, and no connection
	// is kept.
	DatabaseNeutralized
	// DatabaseUpgrading: its jobs wait, because the application is being changed.
	DatabaseUpgrading
	// DatabaseWaiting: no connection is free for it.
	DatabaseWaiting
	// DatabaseAsleep: it has nothing to do, and its connection serves another one.
	DatabaseAsleep
)

var databaseStateNames = [...]string{
	DatabaseConnecting:  "connecting",
	DatabaseUnreachable: "unreachable",
	DatabaseUndetected:  "undetected",
	DatabaseUnhealthy:   "unhealthy",
	DatabaseStandby:     "standby",
	DatabaseLoading:     "loading",
	DatabaseReady:       "ready",
	DatabaseHeld:        "held",
	DatabaseYielding:    "yielding",
	DatabaseNeutralized: "neutralized",
	DatabaseUpgrading:   "upgrading",
	DatabaseWaiting:     "waiting",
	DatabaseAsleep:      "asleep",
}

// String returns the word.
func (s DatabaseState) String() string {
	if int(s) < len(databaseStateNames) {
		return databaseStateNames[s]
	}
	return "invalid"
}

// ParseDatabaseState returns the state of that name, and false if there is none.
func ParseDatabaseState(name string) (DatabaseState, bool) {
	for s := range DatabaseState(len(databaseStateNames)) {
		if databaseStateNames[s] == name {
			return s, true
		}
	}
	return 0, false
}

// Status is what a runner is doing.
type Status struct {
	// Leader is true when this process leads the runner, and may claim jobs.
	Leader bool
	// LeaderKnown is false as long as no process is known to lead.
	LeaderKnown bool
	// LeaderDetail says who leads instead, or why it is not known.
	LeaderDetail string
	// TakingOver is true while a new leader starts nothing because it does not
	// know yet what runs; Stopping after Stop was called.
	TakingOver, Stopping bool
	Databases            []DatabaseStatus
	Upstreams            []UpstreamStatus
	Channels             []ChannelStatus
	// DatabaseChannels is set when each database has its own channel tree.
	// MaxCapacity is then how many jobs may run in all of them together, and
	// Running how many do.
	DatabaseChannels     bool
	MaxCapacity, Running int
	// Counts are the jobs by database, channel and state. Those that have only been counted, because
	// their database cannot be served, count at root.
	Counts []channels.Count
	// Connections are those to PostgreSQL.
	Connections ConnectionsStatus
	// Controls are what operators have ordered.
	Controls Controls
	// Claiming, Open and Watched count the tasks being claimed, those whose
	// request is open, and those that run without a request of ours.
	Claiming, Open, Watched int
	// Overdue counts the attempts beyond their time limits. Stuck are those of them that a policy
	// wants to end and that could not be ended, in no particular order.
	Overdue int
	Stuck   []StuckTask
}

// ConnectionsStatus is how many connections to PostgreSQL a runner has, and may have.
type ConnectionsStatus struct {
	// Limit is how many it may have, 0 without a limit, and Reason says why. Used is how many it has.
	Limit, Used int
	Reason      string
	// Waiting is how many databases wait because no connection is free, Longest for how long the
	// first of them has.
	Waiting int
	Longest time.Duration
	// Refused says why PostgreSQL allows no more; empty if it does, as far as that is known.
	Refused string
}

// StuckTask is an attempt that could not be ended, and why.
type StuckTask struct {
	channels.Key
	Text string
}

// DatabaseStatus is what is known of one database.
type DatabaseStatus struct {
	Name   string
	State  DatabaseState
	Detail string
	// Fingerprint is what the driver found last.
	Fingerprint driver.Fingerprint
	// Woken is when it was woken, as long as it has not been served since; zero otherwise.
	Woken time.Time
	// HeldUntil is when a held database is tried again.
	HeldUntil time.Time
	// UpgradeSince is since when its jobs have waited for the end of an upgrade; zero if they do not.
	UpgradeSince time.Time
	// Pause is set while an operator has paused the database.
	Pause *Pause
	// Connected is since when there has been a session; zero without one. Heard
	// is when PostgreSQL was last heard on it, Synced when the last snapshot
	// ended, and Notifications how many notifications have arrived since the
	// database was found.
	Connected, Heard, Synced time.Time
	Notifications            uint64
	// The jobs by state: those in memory or, as long as they could not be read, as many as a query has
	// counted.
	Pending, Enqueued, Started, Failed int
	// JobsUnknown is set as long as the jobs could neither be read nor counted, or there may be more
	// since, because the database waits for a connection; the counts do not say how many there are.
	JobsUnknown bool
	// Sharing is how many of them share a channel, because the rows name too many. See
	// [channels.NamesPerDatabase].
	Sharing int
}

// freshWithin is how long a live session may have been silent: probes are sent
// in between.
const freshWithin = session.SilenceLimit + 5*time.Second

// Fresh reports whether the database has a session that was heard lately.
func (d *DatabaseStatus) Fresh(now time.Time) bool {
	return !d.Connected.IsZero() && now.Sub(d.Heard) < freshWithin
}

// JobsUnknown returns the databases whose jobs could neither be read nor counted.
func (st *Status) JobsUnknown() map[string]bool {
	var unknown map[string]bool
	for i := range st.Databases {
		if db := &st.Databases[i]; db.JobsUnknown {
			if unknown == nil {
				unknown = make(map[string]bool)
			}
			unknown[db.Name] = true
		}
	}
	return unknown
}

// Served reports whether the database should have a session of this runner.
func (d *DatabaseStatus) Served() bool {
	switch d.State {
	case DatabaseUndetected, DatabaseStandby, DatabaseYielding, DatabaseNeutralized, DatabaseAsleep:
		return false
	default:
		return true
	}
}

// ChannelStatus is what is known of one channel.
type ChannelStatus struct {
	channels.Status
	// Oldest is since when the longest waiting job that the channel holds has
	// been ready to start; zero if none waits. See [channels.Manager.Oldest].
	Oldest time.Time
	// Pause is set while an operator has paused the channel.
	Pause *Pause
}

// UpstreamStatus is what is known of one server.
type UpstreamStatus = upstream.Status

// TaskStatus is a job that occupies a slot, or has lost it because its row could not be read or changed
// for long.
type TaskStatus struct {
	channels.Key
	// Phase is where it is on its way: claiming, open, unclaiming, asked, watched.
	Phase string
	// Channel is the full name.
	Channel       string
	Model, Method string
	Retry         int32
	// ID is the request's id.
	ID       string
	Upstream string
	// Since is when it was sent, or, for one found running, when it was claimed.
	Since time.Time
	// Timeout is how far it is with its time limit; nil if it has none.
	Timeout *TaskTimeout
}

// TaskTimeout is how far an attempt is with its time limit.
type TaskTimeout struct {
	// Policy is the one that limits it, and After the limit. They are zero if it was lifted after
	// something had been done.
	Policy string
	After  time.Duration
	Stage  TimeoutStage
	// Text says it in one sentence; empty before any stage.
	Text string
}

// Status describes what the runner is doing.
func (r *Runner) Status(ctx context.Context) (st Status, err error) {
	err = r.ask(ctx, func(e *engine) { st = e.status(time.Now()) })
	return st, err
}

// Tasks lists the jobs that occupy slots or have lost them, in no particular order: see [TaskStatus].
func (r *Runner) Tasks(ctx context.Context) (tasks []TaskStatus, err error) {
	err = r.ask(ctx, func(e *engine) { tasks = e.taskList(time.Now()) })
	return tasks, err
}

// Coming tells how many jobs wait for their eta, unless they are too many; see [channels.Forest.Coming].
func (r *Runner) Coming(ctx context.Context, limit int) (list []channels.Coming, all bool, err error) {
	err = r.ask(ctx, func(e *engine) { list, all = e.tree.Coming(time.Now(), limit) })
	return list, all, err
}

// status describes what the engine is doing.
func (e *engine) status(now time.Time) Status {
	l := &e.leadership
	st := Status{
		Leader: l.leading, LeaderKnown: l.known, LeaderDetail: l.detail,
		TakingOver: l.leading && !l.settled, Stopping: e.shutdown.begun,
		Connections: e.connections.status(), Upstreams: e.pool.Status(), Counts: e.databases.withCounted(e.tree.Counts()), Controls: e.controls.clone(),
	}
	oldest := e.tree.Oldest(now)
	if e.config().DatabaseChannels != nil {
		st.Running, st.MaxCapacity = e.tree.Running()
		st.DatabaseChannels = true
	}
	for _, c := range e.tree.Channels() {
		st.Channels = append(st.Channels, ChannelStatus{
			Status: c, Oldest: oldest[channels.ID{DB: c.DB, Channel: c.FullName}], Pause: e.controls.pause("", c.FullName),
		})
	}
	st.Databases = e.databases.status(st.Counts)
	if e.claims() {
		st.Claiming++ // which is no task yet
	}
	for key, t := range e.tasks {
		switch t.phase {
		case phaseClaiming:
			st.Claiming++
		case phaseOpen:
			st.Open++
		case phaseUnclaiming, phaseAsked, phaseWatched:
			st.Watched++
		case phaseParked: // without a slot
		}
		if t.limit != nil && !t.slotless() {
			st.limited(key, t.limit, now)
		}
	}
	return st
}

// limited counts an attempt that may be beyond its time limit.
func (st *Status) limited(key channels.Key, l *limit, now time.Time) {
	if l.policy == nil {
		return
	}
	stage := l.is()
	if stage >= TimeoutReached {
		st.Overdue++
	}
	if stage == TimeoutStuck {
		st.Stuck = append(st.Stuck, StuckTask{Key: key, Text: l.describe(now)})
	}
}

var phaseNames = [...]string{
	phaseClaiming: "claiming", phaseOpen: "open", phaseUnclaiming: "unclaiming", phaseAsked: "asked", phaseWatched: "watched", phaseParked: "parked",
}

func (e *engine) taskList(now time.Time) []TaskStatus {
	list := make([]TaskStatus, 0, len(e.tasks))
	for key, t := range e.tasks {
		if t.phase == phaseParked {
			continue // it occupies none
		}
		list = append(list, TaskStatus{
			Key: key, Phase: phaseNames[t.phase], Channel: e.notes.channelOf(key),
			Model: t.attempt.Model, Method: t.attempt.Method, Retry: t.attempt.Retry, ID: t.attempt.ID,
			Upstream: t.trail.upstream, Since: t.began(), Timeout: t.limit.status(now),
		})
	}
	return list
}
