package runner

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

const (
	// timeoutInterval is the time between two checks of the attempts that have a time limit.
	timeoutInterval = time.Second
	// stopInterval is the time between two signals to an attempt: one may fall between two statements.
	stopInterval = 5 * time.Second
	// stuckAfter is how long an attempt may go on that nothing more is done about, before it counts as
	// stuck, and stuckInterval the time between two signals to it then.
	stuckAfter    = 20 * time.Second
	stuckInterval = 30 * time.Second
)

// accountTries bounds how often a cause is tried to be written into a row.
const accountTries = 3

// unwritten is a cause that is not known to have been written, after so many tries.
type unwritten struct {
	driver.Cause

	tries int
	// ordered is when it was first ordered to be written, zero once that order was answered.
	ordered time.Time
}

// TimeoutStage is how far an attempt is with the time limit of its policy.
type TimeoutStage uint8

const (
	// TimeoutNone: no limit has come near.
	TimeoutNone TimeoutStage = iota
	// TimeoutWarned: the limit comes near.
	TimeoutWarned
	// TimeoutReached: it has passed, and nothing has been done about that yet.
	TimeoutReached
	// TimeoutCancelled: the attempt's statement was cancelled.
	TimeoutCancelled
	// TimeoutTerminated: its connection to the database was closed.
	TimeoutTerminated
	// TimeoutStuck: it goes on all the same, or cannot be ended, and keeps its slot.
	TimeoutStuck
)

var timeoutStages = [...]struct {
	name string
	kind EventKind
}{
	TimeoutNone:       {"", ""},
	TimeoutWarned:     {"warned", EventTimeoutWarned},
	TimeoutReached:    {"reached", EventTimeoutReached},
	TimeoutCancelled:  {"cancelled", EventTimeoutCancelled},
	TimeoutTerminated: {"terminated", EventTimeoutTerminated},
	TimeoutStuck:      {"stuck", EventTimeoutStuck},
}

// String returns the word; empty for TimeoutNone.
func (s TimeoutStage) String() string {
	if int(s) < len(timeoutStages) {
		return timeoutStages[s].name
	}
	return "invalid"
}

// timeouts is what the engine keeps for time limits. Without policies that is nothing.
type timeouts struct {
	// set are the policies in force, nil without.
	set *policy.Set
	// none is the limit of the attempts that no policy limits.
	none *limit
	// at is when the attempts are checked next.
	at time.Time
}

// limit is how far an attempt is with its time limit.
type limit struct {
	// set is what policy was chosen from. policy is nil if none limits the attempt any more.
	set    *policy.Set
	policy *policy.Policy
	// enqueued tells the attempt from others at the same job.
	enqueued int64
	// began is when the attempt did, by our clock; zero while that is not known.
	began time.Time
	// stage is how far it is, apart from being stuck.
	stage TimeoutStage
	stuck bool
	// refused is set if it is stuck because it could not be signalled.
	refused bool
	// closes is set if its connection is closed when the grace period has passed.
	closes bool
	// next is when it may be signalled again.
	next time.Time
	// cancelled and terminated are when the first such order was answered.
	cancelled, terminated time.Time
	// ended is the policy for which a backend of it was first signalled, at endedAt; nil if none was.
	ended   *policy.Policy
	endedAt time.Time
	// written is set if the row says why.
	written bool
	// why says why it was not signalled, or goes on.
	why string
}

// is is how far the attempt is, in one word.
func (l *limit) is() TimeoutStage {
	switch {
	case l == nil:
		return TimeoutNone
	case l.stuck:
		return TimeoutStuck
	}
	return l.stage
}

