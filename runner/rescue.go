package runner

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// scanInterval is the time between two checks of tasks that run without an open request of ours.
	// Two of them must agree before a task counts as dead.
	scanInterval = 5 * time.Second
	// lostGrace is how long a job stays enqueued after its request broke, before it is put back
	// without other evidence.
	lostGrace = 10 * time.Second
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
			continue
		case phaseWatched:
		case phaseClaiming, phaseUnclaiming, phaseAsked:
			continue
		}
		db := e.databases.get(key.DB)
		if db == nil || !db.stage.known() {
			continue
		}
		if db.fingerprint.Locks {
			inspects[db] = append(inspects[db], key.UUID)
			continue
		}
		e.judgeAlone(db, key, t, now)
	}
	for db, uuids := range inspects {
		db.session.Inspect(uuids)
	}
}

// judgeAlone decides without lock rows: a job that has not been started some time
// after its request broke, or after it was found, goes back;
// should a request for it be left in a backlog, the application's own check of the state
// decides. Where it has no such check that two requests could not pass together,
// the job keeps its slot until its row changes: a second request might run it a
// second time (docs/contract.md 7, item 5). A started job is not touched (docs/contract.md
// 3.4), unless a limit is set for those.
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
			app := e.config().application()
			e.log().Warn("job stays enqueued: a request for it may still wait in "+app+", which in this series would not notice a second one; "+
				"if it is not started once the workers are free, set it to pending in "+app,
				zap.String("database", key.DB), zap.String("uuid", key.UUID))
		}
		return
	}
	if t.attempt.Enqueued != t.row.Enqueued {
		t.attempt = driver.Task{Key: key, Enqueued: t.row.Enqueued}
	}
	e.unclaim(key, t)
}

// judgeStarted has a started job put back when the limit for jobs that nothing proves dead has
// passed. By default there is none.
func (e *engine) judgeStarted(db *database, t *task, now time.Time) {
	if limit := e.config().RescueStartedAfter; limit > 0 && now.Sub(t.since) >= limit {
		db.session.Rescue(driver.Liveness{Row: *t.row, Expired: true})
	}
}

// inspected takes in what the inspection of tasks has shown.
func (e *engine) inspected(db *database, found []driver.Liveness) {
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
		db.session.Rescue(dead...)
	}
}

// rescued takes in the rows of tasks that were put back because they were dead.
func (e *engine) rescued(db *database, rows []driver.Row) {
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
}
