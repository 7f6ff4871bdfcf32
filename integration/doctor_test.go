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

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
)

// finding is what the doctor prints.
type finding struct {
	Severity, Check, Runner, Database, Upstream, Message string
}

// doctor runs the command and returns its findings and exit status.
func (p *plant) doctor(args ...string) ([]finding, int) {
	p.Helper()
	self, err := os.Executable()
	require.NoError(p, err)
	ctx, cancel := p.patient()
	defer cancel()
	home := p.TempDir()
	cmd := exec.CommandContext(ctx, self, append([]string{"jobrunner", "doctor", "--config", p.writeConfig(), "--adapter", "caddyfile", "--json"}, args...)...)
	cmd.Env = append(os.Environ(), beCaddy+"=1", "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
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

// finds requires a finding of a severity whose message has the words.
func (p *plant) finds(status int, severity, check, words string) {
	p.Helper()
	found, got := p.doctor()
	for _, f := range found {
		if f.Severity == severity && f.Check == check && strings.Contains(f.Message, words) {
			require.Equal(p, "default", f.Runner)
			require.Equal(p, status, got, "%+v", found)
			return
		}
	}
	require.Fail(p, "not found", "%s %s %q in %+v (status %d)", severity, check, words, found, got)
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

func TestDoctorOfPostgres(t *testing.T) {
	t.Run("unreachable", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		p.dsn = "host=127.0.0.1 port=1 user=odoo password=hush"
		p.finds(3, "error", "postgres", "cannot be reached")
	})
	t.Run("pooler", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		cfg := drivertest.NewPooler(t, p.pg.ConnConfig("postgres"), drivertest.PoolTransaction)
		p.dsn = cfg.ConnString()
		if p.dsn == "" || !strings.Contains(p.dsn, "host") {
			p.dsn = "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + cfg.User + " password=" + cfg.Password
		}
		p.finds(3, "error", "pooler", "transaction mode")
	})
	t.Run("no database", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		p.patterns = "none_*"
		p.finds(3, "error", "databases", "no database is found")
	})
	t.Run("no add-on", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		require.NoError(t, odoostub.UninstallAddon(t.Context(), p.pools[p.dbs[0]]))
		p.finds(3, "error", "databases", "install queue_job")
	})
	t.Run("no trigger", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		require.NoError(t, odoostub.DropTrigger(t.Context(), p.pools[p.dbs[0]]))
		p.finds(3, "error", "database", "trigger is missing")
	})
	t.Run("no rights", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		db, role := p.dbs[0], "doctor_"+p.dbs[0]
		require.NoError(t, p.pg.Exec(t.Context(), db, "CREATE ROLE "+role+" LOGIN"))
		t.Cleanup(func() { require.NoError(t, p.pg.Exec(context.Background(), db, "DROP ROLE "+role)) })
		p.more = ""
		p.dsn = "host=" + p.pg.ConnConfig(db).Host + " port=" + itoa(p.pg.ConnConfig(db).Port) + " user=" + role + " dbname=postgres"
		p.finds(3, "error", "database", "GRANT SELECT")
	})
	t.Run("another runner", func(t *testing.T) {
		p := newPlant(t, odoostub.QueueJobLock, 1, 1)
		cfg := p.pg.ConnConfig(p.dbs[0])
		cfg.RuntimeParams["application_name"] = "odoo-14"
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		require.NoError(t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(t.Context(), "SELECT pg_advisory_lock(2293787760715711918)")
		require.NoError(t, err)
		p.finds(3, "error", "lock", "application odoo-14")
	})
	t.Run("cron", func(t *testing.T) {
		p := newPlant(t, odoostub.Connector8, 1, 1)
		_, err := p.pools[p.dbs[0]].Exec(t.Context(), "INSERT INTO ir_cron (name, active) VALUES ('Enqueue Jobs', true)")
		require.NoError(t, err)
		p.finds(0, "warning", "rival", "Enqueue Jobs")
	})
}

func TestDoctorOfServers(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 2, 1)
	p.odoo[0].Refuse()
	p.finds(3, "error", "upstream", "does not answer")
	require.NoError(t, p.odoo[0].Accept())
	p.odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: 404})
	p.finds(3, "error", "route", "load queue_job with server_wide_modules")
	p.odoo[0].SetFault(odoostub.Fault{})

	p.odoo = nil
	p.odoo = append(p.odoo, odoostub.Start(t, odoostub.Options{
		Postgres: p.pg.ConnConfig,
		DBFilter: func(host, db string) bool { return host == db+".example.com" },
	}))
	p.finds(3, "error", "route", "pass dbfilter")
	p.more = "driver odoo {\nhost {database}.example.com\n}"
	p.finds(0, "ok", "route", "would run jobs")

	c := p.startProcess()
	p.until("the databases are served", func() bool {
		found, _ := p.doctor()
		n := 0
		for _, f := range found {
			if f.Check == "lock" && strings.Contains(f.Message, "served by a Caddy") {
				n++
			}
		}
		return n == 2
	})
	c.interrupt()
}

func TestDoctorOfOdooConfig(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 2, 1)
	path := filepath.Join(t.TempDir(), "odoo.conf")
	write := func(content string) { require.NoError(t, os.WriteFile(path, []byte(content), 0o600)) }
	p.more = "odoo_config " + path
	_, port, err := net.SplitHostPort(p.odoo[0].Addr())
	require.NoError(t, err)
	write("[options]\nhttp_port = " + port + "\nworkers = 4\nserver_wide_modules = base,web\n[queue_job]\nchannels = root:4\n")
	p.finds(0, "warning", "odoo_config", "would start it")
	p.finds(0, "warning", "odoo_config", "server_wide_modules has no queue_job")
	p.finds(0, "warning", "capacity", "has 4 workers")
	p.tree = "root:0x"
	_, status := p.doctor()
	require.Equal(t, 1, status, "the configuration is wrong")
	p.tree = "sub:1,root : 0"
	p.finds(0, "warning", "capacity", "has no limit")
	p.without = true
	_, status = p.doctor()
	require.Equal(t, 1, status)
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }
