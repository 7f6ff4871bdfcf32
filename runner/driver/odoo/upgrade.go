package odoo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Upgrader = (*session)(nil)

// markedModulesSQL is what is true of a module that Odoo has been told to change. An index serves it:
// the column has one in every series.
const markedModulesSQL = `state IN ('to install', 'to upgrade', 'to remove')`

// writersSQL is what is true of a lock in pg_locks that a backend has which writes the table
// ir_module_module, whose name is the verb.
const writersSQL = `l.granted AND l.pid <> pg_backend_pid() AND l.locktype = 'relation' AND l.relation = to_regclass(%s)
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')`

// settledSQL is the condition of a claim that no module is marked, and that no other transaction is
// about to mark one: a process that is told to upgrade a module (-u) commits its mark together with
// the new module (docs/contract.md 3.7).
func (g *generation) settledSQL() string {
	return ` AND NOT EXISTS (SELECT FROM ir_module_module WHERE ` + markedModulesSQL + `)
	AND NOT EXISTS (SELECT FROM pg_locks l WHERE ` + fmt.Sprintf(writersSQL, literal(g.tables.qualify("ir_module_module"))) + `)`
}

// upgradeSQL reads what there is to see of an upgrade: the modules that are marked; the backends whose
// transactions have written ir_module_module, or have locked it to write it, and have not ended; and,
// of the backends in $2, in which transaction they are.
//
// Marks alone come too late: see [generation.settledSQL].
var upgradeSQL = `
SELECT 'marked', name || ' (' || state || ')', '' FROM (
	SELECT left(name, 100) AS name, left(state, 100) AS state FROM ir_module_module
	WHERE ` + markedModulesSQL + ` ORDER BY name LIMIT 10) AS m
UNION ALL
SELECT CASE WHEN l.relation IS NULL THEN 'open' ELSE 'writes' END, l.pid::text, l.virtualtransaction FROM pg_locks l
WHERE ` + fmt.Sprintf(writersSQL, "$1") + `
OR l.granted AND l.pid <> pg_backend_pid() AND l.locktype = 'virtualxid' AND l.pid::text = ANY($2)`

// lockerSQL finds who keeps everyone from reading ir_module_module, or waits for that, which keeps those
// who come later from it as well.
const lockerSQL = `SELECT pid::text, coalesce(virtualtransaction, '') FROM pg_locks WHERE pid <> pg_backend_pid()
	AND locktype = 'relation' AND mode = 'AccessExclusiveLock' AND relation = to_regclass($1)
	AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1`

// lockedBy reports whether another process keeps the table from being read, and takes it in as one that
// changes modules: to wait for it could take longer than a check may.
func (s *session) lockedBy(ctx context.Context, u *upgrade) (bool, error) {
	var pid, transaction string
	err := s.conn.QueryRow(ctx, lockerSQL, s.generation.tables.qualify("ir_module_module")).Scan(&pid, &transaction)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, s.conn.Failed(err, "check who has locked ir_module_module")
	}
	u.add("writes", pid, transaction)
	return true, nil
}

// markedSinceSQL tells when the first of the marks was set, as far as rows tell when they were written;
// writeDateSQL whether they do.
const (
	writeDateSQL = `SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'write_date'
		AND atttypid = 'timestamp'::regtype AND NOT attisdropped)`
	markedSinceSQL = `SELECT min(write_date) FROM ir_module_module WHERE ` + markedModulesSQL
)

// markedSince tells when the first mark was set, at the latest; zero if that is not known.
func (s *session) markedSince(ctx context.Context) (time.Time, error) {
	var dated bool
	var since pgtype.Timestamp
	err := s.conn.QueryRow(ctx, writeDateSQL, pgx.QueryExecModeExec, s.generation.tables.qualify("ir_module_module")).Scan(&dated)
	if err == nil && dated {
		err = s.conn.QueryRow(ctx, s.generation.named(markedSinceSQL), pgx.QueryExecModeExec).Scan(&since)
	}
	return since.Time, s.conn.Failed(err, "check since when modules are marked") // that of an infinity is zero
}

// GateUpgrades implements [driver.Upgrader].
func (s *session) GateUpgrades(on bool) { s.gated = on }

