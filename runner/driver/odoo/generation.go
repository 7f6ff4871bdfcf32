package odoo

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// contract is what one family of the add-on has in common (docs/contract.md 1.1).
type contract struct {
	// module is the add-on's name in ir_module_module.
	module string
	// channel is the notification channel.
	channel string
	// runPath is the path of the request that runs a job.
	runPath string
	// lockKey is the advisory lock by which runners exclude each other (docs/contract.md 3.5).
	lockKey int64
	// olderLock names the lock of an earlier runner, which is taken too; its key is PostgreSQL's
	// hashtext of the name. Empty for none.
	olderLock string
}

// queueJob is OCA's queue_job, Odoo 10.0 and later.
var queueJob = contract{
	module:  "queue_job",
	channel: "queue_job",
	runPath: "/queue_job/runjob",
	lockKey: 2293787760715711918,
}

// connector is its ancestor, Odoo 7.0 to 9.0. An add-on of that name exists later too, on top of
// queue_job. Only 8.0 has a lock; our own goes with it, so that two of us exclude each other in one
// way everywhere.
var connector = contract{
	module:    "connector",
	channel:   "connector",
	runPath:   "/connector/runjob",
	lockKey:   queueJob.lockKey,
	olderLock: "jobrunner",
}

// generation is the variant of the contract that one database speaks. It is detected by what
// exists, never by a version.
type generation struct {
	contract
	name string
	// columns are those of queue_job, readable and writable those of them that the role may read
	// and write.
	columns, readable, writable []string
	// typed are those whose types are not PostgreSQL's own: to use them may run code of others.
	typed []string
	// locks is true when there is the lock table, and lockTable also if it is none of this add-on.
	locks, lockTable bool
	// installed is the add-on's row, and marked is set where we can see whether the database is
	// neutralized.
	installed module
	marked    bool
	// trigger is what Listen has to create first.
	trigger trigger
	// tables are the schemas of the tables.
	tables schemas
	// path is where names are looked up while triggers of others run; empty where there are none.
	path string
	// oddities are warnings about queue_job, whose owner can have code run as us.
	oddities []string
	// keys are those that rows tell.
	keys driver.Keys
}

// catalog is what the system catalogs say about a database.
type catalog struct {
	PID        uint32
	Recovering bool
	// Modules and Jobs tell whether the tables exist.
	Modules, Jobs, Locks bool
	// Columns of queue_job, and those that we may read and write.
	Columns, Readable, Writable []string
	// ReadModules, ReadLocks, LockLocks and ReadParameters are privileges. Parameters tells whether
	// there is the table of the last one.
	ReadModules, ReadLocks, LockLocks, ReadParameters bool
	Parameters                                        bool
	// Trigger is the OID of the trigger that notifies, 0 if there is none.
	Trigger uint32
	// Events has a bit for each event on which the trigger notifies.
	Events int16
	// Disabled is set when there is a trigger that is switched off.
	Disabled bool
	// Function is the source of the trigger's function.
	Function string
	// Schema and Owner are those of queue_job. Owning tells whether we may act as the owner,
	// Creating whether the owner may create in the schema.
	Schema, Owner    string
	Owning, Creating bool
	// Path is where the role and the database look names up by default.
	Path string
	// Tables are those of Odoo that exist, Schemas those that they are in.
	Tables, Schemas []string
	// Odd are those that are no tables, Hidden those whose rows a policy may hide, and Typed those
	// with types that are not PostgreSQL's; of queue_job, TypedColumns are the columns of such
	// types.
	Odd, Hidden, Typed, TypedColumns []string
	// Others are further triggers of queue_job, Rules its rules. Policies tells whether it has
	// row-level security, Stranger whether its owner is not that of Odoo's other tables.
	Others, Rules      []string
	Policies, Stranger bool
}

// Bits of pg_trigger.tgtype.
const (
	triggerInsert = 1 << 2
	triggerDelete = 1 << 3
	triggerUpdate = 1 << 4
	triggerAll    = triggerInsert | triggerDelete | triggerUpdate
)

