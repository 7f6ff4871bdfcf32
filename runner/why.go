package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// Why says why a job does, or does not, run.
type Why struct {
	Key channels.Key
	// Found is true when there is such a job.
	Found bool
	// Code is the reason in lower case with underscores: one of
	// [channels.Reason], "database_" with a [DatabaseState], or one of the
	// Why constants.
	Code string
	// Text is the reason in one sentence.
	Text string
	// Until is when the reason goes away by itself; zero if that is not known.
	Until time.Time
	// Channel is the one that holds the job, with its Capacity and how many are
	// Running in it. Ahead jobs go before this one, or more if AtLeast is set.
	Channel           string
	Capacity, Running int
	Ahead             int
	AtLeast           bool
	// Blocker is the one other job that has to go first, if there is one.
	Blocker channels.Key
	// Upstream runs the job, since Since.
	Upstream string
	Since    time.Time
	// Pause is the one that holds the job.
	Pause *Pause
	// Detail is the row in the database; nil if it could not be
	// read, for the reason that Problem gives.
	Detail  *driver.Detail
	Problem string
	// Record is the rest of the row, if [Runner.Job] was asked.
	Record *driver.Record
}

// Reasons that the scheduler does not know.
const (
	WhyUnknownJob       = "unknown_job"
	WhyNotServed        = "database_not_served"
	WhyStandby          = "standby"
	WhyNoLeader         = "no_leader"
	WhyTakingOver       = "taking_over"
	WhyStopping         = "stopping"
	WhyNoUpstream       = "no_upstream"
	WhyDrained          = "upstreams_drained"
	WhyNoServer         = "no_server"
	WhyPaused           = "paused_all"
	WhyPausedDatabase   = "paused_database"
	WhyPausedChannel    = "paused_channel"
	WhyPausedConfig     = "paused_by_configuration"
	WhyRetryDelay       = "retry_delay"
	WhySuspected        = "suspected"
	WhyQuarantined      = "quarantined"
	WhyClaiming         = "claiming"
	WhyUnclaiming       = "unclaiming"
	WhyWatched          = "watched"
	WhyWaitDependencies = "wait_dependencies"
	WhyDone             = "done"
	WhyCancelled        = "cancelled"
	WhyUnread           = "not_read_yet"

	// Of a job that runs: how far it is with its time limit.
	WhyTimeoutWarned     = "timeout_warned"
	WhyTimeoutReached    = "timeout_reached"
	WhyTimeoutCancelled  = "timeout_cancelled"
	WhyTimeoutTerminated = "timeout_terminated"
	WhyTimeoutStuck      = "timeout_stuck"
)

// Explain says what the scheduler alone knows of a job; see [Runner.Why].
func (r *Runner) Explain(ctx context.Context, key channels.Key) (x channels.Explanation, known bool, err error) {
	err = r.ask(ctx, func(e *engine) { x, known = e.tree.Explain(key, time.Now()) })
	return x, known, err
}

// Why says why a job does, or does not, run: what the engine knows of it, and
// what the row says.
func (r *Runner) Why(ctx context.Context, key channels.Key) (Why, error) {
	return r.why(ctx, key, func(w *Why) error {
		page, err := r.Jobs(ctx, JobQuery{Database: key.DB, Filter: driver.Filter{UUIDs: []string{key.UUID}}, Limit: 1})
		switch {
		case err != nil:
			return err
		case len(page.Problems) > 0:
			return errors.New(page.Problems[0])
		case len(page.Jobs) > 0:
			w.Detail = &page.Jobs[0]
		}
		return nil
	})
}

