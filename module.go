// Package jobrunner is a Caddy app that runs the jobs of Odoo's queue_job.
//
// It takes the place of the job runner that Odoo starts beside its workers: it
// listens on PostgreSQL for jobs, keeps them in priority queues shaped by
// channels, and asks one of the Odoo servers behind Caddy's reverse_proxy to run
// each of them.
package jobrunner

//go:generate go test ./test/docs -run ^TestReference$ -update

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/dashboard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/alerts"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/command"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/metrics"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/tracing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

func init() {
	caddy.RegisterModule(App{})
	caddycmd.RegisterCommand(command.New())
}

// App runs the jobs of Odoo's queue_job on the Odoo servers that Caddy proxies to.
//
// It holds any number of runners. Each has its own PostgreSQL cluster, set of Odoo
// servers and channel tree. A reload of the configuration does not disturb running
// jobs: connections, locks and open requests go on, and the new channels, servers and
// options apply from the next job on.
//
// That PostgreSQL or Odoo is down is never a configuration error: Caddy serves its
// sites, and the runner starts working when they are back.
//
//	{
//		"runners": {
//			"default": {
//				"postgres": "postgres://odoo@db.internal:5432/postgres?sslmode=verify-full",
//				"postgres_password": "{file./run/secrets/odoo_db}",
//				"site": "odoo.example.com",
//				"channels": {
//					"root": {"capacity": 4},
//					"root.mail": {"capacity": 2}
//				}
//			}
//		}
//	}
type App struct {
	// The runners, by name. A `jobrunner` block of the Caddyfile without a name
	// is the runner `default`. Names consist of letters, digits, `_`, `-` and `.`.
	Runners map[string]*Runner `json:"runners,omitempty"`

	supervisor *supervisor.Supervisor
	generation *supervisor.Generation
	// odoo is what Odoo's own configuration says, by runner; nil without odoo_config.
	odoo map[string]*odooconf.Config
	// open are the sites that leave the route of jobs open to the public, by runner.
	open map[string][]string
	// untrace gives the tracer back; nil if this configuration has none.
	untrace func() error
}

// UnmarshalJSON reads the app strictly, as Caddy does, and says in plain words where a value is of
// another kind than is wanted.
func (a *App) UnmarshalJSON(raw []byte) error {
	type plain App // without this method
	return api.Mistyped(caddy.StrictUnmarshalJSON(raw, (*plain)(a)))
}

