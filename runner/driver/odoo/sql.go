package odoo

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Grace is how long after its claim a task without a holder of its lock row may still be on its way
// (docs/contract.md 3.4).
const Grace = 10 * time.Second

// statements are the SQL of one generation. All of them are single statements in autocommit, with
// times on the database's clock in UTC. Names without a schema are PostgreSQL's, because our
// sessions search nowhere else; tables are named with theirs.
type statements struct {
	running, snapshot, read, unclaim, inspect, rescue, account string
	// claims are by their conditions.
	claims [claimConditions]string
	// marks tells whether the database is still what its fingerprint says, and upgrade whether Odoo is
	// being changed.
	marks, upgrade string
	// rest tells whether there is something to do.
	rest string
	// failUnclaimed, failDead and failStopped are unclaim and rescue with another result.
	failUnclaimed, failDead, failStopped string
}

// statements builds the SQL for the columns that exist.
func (g *generation) statements() statements {
	columns := g.rowColumns()
	s := statements{
		running:  "SELECT " + columns + " FROM queue_job j WHERE j.state IN ('enqueued', 'started')",
		snapshot: "SELECT " + g.rowColumnsBut(noFailure) + " FROM queue_job j WHERE " + unfinished,
		read:     "SELECT " + columns + " FROM queue_job j WHERE j.uuid = ANY($1)",
		marks:    g.marksSQL(),
		upgrade:  upgradeSQL,
		rest:     g.restSQL(),
		unclaim:  fmt.Sprintf(claimedSQL+unclaimSQL, g.pathSQL(), "", "", "") + columns,
		inspect:  "SELECT " + columns + ", now() AT TIME ZONE 'UTC', 0::int8, false FROM queue_job j WHERE j.uuid = ANY($1)",
		rescue:   fmt.Sprintf(foundSQL+g.rescueExpiredSQL(), g.pathSQL(), "", "", "") + columns,
		account:  g.accountSQL() + columns,

		failUnclaimed: fmt.Sprintf(claimedSQL+g.failSQL(driver.QuarantineName)+stillClaimed, g.pathSQL(), ", t.why", ", $3::text[]", ", why") + columns,
	}
	fail := func(name, dead string) string {
		return fmt.Sprintf(foundSQL+g.failSQL(name)+dead, g.pathSQL(), ", d.why", ", $4::text[]", ", why") + columns
	}
	dead := stillExpired
	for c := range claimConditions {
		s.claims[c] = unique.Make(g.named(g.claimSQL(columns, c))).Value()
	}
	if g.locks {
		s.inspect = "SELECT " + columns + inspectSQL
		s.rescue = fmt.Sprintf(foundSQL+rescueSQL, g.pathSQL(), "", "", "") + columns
		dead = stillDead
	}
	s.failDead, s.failStopped = fail(driver.QuarantineName, dead), fail(driver.StoppedName, dead)
	for _, sql := range []*string{
		&s.running, &s.snapshot, &s.read, &s.marks, &s.upgrade, &s.rest, &s.unclaim, &s.inspect, &s.rescue, &s.account, &s.failUnclaimed, &s.failDead, &s.failStopped,
	} {
		*sql = unique.Make(g.named(*sql)).Value() // thousands of databases have the same
	}
	return s
}

// tables finds the names of tables in our SQL.
var tables = regexp.MustCompile(`\b(FROM|JOIN|UPDATE) (queue_job(?:_lock|_channel)?|ir_\w+|queue_worker)\b`)

// named names the tables of a statement with their schemas.
func (g *generation) named(sql string) string {
	return tables.ReplaceAllStringFunc(sql, func(found string) string {
		word, table, _ := strings.Cut(found, " ")
		return word + " " + g.tables.qualify(table)
	})
}

// pathSQL is an expression that has the triggers of others look names up where the database and the
// role say, as they do when Odoo itself writes; until the end of the transaction, and after our own
// names have been looked up. Where there is no such trigger it does nothing.
func (g *generation) pathSQL() string {
	if g.path == "" {
		return "NULL"
	}
	return "set_config('search_path', " + literal(g.path) + ", true)"
}

// literal quotes a text for SQL. Backslashes mean nothing: our sessions have
// standard_conforming_strings.
func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// rowColumns is the select list that a scanner reads. A column that does not exist is NULL. The keys
// come last, and only those that are wanted.
func (g *generation) rowColumns() string {
	failure := noFailure
	if slices.Contains(g.readable, "exc_name") {
		failure = fmt.Sprintf("CASE WHEN j.state = 'failed' THEN left(j.exc_name::text, %d) END", textLimit)
	}
	return g.rowColumnsBut(failure)
}