// describe says in one sentence how far the attempt is, for an operator.
func (l *limit) describe(now time.Time) string {
	s := "it has run for " + now.Sub(l.began).Round(time.Second).String()
	if p := l.policy; p != nil {
		s += fmt.Sprintf(", the time limit of %s is %s", p, p.Timeout.After)
	}
	switch l.stage {
	case TimeoutCancelled:
		s += "; what it does in the database was cancelled"
		if l.closes && l.policy != nil && !l.stuck && !l.cancelled.IsZero() {
			s += ", and should that not end it, its connection is closed within " + stopInterval.String() + " of " +
				l.cancelled.Add(l.policy.Timeout.Grace).UTC().Format(time.RFC3339)
		}
	case TimeoutTerminated:
		s += "; its connection to the database was closed"
	case TimeoutReached:
		if l.policy != nil && !l.policy.Timeout.Cancel {
			s += ", and this policy ends nothing"
		}
	case TimeoutNone, TimeoutWarned, TimeoutStuck:
	}
	if l.why != "" {
		s += "; " + l.why
	}
	switch {
	case !l.stuck:
	case l.refused: // without a lock table, nothing tells that its worker has died
		s += "; it keeps its slot until it ends"
	default:
		s += "; it keeps its slot until it ends, or the worker that runs it is restarted"
	}
	return s
}

// status is what people may know of it, nil if there is nothing to know.
func (l *limit) status(now time.Time) *TaskTimeout {
	if l == nil || l.policy == nil && l.ended == nil {
		return nil
	}
	st := &TaskTimeout{Stage: l.is()}
	if p := l.policy; p != nil {
		st.Policy, st.After = p.String(), p.Timeout.After
	}
	if st.Stage != TimeoutNone {
		st.Text = l.describe(now)
	}
	return st
}

// limit puts policies into force. What they say of attempts that run is looked up with the next check.
func (e *engine) limit(policies []policy.Policy) {
	limits := slices.DeleteFunc(slices.Clone(policies), func(p policy.Policy) bool { return p.Timeout == nil })
	e.timeouts = timeouts{set: policy.Compile(limits)}
	if e.timeouts.set != nil {
		e.timeouts.none = &limit{set: e.timeouts.set, enqueued: -1}
		return
	}
	for _, t := range e.tasks {
		if t.limit.lifted() {
			t.limit = nil
		}
	}
}

// lifted makes a limit one of which nothing more follows. It reports whether there is nothing to
// remember of it.
func (l *limit) lifted() bool {
	if l == nil || l.ended == nil {
		return true
	}
	l.policy, l.stuck, l.refused = nil, false, false
	return false
}

// checkTimeouts does what the time limits of the attempts that run ask for.
func (e *engine) checkTimeouts(now time.Time) {
	if e.timeouts.set == nil || now.Before(e.timeouts.at) {
		return
	}
	e.timeouts.at = now.Add(timeoutInterval)
	for key, t := range e.tasks {
		switch t.phase {
		case phaseOpen, phaseAsked, phaseWatched:
		case phaseClaiming, phaseUnclaiming, phaseParked:
			continue
		}
		db := e.databases.get(key.DB)
		if db == nil || t.settled() {
			continue
		}
		if e.lookUp(db, key, t, now); t.limit.policy != nil && !t.limit.began.IsZero() {
			e.checkTimeout(db, key, t, now)
		}
	}
}

// executing names the attempt that a task is about: the one that was sent, or the one that its row
// tells of.
func (t *task) executing() driver.Task {
	if t.phase != phaseOpen && t.row != nil && t.row.State.Running() && t.row.Enqueued != t.attempt.Enqueued {
		return driver.Task{Key: t.row.Key, Enqueued: t.row.Enqueued}
	}
	return t.attempt
}

// lookUp finds the policy that limits an attempt, unless that has been done. An attempt that goes on
// under other policies keeps what has been told and done.
func (e *engine) lookUp(db *database, key channels.Key, t *task, now time.Time) {
	set, l, attempt := e.timeouts.set, t.limit, t.executing()
	same := l != nil && l.enqueued == attempt.Enqueued
	if l != nil && l.set == set && (same || l == e.timeouts.none) {
		return
	}
	job := policy.Job{Channel: e.notes.channelOf(key), Database: key.DB}
	if attempt.Model != "" {
		job.Function = attempt.Model + "." + attempt.Method
	}
	p := set.Timeout(job)
	switch {
	case p == nil && (!same || l.lifted()):
		t.limit = e.timeouts.none
		return
	case !same:
		l = &limit{enqueued: attempt.Enqueued, began: t.sentAt(db, &attempt, now)}
		t.limit = l
	case p != nil && now.Sub(l.began) < p.Timeout.After:
		// What is told of the former limit does not hold of this one, what was done is done.
		if l.stage = min(l.stage, TimeoutWarned); now.Sub(l.began) < p.Timeout.Warn {
			l.stage = TimeoutNone
		}
		l.stuck, l.refused, l.cancelled, l.terminated = false, false, time.Time{}, time.Time{}
	}
	l.set, l.policy = set, p
}

