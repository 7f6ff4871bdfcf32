package runner

import (
	"context"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// database is what the engine knows of one database.
type database struct {
	driver.Database
	session *session.Session
	cancel  context.CancelFunc

	state       DatabaseState
	detail      string
	fingerprint driver.Fingerprint
	// known is true while the session's snapshot has been applied and its connection lives.
	known bool

	hold hold
	// complaint is what was logged last about the connection.
	complaint string
	yielding  bool
	// pause is set while an operator has paused the database.
	pause *Pause
	// misconfigured says why the database's own channel tree lets nothing run.
	misconfigured string
	// unreadable is set when that is because its configuration cannot be read.
	unreadable bool
	// repairs collects the jobs that the present snapshot changed.
	repairs []string
}

// serving reports whether jobs of the database may be claimed.
func (db *database) serving() bool {
	return db.known && db.hold.until.IsZero() && db.pause == nil
}

// severity is how bad it is that the database is unhealthy for that reason: a mistake in its channels
// is up to those who made it.
func (db *database) severity(reason string) zapcore.Level {
	if reason == db.misconfigured && !db.unreadable {
		return zapcore.WarnLevel
	}
	return zapcore.ErrorLevel
}

// databases are those that the runner serves, and what keeps their jobs out of the queues.
type databases struct {
	config func() Config
	tree   *channels.Forest
	notes  *notes

	byName map[string]*database
	// held are those that are held back.
	held map[*database]struct{}
}

func newDatabases(config func() Config, tree *channels.Forest, n *notes) *databases {
	return &databases{
		config: config, tree: tree, notes: n,
		byName: make(map[string]*database), held: make(map[*database]struct{}),
	}
}

func (d *databases) log() *zap.Logger { return d.config().Logger }

// get returns a database, nil if it is not served.
func (d *databases) get(name string) *database { return d.byName[name] }

func (d *databases) drop(db *database) {
	delete(d.byName, db.Name)
	delete(d.held, db)
}

// setState logs transitions only.
func (d *databases) setState(db *database, state DatabaseState, detail string) {
	if db.state == state && (db.detail == detail || state == DatabaseConnecting) {
		return
	}
	if state == DatabaseConnecting && db.state != DatabaseReady {
		return // a further attempt is no news
	}
	db.state, db.detail = state, detail
	d.notes.state(db)
	fields := []zap.Field{zap.String("database", db.Name), zap.String("detail", detail)}
	switch state {
	case DatabaseUnreachable:
		if db.complaint != detail {
			d.log().Warn("database cannot be reached", fields...)
		}
		db.complaint = detail
	case DatabaseUnhealthy:
		d.log().Log(db.severity(detail), "database cannot be served: "+detail, fields[0])
	case DatabaseStandby:
		d.log().Info("master election lost: could not acquire master runner lock on "+db.Name, fields...)
	case DatabaseReady:
		db.complaint = ""
		d.log().Info("queue job runner ready for db "+db.Name, fields[0])
	case DatabaseNeutralized:
		d.log().Info(detail, fields[0])
	case DatabaseConnecting, DatabaseUndetected, DatabaseLoading, DatabaseHeld, DatabaseYielding:
		d.log().Debug("database is "+state.String(), fields...)
	}
}

// ready lets the jobs of a database run whose rows are known from now on.
func (d *databases) ready(db *database) {
	db.known, db.repairs = true, nil
	d.open(db)
	if !d.any(DatabaseConnecting, DatabaseLoading) {
		n := 0
		for _, db := range d.byName {
			if db.state == DatabaseReady {
				n++
			}
		}
		d.log().Info("database connections ready", zap.Int("databases", n))
	}
}

// open lets the jobs of a database into the queues whose rows are known, unless something speaks
// against it, and says so.
func (d *databases) open(db *database) {
	d.resume(db)
	switch {
	case !db.hold.until.IsZero():
		d.setState(db, DatabaseHeld, db.hold.why)
	case db.misconfigured != "":
		d.setState(db, DatabaseUnhealthy, db.misconfigured)
	default:
		d.setState(db, DatabaseReady, "")
	}
}

// resume lets the jobs of a database into the queues, unless something else still speaks against it.
func (d *databases) resume(db *database) {
	if db.serving() {
		d.tree.Resume(db.Name)
	}
}

// pause puts the pauses of whole databases into force.
func (d *databases) pause(c Controls) {
	for _, db := range d.byName {
		was := db.pause != nil
		db.pause = c.pause(db.Name, "")
		switch {
		case db.pause != nil && !was:
			d.tree.Suspend(db.Name)
		case db.pause == nil && was:
			d.resume(db)
		}
	}
}

// any reports whether a database is in one of these states.
func (d *databases) any(states ...DatabaseState) bool {
	for _, db := range d.byName {
		if slices.Contains(states, db.state) {
			return true
		}
	}
	return false
}

// settling reports whether a database may still tell of jobs that run.
func (d *databases) settling() bool {
	return d.any(DatabaseConnecting, DatabaseLoading, DatabaseStandby)
}

// status describes the databases, sorted by name; counts are the jobs of all.
func (d *databases) status(counts []channels.Count) []DatabaseStatus {
	list := make([]DatabaseStatus, 0, len(d.byName))
	at := make(map[string]int, len(d.byName))
	for _, name := range slices.Sorted(maps.Keys(d.byName)) {
		db := d.byName[name]
		st := DatabaseStatus{
			Name: name, State: db.state, Detail: db.detail, Fingerprint: db.fingerprint,
			HeldUntil: db.hold.until, Pause: db.pause,
		}
		if db.session != nil {
			p := db.session.Pulse()
			st.Connected, st.Heard, st.Synced, st.Notifications = p.Connected, p.Heard, p.Synced, p.Notifications
		}
		at[name] = len(list)
		list = append(list, st)
	}
	for _, c := range counts {
		if i, ok := at[c.DB]; ok {
			list[i].Pending += c.Pending
			list[i].Enqueued += c.Enqueued
			list[i].Started += c.Started
			list[i].Failed += c.Failed
		}
	}
	return list
}
