package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// holdsAdvisoryLock is an SQL expression: whether this backend holds the
// session advisory lock whose classid and objid are the two parameters. The
// names are those of pg_locks: a lock's key of 64 bits is shown in two halves
// with objsubid 1.
const holdsAdvisoryLock = `EXISTS (
	SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
	WHERE l.locktype = 'advisory' AND l.pid = pg_backend_pid() AND l.granted
	AND d.datname = current_database() AND l.classid = %s::oid AND l.objid = %s::oid AND l.objsubid = 1)`

// lockHalves splits a key as pg_locks shows it.
func lockHalves(key int64) (classid, objid uint32) {
	return uint32(uint64(key) >> 32), uint32(uint64(key)) //nolint:gosec // halves of 64 bits
}

// TryLock tries to take a session advisory lock and reports who has it. Taking
// it again only checks that it is still held: it does not count up.
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
	if !lock.Held {
		lock.Holder, err = c.lockHolder(ctx, classid, objid)
	}
	return lock, err
}

// lockHolder describes the session that holds a lock; it is empty when the lock
// has just become free.
func (c *Conn) lockHolder(ctx context.Context, classid, objid uint32) (string, error) {
	var pid *uint32
	var application, address *string
	err := c.QueryRow(ctx, `
		SELECT l.pid, a.application_name, host(a.client_addr)
		FROM pg_locks l
		JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
		LEFT JOIN pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted
		AND l.classid = $1::oid AND l.objid = $2::oid AND l.objsubid = 1
		LIMIT 1`, classid, objid).Scan(&pid, &application, &address)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", c.Failed(err, "look up the holder of the advisory lock")
	}
	var parts []string
	if pid != nil {
		parts = append(parts, fmt.Sprintf("pid %d", *pid))
	}
	if application != nil && *application != "" {
		parts = append(parts, "application "+*application)
	}
	if address != nil && *address != "" {
		parts = append(parts, "host "+*address)
	}
	return strings.Join(parts, ", "), nil
}

// Unlock gives a session advisory lock back. It is no error not to hold it.
func (c *Conn) Unlock(ctx context.Context, key int64) error {
	classid, objid := lockHalves(key)
	// Without the condition the server would warn.
	_, err := c.Exec(ctx, fmt.Sprintf("SELECT pg_advisory_unlock($3) WHERE "+holdsAdvisoryLock, "$1", "$2"),
		classid, objid, key)
	return c.Failed(err, "give the advisory lock back")
}

// LockHolder describes the session of this database that holds a session advisory
// lock, empty if nobody does. It does not try to take it.
func (c *Conn) LockHolder(ctx context.Context, key int64) (string, error) {
	classid, objid := lockHalves(key)
	return c.lockHolder(ctx, classid, objid)
}
