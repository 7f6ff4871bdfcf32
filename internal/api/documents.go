package api

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Pause is a pause that is in force.
type Pause struct {
	// Scope is "all", "database" or "channel".
	Scope    string `json:"scope"`
	Database string `json:"database,omitempty"`
	Channel  string `json:"channel,omitempty"`
	// Since is when it began, Until when it ends by itself: zero for never.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	By    string    `json:"by,omitempty"`
	Note  string    `json:"note,omitempty"`
}

// Drain keeps new jobs from an Odoo server.
type Drain struct {
	Upstream string    `json:"upstream"`
	Since    time.Time `json:"since,omitzero"`
	By       string    `json:"by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

// The values of [Status.State].
var (
	Ready    = runner.Ready.String()
	Degraded = runner.Degraded.String()
	NotReady = runner.NotReady.String()
)

// Status is one runner in GET /jobrunner/status.
type Status struct {
	Runner       string `json:"runner"`
	Leader       bool   `json:"leader"`
	LeaderKnown  bool   `json:"leader_known"`
	LeaderDetail string `json:"leader_detail,omitempty"`
	TakingOver   bool   `json:"taking_over,omitempty"`
	Stopping     bool   `json:"stopping,omitempty"`
	// State is ready, degraded or not_ready. Problems are why it is not ready, and
	// Warnings why it is degraded.
	State string `json:"state"`
	// Ready is what GET /jobrunner/ready says.
	Ready    bool     `json:"ready"`
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Served is how many databases are served, of the Expected ones that have jobs.
	Served   int        `json:"databases_served"`
	Expected int        `json:"databases_expected"`
	Tasks    TaskCounts `json:"tasks"`
	Jobs     JobCounts  `json:"jobs"`
	// JobsUnknown is the number of databases whose jobs could neither be read nor counted yet, or
	// that wait for a connection. Jobs lacks theirs, or some of them.
	JobsUnknown int `json:"databases_with_unknown_jobs,omitempty"`
	// DatabaseChannels is there if each database has its own channel tree.
	DatabaseChannels *Capacity `json:"database_channels,omitempty"`
	// OldestPending is the age of the longest waiting job.
	OldestPending *float64 `json:"oldest_pending_seconds,omitempty"`
	// Connections are those to PostgreSQL.
	Connections Connections `json:"connections"`
	// Databases counts them by state, Upstreams lists the servers.
	Databases map[string]int `json:"databases"`
	Upstreams []Upstream     `json:"upstreams"`
	Pauses    []Pause        `json:"pauses"`
	Drains    []Drain        `json:"drains"`
	// Burning are the objectives of policies that are not kept now. They do not make the runner degraded.
	Burning []BurningObjective `json:"burning_objectives,omitempty"`
}

// BurningObjective is an objective of which more jobs than it allows wait too long.
type BurningObjective struct {
	// Code is "objective_burns".
	Code   string    `json:"code"`
	Policy string    `json:"policy"`
	Since  time.Time `json:"since"`
	// Late is which part of the jobs of the last Window seconds waited longer than Wait seconds, and Allowed
	// which part may.
	Late    float64 `json:"late"`
	Allowed float64 `json:"allowed"`
	Window  float64 `json:"window_seconds"`
	Wait    float64 `json:"wait_seconds"`
	// Text says so, and what to do.
	Text string `json:"text"`
}

// Connections are the connections to PostgreSQL of one runner.
type Connections struct {
	// Limit is how many there may be, and Reason says why; 0 is without limit. Used is how many there
	// are.
	Limit  int    `json:"limit"`
	Reason string `json:"reason,omitempty"`
	Used   int    `json:"used"`
	// Waiting is how many databases wait for one, for Longest at most.
	Waiting int     `json:"databases_waiting"`
	Longest float64 `json:"longest_wait_seconds,omitempty"`
	// Refused says why PostgreSQL allows no more, although the limit does.
	Refused string `json:"refused,omitempty"`
}

// Capacity is how many jobs run in all databases together, and how many may.
type Capacity struct {
	MaxCapacity int `json:"max_capacity"`
	Running     int `json:"running"`
}

// TaskCounts counts the jobs that hold a slot, by phase.
type TaskCounts struct {
	Claiming int `json:"claiming"`
	Open     int `json:"open"`
	Watched  int `json:"watched"`
	// Overdue is how many of them are beyond their time limits, and Stuck how many of those could
	// not be ended.
	Overdue int `json:"overdue,omitempty"`
	Stuck   int `json:"stuck,omitempty"`
}

// JobCounts counts unfinished and failed jobs, by state.
type JobCounts struct {
	Pending  int `json:"pending"`
	Enqueued int `json:"enqueued"`
	Started  int `json:"started"`
	Failed   int `json:"failed"`
}

// Database is one database in GET /jobrunner/databases.
type Database struct {
	Runner   string `json:"runner"`
	Database string `json:"database"`
	State    string `json:"state"`
	Detail   string `json:"detail,omitempty"`
	// Cause says why the jobs of the database are not run, with what to do.
	Cause     string    `json:"cause,omitempty"`
	HeldUntil time.Time `json:"held_until,omitzero"`
	// UpgradeSince is since when its jobs have waited for the end of an upgrade.
	UpgradeSince time.Time `json:"upgrade_since,omitzero"`
	Health       string    `json:"health"`
	Description  string    `json:"description,omitempty"`
	Generation   string    `json:"generation,omitempty"`
	Version      string    `json:"version,omitempty"`
	Locks        bool      `json:"locks"`
	// Fresh is false when a served database has no session that was heard lately.
	Fresh bool `json:"fresh"`
	// SessionAge is how long there has been a session, HeardAge how long
	// PostgreSQL has been silent on it, SyncedAge how old the last snapshot is.
	SessionAge    *float64  `json:"session_age_seconds,omitempty"`
	HeardAge      *float64  `json:"heard_age_seconds,omitempty"`
	SyncedAge     *float64  `json:"synced_age_seconds,omitempty"`
	Notifications uint64    `json:"notifications"`
	Jobs          JobCounts `json:"jobs"`
	// JobsUnknown is set as long as they could neither be read nor counted, or the database waits for a
	// connection, so that there may be more.
	JobsUnknown bool `json:"jobs_unknown,omitempty"`
	// SharedChannel is how many of the jobs share a channel because the rows name too many.
	SharedChannel int    `json:"jobs_in_shared_channel,omitempty"`
	Pause         *Pause `json:"pause,omitempty"`
}

// Channel is one channel in GET /jobrunner/channels.
type Channel struct {
	Runner string `json:"runner"`
	// Database is left out in a tree of all databases.
	Database   string `json:"database,omitempty"`
	Channel    string `json:"channel"`
	Configured bool   `json:"configured"`
	// Capacity 0 means no limit.
	Capacity   int     `json:"capacity"`
	Sequential bool    `json:"sequential,omitempty"`
	Throttle   float64 `json:"throttle_seconds,omitempty"`
	// Paused is set by the configuration or, with Pause, by an operator.
	Paused         bool `json:"paused"`
	PausedByConfig bool `json:"paused_by_configuration,omitempty"`
	Queued         int  `json:"queued"`
	// Held is how many jobs wait in no queue, because their database is not served
	// or is paused.
	Held int `json:"held,omitempty"`
	// PassedBy is how many of the Queued a policy holds back, by a limit, serialize or a pool, so that others
	// pass them.
	PassedBy int `json:"passed_by,omitempty"`
	// JobsUnknown is set as long as there may be more jobs, because those of a database could neither
	// be read nor counted, or it waits for a connection.
	JobsUnknown    bool      `json:"jobs_unknown,omitempty"`
	Running        int       `json:"running"`
	Failed         int       `json:"failed"`
	ThrottledUntil time.Time `json:"throttled_until,omitzero"`
	// Auto is whether Capacity follows what the servers bear.
	Auto bool `json:"capacity_auto,omitempty"`
	// Percent is how much of the capacity of the channel above Capacity is.
	Percent int `json:"capacity_percent,omitempty"`
	// Min is how many slots of the channel above others may not take while this one has jobs.
	Min int `json:"min,omitempty"`
	// Window is what a policy puts in the place of Capacity at present.
	Window *Window `json:"window,omitempty"`
	// Rate is how many jobs may start in a time.
	Rate *Rate `json:"rate,omitempty"`
	// RateWaits is how many databases have jobs that wait for the rate of their database, and RateNext
	// when the first of them may start one.
	RateWaits     int       `json:"rate_waits,omitempty"`
	RateNext      time.Time `json:"rate_next,omitzero"`
	OldestPending *float64  `json:"oldest_pending_seconds,omitempty"`
	Pause         *Pause    `json:"pause,omitempty"`
}

// Window is a capacity for certain times that is in force.
type Window struct {
	// Capacity is how many jobs may run at once; with 0, none starts.
	Capacity int `json:"capacity"`
	// Line is the window as the policy has it, Until when another one is in force, or none.
	Line  string    `json:"line"`
	Until time.Time `json:"until,omitzero"`
}

// Rate limits the starts of jobs.
type Rate struct {
	// Line is the rate as the policy has it.
	Line string `json:"line"`
	// Available is how many jobs may start at once now, and at Next it is one more.
	Available int       `json:"available"`
	Next      time.Time `json:"next,omitzero"`
}

// Upstream is one Odoo server in GET /jobrunner/upstreams.
type Upstream struct {
	// Runner is left out where the document is about one runner.
	Runner   string `json:"runner,omitempty"`
	Upstream string `json:"upstream"`
	// Pool is the one that it belongs to; left out if it belongs to none.
	Pool string `json:"pool,omitempty"`
	Up   bool   `json:"up"`
	// Reason says why it is not up.
	Reason string `json:"reason,omitempty"`
	// Until is when it may be up again at the earliest, because it has asked to be left alone.
	Until time.Time `json:"until,omitzero"`
	// InFlight is the number of open requests of this process there.
	InFlight int `json:"in_flight"`
	// Visitors is how many requests of others this process has under way there; left out where that is
	// not known.
	Visitors *int `json:"visitors,omitempty"`
	// Workers, MaxJobs and Reserve are its limits; each is left out if it has none.
	Workers int `json:"workers,omitempty"`
	MaxJobs int `json:"max_jobs,omitempty"`
	Reserve int `json:"reserve,omitempty"`
	// Full says why it gets no more jobs now, although it is up.
	Full  string `json:"full,omitempty"`
	Drain *Drain `json:"drain,omitempty"`
	// SafeToStop is set when it is drained and runs no job of this process.
	SafeToStop bool `json:"safe_to_stop,omitempty"`
}

// Task is a job that holds a slot, in GET /jobrunner/tasks.
type Task struct {
	Runner   string `json:"runner"`
	Database string `json:"database"`
	UUID     string `json:"uuid"`
	// Phase is one of claiming, open, unclaiming, asked and watched.
	Phase   string `json:"phase"`
	Channel string `json:"channel,omitempty"`
	Model   string `json:"model,omitempty"`
	Method  string `json:"method,omitempty"`
	Retry   int32  `json:"retry"`
	// ID is that of the request, which Odoo's log can have, too.
	ID       string   `json:"request_id,omitempty"`
	Upstream string   `json:"upstream,omitempty"`
	Age      *float64 `json:"age_seconds,omitempty"`
	// Timeout is how far it is with its time limit; left out without one.
	Timeout *Timeout `json:"timeout,omitempty"`
}

// Timeout is how far an attempt is with the time limit of a policy.
type Timeout struct {
	// Policy is the one, and After its limit. They are left out if the limit was lifted after
	// something had been done.
	Policy string  `json:"policy,omitempty"`
	After  float64 `json:"after_seconds,omitempty"`
	// Stage is one of warned, reached, cancelled, terminated and stuck, and Text says the same for
	// people; both are left out before any of them.
	Stage string `json:"stage,omitempty"`
	Text  string `json:"text,omitempty"`
}

// Job is the row of a job, without its arguments and its result.
type Job struct {
	Runner     string    `json:"runner"`
	Database   string    `json:"database"`
	UUID       string    `json:"uuid"`
	ID         int64     `json:"id"`
	Channel    string    `json:"channel"`
	State      string    `json:"state"`
	Priority   int32     `json:"priority"`
	Model      string    `json:"model,omitempty"`
	Method     string    `json:"method,omitempty"`
	Name       string    `json:"name,omitempty"`
	Identity   string    `json:"identity,omitempty"`
	Retry      int32     `json:"retry"`
	MaxRetries int32     `json:"max_retries"`
	Exception  string    `json:"exception,omitempty"`
	Created    time.Time `json:"created,omitzero"`
	ETA        time.Time `json:"eta,omitzero"`
	Enqueued   time.Time `json:"enqueued,omitzero"`
	Started    time.Time `json:"started,omitzero"`
	Done       time.Time `json:"done,omitzero"`
}

// Why is the answer of GET /jobrunner/jobs/{database}/{uuid}: why a job does, or
// does not, run. What the fields mean depends on the code, see [runner.Why].
type Why struct {
	Runner   string `json:"runner"`
	Database string `json:"database"`
	UUID     string `json:"uuid"`
	// Why is the code, Text says the same for people.
	Why      string    `json:"why"`
	Text     string    `json:"text"`
	Until    time.Time `json:"until,omitzero"`
	Channel  string    `json:"channel,omitempty"`
	Capacity int       `json:"capacity,omitempty"`
	Running  int       `json:"running,omitempty"`
	// Ahead is how many jobs are before it; at least so many if AtLeast is set.
	Ahead    int       `json:"ahead,omitempty"`
	AtLeast  bool      `json:"ahead_at_least,omitempty"`
	Blocker  string    `json:"blocker,omitempty"`
	Upstream string    `json:"upstream,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	Pause    *Pause    `json:"pause,omitempty"`
	// Job is the row, Problem why it could not be read.
	Job     *Job   `json:"job,omitempty"`
	Problem string `json:"problem,omitempty"`
	// Record is the rest of the row.
	Record *Record `json:"record,omitempty"`
}

