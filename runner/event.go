package runner

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
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
	// EventJobFailed: Odoo marked the job failed; or a rescue did, because it was
	// found dead and had no attempt left (Outcome "dead").
	EventJobFailed EventKind = "job_failed"
	// EventJobRetried: the job is pending again, because Odoo or somebody put it back.
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

	// EventDatabaseReady: the jobs of Database are run.
	EventDatabaseReady EventKind = "database_ready"
	// EventDatabaseUnhealthy: Database cannot be served (Detail).
	EventDatabaseUnhealthy EventKind = "database_unhealthy"
	// EventDatabaseLost: the connection to Database failed (Detail).
	EventDatabaseLost EventKind = "database_lost"
	// EventDatabaseHeld: the jobs of Database are held back (Detail).
	EventDatabaseHeld EventKind = "database_held"
	// EventDatabaseStandby: another runner serves Database (Detail: which).
	EventDatabaseStandby EventKind = "database_standby"
	// EventResynced: a full read of Database ended (Count: jobs that it changed).
	EventResynced EventKind = "resynced"
	// EventResyncRepaired: a full read found what no notification had told (Count).
	EventResyncRepaired EventKind = "resync_repaired"
	// EventNotifications: notifications of Database arrived (Count).
	EventNotifications EventKind = "notifications"

	// EventLeaderChanged: this process leads the runner (Detail "leading"), or
	// does not any more (Detail: who does, or why).
	EventLeaderChanged EventKind = "leader_changed"
	// EventUpstreamUp: Upstream takes jobs.
	EventUpstreamUp EventKind = "upstream_up"
	// EventUpstreamUnhealthy: Upstream takes no jobs (Detail).
	EventUpstreamUnhealthy EventKind = "upstream_unhealthy"
	// EventUpstreamDrained: somebody began to drain Upstream (Detail: who).
	EventUpstreamDrained EventKind = "upstream_drained"
	// EventUpstreamUndrained: somebody ended that (Detail: who).
	EventUpstreamUndrained EventKind = "upstream_undrained"
	// EventChannelBlocked: a job failed in a sequential Channel, which runs
	// nothing until somebody deals with it (Database and UUID of the job).
	EventChannelBlocked EventKind = "channel_blocked"
	// EventPaused: somebody paused Database, Channel, or, with neither,
	// everything (Detail: who and why).
	EventPaused EventKind = "paused"
	// EventResumed: that ended.
	EventResumed EventKind = "resumed"
)

