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
	// dead counts inspections in a row that found nobody running it.
	dead int
}

// settled reports whether the newest row says that the job does not run.
func (t *task) settled() bool {
	return t.gone || (t.row != nil && !t.row.State.Running())
}

// applySnapshot applies rows of a full read.
func (e *engine) applySnapshot(db *database, rows []driver.Row) {
	for i := range rows {
		if e.applyRow(&rows[i], 0, e.tree.Sync) && db.known {
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
			e.applyGone(channels.Key{DB: db.Name, UUID: uuid}, asked)
		}
	})
}

// applyRow replaces what memory holds of a job by its row. It reports whether
// that changed anything in the tree. set is the tree's Set, or its Sync for rows
// of a full read.
func (e *engine) applyRow(row *driver.Row, asked uint64, set func(channels.Job, channels.State) bool) bool {
	if row.State == channels.Unknown {
		e.log().Error("unexpected state "+row.RawState+" for job "+row.UUID, zap.String("database", row.DB))
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
		return set(row.Job, row.State)
	}
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
		if asked < t.asked && row.State.Running() {
			return false // read before the exchange ended
		}
	case phaseWatched:
	}
	t.row = row
	if row.State.Running() {
		return e.stillRunning(row, t)
	}
	return e.settle(row.Key, t)
}

// applyGone does the same for a job that has no row any more.
func (e *engine) applyGone(key channels.Key, asked uint64) bool {
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
	t := &task{phase: phaseWatched, row: row, since: time.Now()}
	e.tasks[row.Key] = t
	cfg := e.config()
	x := cfg.Exchanges.lookup(exchangeID{cluster: clusterName(cfg), key: row.Key})
	if x == nil {
		return
	}
	t.phase, t.exchange = phaseOpen, x
	e.pool.adopt(x.upstream)
	x.attach(e.exchangeEnded)
}

// settle ends a task: the row says that the job does not run, and no exchange is
// open. This is the one place where a place is freed.
func (e *engine) settle(key channels.Key, t *task) bool {
	delete(e.tasks, key)
	defer e.checkDrained()
	if t.gone {
		delete(e.delays, key)
		return e.tree.Remove(key)
	}
	if t.row.State != channels.Pending || t.result != nil {
		delete(e.delays, key)
	}
	if db := e.databases[key.DB]; db != nil && t.result != nil {
		db.strikes = 0
	}
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
	if t.phase == phaseAsked && row.State == channels.Enqueued && ours && answered {
		// Odoo is done with the request and has not run the job.
		e.unclaim(row.Key, t)
		return false
	}
	if t.phase == phaseAsked {
		t.phase, t.since = phaseWatched, time.Now()
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
			if row := rows[attempt.UUID]; row != nil {
				e.putBack(db, row, t)
			} else {
				e.ask(db, attempt.Key, t)
			}
		}
	})
}

// putBack returns a job to the queue that was claimed in vain. It comes back
// after a pause when Odoo had answered without running it, or it would be asked
// for again and again.
func (e *engine) putBack(db *database, row *driver.Row, t *task) {
	e.log().Warn("state of job "+row.UUID+" was reset from enqueued to pending", zap.String("database", row.DB))
	delivered := t.result != nil && t.result.Outcome != driver.NotSent
	t.row, t.gone, t.result = row, false, nil
	if delivered {
		row.ETA = max(row.ETA, e.delay(row.Key, retryFirst, retryLimit).UnixMicro())
	}
	e.settle(row.Key, t)
	if delivered {
		e.strike(db)
	}
}

// ask has the row of a task read whose exchange is over.
func (e *engine) ask(db *database, key channels.Key, t *task) {
	if db == nil {
		// Not served any more; should it come back, its rows are read anew.
		t.gone = true
		e.settle(key, t)
		return
	}
	if db.session == nil || !db.known {
		t.phase, t.since = phaseWatched, time.Now()
		return
	}
	t.phase = phaseAsked
	t.asked = db.session.read(key.UUID)
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

// delay counts an attempt that came to nothing and says when the job may be
// tried again.
func (e *engine) delay(key channels.Key, first, limit time.Duration) time.Time {
	b := backoff{first: first, limit: limit, attempts: e.delays[key]}
	d := b.next()
	e.delays[key] = b.attempts
	return time.Now().Add(d)
}
