package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
func (p *plant) doctor(args ...string) ([]finding, int) {
	p.Helper()
	ctx, cancel := p.patient()
	defer cancel()
	cmd := p.caddyCommand(ctx, p.TempDir(), append([]string{"jobrunner", "doctor", "--config", p.writeConfig(), "--adapter", "caddyfile", "--json"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	status := 0
	if failed {
		status = exit.ExitCode()
	} else {
		require.NoError(p, err)
	}
	var answer struct{ Findings []finding }
	if status != 1 {
		require.NoError(p, json.Unmarshal(out.Bytes(), &answer), "%s\n%s", out.String(), errs.String())
	}
	return answer.Findings, status
}

func TestDoctorFindsNothing(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			p := newPlant(t, gen, 1, 2)
			found, status := p.doctor()
			require.Zero(t, status, "%+v", found)
			checks := map[string]int{}
			for _, f := range found {
				require.Equal(t, "ok", f.Severity, "%+v", f)
				checks[f.Check]++
			}
			require.Equal(t, map[string]int{"postgres": 1, "database": 1, "lock": 1, "upstream": 2, "route": 2}, checks)
			require.Empty(t, p.recorder.AllExecutions())
		})
	}
}

// doctorCase sets up one fault, or one thing that is as it should be.
type doctorCase struct {
	code     string
	severity string
	status   int
	words    string
	setUp    func(p *plant)
	// name tells cases of one code apart.
	name string
	gen  odoostub.Generation
}