// noFailure is read where it does not matter why jobs failed.
const noFailure = "NULL::varchar"

// rowColumnsBut is rowColumns with another expression for the exception.
func (g *generation) rowColumnsBut(failure string) string {
	list := selectList(rowColumns, g.columns) + ", " + failure
	if columns := keyColumns(g.keys); len(columns) > 0 {
		list += ", " + g.optional(columns)
	}
	return list
}

// optional is a select list of columns that nothing depends on. One that does not exist, or that
// the role may not read, is NULL.
func (g *generation) optional(columns []column) string { return selectList(columns, g.readable) }

// column is one of queue_job, with its type.
type column struct{ name, kind string }

// Limits of texts in rows, in characters. They are those of others; what is longer is cut by the
// server.
const (
	// UUIDLimit is the length of the longest uuid that a job can be run by. One that is longer
	// counts as none.
	UUIDLimit = 128
	// textLimit is that of all other texts: states, channels, models, exceptions.
	textLimit = 256
)

func selectList(columns []column, present []string) string {
	list := make([]string, 0, len(columns))
	for _, c := range columns {
		switch {
		case !slices.Contains(present, c.name):
			list = append(list, "NULL::"+c.kind)
		case c.name == "uuid":
			list = append(list, atMost("j.uuid", UUIDLimit+1))
		case c.kind == "varchar":
			list = append(list, atMost("j."+c.name, textLimit))
		default:
			list = append(list, "j."+c.name)
		}
	}
	return strings.Join(list, ", ")
}

// atMost is the beginning of a text, of so many characters. For a text that is short enough, left()
// alone counts its characters and copies it, and that for a million jobs takes half a second of a
// processor. octet_length() knows the size of a value that is stored elsewhere without reading it.
func atMost(text string, characters int) string {
	return fmt.Sprintf("CASE WHEN octet_length(%[1]s) <= %[2]d THEN %[1]s ELSE left(%[1]s, %[2]d) END", text, characters)
}

// claimColumns are what a claim reads for people, and noClaimColumns replace them in the other
// rows.
var (
	claimColumns   = []column{{"model_name", "varchar"}, {"method_name", "varchar"}}
	noClaimColumns = selectList(claimColumns, nil)
)

// rowColumns are the columns of a [driver.Row], in the order of a scanner, before the exception.
var rowColumns = []column{
	{"id", "int4"}, {"uuid", "varchar"}, {"channel", "varchar"}, {"state", "varchar"}, {"priority", "int4"},
	{"date_created", "timestamp"}, {"eta", "timestamp"}, {"date_enqueued", "timestamp"}, {"retry", "int4"},
}

// unfinished matches every state but done, cancelled and wait_dependencies, and not NULL: so also
// states that are not known yet. It is written as ranges between those three, in their order,
// because an index serves ranges and does not serve "is none of"; a table may hold millions of jobs
// that are done.
const unfinished = `(j.state < 'cancelled'
	OR j.state > 'cancelled' AND j.state < 'done'
	OR j.state > 'done' AND j.state < 'wait_dependencies'
	OR j.state > 'wait_dependencies') AND j.state <> ''`

// claimSQL marks jobs enqueued. Unlike the statement of OCA's runner it is guarded: a job that is
// not pending any more, or whose row another session has locked, is left out. Odoo expects whole
// seconds in date_enqueued (docs/contract.md 1.2).
//
// The state is tested by an expression that no index serves, and the ids come as an array. As long
// as PostgreSQL knows little of the table, it would go through all pending jobs for each claim
// otherwise: by the index of the state, twice.
//
// The rows of $2 are read along, as they were before the claim.
//
// Nothing is claimed in a database that has been neutralized: the mark is looked up by its unique
// key in the statement itself, once, so that no claim begins after the mark was committed and
// succeeds.
const claimSQL = `
WITH durable AS (
	SELECT set_config('synchronous_commit', %[1]s, true), %[5]s
), claimed AS (
	UPDATE queue_job j
	SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')
	FROM durable
	WHERE (j.state = 'pending') IS TRUE AND j.id = ANY(ARRAY(
		SELECT id FROM queue_job WHERE uuid = ANY($1) AND (state = 'pending') IS TRUE%[7]s
		FOR NO KEY UPDATE SKIP LOCKED
	))%[6]s
	RETURNING %[2]s, %[3]s, true
)
SELECT * FROM claimed
UNION ALL
SELECT %[2]s, %[4]s, false FROM queue_job j WHERE j.uuid = ANY($2)`

