package runner

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// deadLooks is how many inspections in a row must find nobody running a task
// before it is rescued: one may fall between a worker's two transactions.
const deadLooks = 2

// scan looks after tasks that run without a request of ours: where lock rows
// exist, the database tells who is dead; elsewhere only what this process has
// seen itself counts.
func (e *engine) scan(now time.Time) {
	inspects := make(map[*database][]string)
	for key, t := range e.tasks {
		switch t.phase {
		case phaseOpen:
			e.abandon(key, t, now)
			continue
		case phaseWatched:
		case phaseClaiming, phaseUnclaiming, phaseAsked:
			continue
		}
		db := e.databases[key.DB]
		if db == nil || !db.known {
			continue
		}
		if db.fingerprint.Locks {
			inspects[db] = append(inspects[db], key.UUID)
			continue
		}
		e.judgeAlone(key, t, now)
	}
	for db, uuids := range inspects {
		db.session.order(func(o *orders) { o.inspects = append(o.inspects, uuids...) })
	}
}

// judgeAlone decides without lock rows: a job of ours that is still enqueued
// some time after its request broke was not started by that request. A started
// one is never touched (contract.md 3.4).
func (e *engine) judgeAlone(key channels.Key, t *task, now time.Time) {
	ours := t.row != nil && t.row.State == channels.Enqueued &&
		t.attempt.Enqueued != 0 && t.row.Enqueued == t.attempt.Enqueued
	if ours && t.result != nil && now.Sub(t.since) >= lostGrace {
		e.unclaim(key, t)
	}
}

// inspected implements listener.
func (e *engine) inspected(s *session, found []driver.Liveness) {
	e.postFor(s, func(db *database) {
		var dead []driver.Liveness
		for i := range found {
			l := &found[i]
			t := e.tasks[l.Row.Key]
			if t == nil || t.phase != phaseWatched {
				continue
			}
			if l.Gone {
				e.applyGone(l.Row.Key, 0)
				continue
			}
			if l.Verdict != driver.Dead {
				t.dead = 0
				e.applyRow(&l.Row, 0, e.tree.Set)
				continue
			}
			if t.dead++; t.dead >= deadLooks {
				dead = append(dead, *l)
			}
		}
		if len(dead) > 0 {
			db.session.order(func(o *orders) { o.rescues = append(o.rescues, dead...) })
		}
	})
}

// rescued implements listener.
func (e *engine) rescued(s *session, rows []driver.Row) {
	e.postFor(s, func(db *database) {
		for i := range rows {
			e.log().Warn("Re-queued dead job with uuid: "+rows[i].UUID, zap.String("database", db.Name),
				zap.Stringer("state", rows[i].State), zap.Int32("retry", rows[i].Retry))
			e.applyRow(&rows[i], 0, e.tree.Set)
		}
	})
}
