package runner

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// deadApart is how far two inspections in a row must lie apart that find nobody
// running a task before it is rescued: one may fall between a worker's two
// transactions. It is less than the least time between two scans.
const deadApart = 3 * time.Second

// scan looks after tasks that run without a request of ours: where lock rows
// exist, the database tells who is dead; elsewhere only that nobody starts them.
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
		e.judgeAlone(db, key, t, now)
	}
	for db, uuids := range inspects {
		// Instead of, not in addition to, what a slow session has not looked at.
		db.session.order(func(o *orders) { o.inspects = uuids })
	}
}

// judgeAlone decides without lock rows: a job that nobody has started some time
// after its request broke, or after it was found, goes back (peers.md 3.5);
// should a request for it be left in a backlog, Odoo's own check of the state
// decides. Where Odoo has no such check that two requests could not pass together,
// the job keeps its place until its row changes: a second request might run it a
// second time (contract.md 7, item 5). A started job is not touched (contract.md
// 3.4), unless somebody has set a limit for those.
func (e *engine) judgeAlone(db *database, key channels.Key, t *task, now time.Time) {
	if t.row == nil || t.row.Enqueued == 0 {
		return
	}
	if t.row.State == channels.Started {
		e.judgeStarted(db, t, now)
		return
	}
	if t.row.State != channels.Enqueued || now.Sub(t.since) < lostGrace {
		return
	}
	if db.fingerprint.Unguarded {
		if !t.warned {
			t.warned = true
			e.log().Warn("job stays enqueued: a request for it may still wait in Odoo, which in this series would not notice a second one; "+
				"if it is not started once the workers are free, set it to pending in Odoo",
				zap.String("database", key.DB), zap.String("uuid", key.UUID))
		}
		return
	}
	if t.attempt.Enqueued != t.row.Enqueued {
		t.attempt = driver.Task{Key: key, Enqueued: t.row.Enqueued}
	}
	e.unclaim(key, t)
}

// judgeStarted has a started job put back when the limit has passed that somebody
// has set for jobs that nothing proves dead. By default there is none.
func (e *engine) judgeStarted(db *database, t *task, now time.Time) {
	if limit := e.config().RescueStartedAfter; limit > 0 && now.Sub(t.since) >= limit {
		expired := driver.Liveness{Row: *t.row, Expired: true}
		db.session.order(func(o *orders) { o.rescues = append(o.rescues, expired) })
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
				e.applyGone(l.Row.Key)
				continue
			}
			if l.Verdict != driver.Dead {
				t.deadSince = time.Time{}
				e.applyRow(&l.Row, 0, e.tree.Set)
				continue
			}
			if t.deadSince.IsZero() {
				t.deadSince = time.Now()
			} else if time.Since(t.deadSince) >= deadApart {
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
			e.log().Warn("Re-queued dead job with uuid: "+printable(rows[i].UUID), zap.String("database", db.Name),
				zap.Stringer("state", rows[i].State), zap.Int32("retry", rows[i].Retry))
			t := e.tasks[rows[i].Key]
			if t != nil {
				t.trail.rescued = true
			}
			if t != nil && t.phase == phaseWatched && t.result != nil && t.row != nil &&
				t.row.State == channels.Enqueued && rows[i].State == channels.Pending {
				// Delivered, and not even started.
				e.putBack(db, &rows[i], t)
				continue
			}
			e.applyRow(&rows[i], 0, e.tree.Set)
		}
	})
}