// claimSQL does not wait for the disk where Odoo takes a job by one transaction that tests for
// enqueued and commits started: the log is written in order, so a crash of PostgreSQL that loses
// the claim has lost the start too, and the job is pending without having run. A commit that
// notifies holds a lock that every other such commit waits for, so that all of them would wait for
// the disk. Older add-ons test in one transaction and commit in another (docs/contract.md 1.5, A).
func (g *generation) claimSQL(columns string, c claimCondition) string {
	var where, vacant string
	if c&evenCopies == 0 {
		where += g.unmarkedSQL()
	}
	if c&whereSettled != 0 {
		where += g.settledSQL()
	}
	if c&intoVacancy != 0 {
		vacant = g.vacantSQL()
	}
	durable := "current_setting('synchronous_commit')"
	if g.locks {
		durable = "'off'"
	}
	return fmt.Sprintf(claimSQL, durable, columns, g.optional(claimColumns), noClaimColumns, g.pathSQL(), where, vacant)
}

// claimCondition is a set of what a claim depends on beyond the state.
type claimCondition uint8

const (
	// evenCopies: it claims in a neutralized database, too.
	evenCopies claimCondition = 1 << iota
	// whereSettled: it claims only where no module is being changed.
	whereSettled
	// intoVacancy: it claims only what wants nothing but a slot of root.
	intoVacancy
	claimConditions
)

// vacantSQL is the condition that a row asks for no channel but root, and for no time. It stands
// where the row is locked, so that it holds for what the row says then. A uuid that has another row
// is left to the scheduler, because a job of that name may be running.
func (g *generation) vacantSQL() string {
	sql := " AND NOT EXISTS (SELECT FROM queue_job o WHERE o.uuid = queue_job.uuid AND o.id <> queue_job.id)"
	if slices.Contains(g.columns, "channel") {
		sql += " AND coalesce(nullif(channel, ''), 'root') = 'root'"
	}
	if slices.Contains(g.columns, "eta") {
		sql += " AND eta IS NULL"
	}
	return sql
}

// claimedSQL are the attempts that are still as their claims left them. A row that another session
// has locked is left out; its job may have been taken meanwhile. A statement that needs a text of
// each attempt gets it by the verbs after the first.
const claimedSQL = `
WITH path AS (SELECT %[1]s AS path), c AS (
	SELECT j.id%[2]s FROM queue_job j
	JOIN unnest($1::varchar[], $2::timestamp[]%[3]s) AS t(uuid, enqueued%[4]s)
	ON j.uuid = t.uuid AND j.date_enqueued = t.enqueued
	WHERE j.state = 'enqueued'
	FOR NO KEY UPDATE OF j SKIP LOCKED
)`

// unclaimSQL puts them back.
const unclaimSQL = `
UPDATE queue_job j SET state = 'pending', date_enqueued = NULL` + stillClaimed

const stillClaimed = `
FROM path, c WHERE j.id = c.id AND j.state = 'enqueued'
RETURNING `

// inspectSQL finds out who holds a lock row without touching it: the row's xmax is the transaction
// that locked it, and a transaction that runs holds a lock on its own number. A worker that takes
// its lock with SKIP LOCKED must never find a prober in its way: it would get nothing, and give its
// job up.
const inspectSQL = `, now() AT TIME ZONE 'UTC', coalesce(h.pid, 0)::int8, h.transactionid IS NOT NULL
FROM queue_job j
LEFT JOIN queue_job_lock l ON l.queue_job_id = j.id
LEFT JOIN pg_locks h ON h.locktype = 'transactionid' AND h.mode = 'ExclusiveLock' AND h.granted
	AND h.transactionid = l.xmax
WHERE j.uuid = ANY($1)`

// sameAttempt is a condition on job j: whether it is the attempt d. A time that is too far to be
// counted is infinite for us.
const sameAttempt = `(j.date_enqueued = d.enqueued OR d.enqueued = 'infinity' AND j.date_enqueued > '294246-01-01')`

// foundSQL are the attempts that an inspection found, as far as their rows have not changed since.
// The verbs are those of claimedSQL.
const foundSQL = `
WITH path AS (SELECT %[1]s AS path), c AS (
	SELECT j.id%[2]s FROM queue_job j
	JOIN unnest($1::varchar[], $2::timestamp[], $3::varchar[]%[3]s) AS d(uuid, enqueued, state%[4]s)
	ON j.uuid = d.uuid AND j.state = d.state AND ` + sameAttempt + `
	WHERE j.state IN ('enqueued', 'started')
	FOR NO KEY UPDATE OF j SKIP LOCKED
)`