// Upgrading implements [driver.Upgrader]. An upgrade has ended when no module is marked, no open
// transaction has written ir_module_module, and the backends that had are done with the transaction
// that followed, in which Odoo cleans up; or had none in two checks.
func (s *session) Upgrading(ctx context.Context, last driver.Upgrade) (driver.Upgrade, error) {
	if s.generation == nil {
		return driver.Upgrade{}, errNoFingerprint
	}
	u := upgrade{backends: parseTrail(last.DriverState), open: map[string]string{}}
	if locked, err := s.lockedBy(ctx, &u); err != nil {
		return driver.Upgrade{}, err
	} else if locked {
		return u.result(), nil
	}
	rows, err := s.conn.Query(ctx, s.statements.upgrade, s.generation.tables.qualify("ir_module_module"), slices.Collect(maps.Keys(u.backends)))
	if err != nil {
		return driver.Upgrade{}, s.conn.Failed(err, "check for an upgrade")
	}
	var kind, what, transaction string
	_, err = pgx.ForEachRow(rows, []any{&kind, &what, &transaction}, func() error {
		u.add(kind, what, transaction)
		return nil
	})
	if waited(err) { // it was locked in this moment; the next check tells by whom
		return driver.Upgrade{Active: true, Description: "a process keeps ir_module_module from being read", DriverState: last.DriverState}, nil
	}
	return u.result(), s.conn.Failed(err, "check for an upgrade")
}

// waited reports whether a statement ended because it would have had to wait for a lock for longer than
// it may.
func waited(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == lockNotAvailable
}

// upgradingOr makes an error one of an upgrade if that is what it tells of. An upgrade may lock each of
// Odoo's tables, until it has done with a module.
func upgradingOr(err error) error {
	if waited(err) {
		return fmt.Errorf("%w: %w", driver.ErrUpgrading, err)
	}
	return err
}

// failed says what a statement was to do that ended with an error, and whether that tells of an upgrade.
// It returns nil for nil.
func (s *session) failed(err error, doing string) error {
	return upgradingOr(s.conn.Failed(err, doing))
}

// upgrade collects what is seen of one.
type upgrade struct {
	marked, writers []string
	// open are the backends that are in a transaction, with that, by process id.
	open map[string]string
	// backends are those that change modules, or have done so: with the transaction that is their
	// last one, as far as that is known, or one of the words below.
	backends map[string]string
}

const (
	// changing: the backend changes modules.
	changing = "changing"
	// pausing: it had no transaction when it was looked at, after it had changed modules. Odoo may
	// just have been between two.
	pausing = "pausing"
)

// add takes in one row.
func (u *upgrade) add(kind, what, transaction string) {
	switch kind {
	case "marked":
		u.marked = append(u.marked, printable(what))
	case "writes":
		u.writers = append(u.writers, what)
		u.open[what] = transaction
	case "open":
		u.open[what] = transaction
	}
}

// result says what is seen, and moves on.
func (u *upgrade) result() driver.Upgrade {
	for _, pid := range u.writers {
		u.backends[pid] = changing
	}
	for pid, was := range u.backends {
		transaction, open := u.open[pid]
		switch {
		case len(u.marked) > 0 || len(u.writers) > 0:
			u.backends[pid] = changing // it may have further modules to change
		case open && (was == changing || was == pausing):
			u.backends[pid] = transaction
		case open && was == transaction:
		case was == changing:
			u.backends[pid] = pausing
		default:
			delete(u.backends, pid)
		}
	}
	var words []string
	for _, pid := range slices.Sorted(maps.Keys(u.backends)) {
		words = append(words, pid+"="+u.backends[pid])
	}
	r := driver.Upgrade{Active: true, DriverState: strings.Join(words, " ")}
	switch {
	case len(u.marked) > 0:
		r.Description = "modules are marked: " + strings.Join(u.marked, ", ")
	case len(u.writers) > 0:
		r.Description = fmt.Sprintf("process %s changes ir_module_module in a transaction that is open", u.writers[0])
	case len(u.backends) > 0:
		pid, _, _ := strings.Cut(words[0], "=")
		r.Description = fmt.Sprintf("process %s, which has changed modules, has not ended its last transaction", pid)
	default:
		return driver.Upgrade{}
	}
	return r
}

// printable is a text of a row for a sentence, quoted if it is not what Odoo writes.
func printable(text string) string {
	if q := strconv.QuoteToASCII(text); q != `"`+text+`"` {
		return q
	}
	return text
}

// parseTrail reads the backends of an upgrade, as result has written them.
func parseTrail(s string) map[string]string {
	backends := map[string]string{}
	for word := range strings.FieldsSeq(s) {
		pid, state, _ := strings.Cut(word, "=")
		backends[pid] = state
	}
	return backends
}