// catalogSQL reads a catalog in one round trip. Row locks need the privilege to update, on any
// column.
//
// Which tables are meant is decided as Odoo's own connections decide it: along the path that the
// role or the database has. It is in force for this one statement, and only when its own names have
// been looked up. The tables are then read by statements that name their schemas.
const catalogSQL = `
WITH p AS (
	SELECT set_config('search_path', reset_val, true) AS path FROM pg_settings WHERE name = 'search_path'
), t AS (
	SELECT to_regclass('ir_module_module')::oid AS modules,
		to_regclass('queue_job')::oid AS jobs,
		to_regclass('queue_job_lock')::oid AS locks,
		to_regclass('ir_config_parameter')::oid AS parameters,
		to_regclass('queue_job_channel')::oid AS channels,
		to_regclass('ir_cron')::oid AS crons,
		to_regclass('queue_worker')::oid AS workers,
		to_regclass('ir_model_data')::oid AS data
	FROM p
), k AS (
	SELECT coalesce(array_agg(relname::text), '{}') AS names, coalesce(array_agg(nspname::text), '{}') AS schemas,
		array_agg(relname::text) FILTER (WHERE relkind NOT IN ('r', 'p')) AS odd,
		array_agg(relname::text) FILTER (WHERE row_security_active(pg_class.oid)) AS hidden,
		array_agg(relname::text) FILTER (WHERE pg_class.oid <> coalesce(t.jobs, 0) AND EXISTS (
			SELECT FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
			WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped AND ` + foreignType + `)) AS typed
	FROM t JOIN pg_class ON pg_class.oid IN (t.modules, t.jobs, t.locks, t.parameters, t.channels, t.crons, t.workers, t.data)
	JOIN pg_namespace ON pg_namespace.oid = relnamespace
), c AS (
	SELECT array_agg(attname::text ORDER BY attnum) AS columns,
		array_agg(attname::text) FILTER (WHERE has_column_privilege(attrelid, attnum, 'SELECT')) AS readable,
		array_agg(attname::text) FILTER (WHERE has_column_privilege(attrelid, attnum, 'UPDATE')) AS writable,
		array_agg(attname::text) FILTER (WHERE ` + foreignType + `) AS typed
	FROM t JOIN pg_attribute ON attrelid = t.jobs JOIN pg_type ON pg_type.oid = atttypid
	WHERE attnum > 0 AND NOT attisdropped
), g AS (
	SELECT max(pg_trigger.oid) FILTER (WHERE announces) AS oid,
		bit_or(tgtype) FILTER (WHERE announces AND tgenabled IN ('O', 'A')) AS events,
		coalesce(bool_or(tgenabled NOT IN ('O', 'A')) FILTER (WHERE announces), false) AS disabled,
		coalesce(string_agg(prosrc, ' ') FILTER (WHERE announces), '') AS source,
		array_agg(tgname::text ORDER BY tgname) FILTER (WHERE NOT announces AND tgenabled <> 'D') AS others
	FROM t JOIN pg_trigger ON tgrelid = t.jobs JOIN pg_proc ON pg_proc.oid = tgfoid,
		LATERAL (SELECT tgname = 'queue_job_notify') AS n (announces)
	WHERE NOT tgisinternal
), o AS (
	SELECT max(nspname::text) AS schema, max(pg_get_userbyid(relowner)::text) AS owner,
		bool_or(pg_has_role(relowner, 'USAGE')) AS owning,
		bool_or(has_schema_privilege(relowner, relnamespace, 'CREATE')) AS creating,
		bool_or(relrowsecurity) AS policies,
		bool_or(relowner <> ALL (SELECT m.relowner FROM pg_class m WHERE m.oid = t.modules)) AS stranger,
		(SELECT array_agg(rulename::text) FROM pg_rewrite WHERE ev_class = max(t.jobs)) AS rules
	FROM t JOIN pg_class ON pg_class.oid = t.jobs JOIN pg_namespace ON pg_namespace.oid = relnamespace
)
SELECT pg_backend_pid(), pg_is_in_recovery(),
	t.modules IS NOT NULL, t.jobs IS NOT NULL, t.locks IS NOT NULL,
	coalesce(c.columns, '{}'), coalesce(c.readable, '{}'), coalesce(c.writable, '{}'),
	coalesce(has_table_privilege(t.modules, 'SELECT'), false),
	coalesce(has_table_privilege(t.locks, 'SELECT'), false),
	coalesce(has_any_column_privilege(t.locks, 'UPDATE'), false),
	coalesce((SELECT count(*) = 2 FROM pg_attribute WHERE attrelid = t.parameters AND attname IN ('key', 'value')
		AND has_column_privilege(attrelid, attnum, 'SELECT')), false),
	t.parameters IS NOT NULL,
	coalesce(g.oid, 0), coalesce(g.events, 0)::int2, g.disabled, g.source,
	coalesce(o.schema, ''), coalesce(o.owner, ''), coalesce(o.owning, false), coalesce(o.creating, false),
	p.path, k.names, k.schemas, coalesce(k.odd, '{}'), coalesce(k.hidden, '{}'), coalesce(k.typed, '{}'), coalesce(c.typed, '{}'),
	coalesce(g.others, '{}'), coalesce(o.rules, '{}'), coalesce(o.policies, false), coalesce(o.stranger, false)
FROM p, t, k, c, g, o`

