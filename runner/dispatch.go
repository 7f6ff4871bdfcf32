package runner

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// claimed takes in the result of a claim.
func (e *engine) claimed(db *database, c session.Claims) {
	if c.Refused {
		e.databases.claimsRefused(db)
	}
	if len(c.Got) > 0 {
		e.notes.emit(Event{Kind: EventClaimed, Database: db.Name, Count: len(c.Got)})
	}
	for _, attempt := range c.Got {
		e.claimGot(db, attempt)
	}
	for i := range c.Missed {
		e.claimMissed(&c.Missed[i])
	}
	for _, uuid := range c.Locked {
		e.claimLocked(channels.Key{DB: db.Name, UUID: uuid})
	}
	for _, uuid := range c.Gone {
		key := channels.Key{DB: db.Name, UUID: uuid}
		if t := e.tasks[key]; t != nil && t.phase == phaseClaiming {
			t.gone = true
			e.refund(key, t)
			e.settle(key, t)
		}
	}
}

// claimGot sends a claimed job off; or back if the engine is stopping, or if the
// order to claim it was an old one and the scheduler has not given it a slot.
func (e *engine) claimGot(db *database, attempt driver.Task) {
	t := e.tasks[attempt.Key]
	switch {
	case t != nil && t.phase == phaseOpen:
		t.reclaim(attempt)
		return
	case t != nil && t.ours && t.attempt.Enqueued == attempt.Enqueued:
		return // of two rows of one uuid
	}
	scheduled := t != nil && t.phase == phaseClaiming
	if !scheduled {
		// A trigger of others that gives jobs other names would have it claimed again at once.
		e.delays.add(attempt.Key, retryFirst, retryLimit)
		t = &task{}
		e.tasks[attempt.Key] = t
		if job, _, ok := e.tree.Lookup(attempt.Key); ok {
			e.tree.Set(job, channels.Enqueued)
		}
	}
	t.attempt, t.ours = attempt, true
	e.seats.leave(t)
	db.hold.lost = 0
	e.databases.unlocked(db)
	if !scheduled || e.ending() {
		e.unclaim(attempt.Key, t)
		return
	}
	e.dispatch(attempt.Key, t)
}

// reclaim takes in another claim of a job whose request is open: somebody has put the job back
// meanwhile. It keeps its slot, because the request may be what runs it, and nothing else is sent:
// what the row says when the request has ended decides. What was read of it before is older.
func (t *task) reclaim(attempt driver.Task) {
	attempt.ID, attempt.Trace = t.attempt.ID, t.attempt.Trace
	t.attempt, t.ours = attempt, true
	t.row, t.gone, t.settledAt = nil, false, time.Time{}
}

// claimMissed gives back the slot of a job that was not claimed. A row that is still pending was
// locked; it is tried again after a pause.
func (e *engine) claimMissed(row *driver.Row) {
	t := e.tasks[row.Key]
	if t == nil || t.phase != phaseClaiming {
		return
	}
	e.refund(row.Key, t)
	if row.State.Running() {
		// Another program enqueued it.
		delete(e.tasks, row.Key)
		e.seats.leave(t)
		e.applyRow(row, 0, e.tree.Set)
		return
	}
	if row.State == channels.Pending {
		e.delays.add(row.Key, skipFirst, skipLimit)
	}
	t.row = row
	e.settle(row.Key, t)
}

// claimLocked does the same for a job whose row could not be read, because the table is locked.
func (e *engine) claimLocked(key channels.Key) {
	t := e.tasks[key]
	if t == nil || t.phase != phaseClaiming {
		return
	}
	e.refund(key, t)
	delete(e.tasks, key)
	e.seats.leave(t)
	if job, _, ok := e.tree.Lookup(key); ok {
		row := driver.Row{Job: job, State: channels.Pending}
		e.delays.add(key, skipFirst, skipLimit)
		e.delays.postpone(&row)
		e.tree.Set(row.Job, row.State)
	}
}

