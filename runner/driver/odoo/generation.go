package odoo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// contract is what one family of the add-on has in common (contract.md 1.1).
type contract struct {
	// module is the add-on's name in ir_module_module.
	module string
	// channel is the notification channel.
	channel string
	// runPath is the path of the request that runs a job.
	runPath string
	// lockKey is the advisory lock by which runners exclude each other
	// (contract.md 3.5).
	lockKey int64
}

// queueJob is OCA's queue_job, Odoo 10.0 and later.
var queueJob = contract{
	module:  "queue_job",
	channel: "queue_job",
	runPath: "/queue_job/runjob",
	lockKey: 2293787760715711918,
}

// generation is the variant of the contract that one database speaks. It is
// detected by what exists, never by a version.
type generation struct {
	contract
	name string
	// columns are those of queue_job, readable and writable those of them that
	// the role may read and write.
	columns, readable, writable []string
	// locks is true when there is the lock table.
	locks bool
}

// catalog is what the system catalogs say about a database.
type catalog struct {
	PID        uint32
	Recovering bool
	// Modules and Jobs tell whether the tables exist.
	Modules, Jobs, Locks bool
	// Columns of queue_job, and those that we may read and write.
	Columns, Readable, Writable []string
	// ReadModules, ReadLocks and LockLocks are privileges.
	ReadModules, ReadLocks, LockLocks bool
	// Events has a bit for each event on which the trigger notifies.
	Events int16
	// Disabled is set when there is a trigger that is switched off.
	Disabled bool
}

// Bits of pg_trigger.tgtype.
const (
	triggerInsert = 1 << 2
	triggerDelete = 1 << 3
	triggerUpdate = 1 << 4
	triggerAll    = triggerInsert | triggerDelete | triggerUpdate
)

// catalogSQL reads a catalog in one round trip. Row locks need the privilege to
// update, on any column.
const catalogSQL = `
WITH t AS (
	SELECT to_regclass('ir_module_module')::oid AS modules,
		to_regclass('queue_job')::oid AS jobs,
		to_regclass('queue_job_lock')::oid AS locks
), c AS (
	SELECT array_agg(attname::text ORDER BY attnum) AS columns,
		array_agg(attname::text) FILTER (WHERE has_column_privilege(attrelid, attnum, 'SELECT')) AS readable,
		array_agg(attname::text) FILTER (WHERE has_column_privilege(attrelid, attnum, 'UPDATE')) AS writable
	FROM t JOIN pg_attribute ON attrelid = t.jobs
	WHERE attnum > 0 AND NOT attisdropped
), g AS (
	SELECT bit_or(tgtype) FILTER (WHERE tgenabled IN ('O', 'A')) AS events,
		coalesce(bool_or(tgenabled NOT IN ('O', 'A')), false) AS disabled
	FROM t JOIN pg_trigger ON tgrelid = t.jobs
	WHERE tgname = 'queue_job_notify' AND NOT tgisinternal
)
SELECT pg_backend_pid(), pg_is_in_recovery(),
	t.modules IS NOT NULL, t.jobs IS NOT NULL, t.locks IS NOT NULL,
	coalesce(c.columns, '{}'), coalesce(c.readable, '{}'), coalesce(c.writable, '{}'),
	coalesce(has_table_privilege(t.modules, 'SELECT'), false),
	coalesce(has_table_privilege(t.locks, 'SELECT'), false),
	coalesce(has_any_column_privilege(t.locks, 'UPDATE'), false),
	coalesce(g.events, 0)::int2, g.disabled
FROM t, c, g`

// readCatalog asks the server. Nothing is prepared: a statement prepared before
// an upgrade of the add-on may not fit afterwards.
func readCatalog(ctx context.Context, conn *postgres.Conn) (catalog, error) {
	rows, err := conn.Query(ctx, catalogSQL, pgx.QueryExecModeExec)
	if err != nil {
		return catalog{}, conn.Failed(err, "read the catalog")
	}
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[catalog])
	return c, conn.Failed(err, "read the catalog")
}

// module is the add-on's row in ir_module_module.
type module struct{ state, version string }

func readModule(ctx context.Context, conn *postgres.Conn, name string) (m module, err error) {
	var state, version *string
	err = conn.QueryRow(ctx, "SELECT state, latest_version FROM ir_module_module WHERE name = $1",
		pgx.QueryExecModeExec, name).Scan(&state, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		return m, nil
	}
	if state != nil {
		m.state = *state
	}
	if version != nil {
		m.version = *version
	}
	return m, conn.Failed(err, "look for the add-on "+name)
}