// sentAt is when an attempt was sent, by our clock; zero if that is not known yet.
func (t *task) sentAt(db *database, attempt *driver.Task, now time.Time) time.Time {
	switch {
	case attempt.Enqueued == t.attempt.Enqueued && !t.trail.sent.IsZero():
		return t.trail.sent
	case t.exchange != nil:
		return t.exchange.Opened
	case attempt.Enqueued == 0:
		return t.since
	case db.fingerprint.Locks:
		return time.Time{} // an inspection tells, by the clock that has dated the row
	}
	return now.Add(-max(0, now.Sub(time.UnixMicro(attempt.Enqueued))))
}

// claimedAt takes in for how long an attempt has been claimed that was not sent from here. The clocks
// of PostgreSQL and of this process may differ: those that run are not ended for that.
func (l *limit) claimedAt(found *driver.Liveness, now time.Time) {
	if l != nil && l.began.IsZero() && l.enqueued == found.Row.Enqueued && found.Age > 0 {
		l.began = now.Add(-found.Age)
	}
}

// checkTimeout does what the limit of one attempt asks for.
func (e *engine) checkTimeout(db *database, key channels.Key, t *task, now time.Time) {
	l, limit, ran := t.limit, t.limit.policy.Timeout, now.Sub(t.limit.began)
	if ran < limit.After {
		if limit.Warn > 0 && ran >= limit.Warn && l.stage < TimeoutWarned {
			e.reach(key, t, TimeoutWarned, now)
		}
		return
	}
	if l.stage < TimeoutReached {
		e.reach(key, t, TimeoutReached, now)
	}
	if limit.Cancel && !now.Before(l.next) && db.stage.known() && !e.ending() {
		e.stop(db, key, t, now)
	}
}

// stop ends an attempt beyond its limit: again and again, and after the grace period by its connection.
// That leaves the lock row free although the worker may go on, so it is done only while our request is
// open: nothing else would keep the job from being sent a second time.
func (e *engine) stop(db *database, key channels.Key, t *task, now time.Time) {
	l, attempt, terminate := t.limit, t.executing(), false
	l.next, l.closes = now.Add(stopInterval), t.phase == phaseOpen
	switch grace := l.policy.Timeout.Grace; {
	case attempt.Enqueued == 0:
		e.stick(key, t, "its row does not say when it was claimed, so that it cannot be told from other attempts", now)
	case l.cancelled.IsZero() || now.Sub(l.cancelled) < grace:
	case t.phase != phaseOpen:
		if now.Sub(l.cancelled) >= grace+stuckAfter && now.Sub(t.since) >= stuckAfter {
			e.stick(key, t, whyNotTerminated(e.blinded(t)), now)
		}
	case !e.handover.mayClose(&attempt):
		e.stick(key, t, "its connection is not closed, because that was done to too many jobs of which nothing shows whether they go on", now)
	default:
		if terminate = e.announce(&attempt); !terminate {
			l.next = now.Add(timeoutInterval)
		}
		if !l.terminated.IsZero() && now.Sub(l.terminated) >= stuckAfter {
			e.stick(key, t, "the server has not let it go", now)
		}
	}
	if l.stuck {
		l.next = now.Add(stuckInterval)
	}
	if attempt.Enqueued != 0 && db.session.Stop(attempt, terminate) && terminate {
		e.handover.ordered(&attempt)
	}
}

