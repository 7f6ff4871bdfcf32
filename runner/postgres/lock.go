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

// TryLock tries to take a session advisory lock and reports who has it. Taking it again only checks
// that it is still held: it does not count up.
func (c *Conn) TryLock(ctx context.Context, key int64) (driver.Lock, error) {
	classid, objid := lockHalves(key)
	var lock driver.Lock
	// CASE keeps the order: a lock that is held must not be taken once more.
	err := c.QueryRow(ctx, fmt.Sprintf(
		"SELECT CASE WHEN "+holdsAdvisoryLock+" THEN true ELSE pg_try_advisory_lock($3) END", "$1", "$2"),
		classid, objid, key).Scan(&lock.Held)
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
	if c.frozen.see(h, time.Now()) {
		err = c.terminate(ctx, h)
	}
	return lock, err
}

// holder is the session that holds a lock; the zero value when the lock has just become free.
type holder struct {
	pid                  *uint32
	application, address *string
	// ours is set for a session of a runner like this one, of the same role.
	ours bool
	// started tells a backend from a later one with the same process id.
	started time.Time
	// blocked is set while the backend waits for its client to read, idle is how long it has been
	// waiting for its client to say something; both by the server's clock.
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
	var started *time.Time
	var idle *float64
	err := c.QueryRow(ctx, `
		SELECT l.pid, left(a.application_name, 64), host(a.client_addr),
			coalesce(a.usesysid = (SELECT oid FROM pg_roles WHERE rolname = current_user)
				AND (a.application_name = current_setting('application_name') OR a.application_name LIKE $3 OR $4::bool), false),
			a.backend_start, coalesce(a.wait_event_type = 'Client' AND a.wait_event = 'ClientWrite', false),
			CASE WHEN a.state = 'idle' THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END
		FROM pg_locks l
		JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
		LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted
		AND l.classid = $1::oid AND l.objid = $2::oid AND l.objsubid = 1
		LIMIT 1`, classid, objid, ApplicationPrefix+"%", c.leads).
		Scan(&h.pid, &h.application, &h.address, &h.ours, &started, &h.blocked, &idle)
	if errors.Is(err, pgx.ErrNoRows) {
		return holder{}, nil
	}
	if started != nil {
		h.started = *started
	}
	if idle != nil {
		h.idle = time.Duration(*idle * float64(time.Second))
	}
	return h, c.Failed(err, "look up the holder of the advisory lock")
}

const (
	// FrozenAfter is how long the backend of another runner may wait for its client to read, at
	// each check, before that client counts as frozen.
	FrozenAfter = 15 * time.Second
	// frozenChecks is the least number of checks meanwhile.
	frozenChecks = 5
	// SilentAfter is how long another runner may say nothing at all: three times as long as
	// [IdleTimeout], by which PostgreSQL 14 and later end such a session.
	SilentAfter = 3 * IdleTimeout
)

// frozen watches the holder of a lock that this session wants. A process that was stopped, or whose
// host hangs, keeps its locks as long as its backend lives. Over TCP the server notices when what
// it sends is not acknowledged; over a Unix socket it does not, and a backend that is blocked in
// sending a notification does not observe any time limit.
type frozen struct {
	pid     uint32
	started time.Time
	since   time.Time
	checks  int
}

// see notes how the holder was found at a time, and reports whether its client must be frozen.
func (f *frozen) see(h holder, now time.Time) bool {
	if h.pid == nil || !h.ours {
		*f = frozen{}
		return false
	}
	if h.idle >= SilentAfter {
		return true
	}
	if !h.blocked {
		*f = frozen{}
		return false
	}
	if f.pid != *h.pid || !f.started.Equal(h.started) {
		*f = frozen{pid: *h.pid, started: h.started, since: now}
	}
	f.checks++
	return f.checks >= frozenChecks && now.Sub(f.since) >= FrozenAfter
}

// terminate ends the backend of a frozen runner, if it is still the one that was found, so that its
// locks become free. What that runner has claimed and sent goes on; should it wake up, its
// connections are gone and it claims nothing.
func (c *Conn) terminate(ctx context.Context, h holder) error {
	_, err := c.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE pid = $1 AND backend_start = $2
		AND (wait_event = 'ClientWrite' OR state = 'idle' AND state_change < clock_timestamp() - $3::interval)`,
		*h.pid, h.started, SilentAfter)
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
