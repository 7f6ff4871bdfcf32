package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// examined is what the doctor said of an installation. Internal/command prints it at each width of a
// terminal.
type examined struct {
	Scene    string           `json:"scene"`
	Settings []doctor.Setting `json:"settings,omitempty"`
	Findings []doctor.Finding `json:"findings,omitempty"`
	// Said is what it printed where the configuration could not be loaded.
	Said   string `json:"said,omitempty"`
	Status int    `json:"status"`
}

// examinedFile keeps what the doctor said of each installation, as people have read it.
const examinedFile = "../../internal/command/testdata/doctor.json"

// doctorScene is an installation, or a configuration that is none.
type doctorScene struct {
	name  string
	setUp func(tb *testBed)
	// caddyfile takes the place of the configuration; "-" is none at all.
	caddyfile string
}

var doctorScenes = []doctorScene{
	{name: "all is well", setUp: func(*testBed) {}},
	{name: "PostgreSQL down", setUp: func(tb *testBed) { tb.dsn = "host=127.0.0.1 port=1 user=odoo password=hush sslmode=disable" }},
	{name: "a superuser", setUp: func(tb *testBed) { tb.dsn = tb.Postgres.DSN("postgres") }},
	{name: "no database", setUp: func(tb *testBed) { tb.patterns = "shop_*" }},
	{name: "no add-on", setUp: func(tb *testBed) { require.NoError(tb, odoostub.UninstallAddon(tb.Context(), tb.Pool("prod"))) }},
	{name: "no trigger", setUp: func(tb *testBed) { require.NoError(tb, odoostub.DropTrigger(tb.Context(), tb.Pool("prod"))) }},
	{name: "a copy", setUp: func(tb *testBed) { require.NoError(tb, odoostub.Neutralize(tb.Context(), tb.Pool("prod"))) }},
	{name: "a module marked and forgotten", setUp: func(tb *testBed) {
		tb.exec("UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'web'")
		tb.more = "upgrade_gate"
	}},
	{name: "Odoo down", setUp: func(tb *testBed) { tb.Odoo[0].Refuse() }},
	{name: "not Odoo", setUp: func(tb *testBed) { tb.Odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Answer, Status: 404}) }},
	{name: "no channels, and an open route", setUp: func(tb *testBed) {
		tb.tree = none
		tb.snippets = "http://odoo.example.com:18069 {\n\treverse_proxy {{(index .Odoo 0).Addr}}\n}"
	}},
	{name: "no Caddyfile", caddyfile: "-"},
	{name: "a misspelled option", caddyfile: "{\n\tjobrunner {\n\t\tpostgre x\n\t}\n}\n"},
	{name: "an unset variable", caddyfile: "{\n\tjobrunner {\n\t\tpostgres postgres://odoo@127.0.0.1/postgres\n\t\tpostgres_password {env.NO_SUCH_VARIABLE}\n\t\tupstream http://127.0.0.1:8069\n\t}\n}\n"},
	{name: "no odoo.conf", caddyfile: "{\n\tjobrunner {\n\t\todoo_config /nowhere/odoo.conf\n\t}\n}\n"},
	{name: "no runner", caddyfile: "http://localhost:18069 {\n\trespond hello\n}\n"},
}

// TestDoctorTranscript: what the doctor says of real installations is what people have read. With UPDATE set
// in the environment, the file is written anew.
func TestDoctorTranscript(t *testing.T) {
	pg := apart(t)
	var all []examined
	for _, scene := range doctorScenes {
		t.Run(scene.name, func(t *testing.T) { all = append(all, examine(t, pg, scene)) })
	}
	said, err := json.MarshalIndent(all, "", "\t")
	require.NoError(t, err)
	said = append(said, '\n')
	if os.Getenv("UPDATE") != "" {
		require.NoError(t, os.WriteFile(examinedFile, said, 0o600))
	}
	want, err := os.ReadFile(examinedFile)
	require.NoError(t, err)
	require.Equal(t, string(want), string(said))
}

// examine runs the doctor in a folder with a Caddyfile, and puts names that never change in the place of
// the addresses of the test.
func examine(t *testing.T, pg *pgtest.Cluster, scene doctorScene) examined {
	t.Helper()
	tb := newTestBedOn(t, pg, odoostub.QueueJobLock, 0, 1)
	_, err := tb.AddDatabase(t.Context(), "prod", odoostub.QueueJobLock)
	require.NoError(t, err)
	tb.dbs = []string{"prod"}
	dir := t.TempDir()
	text := scene.caddyfile
	if scene.setUp != nil {
		tb.connectAsOwner()
		scene.setUp(tb)
		c := tb.config()
		text = string(c.Caddyfile())
	}
	if text != "-" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "Caddyfile"), []byte(text), 0o600))
	}
	ctx, cancel := tb.patient()
	defer cancel()
	args := []string{"jobrunner", "doctor"}
	if scene.setUp != nil {
		args = append(args, "--json")
	}
	cmd := tb.caddyCommand(ctx, tb.TempDir(), args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	exit, failed := errors.AsType[*exec.ExitError](err)
	x := examined{Scene: scene.name}
	if failed {
		x.Status = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	here := strings.NewReplacer(tb.Odoo[0].Addr(), "10.0.0.5:8069", "127.0.0.1:"+itoa(tb.Postgres.ConnConfig("postgres").Port), "db.internal:5432",
		tb.site, "odoo.example.com:80", "127.0.0.1:1", "db.internal:5432", "owner_prod", "odoo", dir, "/etc/caddy")
	if scene.setUp == nil {
		x.Said = here.Replace(out.String() + errs.String())
		return x
	}
	require.NoError(t, json.Unmarshal([]byte(here.Replace(out.String())), &x), errs.String())
	return x
}