// Runner configures one job runner: one PostgreSQL cluster, one set of Odoo
// servers, one tree of channels. All of it is optional, also `postgres` where the
// variables `PG*` of Caddy's environment or `odoo_config` say where PostgreSQL is.
//
//	{
//		"postgres": "postgres://odoo@db.internal:5432/postgres?sslmode=verify-full",
//		"postgres_password": "{env.ODOO_DB_PASSWORD}",
//		"databases": ["prod_*", "!prod_old"],
//		"upstreams": ["http://10.0.0.5:8069", "http://10.0.0.6:8069"],
//		"channels": {"root": {"capacity": 8}},
//		"driver": {"driver": "odoo", "host": "{database}.example.com"},
//		"discover_interval": "30s",
//		"shutdown_timeout": "3s"
//	}
type Runner struct {
	// Where PostgreSQL is: a libpq connection URL
	// (`postgres://odoo@db.internal:5432/postgres?sslmode=verify-full`) or a list of
	// keywords and values (`host=db.internal user=odoo sslmode=verify-full`); without
	// verification a false server gets the password. The variables `PGHOST`, `PGPORT`,
	// `PGUSER`, `PGPASSWORD`, `PGSERVICE` and so on fill what it leaves open, and
	// suffice without it. The database that it names is where the leader of
	// several Caddy nodes is elected. Default: `postgres` or, if the role may not
	// enter that, the first of `databases` that is a plain name.
	//
	// With `odoo_config`, a string without host, port and user completes what that
	// file says.
	//
	// It must reach PostgreSQL itself or a pooler in session mode, because LISTEN and
	// session locks do not survive transaction pooling. For a pooler in transaction mode there is
	// `pooler`.
	//
	// Placeholders such as `{env.ODOO_DSN}` are resolved by the server when it
	// loads the configuration. A password written here can be read through the
	// admin API; use `postgres_password` with a placeholder instead.
	Postgres string `json:"postgres,omitempty"`

	// The password for PostgreSQL, any characters. Usually a placeholder:
	// `{file./run/secrets/odoo_db}` or `{env.ODOO_DB_PASSWORD}`. It takes precedence
	// over a password in `postgres` or the environment. Default: that of `postgres`,
	// `PGPASSWORD` or the file `~/.pgpass`, or none.
	PostgresPassword string `json:"postgres_password,omitempty"`

	// Globs of the databases to serve (`prod_*`); one with a leading `!`
	// excludes. Placeholders are resolved. A name without `*`, `?` or `[...]` is
	// that of one database; the doctor warns if there is none. Default: the
	// databases that Odoo itself would list, that is those of the connecting role
	// that are no templates.
	Databases []string `json:"databases,omitempty"`

	// Odoo's configuration file, usually `/etc/odoo/odoo.conf`. What it and the
	// variables `ODOO_QUEUE_JOB_*` or `ODOO_CONNECTOR_*` of Caddy's environment say
	// about PostgreSQL, databases, Odoo's address, channels and basic
	// authentication is taken wherever this configuration has nothing. The file is
	// read when the configuration is loaded. Default: none.
	OdooConfig string `json:"odoo_config,omitempty"`

	// The address of the site that proxies to Odoo: `odoo.example.com`, with
	// scheme or port where several sites share the name. Jobs go to the upstreams
	// of the `reverse_proxy` that would handle `/queue_job/runjob` there, with the
	// site's host as Host header, whether or not the public may reach that path.
	// Requests do not pass through the proxy itself: no retries, timeouts or
	// authentication of the site apply, and they do not count in its limits.
	// Placeholders are resolved. Default: the only such `reverse_proxy` of the
	// whole configuration. Excludes `upstreams`.
	Site string `json:"site,omitempty"`

	// The Odoo servers by address instead of by site: `http://10.0.0.5:8069`,
	// `https://odoo.internal`, `10.0.0.5:8069` or `unix//run/odoo.sock`. The
	// default ports are those of the schemes, 80 and 443. Placeholders are
	// resolved. The Host header is the address unless the driver sets another one.
	// Default: those of `site`. Excludes `site`.
	Upstreams []string `json:"upstreams,omitempty"`

	// The channels that have limits, by full name (`root.mail`). Channels that are
	// not listed are unlimited themselves and share the capacity of those above
	// them. Default: `root` with capacity 1, which means one job at a time.
	Channels map[string]*Channel `json:"channels,omitempty"`

	// Gives each database its own channel tree, which Odoo keeps in the table
	// `queue_job_channel`, as the newest releases of `queue_job` do. Excludes
	// `channels`. Default: one tree, that of `channels`, for all databases.
	DatabaseChannels *DatabaseChannels `json:"database_channels,omitempty"`

	// What each Odoo server can bear, so that visitors are served first. Default: no limits, a server
	// gets jobs whatever else it does.
	Server *Server `json:"server,omitempty"`

	// Sets of Odoo servers, by name, that run only those jobs whose policy names them. Default: none, all
	// jobs run on all servers.
	Pools map[string]*Pool `json:"pools,omitempty"`

	// What holds for the jobs of some channels beyond the channels' limits: time limits, how
	// databases and companies share a channel, and when, and how often, jobs start. For each option,
	// the first policy counts that matches a job and has the option. Default: none.
	Policies []Policy `json:"policies,omitempty"`

	// The task driver: the application whose jobs are run. Default: `odoo`.
	DriverRaw json.RawMessage `json:"driver,omitempty" caddy:"namespace=jobrunner.drivers inline_key=driver"`

	// How many connections to PostgreSQL the runner has at most, at least 3. One is for
	// maintenance, an eighth of them, up to four, for those who list or change jobs, and each
	// of the others for a database; if there are more databases, they take turns. Default: of
	// what `max_connections` leaves to ordinary roles, and of what `CONNECTION LIMIT` allows
	// the role, three quarters, or seven eighths less what others hold or have held in the
	// last minute, whichever is the least.
	Connections int `json:"connections,omitempty"`

	// Closes the connections to databases that have nothing to do. Default: only if there are more
	// databases than connections, to those that others need.
	Hibernate *Hibernate `json:"hibernate,omitempty"`

	// A connection pooler through which the databases are reached; `postgres` then remains the way of the
	// connection for maintenance and of operators. Default: the databases are reached by `postgres`,
	// too.
	Pooler *Pooler `json:"pooler,omitempty"`

	// How often to look for new and dropped databases, at least `500ms`. Default:
	// `30s`.
	DiscoverInterval caddy.Duration `json:"discover_interval,omitempty"`

	// For databases without the lock table of `queue_job` (Odoo up to 15.0, mostly):
	// how long a started job may go on without a request of the runner before it
	// counts as dead and is put back. There nothing else proves a job dead, and one
	// that still runs then is run a second time. It counts from when the request
	// broke or, after a restart of Caddy, from when the job was found. `2h` is a
	// value well above any job's time limit. At least `1s`. Default: `0`, never.
	RescueStartedAfter caddy.Duration `json:"rescue_started_after,omitempty"`

	// Fails jobs that do harm again and again, in place of putting them back. Default:
	// none, they are put back as long as their own `max_retries` allow.
	Quarantine *Quarantine `json:"quarantine,omitempty"`

	// When `GET /jobrunner/ready` answers 503: `not_ready`, if no job runs;
	// `degraded`, also if a part of them does not, for example those of one database
	// of many; `never`. What is wrong is in the answer in any case. Default:
	// `not_ready`.
	ReadyFailsOn string `json:"ready_fails_on,omitempty"`

	// How long Caddy waits for running jobs when it exits; `0` means not at all.
	// Odoo finishes a job in any case, and the next runner finds it. Keep it below
	// the `TimeoutStopSec` of Caddy's systemd unit, 5 s by default. Reloads never
	// wait. Default: `3s`.
	ShutdownTimeout *caddy.Duration `json:"shutdown_timeout,omitempty"`

	// What to do about sites that let the public ask for the route by which Odoo
	// runs jobs: `warn` in the log, or `allow`. The directive `jobrunner_guard`
	// closes it. Default: `warn`.
	PublicRunjob string `json:"public_runjob,omitempty"`

	// Releases a job that waits for others when all of them are done and the worker died that
	// should have released it: ten seconds after that was noticed, or with the next full read, after a
	// start and every few minutes. The rule is that of `queue_job`. Default: false, it waits until
	// somebody releases it by hand.
	ReleaseDependents bool `json:"release_dependents,omitempty"`

	// Starts nothing of a database while a module of it is being installed, upgraded or
	// removed, or is marked for that. What runs then is not disturbed. The jobs wait until
	// the marks are gone; after an hour, the database counts as not served. Default: false,
	// jobs start all the same and may meet code and tables that do not fit together.
	UpgradeGate bool `json:"upgrade_gate,omitempty"`

	// Lets everyone who may ask for a job see its arguments, its result and the traceback of its
	// failure, too: in the admin API, by `caddy jobrunner job` and in the dashboard. They can be
	// confidential. Default: false, they are not even read.
	Payloads bool `json:"payloads,omitempty"`

	// For how long to remember what became of the jobs, in hours by database, channel and function:
	// `2d` to `3650d`, or `off`. It is kept in a file below Caddy's data directory on each machine that
	// runs jobs, `jobrunner/<runner>/history.db`, of at most 256 MB: when that is reached, the oldest hours go
	// earlier. The last two days are kept in intervals of five minutes, too. Default: `90d`.
	History string `json:"history,omitempty"`

	// found are the values that odoo_config supplies.
	found found
}