// TestDoctor sets each of the things up that the doctor can find, and looks
// whether it finds it.
func TestDoctor(t *testing.T) {
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
			p := newPlant(t, c.gen, 1, 1)
			c.setUp(p)
			found, status := p.doctor()
			for _, f := range found {
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
	for _, list := range [][]doctorCase{casesOfPostgres(), casesOfDatabases(), casesOfLocks(), casesOfServers(), casesOfOdooConfig(), casesOfChannels()} {
		all = append(all, list...)
	}
	return all
}

func casesOfPostgres() []doctorCase {
	return []doctorCase{
		{code: "postgres", severity: "ok", words: "lists 1 databases", setUp: func(*plant) {}},
		{code: "postgres_unreachable", severity: "error", status: 3, words: "cannot be reached", setUp: func(p *plant) {
			p.dsn = "host=127.0.0.1 port=1 user=odoo password=hush"
		}},
		{code: "transaction_pooler", severity: "error", status: 3, words: "transaction mode", setUp: func(p *plant) {
			cfg := drivertest.NewPooler(p.T, p.pg.ConnConfig("postgres"), drivertest.PoolTransaction)
			p.dsn = cfg.ConnString()
			if p.dsn == "" || !strings.Contains(p.dsn, "host") {
				p.dsn = "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + cfg.User + " password=" + cfg.Password
			}
		}},
		{code: "databases_not_listed", severity: "error", status: 3, words: "pg_database", setUp: func(p *plant) {
			db := p.dbs[0]
			require.NoError(p, p.pg.Exec(p.Context(), db, "REVOKE SELECT ON pg_catalog.pg_database FROM PUBLIC"))
			p.connectAs("lister", db)
		}},
		{code: "no_database", severity: "error", status: 3, words: "no database is found", setUp: func(p *plant) {
			p.patterns = "none_*"
		}},
		{code: "no_jobs", severity: "error", status: 3, words: "install queue_job", setUp: func(p *plant) {
			require.NoError(p, odoostub.UninstallAddon(p.Context(), p.pools[p.dbs[0]]))
		}},
	}
}

func casesOfDatabases() []doctorCase {
	return []doctorCase{
		{code: "database", severity: "ok", words: "ready", setUp: func(*plant) {}},
		{code: "database_undetected", severity: "ok", status: 3, words: "is not installed", setUp: func(p *plant) {
			require.NoError(p, odoostub.UninstallAddon(p.Context(), p.pools[p.dbs[0]]))
		}},
		{code: "database_neutralized", severity: "warning", words: "run_neutralized", setUp: func(p *plant) {
			require.NoError(p, odoostub.Neutralize(p.Context(), p.pools[p.dbs[0]]))
		}},
		{code: "database", name: "neutralized and served", severity: "ok", words: "because run_neutralized is set", setUp: func(p *plant) {
			require.NoError(p, odoostub.Neutralize(p.Context(), p.pools[p.dbs[0]]))
			p.more = "driver odoo {\nrun_neutralized\n}"
		}},
		{code: "database_not_examined", severity: "error", status: 3, words: "GRANT CONNECT", setUp: func(p *plant) {
			require.NoError(p, p.pg.Exec(p.Context(), "postgres", "REVOKE CONNECT ON DATABASE "+p.dbs[0]+" FROM PUBLIC"))
			p.connectAs("stranger", "postgres")
		}},
		{code: "database_unhealthy", name: "trigger", severity: "error", status: 3, words: "trigger is missing", setUp: func(p *plant) {
			require.NoError(p, odoostub.DropTrigger(p.Context(), p.pools[p.dbs[0]]))
		}},
		{code: "database_unhealthy", name: "rights", severity: "error", status: 3, words: "GRANT SELECT", setUp: func(p *plant) {
			p.connectAs("reader", "postgres")
		}},
		{code: "rival", name: "cron of 8.0", severity: "warning", words: "Enqueue Jobs", gen: odoostub.Connector8, setUp: func(p *plant) {
			p.exec("INSERT INTO ir_cron (name, active) VALUES ('Enqueue Jobs', true)")
		}},
		{code: "rival", name: "worker of 8.0", severity: "warning", words: "openerp-connector-worker", gen: odoostub.Connector8, setUp: func(p *plant) {
			p.exec("INSERT INTO queue_worker (date_alive) VALUES (now() AT TIME ZONE 'UTC')")
		}},
		{code: "rival", name: "cron of an add-on", severity: "warning", words: "queue_job_cron_jobrunner", setUp: func(p *plant) {
			p.exec("CREATE TABLE ir_cron (id int, active bool)")
			p.exec("INSERT INTO ir_cron VALUES (1, true)")
			p.exec("CREATE TABLE ir_model_data (module varchar, model varchar, res_id int)")
			p.exec("INSERT INTO ir_model_data VALUES ('queue_job_cron_jobrunner', 'ir.cron', 1)")
		}},
		{code: "rival", name: "unreadable mark of copies", severity: "warning", words: "GRANT SELECT (key, value)", setUp: func(p *plant) {
			role := p.connectAs("blind", "postgres")
			p.exec("GRANT SELECT ON ir_module_module TO " + role)
			p.exec("GRANT SELECT, UPDATE ON queue_job, queue_job_lock TO " + role)
		}},
	}
}

func casesOfLocks() []doctorCase {
	return []doctorCase{
		{code: "lock_free", severity: "ok", setUp: func(*plant) {}},
		{code: "lock_of_caddy", severity: "ok", words: "served by a Caddy", setUp: func(p *plant) {
			p.startProcess()
			p.untilReady()
		}},
		{code: "lock_of_another_runner", severity: "error", status: 3, words: "application odoo-14", setUp: func(p *plant) {
			cfg := p.pg.ConnConfig(p.dbs[0])
			cfg.RuntimeParams["application_name"] = "odoo-14"
			conn, err := pgx.ConnectConfig(p.Context(), cfg)
			require.NoError(p, err)
			p.Cleanup(func() { require.NoError(p, conn.Close(context.Background())) })
			_, err = conn.Exec(p.Context(), "SELECT pg_advisory_lock(2293787760715711918)")
			require.NoError(p, err)
		}},
	}
}

func casesOfServers() []doctorCase {
	return []doctorCase{
		{code: "no_upstream", severity: "error", status: 3, words: "no Odoo server is known", setUp: func(p *plant) {
			p.routes = "reverse_proxy {\ndynamic a {\nname odoo.example.com\nport 8069\nresolvers 127.0.0.1:1\n}\n}"
		}},
		{code: "upstream", severity: "ok", words: "it answers", setUp: func(*plant) {}},
		{code: "upstream_down", severity: "error", status: 3, words: "does not answer", setUp: func(p *plant) {
			p.odoo[0].Refuse()
		}},
		{code: "upstream_busy", severity: "warning", words: "all workers may be busy", setUp: func(p *plant) {
			p.odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Hang, AllPaths: true})
		}},
		{code: "route", severity: "ok", words: "would run jobs", setUp: func(*plant) {}},
		{code: "route_refused", name: "no add-on", severity: "error", status: 3, words: "load queue_job with server_wide_modules", setUp: func(p *plant) {
			p.odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: 404})
		}},
		{code: "route_refused", name: "dbfilter", severity: "error", status: 3, words: "pass dbfilter", setUp: (*plant).filterByHost},
		{code: "route", name: "dbfilter", severity: "ok", words: "would run jobs", setUp: func(p *plant) {
			p.filterByHost()
			p.more = "driver odoo {\nhost {database}.example.com\n}"
		}},
		{code: "route_broken", severity: "error", status: 3, words: "did not answer for a job", setUp: func(p *plant) {
			p.odoo[0].SetFault(odoostub.Fault{Kind: odoostub.ResetAfterRead})
		}},
	}
}

