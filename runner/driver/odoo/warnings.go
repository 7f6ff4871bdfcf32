package odoo

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// rivalsSQL tells which tables we may read that know of others who start jobs.
const rivalsSQL = `SELECT
	coalesce(has_table_privilege(to_regclass($1), 'SELECT'), false),
	coalesce(has_table_privilege(to_regclass($2), 'SELECT'), false),
	coalesce(has_table_privilege(to_regclass($3), 'SELECT'), false)`

// The rivals, each as a query for whether there is one. Tables are read through JSON where their
// columns differ between series.
const (
	// enqueueCronSQL finds the cron of 7.0 and 8.0 that hands jobs to workers.
	enqueueCronSQL = `SELECT EXISTS (SELECT FROM ir_cron c WHERE c.active
		AND (to_jsonb(c) ->> 'name' = 'Enqueue Jobs' OR to_jsonb(c) ->> 'model' = 'queue.worker'))`
	// workerSQL finds a worker of 7.0 or 8.0, which gives a sign of life every few seconds and
	// counts as dead after five minutes.
	workerSQL = `SELECT EXISTS (SELECT FROM queue_worker w
		WHERE (to_jsonb(w) ->> 'date_alive')::timestamp > now() AT TIME ZONE 'UTC' - interval '5 minutes')`
	// cronRunnerSQL finds the add-on that runs jobs by cron (docs/contract.md 3.4).
	cronRunnerSQL = `SELECT EXISTS (SELECT FROM ir_cron c JOIN ir_model_data d ON d.model = 'ir.cron' AND d.res_id = c.id
		WHERE c.active AND d.module = 'queue_job_cron_jobrunner')`
)

// oddities are warnings about what lets others than Odoo's owner have code run as our role, each
// time that a job is claimed or put back. PostgreSQL has no remedy against the owner of a table, so
// all databases of a runner have to trust each other.
func (c *catalog) oddities() (list []string) {
	if c.Stranger && !c.Owning {
		list = append(list, fmt.Sprintf("queue_job belongs to %s, who is neither our role nor the owner of Odoo's other tables, "+
			"and can have code run as our role", c.Owner))
	}
	if len(c.Others) > 0 {
		list = append(list, "queue_job has triggers that are not the add-on's, whose code runs as our role: "+strings.Join(c.Others, ", "))
	}
	if len(c.Rules) > 0 {
		list = append(list, "queue_job has rules, whose code runs as our role: "+strings.Join(c.Rules, ", "))
	}
	if c.Policies {
		list = append(list, "queue_job has row-level security, whose policies hide jobs from other roles than its owner's")
	}
	return list
}

// warnings finds others that start the same jobs and do not take the lock that would keep them and
// us apart.
func (g *generation) warnings(ctx context.Context, conn *postgres.Conn) (list []string, err error) {
	var cron, worker, data bool
	if err := conn.QueryRow(ctx, rivalsSQL, pgx.QueryExecModeExec, g.tables.qualify("ir_cron"),
		g.tables.qualify("queue_worker"), g.tables.qualify("ir_model_data")).Scan(&cron, &worker, &data); err != nil {
		return nil, conn.Failed(err, "check for other runners")
	}
	list = append(list, g.oddities...)
	old := g.module == connector.module
	for _, r := range []struct {
		look      bool
		sql, warn string
	}{
		{old && cron, enqueueCronSQL, `the scheduled action "Enqueue Jobs" is active and would run jobs a second time: deactivate it`},
		{old && worker, workerSQL, "a worker of the old queue (openerp-connector-worker) is alive and would run jobs a second time: stop it"},
		{!old && cron && data, cronRunnerSQL, "the scheduled action of queue_job_cron_jobrunner is active and runs jobs too: deactivate it"},
	} {
		var found bool
		if !r.look {
			continue
		}
		if err := conn.QueryRow(ctx, g.named(r.sql), pgx.QueryExecModeExec).Scan(&found); err != nil {
			return nil, conn.Failed(err, "check for other runners")
		}
		if found {
			list = append(list, r.warn)
		}
	}
	return list, nil
}
