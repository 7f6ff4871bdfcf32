package jobrunner

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// connected is a connection as it was configured, with what was warned of.
type connected struct {
	where, database, password string
	warnings                  []string
}

// connectionOf resolves the connection of a runner, and returns the warnings.
func connectionOf(t *testing.T, r *Runner) (c connected, err error) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	log := zap.New(core)
	r, conf, err := r.withOdooConfig(log)
	require.NoError(t, err)
	pg, err := r.connection(conf, log)
	for _, entry := range logs.All() {
		c.warnings = append(c.warnings, entry.Message)
	}
	if err != nil {
		return c, err
	}
	c.where, c.database, c.password = fmt.Sprintf("%s@%s:%d", pg.User, pg.Host, pg.Port), pg.Database, pg.Password
	return c, nil
}

// TestForeignValuesAreData: what Odoo's file says is never a placeholder.
func TestForeignValuesAreData(t *testing.T) {
	t.Setenv("DNS_API_TOKEN", "hush")
	cfgs, err := validate(t, block("odoo_config "+odooConf(t, `[options]
db_host = db.internal
db_user = {env.DNS_API_TOKEN}
db_password = {env.DNS_API_TOKEN}
db_name = {erp},{env.DNS_API_TOKEN}
[queue_job]
http_auth_user = {env.DNS_API_TOKEN}
http_auth_password = {env.DNS_API_TOKEN}
channels = root:2,{env.DNS_API_TOKEN}:1
`)))
	require.NoError(t, err)
	cfg := cfgs["default"]
	const literally = "{env.DNS_API_TOKEN}"
	require.Equal(t, literally, cfg.Postgres.User)
	require.Equal(t, literally, cfg.Postgres.Password)
	require.Equal(t, []string{"{erp}", literally}, cfg.Databases)
	require.Equal(t, literally, cfg.Driver.(*OdooDriver).options.BasicAuthUser)
	require.Equal(t, literally, cfg.Driver.(*OdooDriver).options.BasicAuthPassword)
	require.Equal(t, "root."+literally, cfg.Channels[1].Name)

	for _, line := range []string{"[options]\nhttp_interface = {env.DNS_API_TOKEN}\n", "[queue_job]\nhost = {env.DNS_API_TOKEN}\n"} {
		_, err = validate(t, block("odoo_config "+odooConf(t, line)))
		require.ErrorContains(t, err, `"{env.DNS_API_TOKEN}" is no host`)
	}
	t.Setenv("ODOO_QUEUE_JOB_JOBRUNNER_DB_USER", literally)
	cfgs, err = validate(t, block("odoo_config "+odooConf(t, "[options]\n")))
	require.NoError(t, err)
	require.Equal(t, literally, cfgs["default"].Postgres.User)
}

// TestConnectionCompletesTheFile: a connection string that names no server completes what Odoo's file
// says, whose password then counts; one that names a server is for another.
func TestConnectionCompletesTheFile(t *testing.T) {
	file := odooConf(t, "[options]\ndb_host = 127.0.0.1\ndb_user = odoo\ndb_password = p\ndb_name = erp\n")
	for dsn, want := range map[string]string{
		"":                                  "odoo@127.0.0.1:5432  p",
		"dbname=mine":                       "odoo@127.0.0.1:5432 mine p",
		"postgres:///mine?sslmode=disable":  "odoo@127.0.0.1:5432 mine p",
		"dbname=mine password=other":        "odoo@127.0.0.1:5432 mine other",
		"host=127.0.0.2 dbname=mine user=x": "x@127.0.0.2:5432 mine ",
		"postgres://x@127.0.0.2/mine":       "x@127.0.0.2:5432 mine ",
		"user=x port=5433 host=127.0.0.1":   "x@127.0.0.1:5433  ",
	} {
		c, err := connectionOf(t, &Runner{OdooConfig: file, Postgres: dsn})
		require.NoError(t, err)
		require.Equal(t, want, c.where+" "+c.database+" "+c.password, dsn)
	}
	t.Setenv("PGDATABASE", "maintenance")
	c, err := connectionOf(t, &Runner{OdooConfig: file})
	require.NoError(t, err)
	require.Equal(t, "maintenance", c.database)
}

// TestMaintenanceDatabase: where none is named it is postgres, with one that is served as the second
// choice.
func TestMaintenanceDatabase(t *testing.T) {
	file := odooConf(t, "[options]\ndb_host = 127.0.0.1\ndb_name = erp\n")
	for lines, want := range map[string]string{
		"odoo_config " + file:                             "postgres erp",
		"odoo_config " + file + "\ndatabases shop_*":      "postgres erp",
		"odoo_config " + file + "\ndatabases shop":        "postgres shop",
		"odoo_config " + file + "\npostgres dbname=mine":  "mine ",
		"postgres host=/tmp\ndatabases p_* !x shop":       "postgres shop",
		"postgres host=/tmp":                              "postgres ",
		"postgres \"host=/tmp dbname=m\"\ndatabases shop": "m ",
	} {
		cfgs, err := validate(t, block(lines+"\nupstream a:1"))
		require.NoError(t, err)
		cfg := cfgs["default"]
		require.Equal(t, want, cfg.Postgres.Database+" "+cfg.Driver.(*OdooDriver).maintenance, lines)
	}
}

