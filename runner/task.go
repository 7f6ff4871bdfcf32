package runner

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// phase is where a task is on its way. Every task occupies a place.
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
)

// task is one job that occupies a place, or is about to.
type task struct {
	phase phase
	// chosen is when the scheduler gave it its place; zero if it did not.
	chosen time.Time
	// attempt identifies the claim; its Enqueued is 0 when it was not ours.
	attempt driver.Task
	// row is the newest row that was read while the exchange was open.
	row *driver.Row
	// gone is set when it was read and is not there any more.
	gone bool
	// settledAt is when the row was first seen settled while the exchange was open.
	settledAt time.Time
	// exchange is the open request, in phaseOpen.
	exchange *exchange
	// tried are the upstreams that did not take it.
	tried []string
	// result is how the exchange ended.
	result *driver.Result
	// asked is the number of the order to read that answers phaseAsked.
	asked uint64
	// since is when phaseWatched began.
	since time.Time
	// deadSince is the first of the inspections in a row that found nobody
	// running it.
	deadSince time.Time
	// stuck is set when its row could not be put back.
	stuck bool
	// warned is set when it was reported that the job keeps its place.
	warned bool
	// trail is what its events will say.
	trail trail
	// span is what is traced of it, nil without tracing.
	span *span
}

// settled reports whether the newest row says that the job does not run.
func (t *task) settled() bool {
	return t.gone || (t.row != nil && !t.row.State.Running())
}

// applySnapshot applies rows of a full read. Their memory is used again.
func (e *engine) applySnapshot(db *database, rows []driver.Row) {
	set := e.tree.Sync
	for i := range rows {
		if e.applyRow(&rows[i], 0, set) && db.known {
			db.repairs = append(db.repairs, rows[i].UUID)
		}
	}
}

// rowsRead implements listener.
func (e *engine) rowsRead(s *session, rows []driver.Row, gone []string, asked uint64) {
	e.postFor(s, func(db *database) {
		for i := range rows {
			e.applyRow(&rows[i], asked, e.tree.Set)
		}
		for _, uuid := range gone {
			e.applyGone(channels.Key{DB: db.Name, UUID: uuid})
		}
	})
}

// applyRow replaces what memory holds of a job by its row. It reports whether
// that changed anything in the tree. set is the tree's Set, or its Sync for rows
// of a full read. A task keeps a copy, for the row has many neighbours in memory.
func (e *engine) applyRow(row *driver.Row, asked uint64, set func(channels.Job, channels.State) bool) bool {
	if row.Nameless {
		e.log().Error("a job without a uuid can never run", zap.String("database", row.DB), zap.Int64("id", row.ID))
		return false
	}
	if row.State == channels.Unknown {
		e.log().Error("unexpected state "+printable(row.RawState)+" for job "+printable(row.UUID), zap.String("database", row.DB))
		e.seen(row)
		return false
	}
	t := e.tasks[row.Key]
	if t == nil {
		if row.State.Running() {
			e.adopt(row)
		}
		if row.State.Finished() {
			delete(e.delays, row.Key)
		}
		e.postpone(row)
		return set(row.Job, row.State)
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
		e.noteSettled(t)
		return false
	case phaseAsked:
		if asked < t.asked {
			if row.State.Running() {
				return false // read before the exchange ended
			}
			e.unread(row.Key)
		}
	case phaseWatched:
		if t.row == nil || t.row.Enqueued != row.Enqueued {
			t.since = time.Now()
		}
	}
	t.row = row
	if row.State.Running() {
		return e.stillRunning(row, t)
	}
	return e.settle(row.Key, t)
}

// seen notes that a snapshot has brought the row of a job whose place in the
// tree is not the row's to decide now, or the job would count as gone.
func (e *engine) seen(row *driver.Row) { e.tree.Set(row.Job, channels.Unknown) }

// applyGone does the same for a job that has no row any more.
func (e *engine) applyGone(key channels.Key) bool {
	t := e.tasks[key]
	if t == nil {
		delete(e.delays, key)
		return e.tree.Remove(key)
	}
	switch t.phase {
	case phaseClaiming, phaseUnclaiming:
		return false
	case phaseOpen:
		t.row, t.gone = nil, true
		e.noteSettled(t)
		return false
	case phaseAsked, phaseWatched:
	}
	t.row, t.gone = nil, true
	return e.settle(key, t)
}

// noteSettled remembers since when the answer is overdue.
func (e *engine) noteSettled(t *task) {
	if !t.settled() {
		t.settledAt = time.Time{}
	} else if t.settledAt.IsZero() {
		t.settledAt = time.Now()
	}
}

// adopt takes on a job that runs without having been started by this engine: it
// was found at the start, or somebody else enqueued it. If this process still
// waits for its answer, the wait goes on; otherwise it is watched. Nothing is
// started.
func (e *engine) adopt(row *driver.Row) {
	t := &task{phase: phaseWatched, row: new(*row), since: time.Now()}
	e.tasks[row.Key] = t
	x := e.config().Exchanges.lookup(row.Key)
	if x == nil {
		return
	}
	t.phase, t.exchange, t.attempt = phaseOpen, x, x.attempt
	t.trail.upstream = x.upstream.Name
	e.pool.adopt(x.upstream)
	x.attach(e.exchangeEnded)
}

