package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// finding is what the doctor prints.
type finding struct {
	Severity, Code, Check, Runner, Database, Upstream, Message string
}

// doctor runs the command and returns its findings and exit status.
func (tb *testBed) doctor(args ...string) ([]finding, int) {
	tb.Helper()
	ctx, cancel := tb.patient()
	defer cancel()
	cmd := tb.caddyCommand(ctx, tb.TempDir(), append([]string{"jobrunner", "doctor", "--config", tb.writeConfig(), "--adapter", "caddyfile", "--json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	status := 0
	if failed {
		status = exit.ExitCode()
	} else {
		require.NoError(tb, err)
	}
	var answer struct{ Findings []finding }
	if status != 1 {
		require.NoError(tb, json.Unmarshal(out.Bytes(), &answer), "%s\n%s", out.String(), errs.String())
	}
	return answer.Findings, status
}

func TestDoctorFindsNothing(t *testing.T) {
	pg := apart(t)
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBedOn(t, pg, gen, 1, 2)
			tb.connectAsOwner()
			found, status := tb.doctor()
			require.Zero(t, status, "%+v", found)
			checks := map[string]int{}
			for _, f := range found {
				require.Equal(t, "ok", f.Severity, "%+v", f)
				checks[f.Check]++
			}
			require.Equal(t, map[string]int{"postgres": 1, "database": 1, "lock": 1, "upstream": 2, "route": 2}, checks)
			require.Empty(t, tb.Recorder.AllExecutions())
		})
	}
}

// connectAsOwner connects the runner with a role that owns what Odoo has made, and nothing else, as
// the documents advise.
func (tb *testBed) connectAsOwner() {
	tb.Helper()
	role := tb.connectAs("owner", "postgres")
	tb.exec("GRANT CREATE ON SCHEMA public TO " + role)
	tb.exec(`DO $$ DECLARE t record; BEGIN
		FOR t IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
			EXECUTE 'ALTER TABLE ' || t.name || ' OWNER TO ` + role + `';
		END LOOP; END $$`)
}

// doctorCase sets up one fault, or one thing that is as it should be.
type doctorCase struct {
	code     string
	severity string
	status   int
	words    string
	setUp    func(tb *testBed)
	// name tells cases of one code apart.
	name string
	gen  odoostub.Generation
}

// TestDoctor sets each of the things up that the doctor can find, and looks
// whether it finds it.
func TestDoctor(t *testing.T) {
	pg := apart(t)
	covered := map[string]bool{}
	for _, c := range doctorCases() {
		covered[c.code] = true
	}
	for _, code := range doctor.Codes() {
		require.True(t, covered[code], "no case sets up %s", code)
		delete(covered, code)
	}
	require.Empty(t, covered, "codes that the doctor does not know")
	for _, c := range doctorCases() {
		name := c.code
		if c.name != "" {
			name += "/" + c.name
		}
		t.Run(name, func(t *testing.T) {
			if c.gen == 0 {
				c.gen = odoostub.QueueJobLock
			}
			tb := newTestBedOn(t, pg, c.gen, 1, 1)
			c.setUp(tb)
			found, status := tb.doctor()
			for _, f := range found {
				require.Regexp(t, `^\w`, f.Message, "nothing was left out at the beginning")
				if f.Code == c.code && strings.Contains(f.Message, c.words) {
					require.Equal(t, c.severity, f.Severity)
					require.Equal(t, "default", f.Runner)
					require.Equal(t, c.status, status, "%+v", found)
					return
				}
			}
			require.Fail(t, "not found", "%+v (status %d)", found, status)
		})
	}
}

func doctorCases() []doctorCase {
	var all []doctorCase
	for _, list := range [][]doctorCase{casesOfPostgres(), casesOfDatabases(), casesOfLocks(), casesOfServers(), casesOfOdooConfig(), casesOfPolicies(), casesOfChannels()} {
		all = append(all, list...)
	}
	return all
}

// dsnOf is how to connect to a pooler of a test.
func dsnOf(cfg *pgx.ConnConfig) string {
	return "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + cfg.User + " password=" + cfg.Password + " sslmode=disable"
}

func casesOfPostgres() []doctorCase {
	return []doctorCase{
		{code: "postgres", severity: "ok", words: "lists 1 database", setUp: func(*testBed) {}},
		{code: "postgres", name: "several hosts", severity: "ok", words: "lists 1 database", setUp: func(tb *testBed) {
			port := itoa(tb.Postgres.ConnConfig("postgres").Port)
			tb.dsn = "postgres://postgres@127.0.0.1:1,127.0.0.1:" + port + "/postgres?sslmode=disable&target_session_attrs=read-write"
		}},
		{code: "postgres_unreachable", severity: "error", status: 3, words: "cannot be reached", setUp: func(tb *testBed) {
			tb.dsn = "host=127.0.0.1 port=1 user=odoo password=hush"
		}},
		{code: "transaction_pooler", severity: "error", status: 3, words: "transaction mode", setUp: func(tb *testBed) {
			cfg := drivertest.NewPooler(tb.T, tb.Postgres.ConnConfig("postgres"), drivertest.PoolTransaction)
			tb.dsn = dsnOf(cfg)
		}},
		{code: "pooler_unreachable", severity: "error", status: 3, words: "the pooler cannot be reached", setUp: func(tb *testBed) {
			tb.more = "pooler \"host=127.0.0.1 port=1 sslmode=disable\""
		}},
		{code: "pooler_refuses", severity: "error", status: 3, words: "the pooler refuses the database", setUp: func(tb *testBed) {
			tb.more = "pooler \"" + tb.Postgres.DSN("postgres") + "&user=nobody_knows\""
		}},
		{code: "pooler_is_none", severity: "warning", words: "pooler leads to PostgreSQL itself", setUp: func(tb *testBed) {
			tb.more = "pooler \"" + tb.Postgres.DSN("postgres") + "\""
		}},
		{code: "pooler_not_counted", severity: "warning", words: "set track_counts on", setUp: func(tb *testBed) {
			cfg := tb.Postgres.ConnConfig(tb.dbs[0])
			tb.more = "pooler \"" + dsnOf(drivertest.NewPooler(tb.T, cfg, drivertest.PoolRoundRobin)) + "\""
			role := tb.connectAs("uncounted", "postgres")
			tb.statement("ALTER ROLE " + role + " SUPERUSER")
			tb.statement("ALTER ROLE " + role + " SET track_counts = off")
		}},
		{code: "lock_free", severity: "ok", name: "pooled", words: "or one does through a pooler", setUp: func(tb *testBed) {
			tb.more = "pooler \"" + dsnOf(drivertest.NewPooler(tb.T, tb.Postgres.ConnConfig(tb.dbs[0]), drivertest.PoolTransaction)) + "\""
		}},
		{code: "role_rights", severity: "warning", words: "the role postgres is a superuser", setUp: func(*testBed) {}},
		{code: "too_few_connections", severity: "warning", words: "2 databases are to be served, and 1 of them can have a connection at a time, because connections is 3: raise it", setUp: func(tb *testBed) {
			tb.addDatabase(odoostub.QueueJobLock)
			tb.more = "connections 3"
		}},
		{code: "connections_above_limit", severity: "warning", words: "connections is 10000", setUp: func(tb *testBed) {
			tb.more = "connections 10000"
		}},
		{code: "hibernate_not_counted", severity: "warning", words: "set track_counts on", setUp: func(tb *testBed) {
			tb.more = "hibernate 10s"
			role := tb.connectAs("uncounted", "postgres")
			tb.statement("ALTER ROLE " + role + " SUPERUSER")
			tb.statement("ALTER ROLE " + role + " SET track_counts = off")
		}},
		{code: "databases_not_listed", severity: "error", status: 3, words: "pg_database", setUp: func(tb *testBed) {
			db := tb.dbs[0]
			require.NoError(tb, tb.Postgres.Exec(tb.Context(), db, "REVOKE SELECT ON pg_catalog.pg_database FROM PUBLIC"))
			tb.connectAs("lister", db)
		}},
		{code: "no_database", severity: "error", status: 3, words: "no database is found", setUp: func(tb *testBed) {
			tb.patterns = "none_*"
		}},
		{code: "database_missing", severity: "warning", words: "there is no database prod_shp to connect to", setUp: func(tb *testBed) {
			tb.patterns = "prod_shp nothing_* !gone gone " + tb.dbs[0]
		}},
		{code: "database_missing", name: "the only one", severity: "warning", status: 3, words: "there is no database prod_shp", setUp: func(tb *testBed) {
			tb.patterns = "prod_shp"
		}},
		{code: "no_jobs", severity: "error", status: 3, words: "install queue_job", setUp: func(tb *testBed) {
			require.NoError(tb, odoostub.UninstallAddon(tb.Context(), tb.Pool(tb.dbs[0])))
		}},
	}
}

func casesOfDatabases() []doctorCase {
	return []doctorCase{
		{code: "database", severity: "ok", words: "ready", setUp: func(*testBed) {}},
		{code: "database_undetected", severity: "ok", status: 3, words: "is not installed", setUp: func(tb *testBed) {
			require.NoError(tb, odoostub.UninstallAddon(tb.Context(), tb.Pool(tb.dbs[0])))
		}},
		{code: "database_neutralized", severity: "warning", words: "run_neutralized", setUp: func(tb *testBed) {
			require.NoError(tb, odoostub.Neutralize(tb.Context(), tb.Pool(tb.dbs[0])))
		}},
		{code: "database", name: "neutralized and served", severity: "ok", words: "because run_neutralized is set", setUp: func(tb *testBed) {
			require.NoError(tb, odoostub.Neutralize(tb.Context(), tb.Pool(tb.dbs[0])))
			tb.more = "driver odoo {\nrun_neutralized\n}"
		}},
		{code: "database_not_examined", severity: "error", status: 3, words: "GRANT CONNECT", setUp: func(tb *testBed) {
			require.NoError(tb, tb.Postgres.Exec(tb.Context(), "postgres", "REVOKE CONNECT ON DATABASE "+tb.dbs[0]+" FROM PUBLIC"))
			tb.connectAs("stranger", "postgres")
		}},
		{code: "database_unhealthy", name: "trigger", severity: "error", status: 3, words: "trigger is missing", setUp: func(tb *testBed) {
			require.NoError(tb, odoostub.DropTrigger(tb.Context(), tb.Pool(tb.dbs[0])))
		}},
		{code: "database_unhealthy", name: "rights", severity: "error", status: 3, words: "GRANT SELECT", setUp: func(tb *testBed) {
			tb.connectAs("reader", "postgres")
		}},
		{code: "rival", name: "cron of 8.0", severity: "warning", words: "Enqueue Jobs", gen: odoostub.Connector8, setUp: func(tb *testBed) {
			tb.exec("INSERT INTO ir_cron (name, active) VALUES ('Enqueue Jobs', true)")
		}},
		{code: "rival", name: "worker of 8.0", severity: "warning", words: "openerp-connector-worker", gen: odoostub.Connector8, setUp: func(tb *testBed) {
			tb.exec("INSERT INTO queue_worker (date_alive) VALUES (now() AT TIME ZONE 'UTC')")
		}},
		{code: "rival", name: "cron of an add-on", severity: "warning", words: "queue_job_cron_jobrunner", setUp: func(tb *testBed) {
			tb.exec("CREATE TABLE ir_cron (id int, active bool)")
			tb.exec("INSERT INTO ir_cron VALUES (1, true)")
			tb.exec("CREATE TABLE ir_model_data (module varchar, model varchar, res_id int)")
			tb.exec("INSERT INTO ir_model_data VALUES ('queue_job_cron_jobrunner', 'ir.cron', 1)")
		}},
		{code: "rival", name: "unreadable mark of copies", severity: "warning", words: "GRANT SELECT (key, value)", setUp: func(tb *testBed) {
			role := tb.connectAs("blind", "postgres")
			tb.exec("GRANT SELECT ON ir_module_module TO " + role)
			tb.exec("GRANT SELECT, UPDATE ON queue_job, queue_job_lock TO " + role)
		}},
	}
}

