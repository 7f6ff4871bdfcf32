package runner

import (
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// releaseAfter is how long a worker that has run a job has to release those that waited for it,
	// after its request broke. One whose request was given up, although it may be alive, has longer:
	// it tries up to five times, within 31 s (docs/contract.md 1.5).
	releaseAfter     = 10 * time.Second
	releaseAbandoned = 45 * time.Second
	// releaseQuiet and sweepQuiet are how long ago the last parent must have been done by its row: for a
	// job that is known to have lost its worker, and for all that wait, of which no more is known.
	releaseQuiet = 5 * time.Second
	sweepQuiet   = time.Minute
	// sweepLeast is the time between two looks at all that wait where there is a full read every few
	// seconds.
	sweepLeast = time.Minute
)

// releases are the jobs that were done and may have left others waiting, each with the time at which
// these are released. A job whose request was answered needs nothing: Odoo answers when it has released.
type releases map[channels.Key]time.Time

// leftBehind reports whether the worker of a job that is done may have died before it had released
// those that waited for it.
func (t *task) leftBehind() bool {
	return t.row != nil && t.row.State == channels.Done &&
		(t.result == nil || t.result.Outcome != driver.Answered || t.result.Status >= 400)
}

// bereave notes a job that is done and may have left others waiting.
func (e *engine) bereave(key channels.Key, t *task) {
	if !t.leftBehind() || !e.config().ReleaseDependents {
		return
	}
	after := releaseAfter
	if t.abandoned {
		after = releaseAbandoned
	}
	if e.releases == nil {
		e.releases = make(releases)
	}
	e.releases[key] = time.Now().Add(after)
}

// due is when the next one is to be looked after, or next if that is earlier.
func (r releases) due(next time.Time) time.Time {
	for _, at := range r {
		next = timing.Earliest(next, at)
	}
	return next
}

// release has the jobs released that were left waiting. Of a database that is not served now, the next
// snapshot brings all of them.
func (e *engine) release(now time.Time) {
	due := make(map[string][]string)
	for key, at := range e.releases {
		if !now.Before(at) {
			delete(e.releases, key)
			due[key.DB] = append(due[key.DB], key.UUID)
		}
	}
	for name, done := range due {
		if db := e.databases.get(name); db != nil && db.stage.known() && e.config().ReleaseDependents {
			db.session.Release(done, releaseQuiet, e.releasing(name))
		}
	}
}

// sweep has all jobs of a database looked at that wait for others.
func (e *engine) sweep(db *database) {
	now := time.Now()
	if e.config().Pooler != nil && now.Sub(db.swept) < sweepLeast {
		return
	}
	if db.swept = now; e.config().ReleaseDependents {
		db.session.Release(nil, sweepQuiet, e.releasing(db.Name))
	}
}

// releasing are the jobs of a database that are done and whose requests are open: their workers may be
// about to release those that waited for them.
func (e *engine) releasing(database string) (busy []string) {
	for key, t := range e.tasks {
		if key.DB == database && t.phase == phaseOpen && t.settled() {
			busy = append(busy, key.UUID)
		}
	}
	return busy
}

// released takes in the rows of jobs that were released.
func (e *engine) released(db *database, rows []driver.Row) {
	for i := range rows {
		e.log().Warn("job was released that a dead worker had left waiting for others: "+printable(rows[i].UUID),
			zap.String("database", db.Name))
		e.applyRow(&rows[i], 0, e.tree.Set)
	}
	e.notes.emit(Event{Kind: EventDependentsReleased, Database: db.Name, UUID: rows[0].UUID, Count: len(rows)})
}
