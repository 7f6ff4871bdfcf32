package runner

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

// outcomeDead and deadDetail are the outcome and the detail of attempts that a rescue ended.
const (
	outcomeDead = "dead"
	deadDetail  = "the job was found dead"
)

// leadingDetail is the detail of [EventLeaderChanged] when this process leads.
const leadingDetail = "leading"

// notes tell what happens: as events, in the log, and in the spans of attempts. They change nothing
// but the trails of tasks.
type notes struct {
	config func() Config
	tree   *channels.Forest
	// odd counts rows that nothing can be made of.
	odd map[oddity]*oddities
	// attempts is the logger of the ends of attempts, made of base.
	attempts, base *zap.Logger
}

// oddInterval is the time between two log lines of the same oddity: a database may hold millions of
// such rows, and each snapshot brings all of them again.
const oddInterval = time.Minute

// oddity is what is odd about rows of a database.
type oddity struct{ database, what string }

// oddities counts the rows since the last line about them.
type oddities struct {
	since time.Time
	more  int
}

// oddRow logs an odd row, unless one of the same kind was logged lately.
func (n *notes) oddRow(o oddity, message string, fields ...zap.Field) {
	if known := n.odd[o]; known != nil {
		known.more++
		return
	}
	if n.odd == nil {
		n.odd = make(map[oddity]*oddities)
	}
	n.odd[o] = &oddities{since: time.Now()}
	n.log().Error(message, append(fields, zap.String("database", o.database))...)
}

// countOdd logs how many odd rows have not been logged.
func (n *notes) countOdd(now time.Time) {
	for o, known := range n.odd {
		switch {
		case now.Sub(known.since) < oddInterval:
		case known.more == 0:
			delete(n.odd, o)
		default:
			n.log().Error("more rows of this kind", zap.String("database", o.database), zap.String("kind", o.what),
				zap.Int("rows", known.more))
			known.since, known.more = now, 0
		}
	}
}

func (n *notes) log() *zap.Logger { return n.config().Logger }

// emit hands an event to those that listen.
func (n *notes) emit(ev Event) {
	cfg := n.config()
	if cfg.Events == nil {
		return
	}
	ev.Time, ev.Runner = time.Now(), cfg.Name
	cfg.Events(ev)
}

// trail is what is remembered of an attempt until it ends.
type trail struct {
	upstream string
	// channel is where it was dispatched.
	channel     string
	sent, ended time.Time
	wait        time.Duration
	priority    int32
	outcome     string
	status      int
	// why says why the attempt came to nothing.
	why string
	// quarantined says why it was failed in place of being put back; empty if it was not.
	quarantined string
	// lost is set when it has been reported as such, rescued when it was found dead.
	lost, rescued bool
}

// event makes an event of an attempt.
func (t *task) event(kind EventKind, key channels.Key, channel string) Event {
	ev := Event{
		Kind: kind, Database: key.DB, UUID: key.UUID, Channel: channel,
		Model: t.attempt.Model, Method: t.attempt.Method, Retry: t.attempt.Retry,
		Upstream: t.trail.upstream, Outcome: t.trail.outcome, Status: t.trail.status, Wait: t.trail.wait, Priority: t.trail.priority,
	}
	if !t.trail.sent.IsZero() && !t.trail.ended.IsZero() {
		ev.Run = t.trail.ended.Sub(t.trail.sent)
	}
	return ev
}

// channelOf returns the full name of a known job's channel, empty if not known.
func (n *notes) channelOf(key channels.Key) string {
	job, _, ok := n.tree.Lookup(key)
	if !ok {
		return ""
	}
	return channels.Normalize(job.Channel)
}

// dispatched reports that a task is being sent.
func (n *notes) dispatched(key channels.Key, t *task, up string) {
	now := time.Now()
	t.trail = trail{upstream: up, sent: now}
	if job, _, ok := n.tree.Lookup(key); ok {
		t.trail.channel, t.trail.priority = channels.Normalize(job.Channel), job.Priority
		// The clock of the database may be ahead of ours.
		t.trail.wait = max(1, now.Sub(time.UnixMicro(max(job.Created, job.ETA))))
	}
	ev := t.event(EventDispatched, key, t.trail.channel)
	if !t.chosen.IsZero() && len(t.tried) == 0 {
		ev.Dispatch = now.Sub(t.chosen)
	}
	n.emit(ev)
}

// answered reports that the request for a task ended.
func (n *notes) answered(x *exchange.Exchange, t *task, result driver.Result) {
	key := x.Attempt.Key
	t.trail.outcome, t.trail.status, t.trail.ended = result.Outcome.String(), result.Status, time.Now()
	channel := t.trail.channel
	if channel == "" {
		channel = n.channelOf(key)
	}
	ev := t.event(EventAnswered, key, channel)
	if result.Err != nil {
		ev.Detail = result.Err.Error()
	}
	t.span.answered(&ev)
	n.emit(ev)
	if result.Outcome != driver.Answered {
		n.log().Error("exception in GET "+x.Upstream.Name, zap.String("database", key.DB),
			zap.String("uuid", key.UUID), zap.Stringer("outcome", result.Outcome),
			zap.Int("status", result.Status), zap.Error(result.Err))
	}
}

// lost reports, once, that a task goes on without its request.
func (n *notes) lost(key channels.Key, t *task) {
	if t.result == nil || t.trail.lost {
		return
	}
	t.trail.lost = true
	n.emit(t.event(EventJobLost, key, n.channelOf(key)))
}