func casesOfLocks() []doctorCase {
	return []doctorCase{
		{code: "lock_free", severity: "ok", setUp: func(*testBed) {}},
		{code: "lock_free", severity: "ok", name: "asleep", words: "or it is asleep", setUp: func(tb *testBed) { tb.more = "hibernate 10s" }},
		{code: "lock_of_caddy", severity: "ok", words: "served by a Caddy", setUp: func(tb *testBed) {
			tb.startProcess(tb.TempDir())
			tb.untilReady()
		}},
		{code: "lock_of_another_caddy", severity: "warning", words: "a second runner serves it (pid ", setUp: func(tb *testBed) {
			first := tb.beside()
			first.runner = "first"
			first.startProcess(tb.TempDir())
			first.untilReady()
			tb.startProcess(tb.TempDir())
			tb.until("standby", func() bool {
				_, body := tb.request(http.MethodGet, "/jobrunner/databases?state=standby", "")
				return strings.Contains(body, tb.dbs[0])
			})
		}},
		{code: "lock_of_another_runner", severity: "error", status: 3, words: "application odoo-14", setUp: func(tb *testBed) {
			cfg := tb.Postgres.ConnConfig(tb.dbs[0])
			cfg.RuntimeParams["application_name"] = "odoo-14"
			conn, err := pgx.ConnectConfig(tb.Context(), cfg)
			require.NoError(tb, err)
			tb.Cleanup(func() { require.NoError(tb, conn.Close(context.Background())) })
			_, err = conn.Exec(tb.Context(), "SELECT pg_advisory_lock(2293787760715711918)")
			require.NoError(tb, err)
		}},
	}
}

func casesOfServers() []doctorCase {
	return []doctorCase{
		{code: "no_upstream", severity: "error", status: 3, words: "no Odoo server is known", setUp: func(tb *testBed) {
			tb.routes = "reverse_proxy {\ndynamic a {\nname odoo.example.com\nport 8069\nresolvers 127.0.0.1:1\n}\n}"
		}},
		{code: "upstream", severity: "ok", words: "it answers", setUp: func(*testBed) {}},
		{code: "upstream_down", severity: "error", status: 3, words: "it takes no jobs, start Odoo or correct its address", setUp: func(tb *testBed) {
			tb.Odoo[0].Refuse()
		}},
		{code: "upstream_busy", severity: "warning", words: "all workers may be busy", setUp: func(tb *testBed) {
			tb.Odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Hang, AllPaths: true})
		}},
		{code: "route", severity: "ok", words: "would run jobs", setUp: func(*testBed) {}},
		{code: "route_refused", name: "no add-on", severity: "error", status: 3, words: "load queue_job with server_wide_modules", setUp: func(tb *testBed) {
			tb.Odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: 404})
		}},
		{code: "route_refused", name: "dbfilter", severity: "error", status: 3, words: "pass dbfilter", setUp: (*testBed).filterByHost},
		{code: "route", name: "dbfilter", severity: "ok", words: "would run jobs", setUp: func(tb *testBed) {
			tb.filterByHost()
			tb.more = "driver odoo {\nhost {database}.example.com\n}"
		}},
		{code: "route_public", severity: "warning", words: "add the directive jobrunner_guard", setUp: func(tb *testBed) {
			tb.snippets = "http://odoo.example.com:18069 {\n\treverse_proxy {{(index .Odoo 0).Addr}}\n}"
		}},
		{code: "route_broken", severity: "error", status: 3, words: "did not answer for a job", setUp: func(tb *testBed) {
			tb.Odoo[0].SetFault(odoostub.Fault{Kind: odoostub.ResetAfterRead})
		}},
	}
}