// foreignType is an SQL expression: whether a type is none of PostgreSQL's own, so that reading it
// may call a cast of its owner's.
const foreignType = `typnamespace <> 'pg_catalog'::regnamespace`

// readCatalog asks the server. Nothing is prepared: a statement prepared before an upgrade of the
// add-on may not fit afterwards.
func readCatalog(ctx context.Context, conn *postgres.Conn) (catalog, error) {
	if conn.Pooling == postgres.TransactionPooling {
		// The session has none of our settings, not even our path.
		return catalog{}, postgres.Wrap(postgres.ErrTransactionPooling, "read the catalog")
	}
	rows, err := conn.Query(ctx, catalogSQL, pgx.QueryExecModeExec)
	if err != nil {
		return catalog{}, conn.Failed(err, "read the catalog")
	}
	c, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[catalog])
	return c, conn.Failed(err, "read the catalog")
}

// schemas are those of the tables that exist, by the table's name.
type schemas map[string]string

// qualify returns the full name of a table for SQL. A table that does not exist is looked for in
// public, where it would be.
func (s schemas) qualify(table string) string {
	schema, ok := s[table]
	if !ok {
		schema = "public"
	}
	return pgx.Identifier{schema, table}.Sanitize()
}

// schemas returns the schemas of the tables.
func (c *catalog) schemas() schemas {
	m := make(schemas, len(c.Tables))
	for i, table := range c.Tables {
		m[table] = c.Schemas[i]
	}
	return m
}

// untrusted says which table would have code of its owner run as our role when it is read, or hides
// rows from us; empty if none does.
func (c *catalog) untrusted() string {
	switch {
	case len(c.Odd) > 0:
		return "not a table but something that may run code of its owner when it is read: " + strings.Join(c.Odd, ", ")
	case len(c.Typed) > 0:
		return "a table with a column whose type is none of PostgreSQL's own, which may run code of its owner when it is read: " +
			strings.Join(c.Typed, ", ")
	case len(c.Hidden) > 0:
		return fmt.Sprintf("row-level security hides rows of %s from the role: connect as the owner, or ALTER TABLE ... DISABLE ROW LEVEL SECURITY",
			strings.Join(c.Hidden, ", "))
	}
	return ""
}

// module is an add-on's row in ir_module_module.
type module struct{ state, version string }

// present reports whether the add-on is there, if only for the moment.
func (m module) present() bool {
	return m.state == "installed" || m.state == "to upgrade" || m.state == "to remove"
}

// modules are the rows of the add-ons that have a contract, by name.
type modules map[string]module

// readModules reads them, if the catalog says that it can be done.
func readModules(ctx context.Context, conn *postgres.Conn, c catalog) (modules, error) {
	found := modules{}
	if !c.Modules || !c.ReadModules || c.untrusted() != "" {
		return found, nil
	}
	rows, err := conn.Query(ctx, `SELECT name, coalesce(left(state, 100), ''), coalesce(left(latest_version, 100), '')
		FROM `+c.schemas().qualify("ir_module_module")+` WHERE name IN ($1, $2)`, pgx.QueryExecModeExec, queueJob.module, connector.module)
	if err != nil {
		return nil, conn.Failed(err, "check for the add-on")
	}
	var name string
	var m module
	_, err = pgx.ForEachRow(rows, []any{&name, &m.state, &m.version}, func() error {
		found[name] = m
		return nil
	})
	return found, conn.Failed(err, "check for the add-on")
}

