package runner

import (
	"context"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// snapshotWait bounds how long a session waits for the engine to take rows.
const snapshotWait = time.Minute

// sessionReports takes what one session reports of a database into the engine's loop. What a session
// has to say that has been replaced, or stopped, is dropped there.
type sessionReports struct {
	engine  *engine
	db      *database
	session *session.Session
	// taken is closed when the engine has taken the last rows of a snapshot.
	taken chan struct{}
}

// newSession makes the session of a database.
func (e *engine) newSession(db *database) *session.Session {
	r := &sessionReports{engine: e, db: db}
	r.session = session.New(db.Name, func() session.Config {
		cfg := e.config().session()
		cfg.Queue, cfg.Fence = &e.connections.queue, e.maint.Fence
		return cfg
	}, r)
	if db.young {
		r.session.Expect()
	}
	return r.session
}

// post has the loop run f, unless the session has been replaced by then.
func (r *sessionReports) post(f func()) {
	r.engine.mail.post(func() {
		if r.db.session == r.session {
			f()
		}
	})
}

func (r *sessionReports) State(state session.State, detail string) {
	r.post(func() { r.engine.sessionState(r.db, state, detail) })
}

func (r *sessionReports) Fingerprinted(fp driver.Fingerprint) {
	r.post(func() { r.engine.fingerprinted(r.db, fp) })
}

func (r *sessionReports) Channels(cfgs []channels.Config, err error) {
	r.post(func() { r.engine.databases.channelsRead(r.db, cfgs, err) })
}

func (r *sessionReports) Upgrading(u driver.Upgrade) {
	r.post(func() { r.engine.databases.upgrading(r.db, u) })
}

func (r *sessionReports) Counted(c channels.Count) {
	r.post(func() { r.db.count = &c })
}

func (r *sessionReports) Running(rows []driver.Row) {
	r.post(func() { r.engine.running(r.db, rows) })
}

func (r *sessionReports) SnapshotBegin() {
	r.post(func() { r.engine.snapshotBegin(r.db) })
}

// SnapshotRows returns when the engine has taken the rows before these, so that a large snapshot does
// not fill the mailbox, and is read while the engine works.
func (r *sessionReports) SnapshotRows(ctx context.Context, rows []driver.Row) (earlier bool) {
	earlier = true
	if r.taken != nil {
		t := time.NewTimer(snapshotWait)
		defer t.Stop()
		select {
		case <-r.taken:
		case <-ctx.Done():
			earlier = false
		case <-t.C:
			earlier = false
		}
	}
	taken := make(chan struct{})
	r.taken = taken
	if !r.engine.mail.post(func() {
		defer close(taken)
		if r.db.session == r.session {
			r.engine.snapshotRows(r.db, rows)
		}
	}) {
		close(taken)
	}
	return earlier
}

func (r *sessionReports) SnapshotEnd(named map[string]struct{}, keys driver.Keys) {
	r.post(func() { r.engine.snapshotEnd(r.db, named, keys) })
}

func (r *sessionReports) Rows(read session.Reading) {
	r.post(func() { r.engine.rowsRead(r.db, read) })
}

func (r *sessionReports) Claimed(c session.Claims) {
	r.post(func() { r.engine.claimed(r.db, c) })
}

func (r *sessionReports) Vacant(v session.Vacant) {
	r.post(func() { r.engine.vacant(r.db, v) })
}

// Scheduled returns after the next pass of the loop.
func (r *sessionReports) Scheduled(ctx context.Context) {
	e := r.engine
	done := make(chan struct{})
	if !e.mail.post(func() { e.awaited = append(e.awaited, done) }) {
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	case <-e.mail.gone:
	}
}

func (r *sessionReports) Unclaimed(tasks []driver.Task, changed []driver.Row) {
	r.post(func() { r.engine.unclaimed(r.db, tasks, changed) })
}

func (r *sessionReports) Inspected(found []driver.Liveness) {
	r.post(func() { r.engine.inspected(r.db, found) })
}

func (r *sessionReports) Rescued(rows []driver.Row) {
	r.post(func() { r.engine.rescued(r.db, rows) })
}

func (r *sessionReports) Stopped(attempts []driver.Task, stopped []driver.Stopped, terminate bool, err error) {
	r.post(func() { r.engine.stopped(r.db, attempts, stopped, terminate, err) })
}

func (r *sessionReports) Accounted(causes []driver.Cause, changed []driver.Row, err error) {
	r.post(func() { r.engine.accounted(r.db, causes, changed, err) })
}

func (r *sessionReports) Asleep(rest driver.Rest) {
	r.post(func() { r.engine.asleep(r.db, rest) })
}

func (r *sessionReports) Awake() {
	r.post(func() { r.engine.awake(r.db) })
}

func (r *sessionReports) Released(rows []driver.Row) {
	r.post(func() { r.engine.released(r.db, rows) })
}

// clusterReports takes what the maintenance connection reports into the engine's loop.
type clusterReports struct{ engine *engine }

func (r clusterReports) Leading(yes bool, holder string) {
	r.engine.mail.post(func() { r.engine.leading(yes, holder) })
}

func (r clusterReports) Unreachable(err error) {
	r.engine.mail.post(func() { r.engine.unreachable(err) })
}

func (r clusterReports) Discovered(dbs []driver.Database) {
	r.engine.mail.post(func() { r.engine.discovered(dbs) })
}

func (r clusterReports) Limits(l driver.Limits) {
	r.engine.mail.post(func() {
		now := time.Now()
		r.engine.connections.measured(l, now.Sub(r.engine.leadership.wonAt), now)
	})
}

func (r clusterReports) Writes(all map[uint32]driver.Writes) {
	r.engine.mail.post(func() { r.engine.written(all) })
}

func (r clusterReports) Busy(names []string) {
	r.engine.mail.post(func() { r.engine.busy(names) })
}

// poolReports takes what the pool of servers reports into the engine's loop, and wakes it.
type poolReports struct{ engine *engine }

func (r poolReports) Up(name string) {
	r.engine.mail.post(func() { r.engine.notes.emit(Event{Kind: EventUpstreamUp, Upstream: name}) })
}

func (r poolReports) Down(name, reason string) {
	r.engine.mail.post(func() {
		r.engine.serverDown()
		r.engine.notes.emit(Event{Kind: EventUpstreamUnhealthy, Upstream: name, Detail: reason})
	})
}

func (r poolReports) Listed() { r.engine.mail.post(func() {}) }

// exchangeEnded takes the end of a request into the loop.
func (e *engine) exchangeEnded(x *exchange.Exchange, result driver.Result) {
	e.mail.post(func() { e.answered(x, result) })
}