// Record is what the row of a job says beyond [Job].
type Record struct {
	// Timeline is when what happened to the job, the first first, as far as its row says.
	Timeline []Moment `json:"timeline"`
	// Page is the address of the job's form in Odoo, if Odoo's site is known.
	Page string `json:"page,omitempty"`
	// Message is that of the exception; it may be cut.
	Message string `json:"message,omitempty"`
	// Ran is how long the job ran, as Odoo says.
	Ran     float64 `json:"ran_seconds,omitempty"`
	Worker  int64   `json:"worker_pid,omitempty"`
	Company int64   `json:"company_id,omitempty"`
	User    int64   `json:"user_id,omitempty"`
	Graph   string  `json:"graph,omitempty"`
	// Relatives are the jobs that this one depends on, and those that depend on it, More how many
	// there are besides, and RelativesProblem why they cannot be told.
	Relatives        []Relative `json:"relatives"`
	More             int        `json:"more_relatives,omitempty"`
	RelativesProblem string     `json:"relatives_problem,omitempty"`
	// Payload is there only if the option payloads is set.
	Payload *Payload `json:"payload,omitempty"`
}

// Moment is when something happened to a job.
type Moment struct {
	// What is created, eta, enqueued, started, done, failed or cancelled, as the row says; or, as this
	// process has seen it lately, how an attempt ended: failed, retried, not run, rescued, lost or unclaimed,
	// or how far it was with its time limit.
	What string    `json:"what"`
	At   time.Time `json:"at"`
	// Upstream is the Odoo server of the attempt, Detail what else is known of its end.
	Upstream string `json:"upstream,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// Relative is a job of the same graph.
type Relative struct {
	// Relation is parent, which has to be done before, or child.
	Relation string `json:"relation"`
	UUID     string `json:"uuid"`
	// State is missing for a job that does not exist any more.
	State  string `json:"state"`
	Model  string `json:"model,omitempty"`
	Method string `json:"method,omitempty"`
}

// Payload is what of a job can be confidential.
type Payload struct {
	Traceback *Excerpt `json:"traceback,omitempty"`
	Records   *Excerpt `json:"records,omitempty"`
	Arguments *Excerpt `json:"arguments,omitempty"`
	Keywords  *Excerpt `json:"keywords,omitempty"`
	Result    *Excerpt `json:"result,omitempty"`
}

// Excerpt is a text that may be cut.
type Excerpt struct {
	Text string `json:"text"`
	// Bytes is how long the whole text is, if that is more than is here.
	Bytes int64 `json:"bytes,omitempty"`
}

// Event is the data of one event of GET /jobrunner/events. Two kinds are about
// the stream itself and have nothing but Event and Count: EventDropped and
// EventEnd.
type Event struct {
	Time     time.Time `json:"time"`
	Event    string    `json:"event"`
	Runner   string    `json:"runner"`
	Database string    `json:"database,omitempty"`
	UUID     string    `json:"uuid,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Model    string    `json:"model,omitempty"`
	Method   string    `json:"method,omitempty"`
	Upstream string    `json:"upstream,omitempty"`
	Outcome  string    `json:"outcome,omitempty"`
	Status   int       `json:"status,omitempty"`
	Wait     float64   `json:"wait_seconds,omitempty"`
	Run      float64   `json:"run_seconds,omitempty"`
	Retry    int32     `json:"retry,omitempty"`
	Count    int       `json:"count,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	// Exception is the name of the one with which a job failed, if Odoo tells it.
	Exception string `json:"exception,omitempty"`
}

// The events about the stream itself.
const (
	// EventDropped says how many events the reader has missed because it was too
	// slow, in Count.
	EventDropped = "dropped"
	// EventEnd is the last event of a stream: the configuration was reloaded, or
	// Caddy stops.
	EventEnd = "end"
)