// whyNotTerminated says why the connection of an attempt is not closed for which no request is open here.
func whyNotTerminated(blinded bool) string {
	if blinded {
		return "its connection to the database was closed, and nothing shows whether the server goes on with it"
	}
	return "to cancel it has no effect, and its connection is not closed, because no request for it is open here: " +
		"nothing but its connection shows that it goes on"
}

// stopped takes in what became of the attempts that were to be ended.
func (e *engine) stopped(db *database, attempts []driver.Task, found []driver.Stopped, terminate bool, err error) {
	now := time.Now()
	if err != nil {
		e.log().Error("jobs beyond their time limits could not be signalled", zap.String("database", db.Name), zap.Error(err))
		for _, attempt := range attempts[min(len(found), len(attempts)):] {
			found = append(found, driver.Stopped{Task: attempt, Result: driver.Denied, Text: "it cannot be signalled: " + err.Error()})
		}
	}
	for i := range found {
		s := &found[i]
		if terminate { // after an error, nobody knows
			e.handover.answered(&s.Task, err != nil || s.Result == driver.Signalled)
			e.forgetUnclosed(s.Task.Key)
		}
		t := e.tasks[s.Task.Key]
		if t == nil || t.limit == nil || t.limit.enqueued != s.Task.Enqueued {
			continue
		}
		l := t.limit
		if l.policy == nil && s.Result != driver.Signalled {
			continue // it is not to be ended any more
		}
		switch s.Result {
		case driver.Signalled:
			e.signalled(t, s, terminate, now)
		case driver.NotRunning:
			switch {
			case l.stuck:
			case l.stage == TimeoutTerminated: // without its connection, it holds no lock
				l.why = "the server has not let it go yet"
			default:
				l.why = s.Text
			}
			if t.row != nil && t.row.State == channels.Started {
				l.answered(terminate, now) // one that has not begun is left the time to do so
			}
		case driver.Denied, driver.Unstoppable:
			l.refused = true
			e.stick(s.Task.Key, t, s.Text, now)
		}
	}
}

// signalled takes in that a signal was sent.
func (e *engine) signalled(t *task, s *driver.Stopped, terminate bool, now time.Time) {
	l := t.limit
	if l.ended == nil && l.policy != nil {
		l.ended, l.endedAt = l.policy, now
	}
	if l.refused {
		l.stuck, l.refused, l.why = false, false, ""
	}
	l.answered(terminate, now)
	stage := TimeoutCancelled
	if terminate {
		stage = TimeoutTerminated
	}
	if l.policy != nil && l.stage < stage {
		l.why = fmt.Sprintf("the backend has pid %d", s.PID)
		e.reach(s.Task.Key, t, stage, now)
	}
}

// answered notes when the first order to cancel, or to terminate, was carried out.
func (l *limit) answered(terminate bool, now time.Time) {
	at := &l.cancelled
	if terminate {
		at = &l.terminated
	}
	if at.IsZero() {
		*at = now
	}
}

// reach tells of the next stage of an attempt.
func (e *engine) reach(key channels.Key, t *task, stage TimeoutStage, now time.Time) {
	t.limit.stage = stage
	e.notes.timeout(key, t, stage, now)
}

// stick tells, once, that an attempt is stuck.
func (e *engine) stick(key channels.Key, t *task, why string, now time.Time) {
	if t.limit.stuck {
		return
	}
	t.limit.stuck, t.limit.why = true, why
	e.notes.timeout(key, t, TimeoutStuck, now)
}

// blinded reports whether lock rows prove nothing about an attempt any more. Its connection was closed,
// and its request was not seen to end: a former leader sent it, it ended while its database was not
// served, something between us and the server has answered in the server's place, or the request broke.
// The server may go on. That a request broke is enough to fail the job, which nothing sends again then.
func (e *engine) blinded(t *task) bool {
	if len(e.handover.closed) == 0 || t.row == nil || t.exchange != nil {
		return false
	}
	c, ok := e.handover.closed[t.row.Key]
	return ok && c.enqueued == t.row.Enqueued &&
		(c.inherited || t.unseen() && !(t.result != nil && t.result.Outcome == driver.Broken && t.forfeit()))
}