// detect finds the generation of a database. Without one, the fingerprint says why; with one, the
// fingerprint may still be unhealthy.
func detect(c catalog, found modules) (*generation, driver.Fingerprint) {
	if !c.Modules {
		return nil, undetected("not an Odoo database")
	}
	if why := c.untrusted(); why != "" {
		return nil, unhealthy("%s", why)
	}
	if !c.ReadModules {
		return nil, unhealthy("the role may not read ir_module_module: GRANT SELECT on it")
	}
	g := &generation{
		contract: queueJob, columns: c.Columns, readable: c.Readable, writable: c.Writable, typed: c.TypedColumns,
		tables: c.schemas(), oddities: c.oddities(),
	}
	if len(c.Others) > 0 {
		g.path = c.Path
	}
	m := found[queueJob.module]
	if !m.present() {
		g.contract, m = connector, found[connector.module]
	}
	switch {
	case !m.present():
		return nil, undetected("the add-on %s is not installed", queueJob.module)
	case !c.Jobs && g.module == connector.module:
		return nil, undetected("the add-on %s has no jobs here, and %s is not installed", connector.module, queueJob.module)
	case !c.Jobs:
		return nil, unhealthy("the add-on %s counts as installed, but there is no table queue_job", g.module)
	}
	g.locks, g.lockTable = c.Locks && g.module == queueJob.module, c.Locks
	g.installed, g.marked = m, c.ReadParameters
	g.name = g.module
	if g.locks {
		g.name += "+lock"
	}
	fp := driver.Fingerprint{
		Health: driver.Healthy, Description: "ready",
		Generation: g.name, Version: m.version, Locks: g.locks, Unguarded: !g.guarded(),
	}
	if why := g.obstacle(c, m); why != "" {
		fp.Health, fp.Description = driver.Unhealthy, why
	} else if g.trigger != (trigger{}) {
		fp.Description = "ready; the trigger queue_job_notify will be created, as this series expects of its runner"
	}
	return g, fp
}

// modern reports whether the add-on is that of 12.0 or later, which brought the column exc_name.
// From then on the add-on creates the trigger when it is installed; before that it is left to the
// runner (docs/contract.md 1.1).
func (g *generation) modern() bool { return slices.Contains(g.columns, "exc_name") }

// guarded reports whether Odoo locks the row when it starts a job. That came with 12.0, as did the
// column in which it then writes down the worker (docs/contract.md 1.5).
func (g *generation) guarded() bool {
	return g.locks || g.modern() && slices.Contains(g.columns, "worker_pid")
}

// driverState tells [Driver.Run] how a job of this generation is started.
func (g *generation) driverState() string {
	switch {
	case g.module == connector.module:
		return stateConnector
	case !g.guarded():
		return stateSession
	}
	return ""
}

func undetected(format string, args ...any) driver.Fingerprint {
	return driver.Fingerprint{Health: driver.Undetected, Description: fmt.Sprintf(format, args...)}
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
	if odd := intersect(c.TypedColumns, g.used()); len(odd) > 0 {
		return fmt.Sprintf("the columns of queue_job that have no type of PostgreSQL's own may run code of its owner when they are read: %s",
			strings.Join(odd, ", "))
	}
	if missing := without(intersect(g.read(), c.Columns), c.Readable); len(missing) > 0 {
		return fmt.Sprintf("the role may not read queue_job (%s): GRANT SELECT on it", strings.Join(missing, ", "))
	}
	if missing := without(intersect(g.written(), c.Columns), c.Writable); len(missing) > 0 {
		return fmt.Sprintf("the role may not write queue_job (%s): GRANT UPDATE on it", strings.Join(missing, ", "))
	}
	if g.locks && !(c.ReadLocks && c.LockLocks) {
		return "the role may not check lock rows: GRANT SELECT, UPDATE on queue_job_lock"
	}
	return g.triggerObstacle(c)
}

// triggerObstacle says what is wrong with the trigger, unless Listen can put it right.
func (g *generation) triggerObstacle(c catalog) string {
	complete := c.Events&triggerAll == triggerAll
	switch {
	case complete && (g.modern() || strings.Contains(c.Function, "'"+g.channel+"'")):
		return ""
	case !complete && c.Events&triggerAll != 0:
		return "the trigger queue_job_notify does not cover INSERT, UPDATE and DELETE: create it again"
	case !complete && c.Disabled:
		return "the trigger queue_job_notify is switched off: ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify"
	case g.modern():
		return "queue_job_notify trigger is missing: install the add-on queue_job again, or create the trigger by hand"
	case !c.Owning:
		return fmt.Sprintf("queue_job_notify trigger is missing, and in this series the runner creates it, "+
			"which takes the owner of the table: connect as %s", c.Owner)
	case !c.Creating:
		return fmt.Sprintf("queue_job_notify trigger is missing, and %s may not create its function: "+
			"GRANT CREATE ON SCHEMA %s TO it", c.Owner, c.Schema)
	}
	// A trigger that is there may call a function of another generation: the database was migrated
	// from connector to queue_job.
	g.trigger = trigger{needed: true, exists: complete, schema: c.Schema, owner: c.Owner}
	return ""
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

// used are all columns that some statement names.
func (g *generation) used() []string {
	columns := append(g.read(), "graph_uuid", "dependencies", "result", "worker_pid", "exec_time", "date_cancelled",
		"exc_info", "job_function_id", companyColumn.name, identityColumn.name)
	for _, list := range [][]column{claimColumns, detailColumns} {
		for _, c := range list {
			columns = append(columns, c.name)
		}
	}
	return columns
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
