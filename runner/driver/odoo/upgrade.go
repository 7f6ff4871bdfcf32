package odoo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

var _ driver.Upgrader = (*session)(nil)

// markedModulesSQL is what is true of a module that Odoo has been told to change. An index serves it:
// the column has one in every series.
const markedModulesSQL = `state IN ('to install', 'to upgrade', 'to remove')`

// settledSQL is the condition of a claim that no module is marked.
const settledSQL = ` AND NOT EXISTS (SELECT FROM ir_module_module WHERE ` + markedModulesSQL + `)`

// upgradeSQL reads what there is to see of an upgrade: the modules that are marked; the backends whose
// transactions have written ir_module_module, or have locked it to write it, and have not ended; and,
// of the backends in $2, in which transaction they are.
//
// Marks alone come too late: a process that is told to upgrade a module (-u) sets its mark and changes
// the module in one transaction, and commits the mark of the last one together with its end
// (docs/contract.md 3.7).
const upgradeSQL = `
SELECT 'marked', name || ' (' || state || ')', '' FROM (
	SELECT left(name, 100) AS name, left(state, 100) AS state FROM ir_module_module
	WHERE ` + markedModulesSQL + ` ORDER BY name LIMIT 10) AS m
UNION ALL
SELECT CASE WHEN l.relation IS NULL THEN 'open' ELSE 'writes' END, l.pid::text, l.virtualtransaction FROM pg_locks l
WHERE l.granted AND l.pid <> pg_backend_pid() AND (
	l.locktype = 'relation' AND l.relation = to_regclass($1)
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
	OR l.locktype = 'virtualxid' AND l.pid::text = ANY($2))`

// GateUpgrades implements [driver.Upgrader].
func (s *session) GateUpgrades(on bool) { s.gated = on }

// Upgrading implements [driver.Upgrader]. An upgrade has ended when no module is marked, no open
// transaction has written ir_module_module, and the backends that had are done with the transaction
// that followed: Odoo cleans up after the last module has been committed.
func (s *session) Upgrading(ctx context.Context, last driver.Upgrade) (driver.Upgrade, error) {
	if s.generation == nil {
		return driver.Upgrade{}, errNoFingerprint
	}
	seen := parseTrail(last.DriverState)
	pids := make([]string, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	rows, err := s.conn.Query(ctx, s.statements.upgrade, s.generation.tables.qualify("ir_module_module"), pids)
	if err != nil {
		return driver.Upgrade{}, s.conn.Failed(err, "check for an upgrade")
	}
	var u upgrade
	var kind, what, transaction string
	_, err = pgx.ForEachRow(rows, []any{&kind, &what, &transaction}, func() error {
		u.add(kind, what, transaction, seen)
		return nil
	})
	return u.result(), s.conn.Failed(err, "check for an upgrade")
}

// upgrade collects what is seen of one.
type upgrade struct {
	marked, writers, tails []string
	next                   []string // the trail
}

// tail marks a transaction of a backend after those that wrote ir_module_module.
const tail = "+"

// add takes in one row; seen is the trail of the last check.
func (u *upgrade) add(kind, what, transaction string, seen map[string]string) {
	switch before := seen[what]; {
	case kind == "marked":
		u.marked = append(u.marked, printable(what))
	case kind == "writes":
		if !slices.Contains(u.writers, what) {
			u.writers = append(u.writers, what)
			u.next = append(u.next, what+"="+transaction)
		}
	case before == transaction || before == tail+transaction:
		u.tails = append(u.tails, what) // still the same one
		u.next = append(u.next, what+"="+before)
	case !strings.HasPrefix(before, tail):
		u.tails = append(u.tails, what) // the one that followed
		u.next = append(u.next, what+"="+tail+transaction)
	}
}

// result describes it.
func (u *upgrade) result() driver.Upgrade {
	r := driver.Upgrade{Active: true, DriverState: strings.Join(u.next, " ")}
	switch {
	case len(u.marked) > 0:
		r.Description = "modules are marked: " + strings.Join(u.marked, ", ")
	case len(u.writers) > 0:
		r.Description = fmt.Sprintf("process %s changes ir_module_module in a transaction that is open", u.writers[0])
	case len(u.tails) > 0:
		r.Description = fmt.Sprintf("process %s, which has changed modules, has not ended its last transaction", u.tails[0])
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

// parseTrail reads the backends of an upgrade, each with its transaction, by process id.
func parseTrail(s string) map[string]string {
	seen := map[string]string{}
	for _, word := range strings.Fields(s) {
		pid, transaction, _ := strings.Cut(word, "=")
		seen[pid] = transaction
	}
	return seen
}