// TestParams: what pgx would send to the server as a setting is left out or refused by name.
func TestParams(t *testing.T) {
	const base = "host=/tmp user=odoo "
	for _, good := range []string{
		"keepalives=1 keepalives_idle=30 keepalives_interval=10 keepalives_count=3 tcp_user_timeout=60000",
		"gssencmode=disable", "gssencmode=prefer", "fallback_application_name=x", "load_balance_hosts=disable", "sslcompression=0",
		"channel_binding=prefer", "require_auth=scram-sha-256", "sslsni=1", "connect_timeout=5", "target_session_attrs=any",
	} {
		pg, err := (&Runner{Postgres: base + good}).connection(nil, zap.NewNop())
		require.NoError(t, err, good)
		require.Empty(t, pg.RuntimeParams, good)
	}
	for _, setting := range []string{"application_name=x", "statement_timeout=5s", "options='-c work_mem=8MB'", "myapp.tenant=1", "TimeZone=UTC"} {
		pg, err := (&Runner{Postgres: base + setting}).connection(nil, zap.NewNop())
		require.NoError(t, err, setting)
		require.Len(t, pg.RuntimeParams, 1, setting)
	}
	for bad, want := range map[string]string{
		"hostaddr=10.0.0.1":         "the parameter hostaddr is not supported: write the address as host",
		"gssencmode=require":        "gssencmode=require is not supported",
		"requirepeer=postgres":      "the parameter requirepeer is not supported",
		"sslcrl=/etc/crl.pem":       "the parameter sslcrl is not supported",
		"load_balance_hosts=random": "the parameter load_balance_hosts is not supported",
		"replication=database":      "the parameter replication is not supported",
		"sslmod=require":            "unknown parameter sslmod",
	} {
		_, err := (&Runner{Postgres: base + bad}).connection(nil, zap.NewNop())
		require.ErrorContains(t, err, want)
	}
	service := filepath.Join(t.TempDir(), "service.conf")
	require.NoError(t, os.WriteFile(service, []byte("[odoo]\nhost=/tmp\nhostaddr=10.0.0.1\n"), 0o600))
	t.Setenv("PGSERVICEFILE", service)
	_, err := (&Runner{Postgres: "service=odoo"}).connection(nil, zap.NewNop())
	require.ErrorContains(t, err, "the parameter hostaddr is not supported")
	t.Setenv("PGHOSTADDR", "10.0.0.1")
	_, err = (&Runner{Postgres: base}).connection(nil, zap.NewNop())
	require.ErrorContains(t, err, "the variable PGHOSTADDR is not supported")
}

// TestUnverified: a warning tells of a password that a false server would get.
func TestUnverified(t *testing.T) {
	for dsn, want := range map[string]bool{
		"host=db.internal":                         true,
		"host=db.internal sslmode=prefer":          true,
		"host=db.internal sslmode=require":         true,
		"host=db.internal sslmode=disable":         true,
		"host=db.internal sslmode=verify-ca":       false,
		"host=db.internal sslmode=verify-full":     false,
		"host=db.internal channel_binding=require": false,
		"host=/run/postgresql,10.0.0.3":            true,
		"host=/run/postgresql":                     false,
		"host=localhost":                           false,
		"host=127.0.0.2":                           false,
		"host=::1":                                 false,
	} {
		c, err := connectionOf(t, &Runner{Postgres: dsn, PostgresPassword: "{env.PATH}"})
		require.NoError(t, err)
		require.Equal(t, want, strings.Contains(strings.Join(c.warnings, "\n"), "a false server gets it"), dsn)
		c, err = connectionOf(t, &Runner{Postgres: dsn})
		require.NoError(t, err)
		require.Empty(t, c.warnings, "there is no password")
	}
	c, err := connectionOf(t, &Runner{OdooConfig: odooConf(t, "[options]\ndb_host=db.internal\ndb_password=p\n")})
	require.NoError(t, err)
	require.Len(t, c.warnings, 1)
}

// TestPipes: nothing that is read while a configuration is loaded can be waited for.
func TestPipes(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	for name, lines := range map[string]string{
		"odoo_config": "odoo_config " + fifo,
		"password":    "postgres host=/tmp\npostgres_password {file." + fifo + "}",
		"passfile":    "postgres \"host=/tmp passfile=" + fifo + "\"",
		"certificate": "postgres \"host=/tmp sslrootcert=" + fifo + "\"",
		"basic_auth":  "postgres host=/tmp\ndriver odoo {\nbasic_auth x {file." + fifo + "}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := validate(t, block(lines+"\nupstream a:1"))
			require.ErrorContains(t, err, "is no regular file")
		})
	}
}
