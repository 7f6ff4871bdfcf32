package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// holdsAdvisoryLock is an SQL expression: whether this backend holds the session advisory lock
// whose classid and objid are the two parameters. The names are those of pg_locks: a lock's key of
// 64 bits is shown in two halves with objsubid 1.
const holdsAdvisoryLock = `EXISTS (
	SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
	WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.granted
	AND d.datname = current_database() AND l.classid = %s::oid AND l.objid = %s::oid AND l.objsubid = 1)`

// lockHalves splits a key as pg_locks shows it.
func lockHalves(key int64) (classid, objid uint32) {
	return uint32(uint64(key) >> 32), uint32(uint64(key)) //nolint:gosec // halves of 64 bits
}

// markKey is the key of a shared advisory lock that each of our sessions has. It tells the sessions
// of a runner like this one from those of OCA's, which rightly say nothing for a long time, by
// something that neither the configuration nor another role can give or take away.
const markKey int64 = 0x6361646479_6a6f62 // "caddyjob"

// TryLock tries to take a session advisory lock and reports who has it. Taking it again only checks
// that it is still held: it does not count up.
//
// Through a pooler it takes the lock until the end of the transaction only: it finds out whether
// another session has it. What is to be done with the lock takes it again; see [Conn.Exclude].
func (c *Conn) TryLock(ctx context.Context, key int64) (driver.Lock, error) {
	classid, objid := lockHalves(key)
	var lock driver.Lock
	var err error
	if c.pooled != nil {
		lock.Held, err = c.tryNow(ctx, key)
	} else {
		// CASE keeps the order: a lock that is held must not be taken once more.
		err = c.QueryRow(ctx, fmt.Sprintf(
			"SELECT CASE WHEN "+holdsAdvisoryLock+" THEN true ELSE pg_try_advisory_lock($3) END", "$1", "$2"),
			classid, objid, key).Scan(&lock.Held)
	}
	if err != nil {
		return driver.Lock{}, c.Failed(err, "take the advisory lock")
	}
	if lock.Held {
		return lock, nil
	}
	h, err := c.lockHolder(ctx, classid, objid)
	if err != nil {
		return lock, err
	}
	lock.Holder = h.String()
	if !c.frozen.see(h, time.Now()) {
		return lock, nil
	}
	if err := c.terminate(ctx, h); err != nil {
		return lock, err
	}
	if lock.Held, err = c.awaitLock(ctx, key); lock.Held {
		lock.Holder = ""
	}
	return lock, err
}

// tryNow tries to take a lock that is free, until the end of the transaction through a pooler, and
// until that of the session otherwise.
func (c *Conn) tryNow(ctx context.Context, key int64) (held bool, err error) {
	function := "pg_try_advisory_lock"
	if c.pooled != nil {
		function = "pg_try_advisory_xact_lock"
	}
	err = c.QueryRow(ctx, "SELECT "+function+"($1)", key).Scan(&held)
	return held, err
}

// awaitLock takes a lock whose holder is about to exit, as soon as it has.
func (c *Conn) awaitLock(ctx context.Context, key int64) (held bool, err error) {
	tick := time.NewTicker(exitInterval)
	defer tick.Stop()
	for range exitChecks {
		held, err := c.tryNow(ctx, key)
		if err != nil || held {
			return held, c.Failed(err, "take the advisory lock of a runner that is frozen")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, nil
		}
	}
	return false, nil
}

// holder is the session that holds a lock; the zero value when the lock has just become free.
type holder struct {
	pid                  *uint32
	application, address *string
	// ours is set for a session of a runner like this one, of the same role: it bears our mark, or the
	// name that such a session has unless it is told otherwise.
	ours bool
	// started tells a backend from a later one with the same process id, and changed is when its
	// client last said something, or the answer to that ended; both by the server's clock.
	started, changed time.Time
	// blocked is set while a statement waits for the client to read its result, idle is how long the
	// backend has been waiting for its client to say something, by the server's clock.
	blocked bool
	idle    time.Duration
}

// String describes the session for an operator; empty for no session.
func (h *holder) String() string {
	var parts []string
	if h.pid != nil {
		parts = append(parts, fmt.Sprintf("pid %d", *h.pid))
	}
	if h.application != nil && *h.application != "" {
		parts = append(parts, "application "+*h.application)
	}
	if h.address != nil && *h.address != "" {
		parts = append(parts, "host "+*h.address)
	}
	return strings.Join(parts, ", ")
}

