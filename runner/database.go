package runner

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// database is what the engine knows of one database.
type database struct {
	driver.Database
	session *session.Session
	cancel  context.CancelFunc

	// stage decides, with hold, pause and misconfigured; detail says why it is that one.
	stage  stage
	detail string
	// entered is when it became that one.
	entered     time.Time
	fingerprint driver.Fingerprint
	// told is true once all of its jobs have been read since this process leads, and counted once those
	// that occupy slots have been.
	told, counted bool
	// read is set once all of its jobs have been read since they were last forgotten. Before, count is
	// how many there are, if only that is known.
	read  bool
	count *channels.Count
	// state and reason are what was shown last, derived of all these.
	state  DatabaseState
	reason string

	hold hold
	// upgrade is what is seen of an upgrade, during which nothing starts, since upgradeSince.
	upgrade      driver.Upgrade
	upgradeSince time.Time
	// complaint is what was logged last about the connection.
	complaint string
	// pause is set while an operator has paused the database.
	pause *Pause
	// server is the one that got its last job; empty before that.
	server string
	// misconfigured says why the database's own channel tree lets nothing run.
	misconfigured string
	// unreadable is set when that is because its configuration cannot be read.
	unreadable bool
	// servedUntil is when it was served last for long enough that inspections tell of its jobs, or when
	// it was found.
	servedUntil time.Time
	// lockedSince is when a lock was met first since inspections told of its jobs last; zero if none was.
	lockedSince time.Time
	// reserved are the slots that are kept for jobs of a former leader, since reservedAt.
	reserved   []channels.Key
	reservedAt time.Time
	// lostClaims are the claims whose results got lost with the last connection, by uuid.
	lostClaims map[string]lostClaim
	// causes are those that are to be written into rows, by uuid.
	causes map[string]unwritten
	// young is set for a database that was made while this process leads, until it has been served.
	young bool
	// useful is when a job of it was claimed last. It is not ordered to sleep again before
	// restlessUntil. slept is its last sleep, nil before one. quiet is set from then until something
	// is wrong with it, so that not each sleep is told of.
	useful, restlessUntil time.Time
	slept                 *sleep
	quiet                 bool
	// waited is set while it connects after it has waited for a connection: that it fails as it did
	// before is no news then.
	waited bool
	// barred are the pending jobs that are no reason to keep the connection, as they were when it was last
	// found that there is nothing else to do.
	barred barred
	// leaving is until when nothing of it is started, so that it can give its connection to others.
	leaving time.Time
	// left is set from when it has done so until it is served again.
	left bool
	// remains is until when it is not asked to again.
	remains time.Time
	// open are the jobs, by uuid, that had an open request in this process when the present first
	// snapshot began.
	open map[string]struct{}
	// swept is when jobs that may have been left waiting for others were looked for last.
	swept time.Time
	// writes is how much had been written when its session was told last, where that hears nothing.
	writes driver.Writes
	// sharingTold is when it was last said that its jobs name too many channels.
	sharingTold time.Time
	// keys are those that policies ask for and that are known of all its jobs, and untold is set while
	// policies ask for more.
	keys   driver.Keys
	untold bool
	// hidden is set while it is not known what became of jobs that had their slots taken away: a lock hides
	// that, or the database is only just served again. Nothing starts before that has been read: they may
	// be executing.
	hidden bool
	// repairs collects the jobs that the present snapshot changed, up to repairsLimit.
	repairs []string
}

// repairsLimit bounds what is remembered of a snapshot: how many jobs a database has is up to others.
const repairsLimit = 10_000

// repair notes that the present snapshot changed a job.
func (db *database) repair(uuid string) {
	if len(db.repairs) < repairsLimit {
		db.repairs = append(db.repairs, uuid)
	}
}

// serving reports whether jobs of the database may be claimed. What is wrong with its channels is up
// to its channel tree.
func (db *database) serving() bool {
	return db.stage.known() && !db.untold && !db.hidden && db.hold.until.IsZero() && db.pause == nil && !db.upgrade.Active && db.leaving.IsZero()
}

