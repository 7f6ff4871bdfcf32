package odoo

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// readableSQL lists what may be read of the tables in $1 without running code of their owners: the
// columns, each with its type.
const readableSQL = `
SELECT a.attrelid = to_regclass($1), a.attname || ' ' || format_type(a.atttypid, NULL) FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type ON pg_type.oid = a.atttypid
WHERE c.oid IN (to_regclass($1), to_regclass($2)) AND c.relkind = 'r' AND NOT row_security_active(c.oid)
	AND a.attname IN ('id', 'active', 'ir_actions_server_id', 'code', 'model', 'function', 'args')
	AND NOT a.attisdropped AND has_column_privilege(c.oid, a.attnum, 'SELECT') AND NOT ` + foreignType

// collectorLimit is the length of the longest code of a scheduled action that is read, in bytes, and
// collectorsLimit how many are read.
const (
	collectorLimit  = 10_000
	collectorsLimit = 10
)

// The scheduled actions that put stuck jobs back (docs/contract.md 3.3). Each query gives their calls of
// requeue_stuck_jobs. From 11.0 on, the call is in the code of a server action; before, the method and
// its arguments are columns.
const (
	collectorCodeSQL = `SELECT a.code::text FROM ONLY %[1]s c JOIN ONLY %[2]s a ON a.id = c.ir_actions_server_id
		WHERE c.active AND octet_length(a.code) <= $1 AND a.code LIKE '%%requeue_stuck_jobs%%' ORDER BY c.id LIMIT $2`
	collectorArgsSQL = `SELECT 'requeue_stuck_jobs' || coalesce(c.args, '()') FROM ONLY %[1]s c
		WHERE c.active AND octet_length(c.args) <= $1 AND c.function = 'requeue_stuck_jobs' AND c.model = 'queue.job' ORDER BY c.id LIMIT $2`
)

// collectors finds after which times Odoo itself puts started jobs back, as far as that can be read.
func (s *session) collectors(ctx context.Context) (limits []driver.StartedLimit, err error) {
	// Odoo keeps all its tables in one schema.
	home := s.generation.tables["ir_module_module"]
	names := schemas{"ir_cron": home, "ir_act_server": home}
	crons, actions := names.qualify("ir_cron"), names.qualify("ir_act_server")
	sql, err := s.collectorSQL(ctx, crons, actions)
	if err != nil || sql == "" {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf(sql, crons, actions), pgx.QueryExecModeExec, collectorLimit, collectorsLimit)
	if err != nil {
		return nil, s.conn.Failed(err, "read the scheduled actions")
	}
	var code string
	_, err = pgx.ForEachRow(rows, []any{&code}, func() error {
		limits = append(limits, startedLimits(code)...)
		return nil
	})
	return limits, s.conn.Failed(err, "read the scheduled actions")
}

// collectorSQL chooses the query by the columns that there are; empty for none.
func (s *session) collectorSQL(ctx context.Context, crons, actions string) (string, error) {
	rows, err := s.conn.Query(ctx, readableSQL, pgx.QueryExecModeExec, crons, actions)
	if err != nil {
		return "", s.conn.Failed(err, "check for scheduled actions")
	}
	var cron, action []string
	var ofCron bool
	var column string
	_, err = pgx.ForEachRow(rows, []any{&ofCron, &column}, func() error {
		if ofCron {
			cron = append(cron, column)
		} else {
			action = append(action, column)
		}
		return nil
	})
	lacks := func(there []string, columns ...string) bool { return len(without(columns, there)) > 0 }
	switch {
	case err != nil:
		return "", s.conn.Failed(err, "check for scheduled actions")
	case lacks(cron, "id integer", "active boolean"):
	case !lacks(cron, "ir_actions_server_id integer") && !lacks(action, "id integer", "code text"):
		return collectorCodeSQL, nil
	case !lacks(cron, "model character varying", "function character varying", "args text"):
		return collectorArgsSQL, nil
	}
	return "", nil
}

var (
	pythonComment = regexp.MustCompile(`#[^\n]*`)
	requeueCall   = regexp.MustCompile(`\brequeue_stuck_jobs\s*\(([^()]*)\)`)
)

// startedLimitMost is the longest time that is told of, so that none overflows.
const startedLimitMost = 100 * 365 * 24 * 60

// startedLimits are the limits for started jobs in the calls of requeue_stuck_jobs. The code is Python
// of the database's users: what is not as the add-on documents it is taken for none.
func startedLimits(code string) (limits []driver.StartedLimit) {
	for _, call := range requeueCall.FindAllStringSubmatch(pythonComment.ReplaceAllString(code, ""), -1) {
		minutes, ok := startedDelta(call[1])
		switch {
		case !ok || minutes == 0: // it is not looked at
		case minutes == -1:
			limits = append(limits, driver.StartedLimit{OfRequest: true})
		default: // what is negative counts as at once
			limits = append(limits, driver.StartedLimit{After: time.Duration(max(minutes, 0)) * time.Minute})
		}
	}
	return limits
}

// startedDelta finds the argument of that name, which is the second one, in minutes.
func startedDelta(args string) (minutes int64, ok bool) {
	for i, arg := range strings.Split(args, ",") {
		name, value, named := strings.Cut(arg, "=")
		if !named {
			name, value = "", arg
		}
		if strings.TrimSpace(name) != "started_delta" && (named || i != 1) {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		return n, err == nil && n <= startedLimitMost
	}
	return 0, true
}
