// Package jobrunner is a Caddy app that runs the jobs of Odoo's queue_job.
//
// It takes the place of the job runner that Odoo starts beside its workers: it
// listens on PostgreSQL for jobs, keeps them in priority queues shaped by
// channels, and asks one of the Odoo servers behind Caddy's reverse_proxy to run
// each of them.
package jobrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/site"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

func init() {
	caddy.RegisterModule(App{})
}

// driverNamespace is where the modules of task drivers live.
const driverNamespace = "jobrunner.drivers"

// defaultName is the name of a runner whose block has none.
const defaultName = "default"

// runnerNames is what runners may be called: their names stand in the paths of
// the admin API and in metrics.
var runnerNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// App runs the jobs of Odoo's queue_job on the Odoo servers that Caddy proxies to.
//
// It holds any number of runners. Each has a PostgreSQL cluster, a set of Odoo
// servers and a channel tree of its own. A configuration reload does not disturb
// running jobs: connections, locks and open requests go on, and the new channels,
// servers and options apply from the next job on.
//
// PostgreSQL or Odoo being down is never a configuration error: Caddy serves its
// sites, and the runner starts working when they are back.
type App struct {
	// The runners, by name. A `jobrunner` block of the Caddyfile without a name
	// is the runner `default`. Names consist of letters, digits, `_`, `-` and `.`.
	Runners map[string]*Runner `json:"runners,omitempty"`

	supervisor *supervisor
	generation *generation
	// traced is set while this configuration holds the tracer.
	traced bool
}

// Runner configures one job runner: one PostgreSQL cluster, one set of Odoo
// servers, one tree of channels.
type Runner struct {
	// Where PostgreSQL is: a libpq connection URL
	// (`postgres://odoo@db.internal:5432/postgres`) or a list of keywords and
	// values (`host=db.internal user=odoo`). The variables `PGHOST`, `PGPORT`,
	// `PGUSER`, `PGPASSWORD`, `PGSERVICE` and so on fill what it leaves open, and
	// suffice without it. The database that it names is where the leader of
	// several Caddy nodes is elected. Default: `postgres`.
	//
	// It must reach PostgreSQL itself or a pooler in session mode, for LISTEN and
	// session locks do not survive transaction pooling.
	//
	// Placeholders such as `{env.ODOO_DSN}` are resolved by the server when it
	// loads the configuration. A password written here can be read through the
	// admin API; use `postgres_password` with a placeholder instead.
	Postgres string `json:"postgres,omitempty"`

	// The password for PostgreSQL, any characters. Usually a placeholder:
	// `{file./run/secrets/odoo_db}` or `{env.ODOO_DB_PASSWORD}`. It goes before
	// a password in `postgres` or the environment. Default: none.
	PostgresPassword string `json:"postgres_password,omitempty"`

	// Globs of the databases to serve (`prod_*`); one with a leading `!`
	// excludes. Placeholders are resolved. Default: the databases that Odoo itself
	// would list, that is those of the connecting role that are no templates.
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
	// Excludes `site`.
	Upstreams []string `json:"upstreams,omitempty"`

	// The channels that have limits, by full name (`root.mail`). Channels that are
	// not listed are unlimited themselves and share the capacity of those above
	// them. Default: `root` with capacity 1, which means one job at a time.
	Channels map[string]*Channel `json:"channels,omitempty"`

	// Gives each database a channel tree of its own, which stands in Odoo's table
	// `queue_job_channel`, as the newest releases of `queue_job` have it. Excludes
	// `channels`. Default: one tree, that of `channels`, for all databases.
	DatabaseChannels *DatabaseChannels `json:"database_channels,omitempty"`

	// The task driver: the application whose jobs are run. Default: `odoo`.
	DriverRaw json.RawMessage `json:"driver,omitempty" caddy:"namespace=jobrunner.drivers inline_key=driver"`

	// How often to look for new and dropped databases. Default: `30s`.
	DiscoverInterval caddy.Duration `json:"discover_interval,omitempty"`

	// For databases without the lock table of `queue_job` (Odoo up to 15.0, mostly):
	// how long a started job may go on without a request of the runner before it
	// counts as dead and is put back. There nothing else proves a job dead, and one
	// that still runs then is run a second time. It counts from when the request
	// broke or, after a restart of Caddy, from when the job was found. `2h` is a
	// value well above any job's time limit. Default: `0`, never.
	RescueStartedAfter caddy.Duration `json:"rescue_started_after,omitempty"`

	// How long Caddy waits for running jobs when it exits; `0` means not at all.
	// Odoo finishes a job in any case, and the next runner finds it. Keep it below
	// the `TimeoutStopSec` of Caddy's systemd unit, 5 s by default. Reloads never
	// wait. Default: `3s`.
	ShutdownTimeout *caddy.Duration `json:"shutdown_timeout,omitempty"`
}

// Channel sets the limits of a channel.
type Channel struct {
	// How many jobs may run at once in the channel and in those below it. As in
	// Odoo's own runner, 0 means without limit and a negative number means never;
	// both are accepted here with a warning, so that a configuration string taken
	// over from Odoo keeps its meaning, and refused by the Caddyfile's `channel`
	// option. Default: 1.
	Capacity *int `json:"capacity,omitempty"`

	// Runs one job after the other, in order, and stops at a failed one until it
	// is done, cancelled or requeued. Requires capacity 1. Default: false.
	Sequential bool `json:"sequential,omitempty"`

	// The least time between two jobs that leave the channel, for example `1s`.
	// Default: none.
	Throttle caddy.Duration `json:"throttle,omitempty"`

	// Holds back the jobs of the channel and of those below it. Default: false.
	Paused bool `json:"paused,omitempty"`

	// The capacity of direct sub-channels that are not configured themselves; a
	// negative number means never. Each of them has this capacity for itself and
	// what is below it. Default: 0, without limit.
	CapacityDefault int `json:"capacity_default,omitempty"`

	// Makes such sub-channels sequential. Requires `capacity_default` 1.
	// Default: false.
	SequentialDefault bool `json:"sequential_default,omitempty"`
}

// DatabaseChannels bounds the channel trees of the databases. Each tree is read
// from its database's table `queue_job_channel` when the database is connected,
// when Odoo announces a change of it, and every few minutes. Databases that have
// something to run take turns, job by job.
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
// nothing, for it runs in `caddy validate` too (caddy.md 3).
func (a *App) Provision(ctx caddy.Context) error {
	log := ctx.Logger()
	gen := &generation{logger: log, runners: make(map[string]*member), emit: emitter(ctx)}
	a.generation = gen
	for _, name := range slices.Sorted(maps.Keys(a.Runners)) {
		if !runnerNames.MatchString(name) {
			return fmt.Errorf("runner %q: a name consists of letters, digits, '_', '-' and '.'", name)
		}
		m, err := a.Runners[name].provision(ctx, name, log)
		if err != nil {
			return fmt.Errorf("runner %s: %w", name, err)
		}
		gen.runners[name] = m
	}
	if err := a.trace(ctx); err != nil {
		return err
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	value, _, err := supervisors.LoadOrNew(supervisorKey{}, newSupervisor)
	if err != nil {
		return fmt.Errorf("loading the supervisor: %w", err)
	}
	sup, ok := value.(*supervisor)
	if !ok {
		return fmt.Errorf("the supervisor is a %T", value)
	}
	a.supervisor = sup
	return nil
}

// Validate lets the engine look at its configuration.
func (a *App) Validate() error {
	for _, name := range slices.Sorted(maps.Keys(a.generation.runners)) {
		if _, err := newEngine(a.generation.runners[name].config); err != nil {
			return fmt.Errorf("runner %s: %w", name, err)
		}
	}
	return nil
}

// Start hands the configuration to the supervisor, which puts it into force when
// Caddy has stopped the one before.
func (a *App) Start() error {
	a.supervisor.push(a.generation)
	return nil
}

// Stop withdraws the configuration. On exit it waits for running jobs, as long
// as shutdown_timeout says; on reload it does not wait.
func (a *App) Stop() error {
	a.supervisor.release(a.generation)
	return nil
}

// Cleanup withdraws the configuration if Stop has not: Caddy does not call Stop
// after a failed start (caddy.md 1.1).
func (a *App) Cleanup() error {
	var errs []error
	if a.supervisor != nil {
		a.supervisor.release(a.generation)
		a.supervisor = nil
		if _, err := supervisors.Delete(supervisorKey{}); err != nil {
			errs = append(errs, fmt.Errorf("releasing the supervisor: %w", err))
		}
	}
	// After the supervisor: what it stops may end spans.
	if a.traced {
		a.traced = false
		if _, err := tracers.Delete(tracerKey{}); err != nil {
			errs = append(errs, fmt.Errorf("releasing the tracer: %w", err))
		}
	}
	return errors.Join(errs...)
}

// provision resolves the configuration of one runner.
func (r *Runner) provision(ctx caddy.Context, name string, log *zap.Logger) (*member, error) {
	if r == nil {
		return nil, errors.New("it is null")
	}
	log = log.With(zap.String("runner", name))
	r, conf, err := r.withOdooConfig(log)
	if err != nil {
		return nil, err
	}
	pg, err := r.connection(log)
	if err != nil {
		return nil, err
	}
	if conf != nil && conf.DBPassword != "" && r.PostgresPassword == "" {
		pg.Password = conf.DBPassword
	}
	databases, err := resolveAll("databases", r.Databases)
	if err != nil {
		return nil, err
	}
	if _, err := postgres.Patterns(databases); err != nil {
		return nil, fmt.Errorf("databases: %w", err)
	}
	tree, bounds, err := r.trees(log)
	if err != nil {
		return nil, err
	}
	if r.DiscoverInterval < 0 {
		return nil, errors.New("discover_interval must not be negative")
	}
	if r.RescueStartedAfter < 0 {
		return nil, errors.New("rescue_started_after must not be negative")
	}
	drv, err := r.driver(ctx)
	if err != nil {
		return nil, err
	}
	if conf != nil {
		useBasicAuth(drv, conf)
	}
	targets, err := r.targets(ctx, log)
	if err != nil {
		return nil, err
	}
	return &member{
		odoo:     conf,
		identity: connectionIdentity(pg),
		storage:  ctx.Storage(),
		config: runner.Config{
			Name:               name,
			Postgres:           pg,
			Databases:          databases,
			Driver:             drv,
			Targets:            targets,
			Channels:           tree,
			DatabaseChannels:   bounds,
			DiscoverInterval:   time.Duration(r.DiscoverInterval),
			ShutdownTimeout:    r.shutdownTimeout(),
			RescueStartedAfter: time.Duration(r.RescueStartedAfter),
			Logger:             log,
			Exchanges:          exchanges,
			Exiting:            caddy.Exiting,
			Events:             publish,
			Elected:            func(ctx context.Context) { elected(ctx, name) },
		},
	}, nil
}

// targets finds the Odoo servers.
func (r *Runner) targets(ctx caddy.Context, log *zap.Logger) (runner.Targets, error) {
	if r.Site != "" && len(r.Upstreams) > 0 {
		return nil, errors.New("site and upstreams exclude each other")
	}
	if len(r.Upstreams) > 0 {
		addresses, err := resolveAll("upstream", r.Upstreams)
		if err != nil {
			return nil, err
		}
		return site.Explicit(addresses)
	}
	address, err := resolve("site", r.Site)
	if err != nil {
		return nil, err
	}
	return site.OfProxy(ctx, address, log)
}

// driver loads the task driver.
func (r *Runner) driver(ctx caddy.Context) (driver.Driver, error) {
	var mod any
	var err error
	if r.DriverRaw == nil {
		mod, err = ctx.LoadModuleByID(driverNamespace+".odoo", nil)
	} else {
		mod, err = ctx.LoadModule(r, "DriverRaw")
	}
	if err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	drv, ok := mod.(driver.Driver)
	if !ok {
		return nil, fmt.Errorf("driver: module %T is no task driver", mod)
	}
	return drv, nil
}

// channels turns the map into what the scheduler takes.
func (r *Runner) channels(log *zap.Logger) ([]channels.Config, error) {
	var tree []channels.Config
	seen := make(map[string]bool)
	for _, key := range slices.Sorted(maps.Keys(r.Channels)) {
		name := channels.Normalize(key)
		if seen[name] {
			return nil, fmt.Errorf("channel %s is configured twice, with and without root", name)
		}
		seen[name] = true
		c := r.Channels[key]
		if c == nil {
			c = new(Channel)
		}
		if c.Throttle < 0 {
			return nil, fmt.Errorf("channel %s: throttle must not be negative", name)
		}
		cfg := c.config(name)
		if err := cfg.Validate(); err != nil {
			return nil, err
		}
		switch {
		case cfg.Capacity == 0:
			log.Warn("a channel with capacity 0 has no limit, as in Odoo's own runner", zap.String("channel", name))
		case cfg.Capacity < 0:
			log.Warn("a channel with a negative capacity never runs a job, as in Odoo's own runner; paused says so more clearly", zap.String("channel", name))
		}
		if cfg.CapacityDefault < 0 {
			log.Warn("below a channel with a negative capacity_default, channels that are not configured never run a job, as in Odoo's own runner", zap.String("channel", name))
		}
		tree = append(tree, cfg)
	}
	return tree, nil
}

// trees returns the channel tree of all databases, or else what bounds those
// that each of them has.
func (r *Runner) trees(log *zap.Logger) (tree []channels.Config, bounds *channels.Capacities, err error) {
	if r.DatabaseChannels == nil {
		tree, err = r.channels(log)
		return tree, nil, err
	}
	bounds, err = r.capacities(log)
	return nil, bounds, err
}

// capacities turns database_channels into what the scheduler takes.
func (r *Runner) capacities(log *zap.Logger) (*channels.Capacities, error) {
	if len(r.Channels) > 0 {
		return nil, errors.New("channels and database_channels exclude each other")
	}
	c, err := r.DatabaseChannels.config()
	if err != nil {
		return nil, fmt.Errorf("database_channels: %w", err)
	}
	if c.Max == 0 {
		log.Warn("max_capacity is 0, so no job runs in any database")
	}
	return c, nil
}

func (c *DatabaseChannels) config() (*channels.Capacities, error) {
	out := &channels.Capacities{Max: 1}
	if c.MaxCapacity != nil {
		out.Max = *c.MaxCapacity
	}
	if out.Max < 0 {
		return nil, errors.New("max_capacity must not be negative")
	}
	if c.DBMaxCapacity == "" {
		return out, nil
	}
	var err error
	if out.Rules, err = channels.ParseCapacityRules(c.DBMaxCapacity); err != nil {
		return nil, fmt.Errorf("db_max_capacity: %w", err)
	}
	return out, nil
}

// config returns the channel as the scheduler takes it.
func (c *Channel) config(name string) channels.Config {
	capacity := 1
	if c.Capacity != nil {
		capacity = *c.Capacity
	}
	return channels.Config{
		Name:              name,
		Capacity:          capacity,
		Sequential:        c.Sequential,
		Throttle:          time.Duration(c.Throttle),
		Paused:            c.Paused,
		CapacityDefault:   c.CapacityDefault,
		SequentialDefault: c.SequentialDefault,
	}
}

// shutdownTimeout returns how long to wait on exit, negative for not at all.
func (r *Runner) shutdownTimeout() time.Duration {
	switch {
	case r.ShutdownTimeout == nil:
		return runner.ShutdownTimeoutDefault
	case *r.ShutdownTimeout <= 0:
		return -1
	}
	return time.Duration(*r.ShutdownTimeout)
}

// resolve replaces placeholders. The result may be a secret: it is kept out of
// the fields that Caddy shows (caddy.md 3).
func resolve(option, value string) (string, error) {
	out, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w%s", option, err, unreadable(value))
	}
	return out, nil
}

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// unreadable says which file of a placeholder cannot be read, for Caddy itself
// only says that the placeholder is empty.
func unreadable(value string) string {
	for _, match := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		f, err := os.Open(match[1])
		if err != nil {
			return fmt.Sprintf(" (%v)", err)
		}
		_ = f.Close()
	}
	return ""
}

func resolveAll(option string, values []string) ([]string, error) {
	var out []string
	for _, value := range values {
		v, err := resolve(option, value)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// Interface guards.
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