// timeout reports how far an attempt is with its time limit.
func (n *notes) timeout(key channels.Key, t *task, stage TimeoutStage, now time.Time) {
	ev := t.event(timeoutStages[stage].kind, key, n.channelOf(key))
	ev.Detail = t.limit.describe(now)
	n.log().Warn("time limit "+stage.String(), zap.String("database", key.DB), zap.String("uuid", key.UUID),
		zap.String("channel", ev.Channel), zap.String("upstream", ev.Upstream), zap.String("detail", ev.Detail))
	n.emit(ev)
}

// unclaimed reports that a task is being put back.
func (n *notes) unclaimed(key channels.Key, t *task, stopping bool) {
	switch {
	case t.result != nil && t.result.Err != nil:
		t.trail.why = t.result.Err.Error()
	case t.result != nil:
		t.trail.why = n.config().application() + " answered without running it"
	case stopping:
		t.trail.why = "the runner is stopping"
	case t.trail.sent.IsZero() && t.row != nil:
		t.trail.why = "nobody started it"
	default:
		t.trail.why = "there is no upstream to send it to"
	}
	ev := t.event(EventUnclaimed, key, n.channelOf(key))
	ev.Detail = t.trail.why
	n.emit(ev)
}

// ended reports the end of an attempt, before the tree forgets the job. What was only being claimed
// is none. served is whether the job's database is.
func (n *notes) ended(key channels.Key, t *task, served bool) {
	if t.phase == phaseClaiming {
		return
	}
	var channel string
	if !t.gone && t.row.Channel != "" {
		channel = channels.Normalize(t.row.Channel)
	} else {
		channel = n.channelOf(key)
	}
	// A job that went on without its request ended just now.
	if t.trail.ended.IsZero() || t.trail.lost {
		t.trail.ended = time.Now()
	}
	kind, detail := t.ending(served)
	ev := t.event(kind, key, channel)
	ev.Detail = detail
	if kind == EventJobFailed {
		ev.Exception = t.row.Exception
	}
	if kind == EventJobRescued || kind == EventJobFailed && t.trail.rescued {
		ev.Outcome = outcomeDead
	}
	n.logEnd(&ev)
	t.span.end(&ev)
	n.emit(ev)
	if kind != EventJobFailed {
		return
	}
	if t.trail.quarantined != "" {
		ev.Kind = EventJobQuarantined
		n.emit(ev)
	}
	if st, ok := n.tree.Channel(key.DB, channel); ok && st.Sequential {
		n.emit(t.event(EventChannelBlocked, key, channel))
	}
}

// ending says what became of an attempt.
func (t *task) ending(served bool) (kind EventKind, detail string) {
	switch {
	case t.gone && (!served || t.unserved):
		return EventJobGone, "the database is not served any more"
	case t.gone:
		return EventJobGone, "the job was deleted"
	case t.row.State == channels.Done:
		return EventJobDone, ""
	case t.row.State == channels.Failed && t.trail.quarantined != "":
		return EventJobFailed, "quarantined: " + t.trail.quarantined
	case t.row.State == channels.Failed && t.trail.rescued && !t.limit.accounts():
		return EventJobFailed, deadDetail
	case t.row.State == channels.Failed && t.limit != nil && t.limit.ended != nil:
		return EventJobFailed, "it was ended: " + t.limit.ended.String() + " has a time limit of " + t.limit.ended.Timeout.After.String()
	case t.row.State == channels.Failed:
		return EventJobFailed, ""
	case t.row.State == channels.Cancelled:
		return EventJobGone, "the job was cancelled"
	case t.row.State == channels.Unknown:
		return EventJobGone, "the job is in a state that is not known"
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

// logEnd writes that line, with its own logger so that it can be selected.
func (n *notes) logEnd(ev *Event) {
	if base := n.log(); n.base != base {
		n.attempts, n.base = base.Named("attempt"), base
	}
	entry := n.attempts.Check(zap.InfoLevel, endings[ev.Kind])
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
	DatabaseUpgrading:   EventDatabaseUpgrading,
	DatabaseStandby:     EventDatabaseStandby,
}

// state reports a transition of a database.
func (n *notes) state(db *database) {
	if kind, ok := stateEvents[db.state]; ok {
		n.emit(Event{Kind: kind, Database: db.Name, Detail: db.reason})
	}
}

// repaired tells of jobs that a snapshot put right although a notification should have. That is a sign
// of a mistake somewhere. named are the jobs that notifications have named meanwhile,
// nil if there were too many.
func (n *notes) repaired(db *database, named map[string]struct{}) {
	if named == nil {
		db.repairs = nil // which were missed cannot be told
		return
	}
	missed := slices.DeleteFunc(db.repairs, func(uuid string) bool {
		_, ok := named[uuid]
		return ok
	})
	db.repairs = nil
	if len(missed) > 0 {
		n.emit(Event{Kind: EventResyncRepaired, Database: db.Name, Count: len(missed)})
		n.log().Warn("a full read repaired what no notification had told", zap.String("database", db.Name),
			zap.Int("jobs", len(missed)), zap.String("first", missed[0]))
	}
}

// pause reports the begin or end of a pause.
func (n *notes) pause(kind EventKind, p *Pause) {
	n.log().Info("jobs "+string(kind), zap.String("database", p.Database), zap.String("channel", p.Channel),
		zap.Stringer("pause", p))
	n.emit(Event{Kind: kind, Database: p.Database, Channel: p.Channel, Detail: p.String()})
}

// drain reports the begin or end of a drain.
func (n *notes) drain(kind EventKind, d Drain) {
	n.log().Info(fmt.Sprintf("%s: %s", kind, d.Upstream), zap.String("by", d.By), zap.String("note", d.Note))
	n.emit(Event{Kind: kind, Upstream: d.Upstream, Detail: d.By})
}
