package runner

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// settleWait bounds how long a new leader starts nothing because some of its databases have not told
// yet what runs there: those jobs occupy slots. Databases that the former leader lets go take that
// long.
const settleWait = 5 * time.Second

// leaderlessLimit is how long the sessions of databases, and with them the databases' own locks, are
// kept while this process cannot ask who leads. As long as it holds them no other runner can serve
// these databases, although another one may have been elected.
const leaderlessLimit = 30 * time.Second

// usurperLimit is how long a former leader may go on before it knows that it leads no more, with room
// to spare: its connections are found dead within half of that.
const usurperLimit = time.Minute

// leadership is whether this process leads the runner, and whether it knows yet what runs.
type leadership struct {
	leading bool
	// detail says who leads instead, or why that is not known.
	detail string
	// known is true when it is known who leads, be it another process.
	known bool
	// settled is true once the leader knows what runs in its databases, or has waited for that until
	// settleBy, which is zero before it knows its databases.
	settled  bool
	settleBy time.Time
	// wonAt is when this process became the leader.
	wonAt time.Time
	// lostAt is when the maintenance connection was lost; zero while it is there.
	lostAt time.Time
	// seen are the databases that have been listed, by OID: a new name may be that of an old one.
	seen map[uint32]struct{}
	// idle is set while it is known that no database has anything to run.
	idle bool
}

// alone reports whether a claim that was ordered at a moment cannot have met one of a former leader.
func (l *leadership) alone(at time.Time) bool {
	return l.leading && at.Sub(l.wonAt) >= usurperLimit
}

// giveUp returns when the lock of a database is to be given up, zero if it need not.
func (l *leadership) giveUp(db *database) time.Time {
	if l.lostAt.IsZero() || db.stage != stageLoading && db.stage != stageServed {
		return time.Time{}
	}
	since := l.lostAt
	if db.entered.After(since) {
		since = db.entered
	}
	return since.Add(leaderlessLimit)
}

// giveUp gives up the databases whose locks have been kept long enough without a leader.
func (e *engine) giveUp(now time.Time) {
	e.dropDatabases(func(db *database) bool {
		at := e.leadership.giveUp(db)
		if at.IsZero() || now.Before(at) {
			return false
		}
		e.log().Warn("giving the lock of a database up, because another node may lead and need it",
			zap.String("database", db.Name), zap.Duration("after", leaderlessLimit))
		return true
	})
}

// giveUpAt is when the next one is due, or next if that is earlier.
func (e *engine) giveUpAt(next time.Time) time.Time {
	if e.leadership.lostAt.IsZero() {
		return next
	}
	for _, db := range e.databases.byName {
		if at := e.leadership.giveUp(db); !at.IsZero() {
			next = timing.Earliest(next, at)
		}
	}
	return next
}

// settle decides whether the leader has waited long enough; settling reports whether a database may
// still tell of jobs that run.
func (l *leadership) settle(now time.Time, settling func() bool) {
	if l.due().IsZero() {
		return
	}
	l.settled = !now.Before(l.settleBy) || !settling()
}

// due is when waiting ends; zero if there is nothing to wait for.
func (l *leadership) due() time.Time {
	if l.settled {
		return time.Time{}
	}
	return l.settleBy
}

// leading takes in whether this process leads, and who does if it does not.
func (e *engine) leading(yes bool, holder string) {
	l := &e.leadership
	was, before := l.leading, l.detail
	l.leading, l.detail, l.known = yes, holder, yes || holder != ""
	l.lostAt = time.Time{}
	switch {
	case yes && !was:
		// Whatever was known of databases without a session is old: another one may have led.
		l.settled, l.settleBy, l.wonAt = false, time.Time{}, time.Now()
		e.tree.EmptyBuckets(l.wonAt) // it may have started as many as it could
		for _, db := range e.databases.byName {
			if db.told, db.counted = db.stage.known(), db.stage.known(); !db.told {
				e.reserve(db)
			}
		}
		e.wakeAll()
		e.log().Info("leading this runner")
		e.notes.emit(Event{Kind: EventLeaderChanged, Detail: leadingDetail})
	case !yes && holder != "" && (was || before != holder):
		e.log().Info("master election lost: could not acquire master runner lock, standing by",
			zap.String("holder", holder))
		e.notes.emit(Event{Kind: EventLeaderChanged, Detail: holder})
	}
	if !yes && holder != "" {
		l.settled, l.settleBy = false, time.Time{}
		e.dropDatabases(func(*database) bool { return true })
	}
}

// unreachable takes in that the cluster cannot be asked. The sessions live on: as long as they hold
// the databases' own locks, no other runner can claim. But without the leader lock another node may
// lead, so nothing new is started, and after [leaderlessLimit] the databases are left to it.
func (e *engine) unreachable(err error) {
	l, detail := &e.leadership, err.Error()
	if l.leading || l.detail != detail {
		e.log().Error("maintenance connection lost, starting no jobs until it is back", zap.Error(err))
	}
	if l.leading {
		e.notes.emit(Event{Kind: EventLeaderChanged, Detail: detail})
	}
	l.leading, l.detail, l.known = false, detail, false
	for _, db := range e.databases.byName {
		db.lostClaims = nil
	}
	if l.lostAt.IsZero() {
		l.lostAt = time.Now()
	}
}

// discovered takes in the list of databases.
func (e *engine) discovered(dbs []driver.Database) {
	if !e.leadership.leading || e.shutdown.begun {
		return
	}
	e.dropDatabases(func(db *database) bool { return !slices.Contains(dbs, db.Database) }, dbs...)
	for _, d := range dbs {
		if e.databases.get(d.Name) == nil {
			_, seen := e.leadership.seen[d.OID]
			e.addDatabase(d, !seen && !e.leadership.settleBy.IsZero())
		}
	}
	if e.leadership.seen == nil {
		e.leadership.seen = make(map[uint32]struct{})
	}
	for _, d := range dbs {
		e.leadership.seen[d.OID] = struct{}{}
	}
	e.handover.left = nil // what it says of others is about databases that are not there
	if e.leadership.settleBy.IsZero() {
		e.leadership.settleBy = time.Now().Add(settleWait)
	}
	e.noticeIdle()
}

// noticeIdle says once that no database has anything to run. It is called with each discovery, so
// those that were found by the one before have been examined.
func (e *engine) noticeIdle() {
	idle := true
	for _, db := range e.databases.byName {
		idle = idle && db.state == DatabaseUndetected
	}
	if idle && !e.leadership.idle {
		e.log().Warn("no database has anything to run: check the patterns of databases, which databases the role owns, and whether the add-on is installed",
			zap.Int("databases", len(e.databases.byName)), zap.Strings("patterns", e.config().Databases))
	}
	e.leadership.idle = idle
}

// busy takes in which databases are being dropped, renamed or copied: those who do that need them for
// themselves.
func (e *engine) busy(names []string) {
	for name, db := range e.databases.byName {
		yield := slices.Contains(names, name)
		switch {
		case yield == (db.stage == stageYielding):
		case yield:
			e.log().Info("leaving a database that is being dropped, renamed or copied", zap.String("database", name))
			e.step(db, stepYield, "")
			e.stopSession(db)
		default:
			e.step(db, stepReturn, "")
			e.startSession(db)
		}
	}
}
