package jobrunner

import (
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// usages say what the options of all blocks take, with an example. Where an option means something else in
// a second block, that has an entry with the block's name behind it. Options without arguments are not
// among them, see parseFlag.
var usages = map[string]struct{ takes, example string }{
	"postgres":             {"one DSN, in quotes if it has blanks", "postgres postgres://odoo@db.example.com/postgres"},
	"postgres_password":    {"one password or placeholder", "postgres_password {env.ODOO_DB_PASSWORD}"},
	"databases":            {"one or more globs", "databases prod shop_* !shop_test"},
	"site":                 {"the address of one site", "site odoo.example.com"},
	"upstream":             {"the addresses of one or more Odoo servers", "upstream 10.0.0.5:8069 10.0.0.6:8069"},
	"channels":             {"queue_job's configuration string, or database", "channels root:4,root.mail:1"},
	"channel":              {"a name, then a capacity, a part, auto or nothing (options go into a block, one on each line)", "channel root.mail 2"},
	"server":               {"no argument, but a block with workers, max_jobs or reserve, one on each line", "server { ... }"},
	"pool":                 {"a name and the addresses of its servers (limits go into a block, one on each line)", "pool heavy 10.0.0.7:8069"},
	"policy":               {"one or more globs of channels, and a block of options, one on each line", "policy root.export.* { ... }"},
	"odoo_config":          {"one file", "odoo_config /etc/odoo/odoo.conf"},
	"driver":               {"the name of one driver (its options go into a block, one on each line)", "driver odoo"},
	"connections":          {"one whole number", "connections 20"},
	"hibernate":            {"one duration (options go into a block, one on each line)", "hibernate 10m"},
	"pooler":               {"one connection string (options go into a block, one on each line)", "pooler postgres://pgbouncer.internal:6432"},
	"discover_interval":    {"one duration", "discover_interval 30s"},
	"rescue_started_after": {"one duration", "rescue_started_after 10m"},
	"quarantine":           {`a number of attempts, the word "in" and a duration`, "quarantine 3 in 72h"},
	"ready_fails_on":       {"one of not_ready, degraded and never", "ready_fails_on degraded"},
	"shutdown_timeout":     {"one duration", "shutdown_timeout 30s"},
	"history":              {"one duration, or off", "history 90d"},
	"public_runjob":        {"warn or allow", "public_runjob allow"},
	"max_capacity":         {"one whole number", "max_capacity 10"},
	"db_max_capacity":      {"one or more rules", "db_max_capacity prod:4,*:2"},
	"throttle":             {"one duration, or a number of seconds", "throttle 2s"},
	"capacity_default":     {"one whole number", "capacity_default 2"},
	"min":                  {"one whole number", "min 1"},
	"workers":              {"one whole number", "workers 8"},
	"max_jobs":             {"one whole number", "max_jobs 5"},
	"reserve":              {"one whole number", "reserve 2"},
	"database":             {"one glob", "database prod_*"},
	"function":             {"one glob", "function sale.order.*"},
	"timeout":              {"one duration (options go into a block, one on each line)", "timeout 15m"},
	"limit":                {`a whole number, "per database" or "per company", then burst or nothing`, "limit 2 per database"},
	"pool of a policy":     {"the name of a pool, then fallback or nothing", "pool heavy fallback"},
	"objective":            {`the word "wait", a percentage or nothing, and a duration`, "objective wait 95% 10m"},
	"fair":                 {"database or company", "fair database"},
	"serialize":            {"the word identity_key", "serialize identity_key"},
	"capacity":             {"a number of jobs, days without blanks, hours and a time zone", "capacity 0 mon-fri 08:00-20:00 Europe/Brussels"},
	"rate":                 {`a number of jobs per s, m, h or d, then "burst" and a number, "per database", both or nothing`, "rate 100/h burst 20"},
	"warn":                 {"one duration", "warn 12m"},
	"grace":                {"one duration", "grace 30s"},
	"poll":                 {"one duration", "poll 30s"},
	"check":                {"one duration", "check 10m"},
	"max_awake":            {"one whole number", "max_awake 20"},
	"host":                 {"one host name, in which {database} may stand for the job's", "host {database}.example.com"},
	"basic_auth":           {"a user and a password", "basic_auth jobrunner {env.RUNJOB_PASSWORD}"},
}

// wrongArguments is the error about an option with too few arguments, too many, or other words than it
// takes.
func wrongArguments(d *caddyfile.Dispenser, option string) error {
	u := usages[option]
	option, _, _ = strings.Cut(option, " of ")
	return d.Errf("%s takes %s, as in: %s", option, u.takes, u.example)
}