// Job says of a job what [Runner.Why] does, and all that its row says. Its arguments, results and
// tracebacks are among that only with [Config.Payloads].
func (r *Runner) Job(ctx context.Context, key channels.Key) (Why, error) {
	return r.why(ctx, key, func(w *Why) error {
		if _, err := r.databaseNames(ctx, key.DB); err != nil {
			return err
		}
		err := r.operate(ctx, key.DB, func(ops driver.Operations) error {
			return timing.Within(ctx, operateTimeout, func(ctx context.Context) (err error) {
				w.Record, err = ops.Record(ctx, key.UUID, r.config().Payloads)
				return err
			})
		})
		if w.Record != nil {
			w.Detail = &w.Record.Detail
			if l, ok := r.config().Driver.(driver.Linker); ok && r.config().Site != "" {
				w.Record.Page = l.Page(r.config().Site, key.DB, w.Record.ID)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key.DB, err)
		}
		return nil
	})
}

// why asks the engine, and has read look for the row.
func (r *Runner) why(ctx context.Context, key channels.Key, read func(*Why) error) (w Why, err error) {
	w.Key = key
	known, releases := false, false
	err = r.ask(ctx, func(e *engine) { known, releases = w.ask(e, time.Now()), e.config().ReleaseDependents })
	if err != nil {
		return w, err
	}
	w.Found = known
	if !known && w.Code == WhyNotServed {
		return w, nil
	}
	defer func() {
		if w.Code == "" {
			w.say(WhyUnknownJob, "this process knows of no job %s in database %s", key.UUID, key.DB)
		}
	}()
	switch err := read(&w); {
	case err != nil:
		w.Problem = err.Error()
	case w.Detail == nil:
		w.Found = false
		w.say(WhyUnknownJob, "there is no job %s in database %s", key.UUID, key.DB)
	default:
		w.Found = true
		w.row(known, releases)
	}
	return w, nil
}

func (w *Why) say(code, format string, args ...any) {
	w.Code, w.Text = code, fmt.Sprintf(format, args...)
}

// row lets the row have its say: states in which nothing schedules the job, and
// what is known of a job that the engine does not know. releases is whether dependents are released.
func (w *Why) row(known, releases bool) {
	d := w.Detail
	switch d.State {
	case channels.Done:
		w.say(WhyDone, "the job is done")
	case channels.Cancelled:
		w.say(WhyCancelled, "the job was cancelled")
	case channels.Failed:
		if d.Exception == driver.QuarantineName {
			w.say(WhyQuarantined, "the job was quarantined, because too many attempts came to nothing, as it says itself; it runs again only if it is requeued")
			return
		}
		w.say(channels.ReasonFailed.String(), "the job failed%s and runs again only if it is requeued", with(" with ", d.Exception))
	case channels.WaitDependencies:
		w.dependent(releases)
	case channels.Enqueued, channels.Started:
		switch {
		case known:
		case w.Code == WhyStandby: // the leader is named
			w.say(channels.ReasonRunning.String(), "the job is %s; %s", d.State, w.Text)
		default:
			w.say(channels.ReasonRunning.String(), "the job is %s, and not watched by this process", d.State)
		}
	case channels.Pending:
		if w.Code == "" {
			w.say(WhyUnread, "the job is pending, and its notification has not been read yet")
		}
	default:
		w.say("unknown_state", "nobody knows what the state %q means", d.RawState)
	}
}

// dependent explains a job that waits for others.
func (w *Why) dependent(releases bool) {
	d := w.Detail
	switch {
	case d.WaitsFor == 0 && releases:
		w.say(WhyWaitDependencies, "all jobs that the job waits for are done, and nothing has released it yet: "+
			"if the worker has died that should have done so, the runner does it, soon or with the next full read of the jobs")
	case d.WaitsFor == 0:
		w.say(WhyWaitDependencies, "all jobs that the job waits for are done, and nothing has released it: "+
			"the worker may have died that should have done so, for which there is release_dependents")
	case d.WaitsFor == 1 && d.FirstParent != "":
		w.say(WhyWaitDependencies, "the job waits for one other job that is not done, %s", d.FirstParent)
	case d.FirstParent != "":
		w.say(WhyWaitDependencies, "the job waits for %d other jobs that are not done, %s among them", d.WaitsFor, d.FirstParent)
	default:
		w.say(WhyWaitDependencies, "the job waits for %d other jobs that are not done", d.WaitsFor)
	}
	if d.WaitsFor > 0 && d.FirstParent != "" {
		w.Blocker = channels.Key{DB: w.Key.DB, UUID: d.FirstParent}
	}
}

