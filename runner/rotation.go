package runner

import (
	"cmp"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

const (
	// rotateInterval is the time between two attempts to find connections for databases that wait.
	rotateInterval = 250 * time.Millisecond
	// restlessPause is how long a database is left alone that had something to do after all.
	restlessPause = 2 * time.Second
	// usefulPause is how long a database keeps its connection after a job of it was claimed, unless the
	// jobs of another one wait for it: mostly, the next one follows.
	usefulPause = time.Second
	// checkPace is the time between two databases that are checked because they have slept for as long
	// as one may. If there are more of them, they sleep longer.
	checkPace = 250 * time.Millisecond
	// etaAhead is how long before its next eta a database is woken.
	etaAhead = 15 * time.Second
	// falseWake is how long a database sleeps at least if nothing was to be done when it was woken last;
	// each time twice as long, up to the time that it sleeps at most.
	falseWake = 2 * time.Second
	// turnPatience is how long a database waits before others with jobs leave it a connection, and how
	// long such a one waits for its own jobs to end; turnLength is how long it keeps the connection, at
	// least.
	turnPatience, turnLength = 5 * time.Second, 30 * time.Second
	// etasLimit bounds the jobs that are looked at to find whether all that wait do so for their eta.
	etasLimit = 1000
)

// rotation gives the connections of databases that do not need them to others. Such a database is
// asleep: it has no session, and is woken by what is written to it, by its next eta, and from time to
// time.
type rotation struct {
	// at is when it is tried again to find connections; zero if none are missing.
	at time.Time
	// hibernateAt is when it is looked next for databases that have had nothing to do for long.
	hibernateAt time.Time
	// resting are the databases that have been ordered to sleep.
	resting map[*database]struct{}
	asleep  map[*database]*sleep
	// checking are those that have been woken only to be checked. As long as they have no connection,
	// what is written to them is watched all the same.
	checking map[*database]struct{}
}

// sleep is what is known of a database that is asleep.
type sleep struct {
	since time.Time
	rest  driver.Rest
	// earliest is when it may be woken because something was written, latest when it is.
	earliest, latest time.Time
	// vain is how often nothing was to be done after that, one time after the other.
	vain int
	// stirred is set while it is awake because something was written.
	stirred bool
	// barred is set if it has jobs that cannot start for long.
	barred bool
	// until is when it was woken.
	until time.Time
}

// hurry has it tried at once to find connections, if some are missing: a database has been read, which
// may have nothing to do.
func (r *rotation) hurry() {
	if !r.at.IsZero() {
		r.at = time.Unix(0, 1)
	}
}

// pressed is called when databases have to wait for a connection.
func (e *engine) pressed() { e.mail.post(func() { e.rotate(time.Now()) }) }

// rotate has as many databases give up their connections as others need, those first that have not had
// a job for the longest time.
func (e *engine) rotate(now time.Time) {
	r := &e.rotation
	r.at = time.Time{}
	p := e.connections.queue.Pressure()
	over := p.Over()
	if over == 0 || e.ending() {
		e.remainAll()
		return
	}
	r.at = now.Add(rotateInterval)
	if over -= len(r.resting); over <= 0 {
		e.remainAll()
		return
	}
	engaged := e.engaged()
	var idle []*database
	for db := range e.databases.served {
		if p.Pressing == 0 && now.Sub(db.useful) < usefulPause {
			continue
		}
		if !engaged[db.Name] && e.idle(db, now) {
			idle = append(idle, db)
		}
	}
	slices.SortFunc(idle, func(a, b *database) int {
		return cmp.Or(a.useful.Compare(b.useful), cmp.Compare(a.Name, b.Name))
	})
	for _, db := range idle[:min(over, len(idle))] {
		e.layDown(db)
	}
	if over = min(over-len(idle), wanting(p, len(e.databases.served))); over > 0 {
		e.take(now, over)
	} else { // those that were to leave are not needed any more
		e.remainAll()
	}
}

// wanting is how many databases with jobs are to leave their connections to others, of which so many are
// served: to those whose jobs have been waiting, and to those that have not been read yet only if no
// connection becomes free for them otherwise. Many can be new at the same time, each is watched for a while
// before it is read, and who has jobs would wait for all of them.
func wanting(p session.Pressure, served int) int {
	switch {
	case p.Stuck >= turnLength, p.Stuck >= turnPatience && p.Held <= served:
		return p.Needy
	case p.Pressed >= turnPatience:
		return p.Pressing
	}
	return 0
}

// layDown orders a database to sleep.
func (e *engine) layDown(db *database) {
	e.rotation.resting[db] = struct{}{}
	db.session.Sleep(db.barred.uuids)
}

// take has databases with jobs leave their connections to others whose jobs may have been waiting for
// longer: those that have had them for the longest time. Nothing of them is started until their
// jobs have ended that run; if these take too long, they go on.
func (e *engine) take(now time.Time, over int) {
	running := make(map[string]bool)
	for key, t := range e.tasks {
		running[key.DB] = running[key.DB] || !t.slotless()
	}
	var busy []*database
	for db := range e.databases.served {
		_, resting := e.rotation.resting[db]
		switch {
		case db.leaving.IsZero():
			if since := now.Sub(db.entered); !resting && since >= turnLength && !now.Before(db.remains) {
				busy = append(busy, db)
			}
		case !running[db.Name]:
			e.leaveConnection(db)
			over--
		case now.Before(db.leaving):
			over--
		default:
			e.remain(db)
			db.remains = now.Add(turnLength)
		}
	}
	slices.SortFunc(busy, func(a, b *database) int {
		return cmp.Or(a.entered.Compare(b.entered), cmp.Compare(a.Name, b.Name))
	})
	for _, db := range busy[:max(0, min(over, len(busy)))] {
		db.leaving = now.Add(turnPatience)
		e.databases.derive(db)
	}
}

// leaveConnection has a database wait for its next turn.
func (e *engine) leaveConnection(db *database) {
	e.log().Debug("database leaves its connection to others", zap.String("database", db.Name))
	e.stopSession(db)
	db.quiet, db.left = true, true // it comes back every few minutes
	e.step(db, stepLeave, e.connections.why)
	e.startSession(db)
}

// remain lets the jobs of a database be started that was to leave its connection to others.
func (e *engine) remain(db *database) {
	if db.leaving.IsZero() {
		return
	}
	db.leaving = time.Time{}
	e.databases.derive(db)
}

// engaged are the databases with tasks that have no slot and are not over: those whose rows have not been
// read, or cannot be changed. So are those with jobs that others may wait for in vain.
func (e *engine) engaged() map[string]bool {
	dbs := make(map[string]bool)
	for key := range e.releases {
		dbs[key.DB] = true
	}
	for key, t := range e.tasks {
		if t.slotless() {
			dbs[key.DB] = true
		}
	}
	return dbs
}

// idle reports whether there is nothing to do in a database, as far as the engine knows. Jobs that cannot
// start for long are noted.
func (e *engine) idle(db *database, now time.Time) bool {
	if _, resting := e.rotation.resting[db]; resting || now.Before(db.restlessUntil) {
		return false
	}
	if db.session == nil || len(db.lostClaims) > 0 || len(db.causes) > 0 || len(db.reserved) > 0 {
		return false
	}
	db.barred = barred{opens: never}
	switch n := e.tree.Unfinished(db.Name); {
	case n == 0:
		return true
	case n > etasLimit:
		return false
	}
	soon := now.Add(2 * session.SleepHorizon).UnixMicro()
	looked, bars, out := 0, e.barsOf(db), barred{opens: never}
	for j, state := range e.tree.Jobs(db.Name) {
		if looked++; looked > etasLimit || state.Running() {
			return false
		}
		if state != channels.Pending || j.ETA >= soon && !e.sequential(j.Key) {
			continue
		}
		until := bars.job(j.Key)
		if until < soon {
			return false
		}
		out.uuids, out.opens = append(out.uuids, j.UUID), min(out.opens, until)
	}
	db.barred = out
	return true
}

// sequential reports whether a job holds others up until its eta.
func (e *engine) sequential(key channels.Key) bool {
	for name := e.notes.channelOf(key); name != ""; name = channels.Parent(name) {
		if c, ok := e.tree.Channel(key.DB, name); ok && c.Sequential {
			return true
		}
	}
	return false
}

// remainAll is remain for all that were to leave.
func (e *engine) remainAll() {
	for db := range e.databases.served {
		e.remain(db)
	}
}

// awake takes in that a database has something to do and keeps its connection.
func (e *engine) awake(db *database) {
	delete(e.rotation.resting, db)
	db.restlessUntil = time.Now().Add(restlessPause)
}

// asleep takes in that a database has given up its connection.
func (e *engine) asleep(db *database, rest driver.Rest) {
	now := time.Now()
	delete(e.rotation.resting, db)
	check := e.naps().Check
	s := &sleep{since: now, rest: rest, barred: len(db.barred.uuids) > 0, latest: now.Add(timing.Jitter(check))}
	if was := db.slept; was != nil && db.useful.Before(was.since) {
		if s.vain = was.vain; was.stirred {
			s.vain++
		}
	}
	if s.vain > 0 {
		s.earliest = now.Add(min(falseWake<<min(s.vain, 10), check))
	}
	if !rest.Next.IsZero() {
		if at := rest.Next.Add(-etaAhead); at.Before(s.latest) {
			s.latest = at
		}
	}
	if opens := db.barred.opens; len(db.barred.uuids) > 0 && opens != never {
		if at := time.UnixMicro(opens).Add(-etaAhead); at.Before(s.latest) {
			s.latest = at
		}
	}
	e.stopSession(db)
	db.slept, db.quiet = s, true
	e.rotation.asleep[db] = s
	e.watch()
	e.step(db, stepSleep, "")
	if e.tree.Unfinished(db.Name) > len(db.barred.uuids) && rest.Next.IsZero() || e.unbarred(db, now) {
		e.wake(db, session.Pressing) // the engine knows of a job that was not there
	}
	if len(e.rotation.resting) == 0 {
		e.rotate(now)
	}
}

// detail says what it means that a database is asleep.
func (s *sleep) detail() string {
	if s.barred {
		return "none of its jobs can start, because of a pause or of a capacity of 0 at this time, and it has had nothing else to do since " +
			s.since.UTC().Format(time.RFC3339) + ", so that it needs no connection"
	}
	return "it has had nothing to do since " + s.since.UTC().Format(time.RFC3339) + ", so that it needs no connection"
}

// wake has a database connect, or do so sooner, and reports whether it was asleep.
func (e *engine) wake(db *database, u session.Urgency) bool {
	if _, ok := e.rotation.checking[db]; ok && u == session.Pressing {
		e.press(db)
		return true
	}
	if _, ok := e.rotation.asleep[db]; !ok {
		return false
	}
	delete(e.rotation.asleep, db)
	defer e.watch()
	db.slept.until = time.Now()
	if u == session.Pressing {
		e.step(db, stepWake, "")
	}
	e.startSession(db)
	if u == session.Routine {
		e.rotation.checking[db] = struct{}{}
	}
	e.connections.queue.Hasten(db.session, u)
	return true
}

// forgetSleep forgets what concerns a database whose session ends.
func (e *engine) forgetSleep(db *database) {
	delete(e.rotation.resting, db)
	delete(e.rotation.asleep, db)
	delete(e.rotation.checking, db)
	e.watch()
}

// watch has the maintenance connection watch the databases as long as one is asleep, or waits to be
// checked.
func (e *engine) watch() { e.watching.Store(len(e.rotation.asleep)+len(e.rotation.checking) > 0) }

// watches reports whether what is written to the databases is to be watched. It is safe for concurrent
// use.
func (e *engine) watches() bool { return e.watching.Load() || e.config().Pooler != nil }

// tell tells the sessions that hear no notifications of what was written to their databases.
func (e *engine) tell(all map[uint32]driver.Writes) {
	for db := range e.databases.served {
		if writes, ok := all[db.OID]; ok && writes != db.writes {
			db.writes = writes
			db.session.Written()
		}
	}
}

// stir reports whether something was written to a database since it fell asleep, or its next eta
// comes near.
func (s *sleep) stir(db *database, all map[uint32]driver.Writes, now time.Time) bool {
	if writes, ok := all[db.OID]; (!ok || writes != s.rest.Writes) && !now.Before(s.earliest) {
		s.stirred = true
		return true
	}
	return !s.rest.Next.IsZero() && !now.Before(s.rest.Next.Add(-etaAhead))
}

// hasten has those databases connect soon that wait to be checked and have something to do by now:
// no other leaves its connection to one that is only to be checked.
func (e *engine) hasten(all map[uint32]driver.Writes, now time.Time) {
	for db := range e.rotation.checking {
		switch {
		case db.stage.known(): // it has been checked
			delete(e.rotation.checking, db)
		case db.slept.stir(db, all, now):
			e.press(db)
		}
	}
	e.watch()
}

// press has a database connect soon that waits to be checked.
func (e *engine) press(db *database) {
	delete(e.rotation.checking, db)
	if e.step(db, stepWake, ""); db.stage == stageConnecting {
		if p := e.connections.queue.Pressure(); p.Waiting > 0 {
			e.step(db, stepWait, cmp.Or(p.Refused, e.connections.why))
		}
	}
	e.connections.queue.Hasten(db.session, session.Pressing)
}

// written takes in how much has been written to the databases, and wakes those that may have something
// to do. Those that nothing is known of are woken one after the other, and all as far as there are
// connections that nobody needs.
func (e *engine) written(all map[uint32]driver.Writes) {
	now := time.Now()
	e.hasten(all, now)
	if e.config().Pooler != nil {
		e.tell(all)
	}
	free := e.connections.queue.Pressure().Free()
	if e.hibernates() {
		free = 0
	}
	var due []*database
	for db, s := range e.rotation.asleep {
		switch {
		case s.stir(db, all, now):
			e.log().Debug("database is woken, because it may have something to do", zap.String("database", db.Name))
			e.wake(db, session.Pressing)
		case free != 0 || !now.Before(s.latest):
			due = append(due, db)
		}
	}
	slices.SortFunc(due, func(a, b *database) int { return a.slept.latest.Compare(b.slept.latest) })
	checks := int(e.naps().Poll / checkPace)
	for _, db := range due {
		switch {
		case free != 0:
			free--
		case checks > 0 && !now.Before(db.slept.latest):
			checks--
		default:
			continue
		}
		e.wake(db, session.Routine)
	}
}

// wakeAll has every database connect that is asleep: another process may have led meanwhile.
func (e *engine) wakeAll() {
	for db := range e.rotation.checking {
		delete(e.rotation.checking, db)
		e.connections.queue.Hasten(db.session, session.Unknown)
	}
	for db := range e.rotation.asleep {
		e.wake(db, session.Unknown)
	}
}
