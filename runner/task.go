package runner

import (
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// phase is where a task is on its way. Every task occupies a slot, if it is not [task.slotless].
type phase uint8

const (
	// phaseClaiming: its session has been asked to claim it.
	phaseClaiming phase = iota
	// phaseOpen: its request has been sent and not been answered.
	phaseOpen
	// phaseUnclaiming: it was not delivered and is being put back.
	phaseUnclaiming
	// phaseAsked: its exchange is over and its row is being read.
	phaseAsked
	// phaseWatched: the row says that it runs, and no request of ours is open.
	phaseWatched
	// phaseParked: its database is out of reach, and nothing runs it, or that has gone on for long. It has
	// no slot, and nothing starts it before its row has been read.
	phaseParked
)

// task is one job that occupies a slot, is about to, or did until its database was lost.
type task struct {
	phase phase
	// chosen is when the scheduler gave it its slot, or granted the claim if granted is set; zero if
	// neither is so.
	chosen  time.Time
	granted bool
	// seat is where room is kept for it at some server, from then until it is sent or is not; nil if none
	// is.
	seat *seatRow
	// attempt identifies the claim; its Enqueued is 0 when it was not ours.
	attempt driver.Task
	// ours is set if this process made the claim, and sent if it has begun to send a request for it.
	ours, sent bool
	// row is the newest row that was read, nil if none was since the exchange ended.
	row *driver.Row
	// gone is set when it was read and is not there any more; absent when all that is known is that the
	// row was not among those that run.
	gone, absent bool
	// settledAt is when the row was first seen settled while the exchange was open.
	settledAt time.Time
	// exchange is the open request, in phaseOpen.
	exchange *exchange.Exchange
	// tried are the upstreams that did not take it.
	tried []string
	// result is how the exchange ended.
	result *driver.Result
	// asked is the number of the order to read that answers phaseAsked, and askedAt when it was given.
	asked   uint64
	askedAt time.Time
	// since is when phaseWatched began, and mystery when its row was first seen in a state that is not known;
	// zero if it has been seen in another one since.
	since, mystery time.Time
	// deadSince is the first of the inspections in a row that found nothing running it as it was at
	// deadAt, and deadAgain is set when another one has found the same. alive is what the last one found.
	deadSince        time.Time
	deadAt           lookedAt
	deadAgain, alive bool
	// expired is set when it has lost its slot because its database has not been served for long, or its
	// row could not be read.
	expired bool
	// over is since when its row is to be changed because it is not known to run any more; zero if there is no
	// such order. freed is set when it has lost its slot because that could not be done for long.
	over  time.Time
	freed bool
	// unserved is set if it ended for us because its database is not served any more.
	unserved bool
	// abandoned is set when its request was given up because the row had ended long before.
	abandoned bool
	// stuck is set when its row could not be put back.
	stuck bool
	// warned is set when it was reported that the job keeps its slot.
	warned bool
	// limit is how far the attempt is with its time limit; nil if that was not looked up.
	limit *limit
	// fate is what is known of its end in case that it is found dead, and condemned the number of
	// setbacks for which it is being failed; both only with a quarantine.
	fate      fate
	condemned int
	// trail is what its events will say.
	trail trail
	// span is what is traced of it, nil without tracing.
	span *span
}

// settled reports whether the newest row says that the job does not run.
func (t *task) settled() bool {
	return t.gone || (t.row != nil && !t.row.State.Running())
}

// slotless reports whether it has lost its slot: nothing executes it, or nothing could be done about it for
// long.
func (t *task) slotless() bool { return t.phase == phaseParked || t.expired || t.freed }

// noteSettled remembers since when the answer is overdue.
func (t *task) noteSettled() {
	if !t.settled() {
		t.settledAt = time.Time{}
	} else if t.settledAt.IsZero() {
		t.settledAt = time.Now()
	}
}

// watch begins phaseWatched.
func (t *task) watch() { t.phase, t.since = phaseWatched, time.Now() }

// watchOn goes on with phaseWatched, if it was that before: nothing has been learnt since.
func (t *task) watchOn() {
	if t.since.IsZero() {
		t.since = time.Now()
	}
	t.phase = phaseWatched
}

// began is when the attempt was sent, or claimed if that was not seen.
func (t *task) began() time.Time {
	switch {
	case !t.trail.sent.IsZero():
		return t.trail.sent
	case t.attempt.Enqueued != 0:
		return time.UnixMicro(t.attempt.Enqueued)
	case t.row != nil && t.row.Enqueued != 0:
		return time.UnixMicro(t.row.Enqueued)
	}
	return t.since
}

// rowsRead takes in rows that were read.
func (e *engine) rowsRead(db *database, read session.Reading) {
	if read.Locked {
		e.unreadable(db, time.Now())
		return
	}
	if read.Notified > 0 {
		e.databases.unlocked(db)
		e.notes.emit(Event{Kind: EventNotifications, Database: db.Name, Count: read.Notified})
	}
	for i := range read.Rows {
		e.applyRow(&read.Rows[i], read.Read, e.tree.Set)
	}
	for _, uuid := range read.Gone {
		e.applyGone(channels.Key{DB: db.Name, UUID: uuid})
	}
	e.readable(db)
}

// applyRow replaces what memory holds of a job by its row. It reports whether
// that changed anything in the tree. set is the tree's Set, or its SetFromSnapshot
// for rows of a snapshot. A task keeps a copy, for the row has many neighbours in memory.
func (e *engine) applyRow(row *driver.Row, asked uint64, set func(channels.Job, channels.State) bool) bool {
	if row.Nameless {
		e.notes.oddRow(oddity{row.DB, "no uuid"}, "a job without a uuid can never run", zap.Int64("id", row.ID))
		return false
	}
	if row.State == channels.Unknown {
		e.notes.oddRow(oddity{row.DB, "unexpected state"}, "unexpected state "+printable(row.RawState)+" for job "+printable(row.UUID))
		return e.applyMystery(row, asked)
	}
	e.setbacks.seen(row.Key, row.State, row.Retry)
	t := e.tasks[row.Key]
	if t == nil {
		return e.applyToTree(row, set)
	}
	e.seen(row)
	row = new(*row)
	switch t.phase {
	case phaseClaiming, phaseUnclaiming:
		// The row may have been read before the statement under way; its own
		// result will tell.
		return false
	case phaseOpen:
		t.row, t.gone = row, false
		t.noteSettled()
		if row.State == channels.Started {
			e.countStarted(row.Key)
		}
		return false
	case phaseAsked:
		if asked < t.asked {
			if row.State.Running() {
				return false // read before the exchange ended
			}
			e.unread(row.Key)
		}
	case phaseParked, phaseWatched:
		if t.row == nil || t.row.Enqueued != row.Enqueued {
			t.since = time.Now()
		}
	}
	if t.row == nil || looked(t.row) != looked(row) {
		t.over = time.Time{}
	}
	t.row, t.mystery = row, time.Time{}
	if row.State.Running() {
		return e.stillRunning(row, t)
	}
	return e.settle(row.Key, t)
}

// retell takes in what a job that has a slot is told apart by. It was not known before a policy asked for
// it, and what runs counts.
func (e *engine) retell(row *driver.Row) {
	if len(e.databases.shares) == 0 {
		return
	}
	if job, state, ok := e.tree.Lookup(row.Key); ok {
		job.Company, job.Identity = row.Company, row.Identity
		e.tree.Set(job, state)
	}
}

// countStarted has a job of ours counted among those that Odoo has started. Nothing else depends on it.
func (e *engine) countStarted(key channels.Key) {
	if job, state, ok := e.tree.Lookup(key); ok && state == channels.Enqueued {
		e.tree.Set(job, channels.Started)
	}
}

// applyToTree takes in the row of a job that is no task, and makes it one if it may be executing.
func (e *engine) applyToTree(row *driver.Row, set func(channels.Job, channels.State) bool) bool {
	if row.State.Running() {
		e.adopt(row)
		changed := set(row.Job, row.State)
		e.restUnread(row.Key, e.tasks[row.Key])
		return changed
	} else if row.State == channels.Pending && e.inherit(row) {
		return set(row.Job, channels.Enqueued)
	}
	if row.State.Finished() {
		delete(e.delays, row.Key)
	}
	e.delays.postpone(row)
	return set(row.Job, row.State)
}

// applyMystery takes in a row whose state is not known. It changes nothing, but for a task that
// nothing executes: that one is over as far as it concerns us.
func (e *engine) applyMystery(row *driver.Row, asked uint64) bool {
	e.seen(row)
	t := e.tasks[row.Key]
	if t == nil {
		return false
	}
	switch t.phase {
	case phaseClaiming, phaseUnclaiming, phaseOpen:
		return false
	case phaseAsked:
		if asked < t.asked {
			return false
		}
	case phaseWatched, phaseParked:
	}
	t.row, t.gone, t.over = new(*row), false, time.Time{}
	if t.mystery.IsZero() {
		t.mystery = time.Now()
	}
	ev := e.evidence(e.databases.get(row.DB), t, time.Now())
	if ev.judge() == idle {
		return e.settle(row.Key, t)
	}
	if t.phase == phaseWatched {
		if t.freed {
			e.keep(row, t)
		}
		return false
	}
	t.watch()
	t.expired, t.freed = false, false
	e.notes.lost(row.Key, t)
	return e.tree.Set(row.Job, channels.Started)
}

// seen notes that a snapshot has brought the row of a job whose state in the tree is not the row's to
// decide now, or the job would count as gone. What the job is told apart by is the row's in any case.
func (e *engine) seen(row *driver.Row) {
	e.tree.Set(row.Job, channels.Unknown)
	e.retell(row)
}

// applyGone does the same for a job that has no row any more.
func (e *engine) applyGone(key channels.Key) {
	t := e.tasks[key]
	if t == nil {
		delete(e.delays, key)
		e.setbacks.forget(key)
		e.tree.Remove(key)
		return
	}
	switch t.phase {
	case phaseClaiming, phaseUnclaiming:
		return
	case phaseOpen:
		t.row, t.gone = nil, true
		t.noteSettled()
		return
	case phaseAsked, phaseWatched, phaseParked:
	}
	t.row, t.gone = nil, true
	e.settle(key, t)
}

// adopt takes on a job that runs without having been started by this engine: it
// was found at the start, or another program enqueued it. If this process still
// waits for its answer, the wait goes on; otherwise it is watched. Nothing is
// started.
func (e *engine) adopt(row *driver.Row) {
	t := &task{phase: phaseWatched, row: new(*row), since: time.Now()}
	e.tasks[row.Key] = t
	if x := e.config().Exchanges.Lookup(row.Key); x != nil {
		e.join(t, x)
		t.attempt, t.ours = x.Attempt, true
		t.attempt.Trace = nil // the span was that of another engine
	} else if db := e.databases.get(row.DB); db != nil && db.claimedInVain(row) {
		t.attempt, t.ours = driver.Task{Key: row.Key, Enqueued: row.Enqueued}, true
	}
}

// inherit takes on a pending job for which another engine of this process still waits: it may be
// executing, whatever its row says. It reports whether there is one.
func (e *engine) inherit(row *driver.Row) bool {
	if len(e.inheriting) == 0 {
		return false
	}
	if _, ok := e.inheriting[row.UUID]; !ok || e.config().Exchanges.Lookup(row.Key) == nil {
		return false
	}
	e.adopt(row)
	e.tasks[row.Key].noteSettled()
	return true
}

// join makes an open request that of a task.
func (e *engine) join(t *task, x *exchange.Exchange) {
	t.phase, t.exchange, t.sent = phaseOpen, x, true
	t.trail.upstream = x.Upstream.Name
	e.pool.Adopt(x.Upstream)
	x.Attach(e.ended)
}

// settle ends a task: the row says that the job does not run, and no exchange is open. Nothing else
// frees a slot.
func (e *engine) settle(key channels.Key, t *task) bool {
	delete(e.tasks, key)
	e.seats.leave(t)
	db := e.databases.get(key.DB)
	e.notes.ended(key, t, db != nil)
	e.account(db, t)
	if db != nil && !t.unserved || !t.unseen() {
		delete(e.handover.closed, key) // else its row may still say that it runs when the database is back
	}
	e.bereave(key, t)
	if t.gone {
		delete(e.delays, key)
		if !t.unserved {
			e.setbacks.forget(key)
		}
		removed := e.tree.Remove(key)
		if db == nil && !e.anyJob(key.DB) {
			e.tree.RemoveDB(key.DB) // that was the last one that kept it
		}
		return removed
	}
	if t.row.State != channels.Pending || t.result != nil {
		delete(e.delays, key)
	}
	e.setbacks.seen(key, t.row.State, t.row.Retry)
	if db != nil && t.result != nil && t.result.Outcome == driver.Answered {
		db.hold.ran()
	}
	if t.row.State == channels.Unknown {
		return e.tree.Remove(key) // nothing will run it; a change of state will notify
	}
	e.delays.postpone(t.row)
	return e.tree.Set(t.row.Job, t.row.State)
}

// stillRunning handles a task without an open exchange whose row says enqueued
// or started.
func (e *engine) stillRunning(row *driver.Row, t *task) bool {
	db := e.databases.get(row.DB)
	ev := e.evidence(db, t, time.Now())
	if t.phase == phaseAsked && ev.ours && !t.stuck && ev.judge() == unstarted {
		// The application is done with the request and has not run the job.
		e.unclaim(row.Key, t)
		return false
	}
	asked := t.phase == phaseAsked
	if t.expired && t.phase == phaseWatched && db != nil && db.stage.known() {
		return false // a scan has it inspected, or read anew, and what that tells decides
	}
	switch {
	case t.phase == phaseWatched:
	case t.expired, !t.over.IsZero():
		t.watchOn() // or its slot would be kept for as long again if its database goes
	default:
		t.watch()
	}
	t.readAgain(db)
	if asked {
		e.notes.lost(row.Key, t)
		if row.State == channels.Started && t.result != nil {
			e.log().Warn("job goes on although its request ended, watching it", zap.String("database", row.DB),
				zap.String("uuid", row.UUID), zap.Stringer("outcome", t.result.Outcome))
		}
	}
	if t.freed {
		return false
	}
	changed := e.tree.Set(row.Job, row.State)
	e.restUnread(row.Key, t)
	return changed
}

// readAgain takes in that the row of a task that still runs has been read. What could not be read for long
// counts again once all of its database is known. What has given way does so on, if it is known and its row
// is as it was.
func (t *task) readAgain(db *database) {
	known := db != nil && db.stage.known()
	t.expired = t.expired && db != nil && !known
	t.freed = t.freed && known && !t.over.IsZero()
}

// restUnread does so with a task of a database of which not all jobs have been read yet: that may never
// succeed.
func (e *engine) restUnread(key channels.Key, t *task) {
	if db := e.databases.get(key.DB); t.phase == phaseWatched && db != nil && !db.stage.known() {
		e.rest(key, t)
	}
}

// inert reports whether nothing executes a task whose row cannot be read now, nor will before it is.
func (e *engine) inert(key channels.Key, t *task, now time.Time) bool {
	ev := e.evidence(e.databases.get(key.DB), t, now)
	f := ev.judge()
	return f == idle && ev.row == rowEnded || ev.concluded() && !e.delays[key].stray && (f == idle || f == unstarted)
}

// rest leaves a task to itself whose database is out of reach. If nothing executes it, it gives its
// slot to others; its row decides later. That its request is over does not show that nothing executes
// it if an earlier request may still be read.
func (e *engine) rest(key channels.Key, t *task) {
	t.expired, t.freed = t.expired || t.freed, false // what was known of it may not hold when it is back
	if t.expired || e.inert(key, t, time.Now()) {
		t.phase = phaseParked
		e.requeue(key) // where it waits until the database is served again
		return
	}
	t.watchOn()
}

// unclaim has a task put back to pending that certainly does not run.
func (e *engine) unclaim(key channels.Key, t *task) {
	db := e.databases.get(key.DB)
	if db == nil || !db.stage.known() {
		e.rest(key, t)
		return
	}
	e.notes.unclaimed(key, t, e.shutdown.begun)
	t.phase = phaseUnclaiming
	if why := e.condemn(key, t); why != "" {
		db.session.FailUnclaimed(t.attempt, why)
		return
	}
	db.session.Unclaim(t.attempt)
}

// unclaimed takes in which tasks were put back, and how their rows look.
func (e *engine) unclaimed(db *database, tasks []driver.Task, changed []driver.Row) {
	rows := make(map[string]*driver.Row, len(changed))
	for i := range changed {
		rows[changed[i].UUID] = &changed[i]
	}
	for _, attempt := range tasks {
		t := e.tasks[attempt.Key]
		if t == nil || t.phase != phaseUnclaiming || !t.attempt.Same(&attempt) {
			continue
		}
		row := rows[attempt.UUID]
		if row == nil {
			// Changed or locked by another program. Asking again at once would go on for as long as
			// the row is locked.
			t.stuck = true
			e.ask(db, attempt.Key, t)
			continue
		}
		if t.condemned > 0 && row.State == channels.Failed {
			e.quarantined(row, t)
			why := t.trail.why
			t.row, t.gone, t.result = row, false, nil // it has not been run
			e.settle(row.Key, t)
			e.databases.strike(db, row.UUID, why)
			continue
		}
		e.log().Warn("state of job "+printable(row.UUID)+" was reset from enqueued to pending", zap.String("database", row.DB))
		e.putBack(db, row, t)
	}
}

// putBack returns a job to the queue that was claimed in vain. It comes back
// after a pause when it was answered for without having been run, or it would be asked
// for again and again.
func (e *engine) putBack(db *database, row *driver.Row, t *task) {
	delivered, why := t.result != nil && t.result.Outcome != driver.NotSent, t.trail.why
	broken := delivered && (t.result.Outcome == driver.Broken || t.result.Outcome == driver.Unavailable)
	setback, counts := e.setbackOf(row.Key, t)
	t.row, t.gone, t.result = row, false, nil
	if delivered {
		e.delays.add(row.Key, retryFirst, retryLimit)
	} else {
		e.refund(row.Key, t)
	}
	if broken {
		e.delays.strays(row.Key)
	}
	e.settle(row.Key, t)
	if delivered {
		e.databases.strike(db, row.UUID, why)
		e.rebuff(db, row.Key, setback, counts)
	}
}

// ask has the row of a task read whose exchange is over.
func (e *engine) ask(db *database, key channels.Key, t *task) {
	if !db.stage.known() {
		e.rest(key, t)
		return
	}
	t.phase = phaseAsked
	t.asked, t.askedAt = db.session.Read(key.UUID), time.Now()
}

// unread takes the order of ask back: the row has told all already.
func (e *engine) unread(key channels.Key) {
	if db := e.databases.get(key.DB); db != nil && db.session != nil {
		db.session.Unread(key.UUID)
	}
}

// printable returns text of a row for a log message, quoted if it could break the line: encoders of
// log messages for terminals write it as it is.
func printable(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