// lockHolder asks for the session that holds a lock.
func (c *Conn) lockHolder(ctx context.Context, classid, objid uint32) (holder, error) {
	var h holder
	var started, changed *time.Time
	var idle *float64
	markClass, markObject := lockHalves(markKey)
	err := c.QueryRow(ctx, `
		SELECT l.pid, left(a.application_name, 64), host(a.client_addr),
			coalesce(a.usesysid = (SELECT oid FROM pg_roles WHERE rolname = current_user)
				AND (a.application_name = current_setting('application_name') OR a.application_name LIKE $3 OR $4::bool
					OR EXISTS (SELECT FROM pg_locks m WHERE m.pid = l.pid AND m.locktype = 'advisory' AND m.granted
						AND m.database = l.database AND m.classid = $5::oid AND m.objid = $6::oid AND m.objsubid = 1)), false),
			a.backend_start, a.state_change, coalesce(a.state = 'active' AND a.wait_event = 'ClientWrite', false),
			CASE WHEN a.state LIKE 'idle%' THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END
		FROM pg_locks l
		JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
		LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted
		AND l.classid = $1::oid AND l.objid = $2::oid AND l.objsubid = 1
		LIMIT 1`, classid, objid, ApplicationPrefix+"%", c.leads, markClass, markObject).
		Scan(&h.pid, &h.application, &h.address, &h.ours, &started, &changed, &h.blocked, &idle)
	if errors.Is(err, pgx.ErrNoRows) {
		return holder{}, nil
	}
	if started != nil {
		h.started = *started
	}
	if changed != nil {
		h.changed = *changed
	}
	if idle != nil {
		h.idle = time.Duration(*idle * float64(time.Second))
	}
	return h, c.Failed(err, "look up the holder of the advisory lock")
}

const (
	// SilentAfter is how long another runner may say nothing at all. PostgreSQL 14 and later end such
	// a session after the same time, unless it is blocked in sending a notification.
	SilentAfter = IdleTimeout
	// FrozenAfter is how long a client that was heard must then be silent by our own clock.
	FrozenAfter = 15 * time.Second
	// BlockedAfter is how long the backend of another runner may wait for its client to read the
	// result of one statement, at each check, before that client counts as frozen. It is longer than
	// any statement of a runner that lives, because that gives up first: were it shorter, two runners
	// that need long to read a very large snapshot would take the lock from each other for ever.
	BlockedAfter = 11 * time.Minute
	// frozenChecks is the least number of checks meanwhile.
	frozenChecks = 5
	// exitInterval is the time between two checks whether a backend that was told to exit has, and
	// exitChecks how many of them there are.
	exitInterval = 50 * time.Millisecond
	exitChecks   = 20
)

// frozen watches the holder of a lock that this session wants. A process that was stopped, or whose
// host hangs, keeps its locks as long as its backend lives. Over TCP the server notices when what
// it sends is not acknowledged; over a Unix socket it does not, and a backend that is blocked in
// sending a notification does not observe any time limit.
//
// A runner that is merely slow says something at least every 15 s on each of its sessions, except
// while it reads a result, for which BlockedAfter is the limit. What it said last, the server
// remembers, also while the backend is blocked: so a session that begins to watch only now, after an
// election, needs no time of its own to find a client silent.
type frozen struct {
	pid              uint32
	started, changed time.Time
	// heard is when the client was found to have said something, zero if it has not been: a leap of
	// the server's clock does not make such a client silent.
	heard time.Time
	// blocked counts the checks, in sequence, at which the backend was blocked, since the first.
	blocked int
	since   time.Time
}

// see notes how the holder was found at a time, and reports whether its client must be frozen.
func (f *frozen) see(h holder, now time.Time) bool {
	switch {
	case h.pid == nil || !h.ours:
		*f = frozen{}
		return false
	case f.pid != *h.pid || !f.started.Equal(h.started):
		*f = frozen{pid: *h.pid, started: h.started, changed: h.changed}
	case !f.changed.Equal(h.changed):
		f.changed, f.heard, f.blocked = h.changed, now, 0
	}
	if h.idle >= SilentAfter && now.Sub(f.heard) >= FrozenAfter {
		return true
	}
	if !h.blocked {
		f.blocked = 0
		return false
	}
	if f.blocked++; f.blocked == 1 {
		f.since = now
	}
	return f.blocked >= frozenChecks && now.Sub(f.since) >= BlockedAfter
}

// terminate ends the backend of a frozen runner, if it is still the one that was found and its
// client has said nothing since, so that its locks become free. What that runner has claimed and
// sent goes on; should it wake up, its connections are gone and it claims nothing.
func (c *Conn) terminate(ctx context.Context, h holder) error {
	_, err := c.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid = $1 AND backend_start = $2 AND state_change = $3
		AND (state LIKE 'idle%' OR wait_event = 'ClientWrite')`, *h.pid, h.started, h.changed)
	return c.Failed(err, "end the session of a runner that is frozen")
}

// Unlock gives a session advisory lock back. It is no error not to hold it.
func (c *Conn) Unlock(ctx context.Context, key int64) error {
	classid, objid := lockHalves(key)
	// Without the condition the server would warn.
	_, err := c.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_unlock($3) WHERE "+holdsAdvisoryLock, "$1", "$2"),
		classid, objid, key)
	return c.Failed(err, "give the advisory lock back")
}

// LockHolder describes the session of this database that holds a session advisory lock, empty if
// there is none. It does not try to take it.
func (c *Conn) LockHolder(ctx context.Context, key int64) (string, error) {
	classid, objid := lockHalves(key)
	h, err := c.lockHolder(ctx, classid, objid)
	return h.String(), err
}
