package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

const (
	// lostGrace is how long a job stays enqueued of which this process knows no claim, before it is
	// put back without other evidence.
	lostGrace = 10 * time.Second
	// mysteryLimit is how long a job keeps its slot of which nothing can be learnt: its row is in a
	// state that is not known, or its database is not read any more. Its request has broken before.
	mysteryLimit = 10 * time.Minute
)

// evidence is all that is known about one question: may this attempt at a job still be executing? The
// answer decides whether the job keeps its slot, and whether it may be sent again. Nothing else does.
type evidence struct {
	// open is set while this process waits for the answer to a request for the job.
	open bool
	// row is what the row says, if it was read after the last request had ended.
	row rowSays
	// ours is set if the row is still as the claim of this process left it.
	ours bool
	// request is how the last request of this process for this attempt ended.
	request requestSays
	// locks is set where lock rows prove which jobs are alive, and lock is what they have shown; it is
	// Dead only if two inspections agree.
	locks bool
	lock  driver.Verdict
	// dated is set if the row says when it was claimed.
	dated bool
	// unguarded is set where the application itself does not keep two requests for one job from running
	// it twice.
	unguarded bool
	// waited is for how long nothing has changed.
	waited time.Duration
	// limit is the operator's for started jobs that nothing proves dead; 0 is none.
	limit time.Duration
}

// claimLeeway is by how much the clocks of this process and of PostgreSQL may differ, in what follows.
const claimLeeway = time.Second

// lostClaim is when a claim was ordered and when it was found out that its result got lost.
type lostClaim struct{ from, to time.Time }

// loseClaim remembers such a claim.
func (db *database) loseClaim(uuid string, from time.Time) {
	if db.lostClaims == nil {
		db.lostClaims = make(map[string]lostClaim)
	}
	db.lostClaims[uuid] = lostClaim{from: from, to: time.Now()}
}

// claimedInVain reports whether an enqueued row is as a claim left it whose result got lost. Nothing has
// been sent for it: since then this process has led, nothing else was seen to hold the lock of the
// database, and the row was claimed while that claim was under way. Rows say that in whole seconds.
// Where a second request would do harm, it must also have led since [usurperLimit] before.
func (db *database) claimedInVain(row *driver.Row) bool {
	lost, ok := db.lostClaims[row.UUID]
	if !ok || row.State != channels.Enqueued || row.Enqueued == 0 {
		return false
	}
	at := time.UnixMicro(row.Enqueued)
	return !at.Before(lost.from.Truncate(time.Second).Add(-claimLeeway)) && !at.After(lost.to.Add(claimLeeway))
}

// rowSays is the state of a job as far as it matters here.
type rowSays uint8

const (
	// rowUnread: the row has not been read since.
	rowUnread rowSays = iota
	rowEnqueued
	rowStarted
	// rowEnded: neither enqueued nor started, or there is no row.
	rowEnded
	// rowMystery: a state that is not known.
	rowMystery
)

// requestSays is what the last request of an attempt proves.
type requestSays uint8

const (
	// requestUnknown: this process has sent none, but another program may have; or its request broke on
	// the way.
	requestUnknown requestSays = iota
	// requestUnsent: this process made the claim and has delivered nothing for it.
	requestUnsent
	// requestEnded: it was answered, by the application or by something in its place. Either way it
	// will not run the job any more.
	requestEnded
)

// finding is the answer.
type finding uint8

const (
	// mayExecute: the job keeps its slot and is not sent.
	mayExecute finding = iota
	// idle: nothing executes it. Its slot is free; its row decides what becomes of it.
	idle
	// unstarted: nothing executes it, and its row still says enqueued: it may be put back.
	unstarted
	// undecided: it is not started, and may be put back where the application itself turns a second
	// request away; here it does not.
	undecided
	// dead: its row says that it runs, and nothing runs it: it may be rescued.
	dead
)

// judge answers the question.
func (ev *evidence) judge() finding {
	if ev.open {
		return mayExecute // whatever the row says: it may have been changed by hand
	}
	concluded := ev.concluded()
	switch ev.row {
	case rowEnded:
		return idle
	case rowUnread:
		if concluded {
			return idle
		}
	case rowMystery:
		if concluded || ev.lock != driver.Alive && ev.waited >= mysteryLimit {
			return idle
		}
	case rowEnqueued:
		return ev.judgeEnqueued(concluded)
	case rowStarted:
		switch {
		case ev.locks && ev.lock == driver.Dead:
			return dead
		case !ev.locks && ev.dated && ev.limit > 0 && ev.waited >= ev.limit:
			return dead
		}
	}
	return mayExecute
}