func casesOfOdooConfig() []doctorCase {
	const good = "channels = root:0\n"
	return []doctorCase{
		{code: "odoo_runner_on", severity: "warning", words: "would start it", setUp: func(tb *testBed) {
			tb.odooConfig("", "channels = root:4\n")
		}},
		{code: "server_wide_modules", severity: "warning", words: "server_wide_modules has no queue_job", setUp: func(tb *testBed) {
			tb.addDatabase(odoostub.QueueJobLock)
			tb.odooConfig("server_wide_modules = base,web\n", good)
		}},
		{code: "dbfilter_not_used", severity: "warning", words: "regular expression", setUp: func(tb *testBed) {
			tb.patterns = none
			tb.odooConfig("dbfilter = ^(a|b)$\n", good)
		}},
		{code: "no_channels", severity: "warning", words: "one job runs at a time", setUp: func(tb *testBed) {
			tb.tree = none
		}},
		{code: "no_root_channel", severity: "warning", words: "its capacity is 1 and one job runs at a time", setUp: func(tb *testBed) {
			tb.tree = "root.mail:2"
		}},
		{code: "channel_option_ignored", severity: "warning", words: `the option "sequental" of channel root.stock is not known`, setUp: func(tb *testBed) {
			tb.tree = "root:4,root.stock:8:sequental"
		}},
		{code: "channel_option_ignored", name: "odoo_config", severity: "warning", words: `the option "throtle" of channel root.mail is not known`, setUp: func(tb *testBed) {
			tb.tree = none
			tb.odooConfig("", "channels = root:4,mail:2:throtle=3\n")
		}},
		{code: "capacity_above_workers", severity: "warning", words: "has 4 workers", setUp: func(tb *testBed) {
			tb.odooConfig("workers = 4\n", good)
		}},
		{code: "workers_differ", severity: "warning", words: "Odoo's configuration says 4", setUp: func(tb *testBed) {
			tb.odooConfig("workers = 4\n", good)
			tb.more += "\nserver {\nworkers 8\n}"
		}},
		{code: "timeout_above_limit_time_real", severity: "warning", words: "raise limit_time_real", setUp: func(tb *testBed) {
			tb.odooConfig("workers = 4\n", good)
			tb.more += "\npolicy * {\ntimeout 10m\n}"
		}},
		{code: "rescue_before_timeout", severity: "warning", words: "would be run a second time", setUp: func(tb *testBed) {
			tb.more = "rescue_started_after 5m\npolicy * {\ntimeout 10m\n}"
		}},
		{code: "file_limit", severity: "warning", words: "files open, which the sites need too", setUp: func(tb *testBed) {
			var limit syscall.Rlimit
			require.NoError(tb, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
			tb.tree = "root:" + fmt.Sprint(limit.Cur/2+1)
		}},
		{code: "capacity_unlimited", severity: "warning", words: "has no limit", setUp: func(tb *testBed) {
			tb.tree = "sub:1,root : 0"
		}},
	}
}

func casesOfPolicies() []doctorCase {
	const hour = "policy root* {\n\ttimeout 1h\n}"
	return []doctorCase{
		{code: "timeout_above_limit_time_real", severity: "warning", words: "raise limit_time_real, or lower the timeout", setUp: func(tb *testBed) {
			tb.odooConfig("workers = 4\nlimit_time_real = 600\n", "channels = root:0\n")
			tb.more += "\n" + hour
		}},
		{code: "rescue_before_timeout", severity: "warning", words: "would be run a second time", setUp: func(tb *testBed) {
			tb.more = "rescue_started_after 30m\n" + hour
		}},
		{code: "timeout_cannot_cancel", severity: "warning", words: "GRANT pg_signal_backend TO", setUp: func(tb *testBed) {
			role := tb.connectAs("runner", tb.dbs[0])
			tb.exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO " + role)
			owner := "worker_" + tb.dbs[0]
			tb.exec("CREATE ROLE " + owner)
			tb.Cleanup(func() {
				require.NoError(tb, tb.Postgres.Exec(context.Background(), tb.dbs[0], "DROP OWNED BY "+owner+" CASCADE; DROP ROLE "+owner))
			})
			tb.exec("GRANT CREATE ON SCHEMA public TO " + owner)
			tb.exec("ALTER TABLE queue_job OWNER TO " + owner)
			tb.more = "policy root* {\n\ttimeout 1h {\n\t\tcancel\n\t}\n}"
		}},
		{code: "timeout_cannot_cancel", name: "no lock table", severity: "warning", words: "no table queue_job_lock", gen: odoostub.QueueJob12, setUp: func(tb *testBed) {
			tb.more = "policy root* {\n\ttimeout 1h {\n\t\tcancel\n\t}\n}"
		}},
		{code: "timeout_without_rescue", severity: "warning", words: "set rescue_started_after", setUp: func(tb *testBed) {
			tb.more = "policy root* {\n\ttimeout 1h {\n\t\tcancel\n\t\tretry\n\t}\n}"
		}},
		{code: "garbage_collector_early", severity: "warning", words: "raise started_delta", gen: odoostub.QueueJob12, setUp: func(tb *testBed) {
			tb.exec("CREATE TABLE ir_act_server (id serial PRIMARY KEY, code text)")
			tb.exec("INSERT INTO ir_act_server (code) VALUES ('model.requeue_stuck_jobs(enqueued_delta=5, started_delta=30)')")
			tb.exec("CREATE TABLE ir_cron (id serial PRIMARY KEY, active boolean, ir_actions_server_id int)")
			tb.exec("INSERT INTO ir_cron (active, ir_actions_server_id) VALUES (true, 1)")
			tb.more = hour
		}},
		{code: "database_upgrading", severity: "warning", words: "since 2026-11-02T10:00:00Z or earlier, modules are marked: web (to upgrade)", setUp: func(tb *testBed) {
			tb.exec("ALTER TABLE ir_module_module ADD COLUMN write_date timestamp")
			tb.exec("UPDATE ir_module_module SET state = 'to upgrade', write_date = '2026-11-02 10:00' WHERE name = 'web'")
			tb.more = "upgrade_gate"
		}},
		{code: "policy_never_counts", severity: "warning", words: "put what is specific before what is general", setUp: func(tb *testBed) {
			tb.more = hour + "\npolicy root.export.* {\n\ttimeout 15m\n}"
		}},
	}
}

func casesOfChannels() []doctorCase {
	return []doctorCase{
		{code: "channels", severity: "ok", words: "below a capacity of 3", gen: odoostub.Channels, setUp: func(tb *testBed) {
			tb.own = "max_capacity 3"
		}},
		{code: "channels_unusable", severity: "error", status: 3, words: "a sequential channel must have a capacity of 1", gen: odoostub.Channels, setUp: func(tb *testBed) {
			tb.own = "max_capacity 3"
			tb.setChannels(tb.dbs[0], odoostub.Channel{Name: "root.one", Capacity: new(2), Sequential: true})
		}},
		{code: "channels_unusable", name: "older add-on", severity: "error", status: 3, words: "upgrade the add-on queue_job", setUp: func(tb *testBed) {
			tb.own = "max_capacity 3"
		}},
		{code: "channels_stopped", severity: "warning", words: "its jobs would wait", gen: odoostub.Channels, setUp: func(tb *testBed) {
			tb.own = "max_capacity 3\ndb_max_capacity *:0"
		}},
		{code: "capacity_zero", severity: "warning", words: "so no job runs", gen: odoostub.Channels, setUp: func(tb *testBed) {
			tb.own = "max_capacity 0"
		}},
	}
}

// TestDoctorSaysItOnce: a database that cannot be served is one error, not two, and a superuser one warning.
func TestDoctorSaysItOnce(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	require.NoError(t, odoostub.DropTrigger(t.Context(), tb.Pool(tb.dbs[0])))
	found, status := tb.doctor()
	require.Equal(t, 3, status)
	codes := map[string]int{}
	for _, f := range found {
		if f.Severity != "ok" {
			codes[f.Code]++
		}
	}
	require.Equal(t, map[string]int{"database_unhealthy": 1, "role_rights": 1}, codes)
}

// exec changes the first database.
func (tb *testBed) exec(sql string) {
	tb.Helper()
	_, err := tb.Pool(tb.dbs[0]).Exec(tb.Context(), sql)
	require.NoError(tb, err)
}

// connectAs lets the runner connect with a role of its own, which has no rights
// yet, to a maintenance database.
func (tb *testBed) connectAs(name, maintenance string) (role string) {
	tb.Helper()
	db := tb.dbs[0]
	role = name + "_" + db
	require.NoError(tb, tb.Postgres.Exec(tb.Context(), db, "CREATE ROLE "+role+" LOGIN"))
	tb.Cleanup(func() {
		require.NoError(tb, tb.Postgres.Exec(context.Background(), db, "DROP OWNED BY "+role+" CASCADE"))
		require.NoError(tb, tb.Postgres.Exec(context.Background(), db, "DROP ROLE "+role))
	})
	cfg := tb.Postgres.ConnConfig(db)
	tb.dsn = "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + role + " dbname=" + maintenance
	return role
}

// filterByHost replaces the server by one that chooses the database by host name.
func (tb *testBed) filterByHost() {
	tb.Odoo = nil
	tb.addServer(odoostub.Options{DBFilter: func(host, db string) bool { return host == db+".example.com" }})
}

// odooConfig gives the runner a configuration file of Odoo.
func (tb *testBed) odooConfig(options, section string) {
	tb.Helper()
	_, port, err := net.SplitHostPort(tb.Odoo[0].Addr())
	require.NoError(tb, err)
	path := filepath.Join(tb.TempDir(), "odoo.conf")
	require.NoError(tb, os.WriteFile(path, []byte("[options]\nhttp_port = "+port+"\n"+options+"[queue_job]\n"+section), 0o600))
	tb.more = "odoo_config " + path
}

// TestDoctorWithoutConfig: a configuration that cannot be loaded has a status of
// its own.
func TestDoctorWithoutConfig(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.tree = "root:0x"
	_, status := tb.doctor()
	require.Equal(t, 1, status, "the configuration is wrong")
	tb.tree, tb.without = "root:4", true
	_, status = tb.doctor()
	require.Equal(t, 1, status, "there is no runner")
}

// TestDoctorIsQuiet: it leaves the log files of the Caddy that runs alone, and
// prints findings only.
func TestDoctorIsQuiet(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.connectAsOwner()
	path := filepath.Join(t.TempDir(), "caddy.log")
	access := filepath.Join(t.TempDir(), "access.log")
	tb.global = "log {\noutput file " + path + "\nlevel DEBUG\n}"
	tb.routes += "\nlog {\noutput file " + access + "\n}"
	out, status := tb.caddy("jobrunner", "doctor", "--config", tb.writeConfig(), "--adapter", "caddyfile")
	require.Zero(t, status, out)
	require.NotEmpty(t, out)
	settings, findings, _ := strings.Cut(out, "\n\n")
	require.Regexp(t, `(?m)^default +channels +configuration +root:4$`, settings)
	require.Regexp(t, `(?m)^default +discover_interval +configuration +500ms$`, settings)
	require.Regexp(t, `(?m)^default +shutdown_timeout +default +3s$`, settings)
	for line := range strings.Lines(findings) {
		require.Regexp(t, `^(ok|warning|error) +default|^summary: 0 errors, 0 warnings, \d in order`, line)
	}
	require.NoFileExists(t, path)
	require.NoFileExists(t, access)
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }
