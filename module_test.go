package jobrunner

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// block makes a Caddyfile of a jobrunner block that lacks nothing but its lines.
func block(lines string) string {
	return "{\n\tjobrunner {\n" + lines + "\n\t}\n}\n"
}

// TestProvision resolves a configuration that uses every option.
func TestProvision(t *testing.T) {
	t.Setenv("ODOO_DSN", "postgres://odoo@db.internal:5433/maintenance")
	t.Setenv("TENANT", "prod")
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("p{a}ss@w/rd\n"), 0o600))
	cfgs, err := validate(t, block(`
		postgres {env.ODOO_DSN}
		postgres_password {file.`+secret+`}
		databases {env.TENANT}_* !prod_old
		upstream http://10.0.0.5:8069 10.0.0.6:8069 https://odoo.internal unix//run/odoo.sock
		channels root:8,mail:2:throttle=3
		channel invoices {
			sequential
			throttle 1500ms
		}
		channel reports 4 {
			paused
			capacity_default 1
			sequential_default
		}
		driver odoo {
			host {database}.example.com
			basic_auth jobrunner {env.TENANT}
		}
		discover_interval 1m
		rescue_started_after 2h
		quarantine 3 in 72h
		ready_fails_on degraded
		release_dependents
		upgrade_gate
		payloads
		shutdown_timeout 10s`))
	require.NoError(t, err)
	cfg := cfgs["default"]
	require.Equal(t, "db.internal", cfg.Postgres.Host)
	require.EqualValues(t, 5433, cfg.Postgres.Port)
	require.Equal(t, "maintenance", cfg.Postgres.Database)
	require.Equal(t, "odoo", cfg.Postgres.User)
	require.Equal(t, "p{a}ss@w/rd", cfg.Postgres.Password)
	require.Equal(t, []string{"prod_*", "!prod_old"}, cfg.Databases)
	require.Equal(t, []string{"http://10.0.0.5:8069", "http://10.0.0.6:8069", "https://odoo.internal:443", "unix//run/odoo.sock"}, upstreamNames(t, cfg))
	require.Equal(t, []channels.Config{
		{Name: "root", Capacity: 8},
		{Name: "root.invoices", Capacity: 1, Sequential: true, Throttle: 1500 * time.Millisecond},
		{Name: "root.mail", Capacity: 2, Throttle: 3 * time.Second},
		{Name: "root.reports", Capacity: 4, Paused: true, CapacityDefault: 1, SequentialDefault: true},
	}, cfg.Channels)
	require.Equal(t, time.Minute, cfg.DiscoverInterval)
	require.Equal(t, 2*time.Hour, cfg.RescueStartedAfter)
	require.Equal(t, &runner.Quarantine{Attempts: 3, Within: 72 * time.Hour}, cfg.Quarantine)
	require.Equal(t, 10*time.Second, cfg.ShutdownTimeout)
	require.True(t, cfg.ReleaseDependents)
	require.True(t, cfg.UpgradeGate)
	require.True(t, cfg.Payloads)
	require.Empty(t, cfg.Site, "the servers are named")
	require.Implements(t, (*driver.Linker)(nil), cfg.Driver)
	require.NotNil(t, cfg.Driver)
	require.NotNil(t, cfg.Exiting)
}

// TestDefaults: what is left out is filled in, from the environment too.
func TestDefaults(t *testing.T) {
	t.Setenv("PGHOST", "db.internal")
	t.Setenv("PGUSER", "odoo")
	t.Setenv("PGPASSWORD", "secret")
	cfgs, err := validate(t, "{\n\tjobrunner\n}\nodoo.example.com {\n\treverse_proxy 10.0.0.5:8069\n}\n")
	require.NoError(t, err)
	cfg := cfgs["default"]
	require.Equal(t, "db.internal", cfg.Postgres.Host)
	require.Equal(t, "secret", cfg.Postgres.Password)
	require.Equal(t, maintenanceDatabase, cfg.Postgres.Database)
	require.Empty(t, cfg.Channels)
	require.False(t, cfg.ReleaseDependents)
	require.False(t, cfg.UpgradeGate)
	require.False(t, cfg.Payloads)
	require.Equal(t, "https://odoo.example.com", cfg.Site)
	require.Equal(t, runner.ShutdownTimeoutDefault, cfg.ShutdownTimeout)
	require.Equal(t, []string{"http://10.0.0.5:8069"}, upstreamNames(t, cfg))
}

// TestSite: the address of the site may come from the environment.
func TestSite(t *testing.T) {
	const sites = `
odoo.example.com {
	reverse_proxy 10.0.0.5:8069
}
grafana.example.com {
	reverse_proxy 10.0.0.5:3000
}`
	t.Setenv("DOMAIN", "odoo.example.com")
	cfgs, err := validate(t, block("postgres host=db\nsite {env.DOMAIN}")+sites)
	require.NoError(t, err)
	require.Equal(t, []string{"http://10.0.0.5:8069"}, upstreamNames(t, cfgs["default"]))
	t.Setenv("DOMAIN", "odoo.example.com/odoo")
	_, err = validate(t, block("postgres host=db\nsite {env.DOMAIN}")+sites)
	require.ErrorContains(t, err, "it must be a host, without path")
}

// TestSeveralRunners: each has its own settings.
func TestSeveralRunners(t *testing.T) {
	cfgs, err := validate(t, `{
	jobrunner {
		postgres host=db1
		upstream http://a:8069
	}
	jobrunner mail-1 {
		postgres host=db2
		upstream http://b:8069
		shutdown_timeout 0
	}
}`)
	require.NoError(t, err)
	require.Len(t, cfgs, 2)
	require.Equal(t, "db1", cfgs["default"].Postgres.Host)
	require.Equal(t, "db2", cfgs["mail-1"].Postgres.Host)
	require.Equal(t, time.Duration(-1), cfgs["mail-1"].ShutdownTimeout)
}

// TestProvisionErrors: what only the server can know is an error when it loads
// the configuration, with the option's name and never with a secret.
func TestProvisionErrors(t *testing.T) {
	t.Setenv("BAD_DSN", "postgres://odoo:se/cret@db")
	t.Setenv("BAD_UPSTREAM", "ftp://odoo")
	const upstream = "\nupstream http://127.0.0.1:1"
	for name, c := range map[string]struct{ lines, want string }{
		"no PostgreSQL":        {"upstream http://127.0.0.1:1", "no PostgreSQL configured: set postgres, or one of the variables PGHOST"},
		"unreadable file":      {"postgres host=db\npostgres_password {file./nonexistent/secret}" + upstream, "postgres_password: evaluated placeholder {file./nonexistent/secret} is empty (open /nonexistent/secret: no such file or directory)"},
		"empty variable":       {"postgres {env.JOBRUNNER_UNSET}" + upstream, "postgres: evaluated placeholder {env.JOBRUNNER_UNSET} is empty"},
		"unknown placeholder":  {"postgres host=db\ndatabases {nonsense}" + upstream, "databases: unrecognized placeholder {nonsense}"},
		"bad port":             {"postgres \"host=db port=x\"" + upstream, "postgres: "},
		"bad secret DSN":       {"postgres {env.BAD_DSN}" + upstream, "details are withheld"},
		"no connection string": {"postgres se/cret@db" + upstream, "details are withheld"},
		"wrong scheme":         {"postgres postgre://odoo:se/cret@db" + upstream, "details are withheld"},
		"bad literal password": {"postgres postgres://odoo:se/cret@db" + upstream, "details are withheld"},
		"bad upstream":         {"postgres host=db\nupstream {env.BAD_UPSTREAM}", "unsupported scheme"},
		"secret in upstream":   {"postgres host=db\nupstream {env.BAD_DSN}", "must not contain a user or password"},
		"driver placeholder":   {"postgres host=db\ndriver odoo {\nbasic_auth x {env.JOBRUNNER_UNSET}\n}" + upstream, "basic_auth password: evaluated placeholder"},
		"host placeholder":     {"postgres host=db\ndriver odoo {\nhost {tenant}.example.com\n}" + upstream, "unrecognized placeholder {tenant}"},
		"no site":              {"postgres host=db", "there is no site whose reverse_proxy could be used"},
		"same upstream twice":  {"postgres host=db\nupstream http://a a:80", "upstream http://a:80 is named twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := validate(t, block(c.lines))
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, "runner default: ")
			require.NotContains(t, err.Error(), "/cret@")
		})
	}
}

// TestJSONErrors: JSON can say more nonsense than the Caddyfile.
func TestJSONErrors(t *testing.T) {
	const good = `"postgres": "host=db", "upstreams": ["http://a"]`
	for name, c := range map[string]struct{ runner, want string }{
		"null":                  {`"default": null`, "runner default: it is null"},
		"name":                  {`"a/b": {` + good + `}`, `invalid runner name "a/b": it consists of`},
		"site and upstreams":    {`"default": {` + good + `, "site": "x"}`, "site and upstreams exclude each other"},
		"channel twice":         {`"default": {` + good + `, "channels": {"mail": {}, "root.mail": {}}}`, "channel root.mail is configured twice"},
		"capacity 0":            {`"default": {` + good + `, "channels": {"root": {"capacity": 0}}}`, "channel root: invalid capacity 0: it must be at least 1"},
		"negative capacity":     {`"default": {` + good + `, "channels": {"mail": {"capacity": -1}}}`, "channel root.mail: invalid capacity -1"},
		"negative default":      {`"default": {` + good + `, "channels": {"mail": {"capacity_default": -1}}}`, "channel root.mail: invalid capacity_default -1"},
		"OCA's capacity 1":      {`"default": {` + good + `, "channels": {"mail": {"oca_capacity": 1}}}`, "channel root.mail: oca_capacity 1: it is only for"},
		"two capacities":        {`"default": {` + good + `, "channels": {"mail": {"oca_capacity": 0, "capacity": 3}}}`, "capacity and oca_capacity exclude each other"},
		"OCA's default 1":       {`"default": {` + good + `, "channels": {"mail": {"oca_capacity_default": 1}}}`, "oca_capacity_default 1: it is only for"},
		"two defaults":          {`"default": {` + good + `, "channels": {"mail": {"oca_capacity_default": -1, "capacity_default": 2}}}`, "exclude each other"},
		"channel without name":  {`"default": {` + good + `, "channels": {"": {}}}`, `invalid channel name ""`},
		"name of two":           {`"default": {` + good + `, "channels": {"a,b": {}}}`, `invalid channel name "a,b"`},
		"name turned around":    {`"default": {` + good + `, "channels": {"a\u202eb": {}}}`, `invalid channel name "a\u202eb": it contains a control character`},
		"name with escape":      {`"default": {` + good + `, "channels": {"a\u001b[2J": {}}}`, "it contains a control character"},
		"interval number":       {`"default": {` + good + `, "discover_interval": 30}`, `discover_interval: 30ns is too short, it must be at least 500ms; write it with a unit, such as "30s"`},
		"throttle number":       {`"default": {` + good + `, "channels": {"mail": {"throttle": 5}}}`, `channel root.mail: throttle: 5ns is too short, it must be at least 1ms; write it with a unit`},
		"rescue number":         {`"default": {` + good + `, "rescue_started_after": 7200}`, `rescue_started_after: 7.2µs is too short, it must be at least 1s`},
		"shutdown number":       {`"default": {` + good + `, "shutdown_timeout": 3}`, `shutdown_timeout: 3ns is too short`},
		"negative shutdown":     {`"default": {` + good + `, "shutdown_timeout": "-1s"}`, `shutdown_timeout must not be negative`},
		"negative throttle":     {`"default": {` + good + `, "channels": {"mail": {"throttle": -1}}}`, "channel root.mail: throttle must not be negative"},
		"sequential capacity 2": {`"default": {` + good + `, "channels": {"mail": {"capacity": 2, "sequential": true}}}`, "capacity of 1"},
		"quarantine of none":    {`"default": {` + good + `, "quarantine": {"within": "72h"}}`, "runner default: quarantine: the number of attempts must be between 1 and 100"},
		"quarantine of many":    {`"default": {` + good + `, "quarantine": {"attempts": 101, "within": "72h"}}`, "quarantine: the number of attempts must be between 1 and 100"},
		"quarantine number":     {`"default": {` + good + `, "quarantine": {"attempts": 3, "within": 72}}`, `quarantine: the time must be at least 1m, it is 72ns; write it with a unit, such as "72h", because`},
		"quarantine no time":    {`"default": {` + good + `, "quarantine": {"attempts": 3}}`, "quarantine: the time within which attempts count is missing"},
		"negative limit":        {`"default": {` + good + `, "rescue_started_after": -1}`, "rescue_started_after must not be negative"},
		"negative interval":     {`"default": {` + good + `, "discover_interval": -1}`, "discover_interval must not be negative"},
		"unknown option":        {`"default": {` + good + `, "nope": 1}`, `unknown field "nope"`},
		"text for a number":     {`"default": {` + good + `, "channels": {"mail": {"capacity": "4"}}}`, "runners.channels.capacity: a text where a whole number belongs"},
		"text for a list":       {`"default": {` + good + `, "databases": "prod"}`, "runners.databases: a text where a list belongs"},
		"unknown driver":        {`"default": {` + good + `, "driver": {"driver": "nope"}}`, "unknown module: jobrunner.drivers.nope"},
		"policy null":           {`"default": {` + good + `, "policies": [null]}`, "policies[0]: a policy without channels"},
		"policy number":         {`"default": {` + good + `, "policies": [{"channels": ["root"], "timeout": {"after": 900}}]}`, `policy root: timeout: 900ns is too short, it must be at least 1s; write it with a unit`},
		"policy warn number":    {`"default": {` + good + `, "policies": [{"channels": ["root"], "timeout": {"after": "1m", "warn": 5}}]}`, "policy root: warn: 5ns is too short"},
		"policy grace number":   {`"default": {` + good + `, "policies": [{"channels": ["root"], "timeout": {"after": "1m", "cancel": true, "grace": 5}}]}`, "policy root: grace: 5ns is too short"},
		"policy timeout":        {`"default": {` + good + `, "policies": [{"channels": ["root"], "timeout": {}}]}`, "policy root: timeout: the limit itself, after, is missing"},
		"policy grace":          {`"default": {` + good + `, "policies": [{"channels": ["root"], "timeout": {"after": "1m", "grace": "5s"}}]}`, "policy root: grace needs cancel"},
		"policy channel":        {`"default": {` + good + `, "policies": [{"channels": ["mail"], "timeout": {"after": "1m"}}]}`, `channel "mail": channels of policies have full names`},
		"policy text":           {`"default": {` + good + `, "policies": [{"channels": ["root.\u202e"], "timeout": {"after": "1m"}}]}`, "invalid glob of a policy"},
		"policy placeholder":    {`"default": {` + good + `, "policies": [{"channels": ["root"], "database": "{env.NOTHING_HERE}", "timeout": {"after": "1m"}}]}`, "policy database: "},
		"auto":                  {`"default": {` + good + `, "channels": {"root": {"auto": true}}}`, "channel root: auto is the sum of what the servers bear"},
		"auto twice":            {`"default": {` + good + `, "channels": {"root": {"auto": true, "capacity": 1}}}`, "channel root: capacity, percent and auto exclude each other"},
		"auto below":            {`"default": {` + good + `, "channels": {"root.a": {"auto": true}}}`, "channel root.a: only root can have the capacity auto"},
		"percent":               {`"default": {` + good + `, "channels": {"root": {"capacity": 8}, "root.a": {"percent": 101}}}`, "channel root.a: 101% of the capacity of the channel above: it must be 1% to 100%"},
		"percent twice":         {`"default": {` + good + `, "channels": {"root": {"capacity": 8}, "root.a": {"percent": 10, "capacity": 1}}}`, "channel root.a: capacity and percent exclude each other"},
		"percent of nothing":    {`"default": {` + good + `, "channels": {"root.a.b": {"percent": 10}}}`, "channel root.a.b: 10% of the capacity of root.a, which has no limit"},
		"min":                   {`"default": {` + good + `, "channels": {"root": {"capacity": 2}, "root.a": {"capacity": 4, "min": 3}}}`, "min of root.a: 3 in all is more than the capacity of channel root, which is 2"},
		"min negative":          {`"default": {` + good + `, "channels": {"root": {"capacity": 2}, "root.a": {"min": -3}}}`, "channel root.a: min must not be negative"},
		"percent of root":       {`"default": {` + good + `, "channels": {"root": {"percent": 10}}}`, "channel root: it has no parent of whose capacity it could have 10%"},
		"percent sequential":    {`"default": {` + good + `, "channels": {"root.a": {"percent": 10, "sequential": true}}}`, "a sequential channel must have a capacity of 1"},
		"policy window":         {`"default": {` + good + `, "policies": [{"channels": ["root"], "capacity": [{"slots": 1, "days": "mon", "hours": "8-20", "zone": "UTC"}]}]}`, `policy root: capacity: "8" is not a time of day`},
		"policy window null":    {`"default": {` + good + `, "policies": [{"channels": ["root"], "capacity": [null]}]}`, "policy root: capacity: days \"\": write them like"},
		"policy window zone":    {`"default": {` + good + `, "policies": [{"channels": ["root"], "capacity": [{"days": "mon", "hours": "08:00-20:00"}]}]}`, "policy root: capacity: a time zone by its name is missing"},
		"policy window slots":   {`"default": {` + good + `, "policies": [{"channels": ["root"], "capacity": [{"slots": -1, "days": "mon", "hours": "08:00-20:00", "zone": "UTC"}]}]}`, `policy root: capacity: capacity "-1" is not a whole number`},
		"policy window db":      {`"default": {` + good + `, "policies": [{"channels": ["root"], "database": "a", "capacity": [{"days": "mon", "hours": "08:00-20:00", "zone": "UTC"}]}]}`, "policy root database a: capacity: the channels are those of all databases"},
		"policy rate db":        {`"default": {` + good + `, "policies": [{"channels": ["root"], "database": "a", "rate": {"starts": 1, "period": "1h"}}]}`, "policy root database a: rate: the channels are those of all databases"},
		"policy rate":           {`"default": {` + good + `, "policies": [{"channels": ["root"], "rate": {"starts": 0, "period": "1h"}}]}`, "policy root: rate: a rate of 0 jobs"},
		"policy rate period":    {`"default": {` + good + `, "policies": [{"channels": ["root"], "rate": {"starts": 1, "period": 5}}]}`, "policy root: rate: a rate by 5ns: it must be 1s to 24h"},
		"policy rate burst":     {`"default": {` + good + `, "policies": [{"channels": ["root"], "rate": {"starts": 1, "period": "1m", "burst": -1}}]}`, "policy root: rate: a burst of -1"},
		"policy rate per":       {`"default": {` + good + `, "policies": [{"channels": ["root"], "rate": {"starts": 1, "period": "1m", "per": "company"}}]}`, `policy root: rate: "company" is not database`},
		"policy rate function":  {`"default": {` + good + `, "policies": [{"channels": ["root"], "function": "a.b", "rate": {"starts": 1, "period": "1m"}}]}`, "function narrows timeout only"},
		"policy later option":   {`"default": {` + good + `, "policies": [{"channels": ["root"], "unfair": "database"}]}`, `unknown field "unfair"`},
		"policy pool":           {`"default": {` + good + `, "policies": [{"channels": ["root"], "pool": {"name": "heavy"}}]}`, `policy root: there is no pool "heavy"`},
		"pool":                  {`"default": {` + good + `, "pools": {"heavy": {}}}`, "pool heavy: it has no servers"},
		"pool limits":           {`"default": {` + good + `, "pools": {"heavy": {"upstreams": ["10.0.0.7:8069"], "reserve": 1}}}`, "pool heavy: reserve needs workers"},
		"pool address":          {`"default": {` + good + `, "pools": {"heavy": {"upstreams": ["ftp://x"]}}}`, `pool heavy: upstream "ftp://x": unsupported scheme`},
		"policy objective":      {`"default": {` + good + `, "policies": [{"channels": ["root"], "objective": {"wait": "10ms"}}]}`, "policy root: objective"},
		"policy serialize":      {`"default": {` + good + `, "policies": [{"channels": ["root"], "serialize": "uuid"}]}`, `policy root: serialize: "uuid" is not identity_key`},
		"policy fair":           {`"default": {` + good + `, "policies": [{"channels": ["root"], "fair": "user"}]}`, `policy root: fair: "user" is neither database nor company`},
		"policy limit":          {`"default": {` + good + `, "policies": [{"channels": ["root"], "limit": {"per": "company"}}]}`, "policy root: limit: the number of jobs is missing"},
		"glob":                  {`"default": {` + good + `, "databases": ["["]}`, "databases: database pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := validateJSON(t, config(c.runner, ""))
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestUnlimitedAndNever: what 0 and negative numbers mean to OCA's runner survives being adapted, and
// so does a throttle that delays nothing.
func TestUnlimitedAndNever(t *testing.T) {
	cfgs, err := validate(t, block("postgres host=db\nupstream http://a\nchannels root:4,mail:0,off:-1:capacity_default=-2,plain:1:throttle=-3"))
	require.NoError(t, err)
	require.Equal(t, []channels.Config{
		{Name: "root", Capacity: 4},
		{Name: "root.mail", Capacity: 0},
		{Name: "root.off", Capacity: -1, CapacityDefault: -2},
		{Name: "root.plain", Capacity: 1},
	}, cfgs["default"].Channels)

	cfgs, err = validateJSON(t, config(`"default": {"postgres": "host=db", "upstreams": ["http://a"], "channels": {"root": null, "mail": {}}}`, ""))
	require.NoError(t, err)
	require.Equal(t, []channels.Config{{Name: "root.mail", Capacity: 1}, {Name: "root", Capacity: 1}}, cfgs["default"].Channels)
}

func TestLiteralPassword(t *testing.T) {
	for dsn, want := range map[string]bool{
		"postgres://odoo:secret@db/postgres":                       true,
		"postgresql://odoo:secret@db":                              true,
		"postgres://odoo@db/postgres":                              false,
		"postgres://odoo@db:5432/postgres":                         false,
		"postgres://odoo:se/cret@db":                               true,
		"postgres://odoo:{env.PW}@db/postgres":                     false,
		"postgres://odoo:{file./run/secrets/pg}@db":                false,
		"postgres://odoo@db/postgres?password=secret":              true,
		"postgres://odoo@db/postgres?sslmode=require&password={x}": false,
		"host=db user=odoo password=secret":                        true,
		"host=db user=odoo password = 'se cret'":                   true,
		"host=db user=odoo password='{env.PW}'":                    false,
		"host=db user=odoo":                                        false,
		"{env.DSN}":                                                false,
		"":                                                         false,
	} {
		require.Equal(t, want, literalPassword(dsn), dsn)
	}
}

func TestLiteral(t *testing.T) {
	for secret, want := range map[string]bool{
		"":                      false,
		"{env.PW}":              false,
		"{file./run/secrets/x}": false,
		"secret":                true,
		"{env.PW}secret":        true,
	} {
		require.Equal(t, want, literal(secret), secret)
	}
}

func TestConnectionIdentity(t *testing.T) {
	identity := func(dsn string) string {
		r := Runner{Postgres: dsn}
		pg, err := r.connection(nil, caddy.Log())
		require.NoError(t, err)
		return connectionIdentity(pg, nil)
	}
	base := identity("host=a,b user=odoo dbname=x")
	require.Equal(t, base, identity("host=a,b user=odoo dbname=x password=other"))
	require.Equal(t, base, identity("postgres://odoo@a,b/x"))
	for _, other := range []string{
		"host=a user=odoo dbname=x",
		"host=b,a user=odoo dbname=x",
		"host=a,b user=odoo dbname=y",
		"host=a,b user=other dbname=x",
		"host=a,b user=odoo dbname=x port=5433",
		"host=a,b user=odoo dbname=x application_name=y",
	} {
		require.NotEqual(t, base, identity(other), other)
	}
}

// TestTracing: runners are traced if the environment says so.
func TestTracing(t *testing.T) {
	lines := block("postgres host=db\nupstream a:1")
	cfgs, err := validate(t, lines)
	require.NoError(t, err)
	require.Nil(t, cfgs["default"].Tracing)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")
	cfgs, err = validate(t, lines)
	require.NoError(t, err)
	require.NotNil(t, cfgs["default"].Tracing)
}

// TestCleanupAfterPartialProvision: Caddy cleans up what it could not provision.
func TestCleanupAfterPartialProvision(t *testing.T) {
	require.NoError(t, new(App).Cleanup())
	a := &App{Runners: map[string]*Runner{"default": nil}}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	require.Error(t, a.Provision(ctx))
	require.NoError(t, a.Cleanup())
	require.NoError(t, a.Cleanup())
	require.Zero(t, supervisor.References())
}

// TestDatabaseChannels: the limits of trees that are in the databases.
func TestDatabaseChannels(t *testing.T) {
	cfgs, err := validate(t, block(`postgres host=db
	upstream a:1
	channels database {
		max_capacity 8
		db_max_capacity prod_*:4,*:2
	}`))
	require.NoError(t, err)
	c := cfgs["default"].DatabaseChannels
	require.Equal(t, []int{8, 4, 2}, []int{c.Max, c.Of("prod_a"), c.Of("test")})
	require.Empty(t, cfgs["default"].Channels)
	cfgs, err = validate(t, block("postgres host=db\nupstream a:1\nchannels database"))
	require.NoError(t, err)
	require.Equal(t, &channels.Capacities{Max: 1}, cfgs["default"].DatabaseChannels)

	for text, want := range map[string]string{
		`"database_channels": {}, "channels": {"root": {}}`:   "channels and database_channels exclude each other",
		`"database_channels": {"max_capacity": -1}`:           "database_channels: max_capacity must not be negative",
		`"database_channels": {"db_max_capacity": "a"}`:       `database_channels: db_max_capacity: rule "a"`,
		`"database_channels": {"max_capacity": "many"}`:       "max_capacity",
		`"database_channels": {"db_max_capacity": "[z-a]:1"}`: "invalid range",
	} {
		var cfg caddy.Config
		raw := `{"apps": {"jobrunner": {"runners": {"default": {"postgres": "host=db", "upstreams": ["http://a:1"], ` + text + `}}}}}`
		require.NoError(t, json.Unmarshal([]byte(raw), &cfg))
		require.ErrorContains(t, caddy.Validate(&cfg), want)
	}
}

// TestReadyFailsOn: the word chooses from which health on a runner does not count as ready.
func TestReadyFailsOn(t *testing.T) {
	for word, want := range map[string]runner.Health{
		"": runner.NotReady, "not_ready": runner.NotReady, "degraded": runner.Degraded, "never": runner.NotReady + 1,
	} {
		got, err := readyFailsOn(word)
		require.NoError(t, err)
		require.Equal(t, want, got, word)
	}
	_, err := readyFailsOn("ready")
	require.ErrorContains(t, err, "none of not_ready, degraded and never")
}

// TestFileLimit: jobs may not take all the files that the process may have open.
func TestFileLimit(t *testing.T) {
	limit, known := fileLimit()
	require.True(t, known)
	core, logs := observer.New(zap.WarnLevel)
	require.NoError(t, checkFileLimit(limit/2, zap.New(core)))
	require.Zero(t, logs.Len())
	require.NoError(t, checkFileLimit(limit/2+1, zap.New(core)))
	require.Equal(t, 1, logs.Len())
	require.Error(t, checkFileLimit(limit, zap.New(core)))
	_, err := validate(t, fmt.Sprintf("{\n\tjobrunner {\n\t\tpostgres host=/tmp\n\t\tupstream a:1\n\t\tchannels root:%d\n\t}\n\tjobrunner b {\n\t\tpostgres host=/tmp\n\t\tupstream a:1\n\t}\n}\n", limit-1))
	require.ErrorContains(t, err, fmt.Sprintf("up to %d jobs may run at once", limit))
}