func casesOfOdooConfig() []doctorCase {
	const good = "channels = root:0\n"
	return []doctorCase{
		{code: "odoo_runner_on", severity: "warning", words: "would start it", setUp: func(p *plant) {
			p.odooConfig("", "channels = root:4\n")
		}},
		{code: "server_wide_modules", severity: "warning", words: "server_wide_modules has no queue_job", setUp: func(p *plant) {
			name, pool := odoostub.NewDatabase(p.T, p.pg, odoostub.QueueJobLock)
			p.dbs = append(p.dbs, name)
			p.pools[name] = pool
			p.odooConfig("server_wide_modules = base,web\n", good)
		}},
		{code: "capacity_above_workers", severity: "warning", words: "has 4 workers", setUp: func(p *plant) {
			p.odooConfig("workers = 4\n", good)
		}},
		{code: "capacity_unlimited", severity: "warning", words: "has no limit", setUp: func(p *plant) {
			p.tree = "sub:1,root : 0"
		}},
	}
}

func casesOfChannels() []doctorCase {
	return []doctorCase{
		{code: "channels", severity: "ok", words: "below a capacity of 3", gen: odoostub.Channels, setUp: func(p *plant) {
			p.own = "max_capacity 3"
		}},
		{code: "channels_unusable", severity: "error", status: 3, words: "a sequential channel must have a capacity of 1", gen: odoostub.Channels, setUp: func(p *plant) {
			p.own = "max_capacity 3"
			p.setChannels(p.dbs[0], odoostub.Channel{Name: "root.one", Capacity: new(2), Sequential: true})
		}},
		{code: "channels_unusable", name: "older add-on", severity: "error", status: 3, words: "upgrade the add-on queue_job", setUp: func(p *plant) {
			p.own = "max_capacity 3"
		}},
		{code: "channels_stopped", severity: "warning", words: "its jobs would wait", gen: odoostub.Channels, setUp: func(p *plant) {
			p.own = "max_capacity 3\ndb_max_capacity *:0"
		}},
		{code: "capacity_zero", severity: "warning", words: "so no job runs", gen: odoostub.Channels, setUp: func(p *plant) {
			p.own = "max_capacity 0"
		}},
	}
}

// exec changes the first database.
func (p *plant) exec(sql string) {
	p.Helper()
	_, err := p.pools[p.dbs[0]].Exec(p.Context(), sql)
	require.NoError(p, err)
}

// connectAs lets the runner connect with a role of its own, which has no rights
// yet, to a maintenance database.
func (p *plant) connectAs(name, maintenance string) (role string) {
	p.Helper()
	db := p.dbs[0]
	role = name + "_" + db
	require.NoError(p, p.pg.Exec(p.Context(), db, "CREATE ROLE "+role+" LOGIN"))
	p.Cleanup(func() {
		require.NoError(p, p.pg.Exec(context.Background(), db, "DROP OWNED BY "+role))
		require.NoError(p, p.pg.Exec(context.Background(), db, "DROP ROLE "+role))
	})
	cfg := p.pg.ConnConfig(db)
	p.dsn = "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + role + " dbname=" + maintenance
	return role
}

// filterByHost replaces the server by one that chooses the database by host name.
func (p *plant) filterByHost() {
	p.odoo = []*odoostub.Server{odoostub.Start(p.T, odoostub.Options{
		Postgres: p.pg.ConnConfig,
		DBFilter: func(host, db string) bool { return host == db+".example.com" },
	})}
}

// odooConfig gives the runner a configuration file of Odoo.
func (p *plant) odooConfig(options, section string) {
	p.Helper()
	_, port, err := net.SplitHostPort(p.odoo[0].Addr())
	require.NoError(p, err)
	path := filepath.Join(p.TempDir(), "odoo.conf")
	require.NoError(p, os.WriteFile(path, []byte("[options]\nhttp_port = "+port+"\n"+options+"[queue_job]\n"+section), 0o600))
	p.more = "odoo_config " + path
}

// TestDoctorWithoutConfig: a configuration that cannot be loaded has a status of
// its own.
func TestDoctorWithoutConfig(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.tree = "root:0x"
	_, status := p.doctor()
	require.Equal(t, 1, status, "the configuration is wrong")
	p.tree, p.without = "root:4", true
	_, status = p.doctor()
	require.Equal(t, 1, status, "there is no runner")
}

// TestDoctorIsQuiet: it leaves the log files of the Caddy that runs alone, and
// prints findings only.
func TestDoctorIsQuiet(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	path := filepath.Join(t.TempDir(), "caddy.log")
	access := filepath.Join(t.TempDir(), "access.log")
	p.global = "log {\noutput file " + path + "\nlevel DEBUG\n}"
	p.routes += "\nlog {\noutput file " + access + "\n}"
	out, status := p.caddy("jobrunner", "doctor", "--config", p.writeConfig(), "--adapter", "caddyfile")
	require.Zero(t, status, out)
	require.NotEmpty(t, out)
	for line := range strings.Lines(out) {
		require.Regexp(t, `^(ok|warning|error) +default`, line)
	}
	require.NoFileExists(t, path)
	require.NoFileExists(t, access)
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }
