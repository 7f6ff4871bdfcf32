package runner

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

const (
	// strikesLimit is how many different jobs in a row may not have been run by their requests before
	// the whole database is held back.
	strikesLimit = 3
	// holdFirst and holdLimit bound the time a database is held back.
	holdFirst = time.Second
	holdLimit = 30 * time.Second
	// probeLimit is for how long a database whose table was locked is held back while its next claim is under
	// way. A claim takes less.
	probeLimit = 10 * time.Second
)

// hold is why and how long a database is held back, so that an application that does not run its jobs
// is not asked in a loop.
type hold struct {
	// until is zero if it is not.
	until time.Time
	why   string
	// struck are the last different jobs whose requests ended without running them, with no other
	// request in between, and times counts how often the database was held back for that.
	struck []string
	times  int
	// since is when the first of them was struck, and ranAt when a job was run last.
	since, ranAt time.Time
	// lost counts connections in a row that were lost while claiming, and refused claims in a row that met a
	// lock. probing is set while the database is held back because another is under way.
	lost, refused int
	probing       bool
}

// notClaimed is why a database is held back whose connection was lost while jobs were being claimed.
const notClaimed = "the last jobs could not be claimed"

// tableLocked is why a database is held back whose jobs cannot be claimed because of a lock.
const tableLocked = "another transaction has locked the table of jobs: an upgrade, an index that is being built, or one that was forgotten"

// strike counts a request that ended without its job having been run, and why. When that happens to
// different jobs one after the other, the reason is not the jobs: the database is held back for a while.
func (d *databases) strike(db *database, uuid, why string) {
	h := &db.hold
	if len(h.struck) == 0 {
		h.since = time.Now()
	}
	h.struck = append(slices.DeleteFunc(h.struck, func(s string) bool { return s == uuid }), uuid)
	if len(h.struck) > strikesLimit {
		h.struck = slices.Delete(h.struck, 0, 1)
	}
	if len(h.struck) < strikesLimit || !h.until.IsZero() {
		return
	}
	if why != "" {
		why = " (" + why + ")"
	}
	d.hold(db, h.times, "the last requests ended without their jobs having been run"+why)
	h.times++
}

// struckByOthers reports whether the last requests that ended so were for other jobs, too.
func (h *hold) struckByOthers(uuid string) bool {
	return slices.ContainsFunc(h.struck, func(s string) bool { return s != uuid })
}

// ran notes a request that was answered for a job that has been run.
func (h *hold) ran() { h.struck, h.times, h.ranAt = nil, 0, time.Now() }

// claimsLost holds a database back whose connection was lost while jobs were being claimed: its turn
// would come again and again at the expense of others.
func (d *databases) claimsLost(db *database) {
	if !db.hold.until.IsZero() {
		return
	}
	d.hold(db, db.hold.lost, notClaimed)
	db.hold.lost++
}

// claimsRefused holds a database back whose table is locked: each claim would wait for the lock for seconds,
// with slots that others could use.
func (d *databases) claimsRefused(db *database) {
	if !db.hold.until.IsZero() && !db.hold.probing {
		return
	}
	d.hold(db, db.hold.refused, tableLocked)
	db.hold.refused++
}

// probe holds such a database back while its next claim is under way, which tells whether the lock has ended.
func (d *databases) probe(db *database, now time.Time) {
	if db.hold.refused == 0 {
		return
	}
	db.hold.until, db.hold.probing = now.Add(probeLimit), true
	d.held[db] = struct{}{}
	d.derive(db)
}

// unlocked ends such a hold: a job has been claimed, or others have written to the table.
func (d *databases) unlocked(db *database) {
	if db.hold.refused == 0 {
		return
	}
	if db.hold.refused = 0; db.hold.why == tableLocked && !db.hold.until.IsZero() {
		db.hold.until = time.Now()
		d.release(db.hold.until)
	}
	d.derive(db)
}

// hold keeps the jobs of a database back for a while that grows with the number of times that this
// has been necessary.
func (d *databases) hold(db *database, times int, why string) {
	pause := timing.Backoff{First: holdFirst, Limit: holdLimit, Attempts: times}
	wait := pause.Next()
	db.hold.until, db.hold.why, db.hold.probing = time.Now().Add(wait), why, false
	d.held[db] = struct{}{}
	d.derive(db)
	d.log().Warn("holding back the jobs of a database", zap.String("database", db.Name),
		zap.String("reason", why), zap.Duration("for", wait))
}

// release lets the jobs of those databases run again that have been held back long enough.
func (d *databases) release(now time.Time) {
	for db := range d.held {
		if now.Before(db.hold.until) {
			continue
		}
		db.hold.until = time.Time{}
		delete(d.held, db)
		d.derive(db)
	}
}

// releaseAt is when the next one has been, or next if that is earlier.
func (d *databases) releaseAt(next time.Time) time.Time {
	for db := range d.held {
		next = timing.Earliest(next, db.hold.until)
	}
	return next
}