// detect finds the generation of a database. Without one, the fingerprint says
// why; with one, the fingerprint may still be unhealthy.
func detect(c catalog, m module) (*generation, driver.Fingerprint) {
	absent := func(format string, args ...any) (*generation, driver.Fingerprint) {
		return nil, driver.Fingerprint{Health: driver.Undetected, Description: fmt.Sprintf(format, args...)}
	}
	if !c.Modules {
		return absent("not an Odoo database")
	}
	if !c.ReadModules {
		return nil, unhealthy("the role may not read ir_module_module: GRANT SELECT on it")
	}
	switch m.state {
	case "installed", "to upgrade", "to remove":
	default:
		return absent("the add-on %s is not installed", queueJob.module)
	}
	if !c.Jobs {
		return nil, unhealthy("the add-on %s counts as installed, but there is no table queue_job", queueJob.module)
	}
	g := &generation{
		contract: queueJob, name: "queue_job", locks: c.Locks,
		columns: c.Columns, readable: c.Readable, writable: c.Writable,
	}
	if g.locks {
		g.name = "queue_job+lock"
	}
	fp := driver.Fingerprint{
		Health: driver.Healthy, Description: "ready",
		Generation: g.name, Version: m.version, Locks: g.locks,
	}
	if why := g.obstacle(c, m); why != "" {
		fp.Health, fp.Description = driver.Unhealthy, why
	}
	return g, fp
}

func unhealthy(format string, args ...any) driver.Fingerprint {
	return driver.Fingerprint{Health: driver.Unhealthy, Description: fmt.Sprintf(format, args...)}
}

// obstacle says why the database cannot be served, or nothing.
func (g *generation) obstacle(c catalog, m module) string {
	if c.Recovering {
		return "the server is in recovery: connect to the primary"
	}
	if m.state != "installed" {
		return fmt.Sprintf("the add-on %s is being changed (state %q)", g.module, m.state)
	}
	if missing := without(g.required(), c.Columns); len(missing) > 0 {
		return fmt.Sprintf("the table queue_job lacks %s", strings.Join(missing, ", "))
	}
	if missing := without(intersect(g.read(), c.Columns), c.Readable); len(missing) > 0 {
		return fmt.Sprintf("the role may not read queue_job (%s): GRANT SELECT on it", strings.Join(missing, ", "))
	}
	if missing := without(intersect(g.written(), c.Columns), c.Writable); len(missing) > 0 {
		return fmt.Sprintf("the role may not write queue_job (%s): GRANT UPDATE on it", strings.Join(missing, ", "))
	}
	if g.locks && !(c.ReadLocks && c.LockLocks) {
		return "the role may not look at lock rows: GRANT SELECT, UPDATE on queue_job_lock"
	}
	return g.triggerObstacle(c)
}

// triggerObstacle says what is wrong with the trigger. From 12.0 on the add-on
// creates it when it is installed, before that nobody does (contract.md 1.1);
// the column exc_name came with 12.0 too.
func (g *generation) triggerObstacle(c catalog) string {
	switch {
	case c.Events&triggerAll == triggerAll:
		return ""
	case c.Events&triggerAll != 0:
		return "the trigger queue_job_notify does not cover INSERT, UPDATE and DELETE: create it again"
	case c.Disabled:
		return "the trigger queue_job_notify is switched off: ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify"
	case slices.Contains(c.Columns, "exc_name"):
		return "queue_job_notify trigger is missing: install the add-on queue_job again, or create the trigger by hand"
	}
	return "queue_job_notify trigger is missing: in this series the add-on leaves it to the runner to create it"
}

// required are the columns without which nothing works.
func (g *generation) required() []string {
	columns := []string{"id", "uuid", "state", "date_enqueued", "retry"}
	if g.locks {
		columns = append(columns, "max_retries", "exc_name", "exc_info")
	}
	return columns
}

// read are the columns that the statements read, if they exist.
func (g *generation) read() []string {
	return append(g.required(), "channel", "priority", "date_created", "eta")
}

// written are the columns that the statements write, if they exist.
func (g *generation) written() []string {
	columns := []string{"state", "date_enqueued"}
	if g.locks {
		columns = append(columns, "retry", "exc_name", "exc_info")
	}
	return columns
}

// without returns the elements of list that are not in other.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

// intersect returns the elements of list that are in other too.
func intersect(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return !slices.Contains(other, s) })
}
