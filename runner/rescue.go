package runner

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// scanInterval is the time between two checks of tasks that run without an open request of ours.
	// Two of them must agree before a task counts as dead.
	scanInterval = 5 * time.Second
	// unstartedLimit is how long a request may be open whose job has not been started, at a server that
	// runs none of our jobs and has answered nothing for as long: it accepts connections and will never
	// answer. One whose workers are busy is left its time.
	unstartedLimit = 10 * time.Minute
	// servedLeast is how long a database has to be served for the inspections of two scans. One that is
	// lost again and again before that tells nothing, and must not keep slots for ever.
	servedLeast = 3 * scanInterval
)

// deadApart is how far two inspections in a row must lie apart that find nothing
// running a task before it is rescued: one may fall between a worker's two
// transactions. It is less than the least time between two scans.
const deadApart = 3 * time.Second

// scan checks tasks that run without a request of ours: where lock rows
// exist, the database tells who is dead; elsewhere only that they are not started.
func (e *engine) scan(now time.Time) {
	inspects := make(map[*database][]string)
	for key, t := range e.tasks {
		switch t.phase {
		case phaseOpen:
			e.abandon(key, t, now)
			e.giveUpUnstarted(key, t, now)
			continue
		case phaseWatched:
		case phaseParked:
			e.forsake(key, t, now)
			continue
		case phaseClaiming, phaseUnclaiming, phaseAsked:
			continue
		}
		t.deadAgain = false // it takes a new inspection
		db := e.databases.get(key.DB)
		switch {
		case db == nil:
		case !db.stage.known():
			e.expire(db, key, t, now)
		case e.decide(db, key, t, now):
		case db.fingerprint.Locks:
			inspects[db] = append(inspects[db], key.UUID)
		case t.expired:
			e.ask(db, key, t) // there were lock rows when it lost its slot
		}
	}
	for db := range e.databases.served {
		e.readable(db)
	}
	for db, uuids := range inspects {
		db.session.Inspect(uuids)
	}
}

// decide does what the evidence about a watched task of a served database allows. It reports whether
// that was something.
func (e *engine) decide(db *database, key channels.Key, t *task, now time.Time) bool {
	ev := e.evidence(db, t, now)
	f := ev.judge()
	if f == unstarted || f == dead {
		e.giveWay(db, key, t, now)
	}
	switch f {
	case mayExecute:
		if !t.over.IsZero() && !ev.locks && t.row != nil {
			e.keep(t.row, t) // the operator's limit is another one now
		}
		return false
	case idle:
		if t.row == nil && !t.gone {
			e.ask(db, key, t)
			return true
		}
		e.settle(key, t)
	case unstarted:
		if !ev.ours {
			t.ours, t.result = false, nil // they were of an earlier attempt
			t.attempt = driver.Task{Key: key, Enqueued: t.row.Enqueued}
		}
		e.unclaim(key, t)
	case undecided:
		e.warnUndecided(key, t)
	case dead:
		if t.expired {
			e.ask(db, key, t) // its row may have changed while it could not be read
			return true
		}
		l := driver.Liveness{Row: *t.row, Verdict: driver.Dead, Expired: !ev.locks}
		if t.forfeit() {
			db.session.FailStopped(l, t.limit.cause())
		} else if why := e.condemn(key, t); why != "" {
			db.session.FailDead(l, why)
		} else {
			db.session.Rescue(l)
		}
	}
	return true
}

// giveWay frees the slot of a task that is not known to run, when its row could not be changed for long
// because of a lock of others: what builds an index lets rows be read, and a transaction that somebody has
// forgotten may have locked but the one.
func (e *engine) giveWay(db *database, key channels.Key, t *task, now time.Time) {
	if t.over.IsZero() {
		t.over = now
	}
	if t.freed || t.expired || now.Sub(t.over) < mysteryLimit || now.Sub(db.entered) < servedLeast {
		return // an outage is no lock
	}
	e.log().Warn("the job is not known to run, and its row cannot be changed, giving the slot of the job to others: "+
		"another transaction has locked the row or its table", zap.String("database", key.DB), zap.String("uuid", key.UUID),
		zap.Stringer("state", t.row.State), zap.Duration("after", mysteryLimit))
	t.freed = true
	e.shelve(key)
}

// shelve takes the slot of a task away. Until its row is read, or has been changed, the job counts as failed:
// it is known, not started, and a sequential channel does not go on without it.
func (e *engine) shelve(key channels.Key) {
	if job, _, ok := e.tree.Lookup(key); ok {
		e.tree.Set(job, channels.Failed)
	}
}

// expire frees the slot of a task whose database has not been served for long, so that nothing could be
// found out about it: one that is broken must not keep others from their work. Where nothing may run
// any more, that is also the end of the task.
func (e *engine) expire(db *database, key channels.Key, t *task, now time.Time) {
	if now.Sub(t.since) < mysteryLimit || now.Sub(db.servedUntil) < mysteryLimit {
		return
	}
	if e.forsake(key, t, now) {
		return
	}
	e.log().Warn("the database of the job has not been served for long, giving the slot of the job to others", zap.String("database", key.DB),
		zap.String("uuid", key.UUID), zap.Duration("after", mysteryLimit))
	t.expired = true
	e.rest(key, t)
}

// forsake ends a task of a database in which nothing may run any more, and has not for long. It reports
// whether it did.
func (e *engine) forsake(key channels.Key, t *task, now time.Time) bool {
	db := e.databases.get(key.DB)
	if db == nil || db.stage != stageUndetected && db.stage != stageNeutralized || now.Sub(db.entered) < mysteryLimit {
		return false
	}
	e.unserve(key, t)
	return true
}

// unserve ends a task of a database that is not served any more, as far as it concerns us.
func (e *engine) unserve(key channels.Key, t *task) {
	t.row, t.gone, t.unserved = nil, true, true
	e.settle(key, t)
}

// unreadable frees the slots of tasks whose rows cannot be read although that has been asked for, or which
// inspections tell nothing of, because a table is locked, as it is by an upgrade, which can take hours: of
// those that nothing executes, at once, and of the others when nothing could be learnt for long. What can
// be read later decides what becomes of them.
func (e *engine) unreadable(db *database, now time.Time) {
	if db.lockedSince.IsZero() {
		db.lockedSince = now
	}
	for key, t := range e.tasks {
		switch {
		case key.DB != db.Name, t.freed:
		case t.phase == phaseAsked && e.inert(key, t, now):
			e.hide(db, key, t)
		case t.phase == phaseAsked && now.Sub(t.askedAt) >= mysteryLimit,
			t.phase == phaseWatched && db.fingerprint.Locks && now.Sub(t.since) >= mysteryLimit && now.Sub(db.lockedSince) >= mysteryLimit:
			e.hidden(db, key, t)
		}
	}
}

// hidden frees the slot of a task of which a lock has hidden everything for long. Other jobs of the database
// start once it is known what became of it.
func (e *engine) hidden(db *database, key channels.Key, t *task) {
	if t.expired {
		return
	}
	e.log().Warn("the row of the job cannot be read because its table is locked, giving the slot of the job to others",
		zap.String("database", key.DB), zap.String("uuid", key.UUID), zap.Duration("after", mysteryLimit))
	e.hide(db, key, t)
}

// hide takes the slot of such a task away. Jobs of other databases go on, also in a sequential channel.
func (e *engine) hide(db *database, key channels.Key, t *task) {
	t.expired, db.hidden = true, true
	e.tree.Remove(key)
	e.databases.derive(db)
}

// readable lets jobs of a database start again when that is known of all.
func (e *engine) readable(db *database) {
	if !db.hidden {
		return
	}
	for key, t := range e.tasks {
		if key.DB == db.Name && t.expired && (t.phase == phaseAsked || t.phase == phaseWatched) {
			return
		}
	}
	db.hidden = false
	e.databases.derive(db)
}

// giveUpUnstarted gives up a request whose job has not been started for very long, at a server that does
// nothing at all for us, where a second request does no harm. A job that is pending has been put back,
// by the leader of another node or by hand; in the latter case it may be running. Only a lock table
// keeps a second request from running it, too.
func (e *engine) giveUpUnstarted(key channels.Key, t *task, now time.Time) {
	db := e.databases.get(key.DB)
	since := t.trail.sent
	if since.IsZero() {
		since = t.since // that of another engine
	}
	if at := e.answeredAt[t.exchange.Upstream.Name]; at.After(since) {
		since = at // that may have been the last of what it had begun before
	}
	if db == nil || !db.stage.known() || db.fingerprint.Unguarded || now.Sub(since) < unstartedLimit || t.gone {
		return
	}
	if t.row != nil && t.row.State != channels.Enqueued && (t.row.State != channels.Pending || !db.fingerprint.Locks) {
		return
	}
	for _, o := range e.tasks {
		if o.exchange != nil && o.exchange.Upstream.Name == t.exchange.Upstream.Name && o.row != nil && o.row.State == channels.Started {
			return // its workers are busy
		}
	}
	e.log().Warn("the job is not started, and the server has answered nothing since, giving the request up",
		zap.String("database", key.DB), zap.String("uuid", key.UUID), zap.String("upstream", t.exchange.Upstream.Name))
	e.pool.Suspect(t.exchange.Upstream.Name, errSilent)
	t.exchange.Cancel()
}

