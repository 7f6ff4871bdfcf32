package odoo

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Quarantiner = (*session)(nil)

// evidence is what an inspection found about one row.
type evidence struct {
	row driver.Row
	// now is the database's clock.
	now time.Time
	// held is set when a transaction holds the lock row, pid is its backend.
	held bool
	pid  uint32
}

// Inspect implements [driver.Session]. It only reads. A lock that was taken inside a savepoint
// looks free; Rescue finds that out.
func (s *session) Inspect(ctx context.Context, uuids []string) ([]driver.Liveness, error) {
	if s.generation == nil {
		return nil, errNoFingerprint
	}
	found := map[string]evidence{}
	err := s.query(ctx, s.statements.inspect, []any{uuids}, func(rows pgx.Rows, scan *scanner) error {
		var e evidence
		var now pgtype.Timestamp
		var pid int64
		var err error
		if e.row, err = scan.scan(rows, &now, &pid, &e.held); err != nil {
			return err
		}
		e.now, e.pid = now.Time, uint32(pid) //nolint:gosec // a process id
		before, ok := found[e.row.UUID]
		// A job has one lock row; should there be more, one held is enough.
		if !ok || better(e.row, before.row) || e.row.ID == before.row.ID && e.held {
			found[e.row.UUID] = e
		}
		return nil
	})
	if err != nil {
		return nil, s.failed(err, "inspect jobs")
	}
	list := make([]driver.Liveness, 0, len(uuids))
	for _, uuid := range uuids {
		e, ok := found[uuid]
		if !ok {
			row := driver.Row{Job: channels.Job{Key: channels.Key{DB: s.database, UUID: uuid}}}
			list = append(list, driver.Liveness{Row: row, Gone: true})
			continue
		}
		list = append(list, judge(e, s.generation.locks))
	}
	return list, nil
}

// judge decides from the evidence that the database can give. Without a lock table nothing proves
// anything: a started job may run, and one that is enqueued may wait for a worker.
func judge(e evidence, locks bool) driver.Liveness {
	l := driver.Liveness{Row: e.row}
	enqueued := e.row.Enqueued
	if !e.row.State.Running() {
		return l
	}
	infinite := enqueued == math.MaxInt64 || enqueued == math.MinInt64
	if enqueued != 0 && !infinite {
		l.Age = e.now.Sub(time.UnixMicro(enqueued))
	}
	// A claim writes the time at which it is made. One in the future was written by hand, and would
	// keep its slot for ever if it had to pass first.
	odd := infinite || l.Age < -Grace
	switch {
	case e.held:
		l.Verdict, l.PID = driver.Alive, e.pid
	case locks && (odd || l.Age > Grace):
		l.Verdict = driver.Dead
	}
	return l
}

// errNoLocks is a mistake of the caller.
var errNoLocks = errors.New("without a lock table nothing proves a job dead")

// Rescue implements [driver.Session]. A job counts up its retries only if it had been started, and
// fails when they are used up (docs/contract.md 3.4); so does one that is expired, where there is
// no lock table.
func (s *session) Rescue(ctx context.Context, dead []driver.Liveness) ([]driver.Row, error) {
	return s.end(ctx, "rescue jobs", s.statements.rescue, dead)
}

// FailDead implements [driver.Quarantiner].
func (s *session) FailDead(ctx context.Context, dead []driver.Liveness, why []string) ([]driver.Row, error) {
	return s.end(ctx, "fail dead jobs", s.statements.failDead, dead, causeTexts(why))
}

// FailStopped implements [driver.Stopper].
func (s *session) FailStopped(ctx context.Context, dead []driver.Liveness, why []string) ([]driver.Row, error) {
	return s.end(ctx, "fail jobs that were stopped", s.statements.failStopped, dead, causeTexts(why))
}

// end has a statement end those of the tasks that are still dead.
func (s *session) end(ctx context.Context, what, sql string, dead []driver.Liveness, args ...any) ([]driver.Row, error) {
	switch {
	case s.generation == nil:
		return nil, errNoFingerprint
	case !s.generation.locks && slices.ContainsFunc(dead, func(l driver.Liveness) bool { return !l.Expired }):
		return nil, errNoLocks
	}
	defer s.excluding()()
	states := make([]string, len(dead))
	for i := range dead {
		states[i] = dead[i].Row.RawState
	}
	uuids, enqueued := attempts(len(dead), func(i int) driver.Task {
		return driver.Task{Key: dead[i].Row.Key, Enqueued: dead[i].Row.Enqueued}
	})
	return s.rows(ctx, what, sql, append([]any{uuids, enqueued, states}, args...)...)
}