// Channel sets the limits of a channel.
//
//	{"capacity": 4, "throttle": "500ms", "capacity_default": 1, "sequential_default": true}
type Channel struct {
	// How many jobs may run at once in the channel and in those below it, at least
	// 1. Default: 1.
	Capacity *int `json:"capacity,omitempty"`

	// The capacity as a part of that of the channel above, in percent, 1 to 100, rounded down and at
	// least one job. It follows what is in force there, a capacity of a policy included. Excludes
	// `capacity`. Default: none.
	Percent int `json:"percent,omitempty"`

	// Makes the capacity of `root` the sum of what the Odoo servers bear that are up and not drained, by
	// the limits of `server`. It follows when that has been another one for 30 seconds. Excludes
	// `capacity`. Default: false.
	Auto bool `json:"auto,omitempty"`

	// How many slots of the channel above others may not take while this channel, or one below it, has a
	// job that runs or could start. The channel above must have a capacity, and the minimums under it
	// may be no more than that in all. Default: 0, none.
	Min int `json:"min,omitempty"`

	// What a capacity of 0 or less means to OCA's runner: 0 is without limit, a
	// negative number is never. The Caddyfile's `channels` puts it here when it
	// takes over a configuration string with such a capacity. Excludes `capacity`.
	// Default: none.
	OCACapacity *int `json:"oca_capacity,omitempty"`

	// Runs one job after the other, in order, and stops at a failed one until it
	// is done, cancelled or requeued. Requires capacity 1. Default: false.
	Sequential bool `json:"sequential,omitempty"`

	// The least time between two jobs that leave the channel, for example `1s`, at
	// least `1ms`. Default: none.
	Throttle caddy.Duration `json:"throttle,omitempty"`

	// Holds back the jobs of the channel and of those below it. Default: false.
	Paused bool `json:"paused,omitempty"`

	// The capacity of direct sub-channels that are not configured themselves. Each
	// of them has this capacity for itself and what is below it. Default: 0, without
	// limit.
	CapacityDefault int `json:"capacity_default,omitempty"`

	// What a negative capacity_default means to OCA's runner: never. The Caddyfile's
	// `channels` puts it here. Excludes `capacity_default`. Default: none.
	OCACapacityDefault int `json:"oca_capacity_default,omitempty"`

	// Options of a configuration string that are not known, such as a misspelled
	// `sequential`. They do nothing, as in OCA's runner, and the doctor warns of
	// them. The Caddyfile's `channels` puts them here. Default: none.
	OCAIgnored []string `json:"oca_ignored,omitempty"`

	// Makes such sub-channels sequential. Requires `capacity_default` 1.
	// Default: false.
	SequentialDefault bool `json:"sequential_default,omitempty"`
}