// settling reports whether a new leader should wait for the database: it may still tell of jobs that
// run, which occupy slots, and of jobs that go before others.
func (db *database) settling() bool { return !db.told && db.stage.mayTell() }

// shown is what users see of the state, and the reason.
func (db *database) shown() (DatabaseState, string) {
	switch {
	case db.upgrade.Active && (db.stage == stageServed || db.stage == stageUnhealthy):
		return DatabaseUpgrading, db.upgrade.Description
	case db.stage != stageServed:
		return stageStates[db.stage], db.detail
	case db.untold:
		return DatabaseLoading, "all jobs are read anew, because policies tell them apart by more"
	case db.hidden:
		return DatabaseLoading, "it is not known yet whether jobs still run that did before; others start once that has been read"
	case !db.hold.until.IsZero() || db.hold.refused > 0:
		return DatabaseHeld, db.hold.why
	case db.misconfigured != "":
		return DatabaseUnhealthy, db.misconfigured
	}
	return DatabaseReady, ""
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
	// served are those whose sessions carry orders out.
	served map[*database]struct{}
	// gating is set while upgrades keep jobs from being started.
	gating bool
	// sharingAt is when it is checked next which of them name too many channels.
	sharingAt time.Time
	// shares are the policies that divide channels and are in force.
	shares []policy.Policy
}

func newDatabases(config func() Config, tree *channels.Forest, n *notes) *databases {
	return &databases{
		config: config, tree: tree, notes: n,
		byName: make(map[string]*database), held: make(map[*database]struct{}), served: make(map[*database]struct{}),
	}
}

func (d *databases) log() *zap.Logger { return d.config().Logger }

// get returns a database, nil if it is not served.
func (d *databases) get(name string) *database { return d.byName[name] }

func (d *databases) drop(db *database) {
	delete(d.byName, db.Name)
	delete(d.held, db)
	delete(d.served, db)
}

// step takes in what happened to a database. It reports whether its jobs were known before, and are
// not any more.
func (d *databases) step(db *database, what step, detail string) (lost bool) {
	was, since := db.stage, db.entered
	if db.stage = was.after(what); db.stage != was {
		db.entered = time.Now()
	}
	if db.stage.known() {
		d.served[db] = struct{}{}
	} else {
		delete(d.served, db)
	}
	if db.stage != was || detail != "" {
		db.detail = detail
	}
	switch {
	case what == stepLoaded:
		db.told, db.read, db.count = true, true, nil
	case what == stepStandby:
		db.lostClaims = nil // another program may have made others
	}
	if lost = was.known() && !db.stage.known(); lost {
		db.lockedSince = time.Time{}
	}
	if lost && time.Since(since) >= servedLeast {
		db.servedUntil = time.Now()
	}
	d.derive(db)
	return lost
}

// derive brings up to date what follows from the state of a database: whether its jobs are in the
// queues, and what users see of it.
func (d *databases) derive(db *database) {
	wanted := keys(d.shares)
	// What is not wanted is not read any more, and is not known if it is wanted again.
	db.keys = db.keys.And(wanted)
	db.untold = db.keys != wanted
	if db.serving() {
		d.tree.Resume(db.Name)
	} else {
		d.tree.Suspend(db.Name)
	}
	state, reason := db.shown()
	same := db.state == state && (db.reason == reason || state == DatabaseUpgrading)
	if db.state, db.reason = state, reason; same {
		return // the modules of an upgrade come and go
	}
	d.announce(db)
}

// announce logs a transition.
func (d *databases) announce(db *database) {
	state, detail := db.state, db.reason
	again := state == DatabaseUnreachable && db.waited && db.complaint == detail
	if !(again || db.quiet && state == DatabaseReady) {
		d.notes.state(db)
	}
	db.waited = state == DatabaseWaiting || db.waited && state == DatabaseConnecting
	if _, told := stateEvents[state]; told && state != DatabaseReady {
		db.quiet = false
	}
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
		if db.quiet {
			return
		}
		d.log().Info("queue job runner ready for db "+db.Name, fields[0])
	case DatabaseNeutralized:
		d.log().Info(detail, fields[0])
	case DatabaseUpgrading:
		d.log().Info("database is being upgraded, its jobs wait: "+detail, fields[0])
	case DatabaseWaiting: // of which the queue tells, for all together
		d.log().Debug("database waits for a connection", fields...)
	case DatabaseConnecting, DatabaseUndetected, DatabaseLoading, DatabaseHeld, DatabaseYielding, DatabaseAsleep:
		d.log().Debug("database is "+state.String(), fields...)
	}
}

// ready lets the jobs of a database run whose rows are known from now on.
func (d *databases) ready(db *database) {
	db.repairs, db.young, db.left = nil, false, false
	if d.step(db, stepLoaded, ""); db.quiet {
		return
	}
	n := 0
	for _, db := range d.byName {
		switch db.stage {
		case stageConnecting, stageLoading:
			return
		case stageWaiting:
			if !db.told {
				return
			}
		case stageServed:
			if db.state == DatabaseReady {
				n++
			}
		case stageAsleep:
			n++
		case stageUnreachable, stageUndetected, stageNeutralized, stageUnhealthy, stageStandby, stageYielding:
		}
	}
	d.log().Info("database connections ready", zap.Int("databases", n))
}

// pause puts the pauses of whole databases into force, after those of channels.
func (d *databases) pause(c Controls) {
	for _, db := range d.byName {
		db.pause = c.pause(db.Name, "")
		d.derive(db)
	}
	d.reread()
}

// settling reports whether a database may still tell of jobs that run.
func (d *databases) settling() bool {
	for _, db := range d.byName {
		if db.settling() {
			return true
		}
	}
	return false
}

// unread reports whether the database may have jobs that have not been read.
func (db *database) unread() bool { return !db.read && db.stage.mayTell() }

// unheard reports whether the database may have more jobs than were read, because it has had to give
// up its connection or was woken by what was written to it, and has none.
func (db *database) unheard() bool { return db.stage == stageWaiting }

// withCounted adds the jobs of databases whose jobs have only been counted. Their channels are not
// known, so that they count at the one above all.
func (d *databases) withCounted(counts []channels.Count) []channels.Count {
	for _, name := range slices.Sorted(maps.Keys(d.byName)) {
		db := d.byName[name]
		if db.count == nil || !db.unread() {
			continue
		}
		rest := *db.count
		for _, c := range counts { // in memory, because their requests are open
			if c.DB == name {
				rest.Pending, rest.Enqueued = max(0, rest.Pending-c.Pending), max(0, rest.Enqueued-c.Enqueued)
				rest.Started, rest.Failed = max(0, rest.Started-c.Started), max(0, rest.Failed-c.Failed)
			}
		}
		rest.DB, rest.Channel = name, "root"
		counts = append(counts, rest)
	}
	return counts
}

// status describes the databases, sorted by name; counts are the jobs of all.
func (d *databases) status(counts []channels.Count) []DatabaseStatus {
	list := make([]DatabaseStatus, 0, len(d.byName))
	at := make(map[string]int, len(d.byName))
	for _, name := range slices.Sorted(maps.Keys(d.byName)) {
		db := d.byName[name]
		st := DatabaseStatus{
			Name: name, State: db.state, Detail: db.reason, Fingerprint: db.fingerprint,
			HeldUntil: db.hold.until, Pause: db.pause, Sharing: d.tree.Sharing(name),
			JobsUnknown: db.unread() && db.count == nil || db.unheard(),
		}
		if db.upgrade.Active {
			st.UpgradeSince = db.upgradeSince
		}
		if db.quiet && db.slept != nil && !db.stage.known() {
			st.Woken = db.slept.until
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