// dispatch sends a claimed task to the best upstream that has not refused it.
// When there is none, the job goes back, for it certainly was not delivered.
func (e *engine) dispatch(key channels.Key, t *task) {
	up, ok := e.pick(key, t)
	if !ok {
		e.unclaim(key, t)
		return
	}
	cfg := e.config()
	t.phase = phaseOpen
	t.row, t.gone, t.settledAt = nil, false, time.Time{}
	if cfg.Tracing != nil && t.span == nil {
		t.span = cfg.Tracing.begin(cfg.Name, e.notes.channelOf(key), &t.attempt)
	}
	if t.attempt.ID == "" {
		t.attempt.ID = newTaskID()
	}
	x, started := cfg.Exchanges.Start(cfg.Driver, up, t.attempt, e.logger, e.ended)
	if !started {
		// Another engine of this process still waits for an earlier attempt, which may be executing.
		e.pool.Release(up.Name, driver.Result{})
		e.join(t, x)
		cfg.Logger.Warn("a request for the job is still open, waiting for that one", zap.Stringer("job", key))
		return
	}
	t.exchange, t.sent = x, true
	// Only now, for the job waits for nothing that is written down.
	cfg.Logger.Info("asking "+cfg.Driver.Capabilities().Application+" to run job "+key.UUID+" on db "+key.DB, zap.String("upstream", up.Name))
	e.notes.dispatched(key, t, up.Name)
}

// pick chooses the server for a task. Where there are several databases, and servers with limits, the
// one is preferred that ran the last job of this database: it has loaded what that needs.
func (e *engine) pick(key channels.Key, t *task) (driver.Upstream, bool) {
	db := e.databases.get(key.DB)
	preferred := ""
	if db != nil && len(e.databases.byName) > 1 && e.seats.limited {
		preferred = db.server
	}
	up, ok := e.pool.Pick(e.classOf(key), preferred, t.tried)
	if ok && db != nil {
		db.server = up.Name
	}
	return up, ok
}

// newTaskID names an attempt: 32 hexadecimal digits, a W3C trace id.
func newTaskID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// answered handles the end of an exchange. The answer is a hint, the row decides.
func (e *engine) answered(x *exchange.Exchange, result driver.Result) {
	e.pool.Release(x.Upstream.Name, result)
	if result.Outcome == driver.Broken {
		e.pool.Recheck(e.ctx, x.Upstream.Name)
	}
	key := x.Attempt.Key
	t := e.tasks[key]
	if t == nil || t.exchange != x {
		return
	}
	t.exchange = nil
	t.result = &result
	e.forgetUnclosed(key)
	e.parted(key, t, x.Upstream.Name, result.Outcome)
	if result.Outcome != driver.NotSent && result.Status != 0 {
		e.answeredAt[x.Upstream.Name] = time.Now()
	}
	e.notes.answered(x, t, result)
	db := e.databases.get(key.DB)
	if !t.settled() {
		t.row = nil // it was read before the exchange ended
	}
	switch {
	case db == nil:
		// Not served any more; should it come back, its rows are read anew.
		t.gone = true
		e.settle(key, t)
	case t.settled():
		e.settle(key, t)
	case result.Outcome == driver.NotSent && t.attempt.Enqueued != 0 && !e.ending():
		t.tried = append(t.tried, x.Upstream.Name)
		e.dispatch(key, t)
	case result.Outcome == driver.NotSent && t.attempt.Enqueued != 0:
		e.unclaim(key, t)
	default:
		e.ask(db, key, t)
	}
}

// settleGrace is how long an answer may be outstanding after the row has said that the job ended.
const settleGrace = 5 * time.Second

// abandon gives up an exchange whose job ended long ago: the answer got lost on
// its way. Requeued jobs are not among them: their first run may still be under
// way, and must not meet a second one.
func (e *engine) abandon(key channels.Key, t *task, now time.Time) {
	if t.settledAt.IsZero() || now.Sub(t.settledAt) < settleGrace {
		return
	}
	if !t.gone && !t.row.State.Finished() {
		return
	}
	e.log().Warn("job ended but its request was not answered, giving the request up",
		zap.String("database", key.DB), zap.String("uuid", key.UUID))
	t.abandoned = true
	t.exchange.Cancel()
}