// Quarantine says when a job has done too much harm to be run again: that is, when so many
// attempts at it have come to nothing, because its worker died or because Odoo answered without
// having run it. It then fails, with a text in its row that names the attempts, whatever its
// `max_retries`. What is not the job's fault does not count: docs/policies-quarantine.md has the
// rules.
//
//	{"attempts": 3, "within": "72h"}
type Quarantine struct {
	// How many attempts, 1 to 100. Required.
	Attempts int `json:"attempts"`

	// For how long an attempt counts, at least `1m`. Required.
	Within caddy.Duration `json:"within"`
}

// DatabaseChannels bounds the channel trees of the databases. Each tree is read
// from its database's table `queue_job_channel` when the database is connected,
// when Odoo announces a change of it, and every few minutes. Databases that have
// something to run take turns, job by job.
//
//	{"max_capacity": 8, "db_max_capacity": "prod_*:4,*:2"}
type DatabaseChannels struct {
	// How many jobs may run at once in all databases together. With 0 nothing
	// runs. Default: 1.
	MaxCapacity *int `json:"max_capacity,omitempty"`

	// How many of them may run at once in one database, as Odoo's own runner takes
	// it: a number, or `pattern:number` rules with commas between them, of which the
	// first counts that matches the database's name (`prod_*:4,*:2`). The patterns
	// are those of Python's fnmatch: `*`, `?`, `[abc]`, `[!abc]`. With 0 or less
	// nothing runs there. A root channel whose capacity in the database is greater,
	// or 0, gets this one. Default: what `max_capacity` says.
	DBMaxCapacity string `json:"db_max_capacity,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "jobrunner",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision resolves the configuration. It connects to nothing and starts
// nothing, because `caddy validate` calls it too.
func (a *App) Provision(ctx caddy.Context) error {
	log := ctx.Logger()
	gen := &supervisor.Generation{Logger: log, Runners: make(map[string]*supervisor.Member), Emit: alerts.Emitter(ctx)}
	a.generation, a.odoo, a.open = gen, make(map[string]*odooconf.Config), make(map[string][]string)
	jobs := 0
	for _, name := range slices.Sorted(maps.Keys(a.Runners)) {
		if err := checkName(name); err != nil {
			return err
		}
		cfg, odoo, err := a.Runners[name].resolved(ctx, log.With(zap.String("runner", name)))
		if err != nil {
			return fmt.Errorf("runner %s: %w", name, err)
		}
		gen.Runners[name], a.odoo[name] = wire(ctx, name, cfg), odoo
		if gen.Runners[name].FailsOn, err = readyFailsOn(a.Runners[name].ReadyFailsOn); err != nil {
			return fmt.Errorf("runner %s: %w", name, err)
		}
		if gen.Runners[name].History, err = a.Runners[name].history(&cfg); err != nil {
			return fmt.Errorf("runner %s: %w", name, err)
		}
		a.open[name] = a.Runners[name].openSites(ctx, cfg)
		jobs += mostJobs(cfg)
	}
	if err := checkFileLimit(jobs, log); err != nil {
		return err
	}
	if err := a.trace(ctx); err != nil {
		return err
	}
	if err := metrics.Register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	sup, err := supervisor.Acquire()
	if err != nil {
		return err
	}
	a.supervisor = sup
	return nil
}

// publish hands an event of a runner on to all who observe the runners. It is called from their loops,
// so none of them blocks.
func publish(ev runner.Event) {
	admin.Observe(ev)  // GET /jobrunner/events
	alerts.Observe(ev) // Caddy's events app
	dashboard.Observe(ev)
	history.Observe(ev)
	metrics.Observe(ev)
	supervisor.Observe(ev) // how long jobs have waited
}

// newEngine makes the runner of a configuration that comes into force. Tests put a fake in its place.
var newEngine = func(cfg runner.Config) (supervisor.Engine, error) { return runner.New(cfg) }

// wire makes a resolved configuration a member of a generation, and says who hears of what happens.
func wire(ctx caddy.Context, name string, cfg runner.Config) *supervisor.Member {
	cfg.Name = name
	cfg.Exiting = caddy.Exiting
	cfg.Events = publish
	return &supervisor.Member{Config: cfg, New: newEngine, Identity: connectionIdentity(cfg.Postgres, cfg.Pooler), Storage: ctx.Storage()}
}

// trace gives the runners the tracer, if they are to be traced.
func (a *App) trace(ctx caddy.Context) error {
	if len(a.Runners) == 0 {
		return nil
	}
	tracer, release, err := tracing.Acquire(ctx)
	if err != nil {
		return err
	}
	a.untrace = release
	for _, m := range a.generation.Runners {
		m.Config.Tracing = tracer
	}
	return nil
}

// Validate checks what Provision has resolved.
func (a *App) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(a.generation.Runners)) {
		if err := a.generation.Runners[name].Config.Validate(); err != nil {
			return err // it says which runner
		}
	}
	return nil
}

// Start hands the configuration to the supervisor, which puts it into force when
// Caddy has stopped the one before.
func (a *App) Start() error {
	a.supervisor.Push(a.generation)
	return nil
}

// Stop withdraws the configuration. On exit it waits for running jobs, as long
// as shutdown_timeout says; on reload it does not wait.
func (a *App) Stop() error {
	a.supervisor.Withdraw(a.generation)
	return nil
}

// Cleanup withdraws the configuration if Stop has not: after a failed start, Caddy
// does not stop the app whose start failed, nor those that it had not started yet.
func (a *App) Cleanup() error {
	var errs []error
	if a.supervisor != nil {
		a.supervisor.Withdraw(a.generation)
		a.supervisor = nil
		errs = append(errs, supervisor.Release())
	}
	// After the supervisor: what it stops may end spans.
	if a.untrace != nil {
		errs = append(errs, a.untrace())
	}
	return errors.Join(errs...)
}

// Subjects implements [doctor.Source].
func (a *App) Subjects() []doctor.Subject {
	var subjects []doctor.Subject
	jobs := 0
	for _, m := range a.generation.Runners {
		jobs += mostJobs(m.Config)
	}
	for _, name := range slices.Sorted(maps.Keys(a.generation.Runners)) {
		m := a.generation.Runners[name]
		subjects = append(subjects, doctor.Subject{
			Config: m.Config, Odoo: a.odoo[name], OpenSites: a.open[name], Files: filesFor(jobs),
			Settings: a.Runners[name].settings(&m.Config, a.odoo[name]), Ignored: a.Runners[name].ignored(a.odoo[name]),
		})
	}
	return subjects
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
	_ doctor.Source      = (*App)(nil)
)