// rescueSQL has the effects of docs/contract.md 3.4, restricted to the attempts that were found dead.
const rescueSQL = `
UPDATE queue_job j
SET state = CASE WHEN ` + exhausted + ` THEN 'failed' ELSE 'pending' END,
	retry = CASE WHEN j.state = 'started' THEN coalesce(j.retry, 0) + 1 ELSE j.retry END,
	exc_name = CASE WHEN ` + exhausted + ` THEN 'JobFoundDead' ELSE j.exc_name END,
	exc_info = CASE WHEN ` + exhausted + ` THEN 'Job found dead after too many retries' ELSE j.exc_info END` + stillDead

// stillDead has the predicates of docs/contract.md 3.4. The row lock proves that no worker holds the
// lock row. The state must be tested at the top level too: a worker that commits between the
// statement's snapshot and the row lock would otherwise have its finished job put back.
const stillDead = `
FROM path, c
WHERE j.id = c.id AND j.state IN ('enqueued', 'started')
AND (j.date_enqueued < now() AT TIME ZONE 'UTC' - interval '10 seconds'
	OR j.date_enqueued > now() AT TIME ZONE 'UTC' + interval '10 seconds')
AND (
	j.id IN (SELECT l.queue_job_id FROM queue_job_lock l WHERE l.queue_job_id = j.id FOR NO KEY UPDATE SKIP LOCKED)
	OR NOT EXISTS (SELECT FROM queue_job_lock l WHERE l.queue_job_id = j.id)
)
RETURNING `

// exhausted is true for a job that has died too often. It reads the counter before this death is
// counted; 0 and NULL mean that there is no limit.
const exhausted = `(coalesce(j.max_retries, 0) <> 0 AND coalesce(j.retry > j.max_retries, false))`

// rescueExpiredSQL puts started attempts back without a lock row to prove anything. The effects are
// the same as far as the columns exist.
func (g *generation) rescueExpiredSQL() string {
	exhausted := exhausted
	if !slices.Contains(g.columns, "max_retries") {
		exhausted = "false"
	}
	set := "SET state = CASE WHEN " + exhausted + " THEN 'failed' ELSE 'pending' END, retry = coalesce(j.retry, 0) + 1"
	for _, c := range []struct{ name, value string }{
		{"exc_name", "'JobFoundDead'"}, {"exc_info", "'Job found dead after too many retries'"},
	} {
		if slices.Contains(g.columns, c.name) {
			set += ", " + c.name + " = CASE WHEN " + exhausted + " THEN " + c.value + " ELSE j." + c.name + " END" //nolint:modernize // two at most
		}
	}
	return " UPDATE queue_job j " + set + stillExpired
}

const stillExpired = " FROM path, c WHERE j.id = c.id AND j.state = 'started' RETURNING "

// failSQL fails attempts in place of putting them back. What the row says about earlier failures
// stays. name is that of the exception.
func (g *generation) failSQL(name string) string {
	set := " UPDATE queue_job j SET state = 'failed', retry = CASE WHEN j.state = 'started' THEN coalesce(j.retry, 0) + 1 ELSE j.retry END"
	if !slices.Contains(g.writable, "retry") {
		set = " UPDATE queue_job j SET state = 'failed'"
	}
	for _, c := range []struct{ name, value string }{
		{"exc_name", literal(name)}, {"exc_message", `split_part(c.why, E'\n', 1)`},
	} {
		if slices.Contains(g.writable, c.name) && !slices.Contains(g.typed, c.name) {
			set += ", " + c.name + " = " + c.value
		}
	}
	if g.shows() {
		set += ", exc_info = " + g.appendCauseSQL("c.why")
	}
	return set
}

// attempts splits tasks into the columns of a statement's parameters.
func attempts(n int, at func(int) driver.Task) (uuids []string, enqueued []pgtype.Timestamp) {
	for i := range n {
		t := at(i)
		uuids = append(uuids, t.UUID)
		enqueued = append(enqueued, timestamp(t.Enqueued))
	}
	return uuids, enqueued
}

// timestamp is the inverse of micros.
func timestamp(micros int64) pgtype.Timestamp {
	switch micros {
	case 0:
		return pgtype.Timestamp{}
	case math.MaxInt64:
		return pgtype.Timestamp{InfinityModifier: pgtype.Infinity, Valid: true}
	case math.MinInt64:
		return pgtype.Timestamp{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamp{Time: time.UnixMicro(micros).UTC(), Valid: true}
}