// with puts a prefix before what is not empty.
func with(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// ask fills in what the engine knows and reports whether it knows the job.
func (w *Why) ask(e *engine, now time.Time) (known bool) {
	if e.seats.pools() {
		e.room(now) // what the tree knows of it is as old as the last pass
	}
	x, known := e.tree.Explain(w.Key, now)
	if known {
		w.Channel, w.Capacity, w.Running, w.Ahead, w.AtLeast = x.Channel, x.Capacity, x.Running, x.Ahead, x.AtLeast
		w.Blocker, w.Until = x.Blocker, x.Until
	}
	db := e.databases.get(w.Key.DB)
	t := e.tasks[w.Key]
	claimed, since := e.claiming()
	switch {
	case t != nil && t.phase != phaseParked:
		w.task(e, t, now)
	case claimed.UUID != "" && claimed == w.Key:
		w.Since = since
		w.say(WhyClaiming, "the job is being claimed")
	case known && x.Reason == channels.ReasonFailed:
		w.say(x.Reason.String(), "the job failed and runs again only if it is requeued")
	case e.ending():
		w.say(WhyStopping, "this runner is stopping")
	case !e.leadership.leading && e.leadership.known:
		w.say(WhyStandby, "this process does not lead the runner, %s does: ask there", e.leadership.detail)
	case !e.leadership.leading:
		w.say(WhyNoLeader, "no process leads the runner%s", with(": ", e.leadership.detail))
	case db == nil:
		w.say(WhyNotServed, "database %s is not among those that this runner serves", w.Key.DB)
	case db.stage == stageAsleep && w.barred(e, db):
	case e.wake(db, session.Pressing):
		w.say("database_"+DatabaseAsleep.String(), "database %s is asleep: %s; it is connected now", db.Name, db.slept.detail())
	case db.state == DatabaseUpgrading:
		w.say("database_"+db.state.String(), "nothing of database %s starts while it is being upgraded, since %s: %s", db.Name,
			db.upgradeSince.UTC().Format(time.RFC3339), db.reason)
	case !db.stage.known() || db.untold || db.hidden || !db.hold.until.IsZero() || db.misconfigured != "":
		w.say("database_"+db.state.String(), "database %s is %s%s", db.Name, db.state, with(": ", db.reason))
		if w.Until = db.hold.until; db.state == DatabaseHeld {
			w.Text += ", next attempt at " + w.Until.UTC().Format(time.RFC3339) + (&DatabaseStatus{Detail: db.reason}).heldAdvice()
		}
	case e.pausedAll != nil:
		w.paused(WhyPaused, "everything", e.pausedAll)
	case db.pause != nil:
		w.paused(WhyPausedDatabase, "database "+db.Name, db.pause)
	case known:
		w.queued(e, x, now)
	}
	w.setbacks(e, now)
	return known || t != nil
}

// barred explains a job that has let its database sleep, because it cannot start for long. It reports
// whether it is one.
func (w *Why) barred(e *engine, db *database) bool {
	if !slices.Contains(db.barred.uuids, w.Key.UUID) {
		return false
	}
	switch {
	case e.pausedAll != nil:
		w.paused(WhyPaused, "everything", e.pausedAll)
	case db.pause != nil:
		w.paused(WhyPausedDatabase, "database "+db.Name, db.pause)
	default:
		return false
	}
	return true
}

// setbacks says how near a job is to its quarantine.
func (w *Why) setbacks(e *engine, now time.Time) {
	q := e.config().Quarantine
	if q == nil || w.Code == "" {
		return
	}
	if n := len(e.setbacks.counted(w.Key, now, q.Within)); n > 0 {
		w.Text += fmt.Sprintf("; %s came to nothing within %s, and a job with %d is quarantined", attempts(n), spell(q.Within), q.Attempts)
	}
}

func (w *Why) paused(code, what string, p *Pause) {
	w.say(code, "%s is %s", what, p)
	w.Pause, w.Until = p, p.Until
}

// task explains a job that occupies a slot.
func (w *Why) task(e *engine, t *task, now time.Time) {
	w.Upstream, w.Since = t.trail.upstream, t.began()
	if t.freed {
		w.locked(t, "", "its slot is for others")
		return
	}
	switch t.phase {
	case phaseClaiming:
		w.say(WhyClaiming, "the job is being claimed")
	case phaseOpen, phaseAsked:
		w.say(channels.ReasonRunning.String(), "the job has been running on %s since %s", w.Upstream, w.Since.UTC().Format(time.RFC3339))
	case phaseUnclaiming:
		w.say(WhyUnclaiming, "the job is being put back: %s", t.trail.why)
	case phaseParked: // the state of its database says it
	case phaseWatched:
		_, state, _ := e.tree.Lookup(w.Key)
		w.say(WhyWatched, "the job is %s without a request of this process, and is watched: %s", state, e.prospect(t))
		if !t.over.IsZero() && now.Sub(t.over) >= 2*scanInterval {
			w.locked(t, state.String()+" and ", "at "+t.over.Add(mysteryLimit).UTC().Format(time.RFC3339)+", others get its slot")
		}
	}
	if stage := t.limit.is(); stage != TimeoutNone {
		w.say("timeout_"+stage.String(), "%s; %s", w.Text, t.limit.describe(now))
	}
}

// locked explains a task whose row cannot be changed: what else it is, and what that means for its slot.
func (w *Why) locked(t *task, is, slot string) {
	w.say(WhyWatched, "the job is %snot known to run, and its row cannot be changed since %s: another transaction has locked the row or its table; %s",
		is, t.over.UTC().Format(time.RFC3339), slot)
}

// prospect says what becomes of a task that is watched.
func (e *engine) prospect(t *task) string {
	after := e.config().RescueStartedAfter
	switch {
	case t.forfeit():
		return "should it be dead, it ends failed"
	case !e.blinded(t):
		return "should it be dead, it is put back"
	case after > 0:
		return "its connection to the database was closed, so that nothing shows whether it goes on; unless its row changes, " +
			"it is put back at " + t.since.Add(after).UTC().Format(time.RFC3339)
	}
	return "its connection to the database was closed, so that nothing shows whether it goes on; it is left alone until its row changes"
}

// queued explains a job of a served database that waits.
func (w *Why) queued(e *engine, x channels.Explanation, now time.Time) {
	d := e.delays[w.Key]
	switch x.Reason {
	case channels.ReasonETA:
		if q := e.config().Quarantine; d.until > now.UnixMicro() && q != nil && e.setbacks.suspect(w.Key, now, q.Within) {
			w.say(WhySuspected, "the job died together with others and is not run beside these, the next attempt follows at %s", x.Until.Format(time.RFC3339))
			return
		}
		if d.until > now.UnixMicro() {
			w.say(WhyRetryDelay, "the last attempt came to nothing, the next one follows at %s", x.Until.Format(time.RFC3339))
			return
		}
		w.say(x.Reason.String(), "%s", x)
		return
	case channels.ReasonPaused:
		if p := e.controls.pause("", x.Channel); p != nil {
			w.paused(WhyPausedChannel, "channel "+x.Channel, p)
		} else if c := e.config().DatabaseChannels; c != nil && c.Of(w.Key.DB) <= 0 && x.Channel == "root" {
			w.say(WhyPausedConfig, "nothing runs in database %s: its db_max_capacity, or without one max_capacity, is 0", w.Key.DB)
		} else {
			w.say(WhyPausedConfig, "channel %s is paused by its configuration", x.Channel)
		}
		return
	case channels.ReasonSequentialFailed, channels.ReasonSequentialETA:
		w.say(x.Reason.String(), "%s", x)
		if e.tasks[x.Blocker] != nil {
			w.say(x.Reason.String(), "channel %s is sequential and waits for job %s, of which it is not known whether it has run, or whose row is locked",
				x.Channel, x.Blocker)
		}
		return
	default: // what follows may be the true cause
	}
	if !e.leadership.settled {
		w.say(WhyTakingOver, "this process has just become the leader and is finding out what runs")
		return
	}
	if !e.pool.Usable() {
		w.noUpstream(e.config().application(), e.pool.Status())
		return
	}
	w.say(x.Reason.String(), "%s", x)
	if e.room(now) > 0 && x.Reason != channels.ReasonNoRoom {
		return
	}
	switch x.Reason {
	case channels.ReasonNoRoom:
		w.noRoom(e, &x)
	case channels.ReasonReady, channels.ReasonBehind:
		w.noServer(e.config().application(), e.pool.Status(), &x)
	case channels.ReasonChannelFull:
		// Slots of the channel may be held by jobs that have left it and wait for a server, as this one does.
		if wait := x.Running - e.held(x); wait > 0 {
			w.noServer(e.config().application(), e.pool.Status(), &x)
			w.Text += fmt.Sprintf("; %d of the %d slots of channel %s are held by jobs that wait for a server, too", wait, x.Capacity, x.Channel)
		}
	default:
	}
}

// held counts the jobs that are on their way, or run, in the channel that holds back a job, and below.
func (e *engine) held(x channels.Explanation) (n int) {
	own := e.config().DatabaseChannels != nil
	for key, t := range e.tasks {
		if t.slotless() || own && key.DB != x.Job.DB {
			continue
		}
		if name := e.notes.channelOf(key); name == x.Channel || strings.HasPrefix(name, x.Channel+".") {
			n++
		}
	}
	return n
}

// noServer says why no server that is up gets one more job.
func (w *Why) noServer(app string, ups []UpstreamStatus, x *channels.Explanation) {
	reasons, _ := whyNot(ups)
	w.say(WhyNoServer, "no %s server takes another job now: %s", app, reasons)
	w.countAhead(x)
}

// countAhead adds how many jobs go before this one.
func (w *Why) countAhead(x *channels.Explanation) {
	if x.Ahead > 0 {
		w.Text += "; " + x.CountAhead() + " before this one"
	}
}

// noRoom says why no server of those gets one more job that may run it.
func (w *Why) noRoom(e *engine, x *channels.Explanation) {
	class := e.seats.gated(x.Gate).class
	serving := e.pool.Serving(class)
	ups := slices.DeleteFunc(e.pool.Status(), func(u UpstreamStatus) bool { return u.Pool != class.Pool && u.Pool != serving })
	reasons, _ := whyNot(ups)
	of := "that belongs to no pool"
	if class.Pool != "" {
		of = "of pool " + class.Pool
	}
	if serving != class.Pool {
		of += ", or that belongs to none,"
	}
	w.say(WhyNoServer, "no %s server %s takes another job now: %s", e.config().application(), of, cmp.Or(reasons, "there is none"))
	w.countAhead(x)
}

// noUpstream says why no server gets jobs.
func (w *Why) noUpstream(app string, ups []UpstreamStatus) {
	reasons, drained := whyNot(ups)
	switch {
	case len(ups) == 0:
		w.say(WhyNoUpstream, "no %s server is known", app)
	case drained == len(ups):
		w.say(WhyDrained, "every %s server is drained: %s", app, reasons)
	default:
		w.say(WhyNoUpstream, "no %s server is healthy: %s", app, reasons)
	}
}

// whyNot says of each server why it takes no job, and counts those that are drained.
func whyNot(ups []UpstreamStatus) (text string, drained int) {
	reasons := make([]string, len(ups))
	for i := range ups {
		u := &ups[i]
		switch {
		case u.Drain != nil:
			drained++
			reasons[i] = u.Name + " is being drained" + with(" by ", u.Drain.By)
		case !u.Up:
			reasons[i] = u.Name + ": " + u.Reason
		case u.Full != "":
			reasons[i] = u.Name + ": " + u.Full
		default:
			reasons[i] = u.Name + ": its room is for jobs that are about to be sent"
		}
	}
	return strings.Join(reasons, "; "), drained
}