// concluded reports whether no request of this process will run the job any more.
func (ev *evidence) concluded() bool { return !ev.open && ev.request != requestUnknown }

// judgeEnqueued is judge for a row that is claimed and not started. A request for it may wait in a
// backlog.
func (ev *evidence) judgeEnqueued(concluded bool) finding {
	switch {
	case ev.ours && (concluded || !ev.unguarded):
		// The request may still be read, but not have an effect any more once the row is pending:
		// the application starts a job in the transaction in which it has locked the row and found
		// it enqueued, and a row that is locked is not put back.
		return unstarted
	case ev.locks && ev.lock == driver.Dead:
		return dead
	case ev.locks || !ev.dated || ev.waited < lostGrace:
		return mayExecute
	case ev.unguarded:
		return undecided
	}
	return unstarted
}

// saysOf is what a row that has been read says; nil is one that is gone.
func saysOf(row *driver.Row) rowSays {
	switch {
	case row == nil:
		return rowEnded
	case row.State == channels.Enqueued:
		return rowEnqueued
	case row.State == channels.Started:
		return rowStarted
	case row.State == channels.Unknown:
		return rowMystery
	}
	return rowEnded
}

// request is what the last request of an attempt proves. Of an attempt that is not ours, it proves
// nothing.
func (t *task) request() requestSays {
	switch {
	case !t.ours:
	case t.result != nil && (t.result.Outcome == driver.Answered || t.result.Outcome == driver.Refused):
		return requestEnded
	case t.result != nil && t.result.Outcome == driver.NotSent, t.result == nil && !t.sent:
		return requestUnsent
	}
	return requestUnknown
}

// evidence collects what is known of a task whose database is db, nil if it is not served.
func (e *engine) evidence(db *database, t *task, now time.Time) evidence {
	ev := evidence{
		open: t.exchange != nil, request: t.request(),
		lock: t.lock(now), limit: e.config().RescueStartedAfter,
	}
	if t.phase == phaseWatched {
		ev.waited = now.Sub(t.since)
	}
	if t.row != nil || t.gone || t.absent {
		ev.row = saysOf(t.row)
	}
	if t.row != nil {
		ev.dated = t.row.Enqueued != 0
		ev.ours = t.ours && t.row.Enqueued == t.attempt.Enqueued
		if t.row.State == channels.Unknown {
			ev.waited = now.Sub(t.mystery) // its database may be lost and found again and again meanwhile
		}
		if t.row.State.Running() && !ev.ours {
			ev.request = requestUnknown // it was about an earlier attempt
		}
	}
	if db != nil {
		ev.locks, ev.unguarded = db.fingerprint.Locks && !e.blinded(t), db.fingerprint.Unguarded
		if !db.fingerprint.Locks {
			ev.lock = driver.Uncertain // what was found before the application was changed is not found again
		}
	}
	return ev
}

// lock is what inspections have shown. Two must agree, of the same state of the same attempt, and lie
// apart: one may fall between a worker's two transactions.
func (t *task) lock(now time.Time) driver.Verdict {
	switch {
	case t.alive:
		return driver.Alive
	case !t.deadSince.IsZero() && t.deadAgain && now.Sub(t.deadSince) >= deadApart:
		return driver.Dead
	}
	return driver.Uncertain
}

// inspectedAs notes what an inspection has shown.
func (t *task) inspectedAs(l *driver.Liveness, now time.Time) {
	t.alive = l.Verdict == driver.Alive
	if l.Verdict != driver.Dead {
		t.deadSince, t.deadAgain = time.Time{}, false
		return
	}
	if found := looked(&l.Row); t.deadSince.IsZero() || t.deadAt != found {
		t.deadSince, t.deadAgain, t.deadAt = now, false, found
		return
	}
	t.deadAgain = true
}

// lookedAt is what an inspection judged: a state of an attempt.
type lookedAt struct {
	state    channels.State
	enqueued int64
}

func looked(row *driver.Row) lookedAt { return lookedAt{row.State, row.Enqueued} }