// errSilent is why such a server gets no more jobs before a check has found it well.
var errSilent = fmt.Errorf("nothing was answered within %s", unstartedLimit)

// warnUndecided tells an operator, once, of a job that keeps its slot until its row changes: a second
// request might run it a second time (docs/contract.md 7, item 5).
func (e *engine) warnUndecided(key channels.Key, t *task) {
	if t.warned {
		return
	}
	t.warned = true
	app := e.config().application()
	e.log().Warn("job stays enqueued: a request for it may still wait in "+app+", which in this series would not notice a second one; "+
		"if it is not started once the workers are free, set it to pending in "+app,
		zap.String("database", key.DB), zap.String("uuid", key.UUID))
}

// inspected takes in what the inspection of tasks has shown.
func (e *engine) inspected(db *database, found []driver.Liveness) {
	now := time.Now()
	db.lockedSince = time.Time{}
	for i := range found {
		l := &found[i]
		t := e.tasks[l.Row.Key]
		if t == nil || t.phase != phaseWatched {
			continue
		}
		if l.Gone {
			e.applyGone(l.Row.Key)
			continue
		}
		t.limit.claimedAt(l, now)
		was := t.alive
		if t.inspectedAs(l, now); was && l.Verdict == driver.Dead {
			e.diedLater(l.Row.Key, t, now)
		}
		if t.expired || !t.deadAgain {
			e.keep(&l.Row, t)
		}
		if l.Verdict != driver.Dead {
			e.applyRow(&l.Row, 0, e.tree.Set)
			continue
		}
		if !t.deadAgain {
			e.checkUpgrade(db) // one may have begun since
		}
		t.row = new(l.Row)
		e.decide(db, l.Row.Key, t, now)
	}
	e.readable(db)
}

// keep has a task keep its slot, or gives it back: its row is known again, and its lock row, even if that is
// no evidence; or it may be executing after all. How long it may be over is counted anew.
func (e *engine) keep(row *driver.Row, t *task) {
	t.expired, t.freed, t.over = false, false, time.Time{}
	state := row.State
	if state == channels.Unknown {
		state = channels.Started
	}
	e.tree.Set(row.Job, state)
}

// rescued takes in the rows of tasks that were put back because they were dead.
func (e *engine) rescued(db *database, rows []driver.Row) {
	for i := range rows {
		t := e.tasks[rows[i].Key]
		if t != nil && t.condemned > 0 && rows[i].State == channels.Failed {
			t.trail.rescued = true
			e.quarantined(&rows[i], t)
			e.applyRow(&rows[i], 0, e.tree.Set)
			continue
		}
		if t != nil && t.forfeit() && rows[i].State == channels.Failed {
			e.log().Warn("job failed that was ended because of its time limit, and whose worker did not write that: "+printable(rows[i].UUID),
				zap.String("database", db.Name))
			t.trail.rescued, t.limit.written = true, true
			e.applyRow(&rows[i], 0, e.tree.Set)
			continue
		}
		e.log().Warn("Re-queued dead job with uuid: "+printable(rows[i].UUID), zap.String("database", db.Name),
			zap.Stringer("state", rows[i].State), zap.Int32("retry", rows[i].Retry))
		if t != nil {
			t.trail.rescued = true
		}
		if t != nil && t.phase == phaseWatched && t.result != nil && t.row != nil &&
			t.row.State == channels.Enqueued && rows[i].State == channels.Pending {
			// Delivered, and not even started.
			e.putBack(db, &rows[i], t)
			continue
		}
		if t != nil && rows[i].State == channels.Pending {
			e.setBack(rows[i].Key, t)
		}
		e.applyRow(&rows[i], 0, e.tree.Set)
	}
}