// unseen reports whether the end of a task's request was not seen, or only one that something in front of
// the application may have made. A worker that dies breaks its request; so does whatever is on the way,
// for example a balancer that drops connections on which nothing is said for long.
func (t *task) unseen() bool {
	return t.result == nil || t.result.Outcome == driver.Unavailable || t.result.Outcome == driver.Broken
}

// forfeit reports whether the attempt that the row tells of was ended and is not to be tried again, so
// that it ends failed even if its worker does not live to write that.
func (t *task) forfeit() bool {
	return t.limit != nil && t.limit.ended != nil && !t.limit.ended.Timeout.Retry && t.row != nil &&
		t.row.State != channels.Enqueued && t.row.Enqueued == t.limit.enqueued
}

// accounts reports whether the row says that the attempt was ended.
func (l *limit) accounts() bool { return l != nil && l.written }

// account has the cause written into the row of an attempt that was ended, and failed.
func (e *engine) account(db *database, t *task) {
	l := t.limit
	if db == nil || l == nil || l.ended == nil || l.accounts() || t.gone || t.row.State != channels.Failed || t.row.Enqueued != l.enqueued {
		return
	}
	cause := driver.Cause{
		Attempt: driver.Task{Key: t.row.Key, Enqueued: l.enqueued, ID: t.attempt.ID},
		Text:    l.cause(), Retry: l.ended.Timeout.Retry,
	}
	if db.causes == nil {
		db.causes = make(map[string]unwritten)
	}
	db.causes[t.row.UUID] = unwritten{Cause: cause, ordered: time.Now()}
	if db.session != nil {
		db.session.Account(cause)
	}
}

// cause says, for users of the application, why the attempt failed.
func (l *limit) cause() string {
	limit := l.ended.Timeout
	s := fmt.Sprintf("The job runner ended this job, because it had not ended within its time limit of %s (%s). "+
		"After %s it cancelled what the job was doing in the database",
		limit.After, l.ended, l.endedAt.Sub(l.began).Round(time.Second))
	if !l.terminated.IsZero() {
		s += fmt.Sprintf(", and after %s, as that was not enough, it closed the job's connection to the database",
			l.terminated.Sub(l.began).Round(time.Second))
	}
	if s += "."; limit.Retry {
		s += " The job is tried again as long as it has retries left."
	}
	return s
}

// accountAgain orders once more what a lost connection may have kept from being written.
func (db *database) accountAgain() {
	for uuid, cause := range db.causes {
		if cause.ordered.IsZero() {
			cause.ordered = time.Now()
			db.causes[uuid] = cause
		}
		db.session.Account(cause.Cause)
	}
}

// accounted takes in the rows into which causes were written. A row that was not changed may have been
// locked, and an error may pass: that is tried again after the next snapshots.
func (e *engine) accounted(db *database, causes []driver.Cause, changed []driver.Row, err error) {
	if err != nil {
		e.log().Error("cannot write down why jobs were ended", zap.String("database", db.Name), zap.Error(err))
	}
	for _, c := range causes {
		left, ok := db.causes[c.Attempt.UUID]
		if !ok || left.Attempt.Enqueued != c.Attempt.Enqueued {
			continue
		}
		left.ordered = time.Time{}
		left.tries++
		if left.tries == accountTries || slices.ContainsFunc(changed, func(r driver.Row) bool { return r.UUID == c.Attempt.UUID }) {
			delete(db.causes, c.Attempt.UUID)
			continue
		}
		db.causes[c.Attempt.UUID] = left
	}
	for i := range changed {
		if changed[i].State == channels.Pending {
			e.log().Info("a job that was ended is tried again", zap.String("database", db.Name),
				zap.String("uuid", changed[i].UUID), zap.Int32("retry", changed[i].Retry))
		}
		e.applyRow(&changed[i], 0, e.tree.Set)
	}
}