// EventKinds returns every kind.
func EventKinds() []EventKind {
	return []EventKind{
		EventClaimed, EventDispatched, EventAnswered, EventJobDone, EventJobFailed, EventJobRetried, EventJobNotRun,
		EventJobRescued, EventJobGone, EventJobLost, EventUnclaimed, EventDatabaseReady, EventDatabaseUnhealthy,
		EventDatabaseLost, EventDatabaseHeld, EventDatabaseStandby, EventResynced, EventResyncRepaired,
		EventNotifications, EventLeaderChanged, EventUpstreamUp, EventUpstreamUnhealthy, EventUpstreamDrained,
		EventUpstreamUndrained, EventChannelBlocked, EventPaused, EventResumed,
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
	Retry  int32
	Count  int
	Detail string
}

// outcomeDead and deadDetail are the outcome and the detail of attempts that a
// rescue ended.
const (
	outcomeDead = "dead"
	deadDetail  = "the job was found dead"
)

// leadingDetail is the detail of [EventLeaderChanged] when this process leads.
const leadingDetail = "leading"

// newTaskID names an attempt: 32 hexadecimal digits, a W3C trace id.
func newTaskID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// emit hands an event to whoever listens.
func (e *engine) emit(ev Event) {
	cfg := e.config()
	if cfg.Events == nil {
		return
	}
	ev.Time, ev.Runner = time.Now(), cfg.Name
	cfg.Events(ev)
}

// emitLater is emit for other goroutines.
func (e *engine) emitLater(ev Event) { e.mail.post(func() { e.emit(ev) }) }

// trail is what is remembered of an attempt until it ends.
type trail struct {
	upstream string
	// channel is where it was dispatched.
	channel     string
	sent, ended time.Time
	wait        time.Duration
	outcome     string
	status      int
	// why says why the attempt came to nothing.
	why string
	// lost is set when it has been reported as such, rescued when it was found dead.
	lost, rescued bool
}

// of makes an event of an attempt.
func (t *task) of(kind EventKind, key channels.Key, channel string) Event {
	ev := Event{
		Kind: kind, Database: key.DB, UUID: key.UUID, Channel: channel,
		Model: t.attempt.Model, Method: t.attempt.Method, Retry: t.attempt.Retry,
		Upstream: t.trail.upstream, Outcome: t.trail.outcome, Status: t.trail.status, Wait: t.trail.wait,
	}
	if !t.trail.sent.IsZero() && !t.trail.ended.IsZero() {
		ev.Run = t.trail.ended.Sub(t.trail.sent)
	}
	return ev
}

// channelOf returns the full name of a known job's channel, empty if not known.
func (e *engine) channelOf(key channels.Key) string {
	job, _, ok := e.tree.Lookup(key)
	if !ok {
		return ""
	}
	return channels.Normalize(job.Channel)
}

// noteDispatch reports that a task is being sent.
func (e *engine) noteDispatch(key channels.Key, t *task, up string) {
	now := time.Now()
	t.trail = trail{upstream: up, sent: now}
	if job, _, ok := e.tree.Lookup(key); ok {
		t.trail.channel = channels.Normalize(job.Channel)
		// The clock of the database may be ahead of ours.
		t.trail.wait = max(1, now.Sub(time.UnixMicro(max(job.Created, job.ETA))))
	}
	ev := t.of(EventDispatched, key, t.trail.channel)
	if !t.chosen.IsZero() && len(t.tried) == 0 {
		ev.Dispatch = now.Sub(t.chosen)
	}
	e.emit(ev)
}

// noteAnswer reports that the request for a task ended.
func (e *engine) noteAnswer(key channels.Key, t *task, result driver.Result) {
	t.trail.outcome, t.trail.status, t.trail.ended = result.Outcome.String(), result.Status, time.Now()
	channel := t.trail.channel
	if channel == "" {
		channel = e.channelOf(key)
	}
	ev := t.of(EventAnswered, key, channel)
	if result.Err != nil {
		ev.Detail = result.Err.Error()
	}
	t.span.answered(&ev)
	e.emit(ev)
}

// noteLost reports, once, that a task goes on without its request.
func (e *engine) noteLost(key channels.Key, t *task) {
	if t.result == nil || t.trail.lost {
		return
	}
	t.trail.lost = true
	e.emit(t.of(EventJobLost, key, e.channelOf(key)))
}

// noteUnclaim reports that a task is being put back.
func (e *engine) noteUnclaim(key channels.Key, t *task) {
	switch {
	case t.result != nil && t.result.Err != nil:
		t.trail.why = t.result.Err.Error()
	case t.result != nil:
		t.trail.why = "Odoo answered without running it"
	case e.stopping:
		t.trail.why = "the runner is stopping"
	case t.trail.sent.IsZero() && t.row != nil:
		t.trail.why = "nobody started it"
	default:
		t.trail.why = "there is no upstream to send it to"
	}
	ev := t.of(EventUnclaimed, key, e.channelOf(key))
	ev.Detail = t.trail.why
	e.emit(ev)
}

// noteEnd reports the end of an attempt, before the tree forgets the job. What
// was only being claimed is none.
func (e *engine) noteEnd(key channels.Key, t *task) {
	if t.phase == phaseClaiming {
		return
	}
	var channel string
	if !t.gone && t.row.Channel != "" {
		channel = channels.Normalize(t.row.Channel)
	} else {
		channel = e.channelOf(key)
	}
	// A job that went on without its request ended just now.
	if t.trail.ended.IsZero() || t.trail.lost {
		t.trail.ended = time.Now()
	}
	kind, detail := e.ending(key, t)
	ev := t.of(kind, key, channel)
	ev.Detail = detail
	if kind == EventJobRescued || kind == EventJobFailed && t.trail.rescued {
		ev.Outcome = outcomeDead
	}
	e.logEnd(&ev)
	t.span.end(&ev)
	e.emit(ev)
	if kind != EventJobFailed {
		return
	}
	if st, ok := e.tree.Channel(key.DB, channel); ok && st.Sequential {
		e.emit(t.of(EventChannelBlocked, key, channel))
	}
}

// ending says what became of an attempt.
func (e *engine) ending(key channels.Key, t *task) (kind EventKind, detail string) {
	switch {
	case t.gone && e.databases[key.DB] == nil:
		return EventJobGone, "the database is not served any more"
	case t.gone:
		return EventJobGone, "the job was deleted"
	case t.row.State == channels.Done:
		return EventJobDone, ""
	case t.row.State == channels.Failed && t.trail.rescued:
		return EventJobFailed, deadDetail
	case t.row.State == channels.Failed:
		return EventJobFailed, ""
	case t.row.State == channels.Cancelled:
		return EventJobGone, "the job was cancelled"
	case t.trail.rescued:
		return EventJobRescued, deadDetail
	case t.trail.why != "" && t.phase == phaseUnclaiming:
		return EventJobNotRun, t.trail.why
	}
	return EventJobRetried, ""
}

// endings are the messages of the one log line that every attempt gets.
var endings = map[EventKind]string{
	EventJobDone:    "job done",
	EventJobFailed:  "job failed",
	EventJobRetried: "job retried",
	EventJobNotRun:  "job not run",
	EventJobRescued: "job rescued",
	EventJobGone:    "job gone",
}

// logEnd writes that line, with a logger of its own so that it can be selected.
func (e *engine) logEnd(ev *Event) {
	entry := e.log().Named("attempt").Check(zap.InfoLevel, endings[ev.Kind])
	if entry == nil {
		return
	}
	entry.Write(zap.String("database", ev.Database), zap.String("uuid", ev.UUID), zap.String("channel", ev.Channel),
		zap.String("model", ev.Model), zap.String("method", ev.Method), zap.Int32("retry", ev.Retry),
		zap.Duration("waited", ev.Wait), zap.Duration("ran", ev.Run), zap.String("upstream", ev.Upstream),
		zap.String("outcome", ev.Outcome), zap.Int("status", ev.Status), zap.String("detail", ev.Detail))
}

// stateEvents are the kinds of the states of a database that are events.
var stateEvents = map[DatabaseState]EventKind{
	DatabaseReady:       EventDatabaseReady,
	DatabaseUnhealthy:   EventDatabaseUnhealthy,
	DatabaseUnreachable: EventDatabaseLost,
	DatabaseHeld:        EventDatabaseHeld,
	DatabaseStandby:     EventDatabaseStandby,
}

// noteState reports a transition of a database.
func (e *engine) noteState(db *database) {
	if kind, ok := stateEvents[db.state]; ok {
		e.emit(Event{Kind: kind, Database: db.Name, Detail: db.detail})
	}
}

// notified implements listener.
func (e *engine) notified(s *session, n int) {
	e.postFor(s, func(db *database) {
		e.emit(Event{Kind: EventNotifications, Database: db.Name, Count: n})
	})
}