// settle ends a task: the row says that the job does not run, and no exchange is
// open. This is the one place where a place is freed.
func (e *engine) settle(key channels.Key, t *task) bool {
	delete(e.tasks, key)
	e.noteEnd(key, t)
	if t.gone {
		delete(e.delays, key)
		removed := e.tree.Remove(key)
		if e.databases[key.DB] == nil && !e.anyJob(key.DB) {
			e.tree.RemoveDB(key.DB) // that was the last one that kept it
		}
		return removed
	}
	if t.row.State != channels.Pending || t.result != nil {
		delete(e.delays, key)
	}
	if db := e.databases[key.DB]; db != nil && t.result != nil && t.result.Outcome == driver.Answered {
		db.struck, db.holds = nil, 0
	}
	e.postpone(t.row)
	return e.tree.Set(t.row.Job, t.row.State)
}

// stillRunning handles a task without an open exchange whose row says enqueued
// or started.
func (e *engine) stillRunning(row *driver.Row, t *task) bool {
	ours := t.attempt.Enqueued != 0 && row.Enqueued == t.attempt.Enqueued
	// An answer by the add-on, or by something that is not the add-on: either way
	// that request will not run the job any more. A gateway that gave up waiting
	// proves nothing.
	answered := t.result != nil && (t.result.Outcome == driver.Answered ||
		t.result.Outcome == driver.Refused && !unavailable(*t.result))
	if t.phase == phaseAsked && row.State == channels.Enqueued && ours && answered && !t.stuck {
		// Odoo is done with the request and has not run the job.
		e.unclaim(row.Key, t)
		return false
	}
	if t.phase == phaseAsked {
		t.phase, t.since = phaseWatched, time.Now()
		e.noteLost(row.Key, t)
		if row.State == channels.Started && t.result != nil {
			e.log().Warn("job goes on although its request ended, watching it", zap.String("database", row.DB),
				zap.String("uuid", row.UUID), zap.Stringer("outcome", t.result.Outcome))
		}
	}
	return e.tree.Set(row.Job, row.State)
}

// unclaim has a task put back to pending that certainly does not run.
func (e *engine) unclaim(key channels.Key, t *task) {
	db := e.databases[key.DB]
	if db == nil || db.session == nil || !db.known {
		t.phase, t.since = phaseWatched, time.Now()
		return
	}
	e.noteUnclaim(key, t)
	t.phase = phaseUnclaiming
	attempt := t.attempt
	db.session.order(func(o *orders) { o.unclaims = append(o.unclaims, attempt) })
}

// unclaimed implements listener.
func (e *engine) unclaimed(s *session, tasks []driver.Task, changed []driver.Row) {
	e.postFor(s, func(db *database) {
		rows := make(map[string]*driver.Row, len(changed))
		for i := range changed {
			rows[changed[i].UUID] = &changed[i]
		}
		for _, attempt := range tasks {
			t := e.tasks[attempt.Key]
			if t == nil || t.phase != phaseUnclaiming || t.attempt != attempt {
				continue
			}
			row := rows[attempt.UUID]
			if row == nil {
				// Changed or locked by somebody. Asking again at once would go
				// on for as long as the row is locked.
				t.stuck = true
				e.ask(db, attempt.Key, t)
				continue
			}
			e.log().Warn("state of job "+printable(row.UUID)+" was reset from enqueued to pending", zap.String("database", row.DB))
			e.putBack(db, row, t)
		}
	})
}

// putBack returns a job to the queue that was claimed in vain. It comes back
// after a pause when Odoo had answered without running it, or it would be asked
// for again and again.
func (e *engine) putBack(db *database, row *driver.Row, t *task) {
	delivered := t.result != nil && t.result.Outcome != driver.NotSent
	t.row, t.gone, t.result = row, false, nil
	if delivered {
		e.delay(row.Key, retryFirst, retryLimit)
	}
	e.settle(row.Key, t)
	if delivered {
		e.strike(db, row.UUID)
	}
}

// ask has the row of a task read whose exchange is over.
func (e *engine) ask(db *database, key channels.Key, t *task) {
	if db.session == nil || !db.known {
		t.phase, t.since = phaseWatched, time.Now()
		return
	}
	t.phase = phaseAsked
	t.asked = db.session.read(key.UUID)
}

// unread takes the order of ask back: the row has told all already.
func (e *engine) unread(key channels.Key) {
	if db := e.databases[key.DB]; db != nil && db.session != nil {
		db.session.unread(key.UUID)
	}
}

const (
	// retryFirst and retryLimit bound the pause before a job is sent again that
	// Odoo answered for without running it.
	retryFirst = time.Second
	retryLimit = time.Minute
	// skipFirst and skipLimit bound the pause before a job is claimed again
	// whose row somebody else had locked.
	skipFirst = 100 * time.Millisecond
	skipLimit = 5 * time.Second
)

// delay is the pause of a job before its next attempt.
type delay struct {
	// attempts counts those in a row that came to nothing.
	attempts int
	// until is the end of the pause, in microseconds since the Unix epoch.
	until int64
}

// delay counts an attempt that came to nothing and keeps the job back for a while.
func (e *engine) delay(key channels.Key, first, limit time.Duration) {
	b := backoff{first: first, limit: limit, attempts: e.delays[key].attempts}
	until := time.Now().Add(b.next())
	e.delays[key] = delay{attempts: b.attempts, until: until.UnixMicro()}
}

// postpone makes a delayed job wait, whatever brings its row.
func (e *engine) postpone(row *driver.Row) {
	if d, ok := e.delays[row.Key]; ok && row.State == channels.Pending {
		row.ETA = max(row.ETA, d.until)
	}
}
