package runner

import (
	"net"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// clusterName names the PostgreSQL cluster of a configuration: all its
// addresses, which is what databases of one name have to differ in.
func clusterName(cfg Config) string {
	addrs := []string{net.JoinHostPort(cfg.Postgres.Host, strconv.Itoa(int(cfg.Postgres.Port)))}
	for _, f := range cfg.Postgres.Fallbacks {
		addrs = append(addrs, net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))))
	}
	return strings.Join(addrs, ",")
}

// claimed implements listener.
func (e *engine) claimed(s *session, got []driver.Task, rows []driver.Row, gone []string) {
	e.postFor(s, func(db *database) {
		if len(got) > 0 {
			e.emit(Event{Kind: EventClaimed, Database: db.Name, Count: len(got)})
		}
		for _, attempt := range got {
			e.claimGot(db, attempt)
		}
		for i := range rows {
			e.claimMissed(&rows[i])
		}
		for _, uuid := range gone {
			key := channels.Key{DB: db.Name, UUID: uuid}
			if t := e.tasks[key]; t != nil && t.phase == phaseClaiming {
				t.gone = true
				e.settle(key, t)
			}
		}
	})
}

// claimGot sends a claimed job off; or back if the engine is stopping, or if the
// order to claim it was an old one and the scheduler has not given it a place.
func (e *engine) claimGot(db *database, attempt driver.Task) {
	t := e.tasks[attempt.Key]
	scheduled := t != nil && t.phase == phaseClaiming
	if !scheduled {
		t = &task{}
		e.tasks[attempt.Key] = t
		if job, _, ok := e.tree.Lookup(attempt.Key); ok {
			e.tree.Set(job, channels.Enqueued)
		}
	}
	t.attempt = attempt
	db.claimsLost = 0
	if !scheduled || e.stopping || e.config().Exiting() {
		e.unclaim(attempt.Key, t)
		return
	}
	e.dispatch(attempt.Key, t)
}

// claimMissed gives back the place of a job that was not claimed. A row that is
// still pending was locked by somebody; it is tried again after a pause.
func (e *engine) claimMissed(row *driver.Row) {
	t := e.tasks[row.Key]
	if t == nil || t.phase != phaseClaiming {
		return
	}
	if row.State.Running() {
		// Somebody else enqueued it.
		delete(e.tasks, row.Key)
		e.applyRow(row, 0, e.tree.Set)
		return
	}
	if row.State == channels.Unknown {
		row.State = channels.Done // nothing will run it; a change of state will notify
	}
	if row.State == channels.Pending {
		e.delay(row.Key, skipFirst, skipLimit)
	}
	t.row = row
	e.settle(row.Key, t)
}

// dispatch sends a claimed task to the best upstream that has not refused it.
// When there is none, the job goes back, for it certainly was not delivered.
func (e *engine) dispatch(key channels.Key, t *task) {
	up, ok := e.pool.pick(t.tried)
	if !ok {
		e.unclaim(key, t)
		return
	}
	cfg := e.config()
	t.phase = phaseOpen
	t.row, t.gone, t.settledAt = nil, false, time.Time{}
	e.beginSpan(key, t)
	if t.attempt.ID == "" {
		t.attempt.ID = newTaskID()
	}
	t.exchange = cfg.Exchanges.start(cfg.Driver, up, t, e.log, e.exchangeEnded)
	// Only now, for the job waits for nothing that is written down.
	cfg.Logger.Info("asking Odoo to run job "+key.UUID+" on db "+key.DB, zap.String("upstream", up.Name))
	e.noteDispatch(key, t, up.Name)
}

// exchangeEnded is called from the exchange's goroutine.
func (e *engine) exchangeEnded(x *exchange, result driver.Result) {
	e.mail.post(func() { e.answered(x, result) })
}

// answered handles the end of an exchange. The answer is a hint, the row decides.
func (e *engine) answered(x *exchange, result driver.Result) {
	e.pool.release(x.upstream.Name, result)
	key := x.key
	t := e.tasks[key]
	if t == nil || t.exchange != x {
		return
	}
	t.exchange = nil
	t.result = &result
	e.noteAnswer(key, t, result)
	e.logResult(x, result)
	db := e.databases[key.DB]
	switch {
	case db == nil:
		// Not served any more; should it come back, its rows are read anew.
		t.gone = true
		e.settle(key, t)
	case t.settled():
		e.settle(key, t)
	case result.Outcome == driver.NotSent && t.attempt.Enqueued != 0 && !e.stopping:
		t.tried = append(t.tried, x.upstream.Name)
		e.dispatch(key, t)
	case result.Outcome == driver.NotSent && t.attempt.Enqueued != 0:
		e.unclaim(key, t)
	default:
		e.ask(db, key, t)
	}
}

// logResult reports an exchange that did not end with an answer of Odoo.
func (e *engine) logResult(x *exchange, result driver.Result) {
	if result.Outcome == driver.Answered {
		return
	}
	e.log().Error("exception in GET "+x.upstream.Name, zap.String("database", x.key.DB),
		zap.String("uuid", x.key.UUID), zap.Stringer("outcome", result.Outcome),
		zap.Int("status", result.Status), zap.Error(result.Err))
}

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
	t.exchange.cancel()
}
