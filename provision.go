package jobrunner

import (
	"cmp"
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
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/site"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// driverNamespace is where the modules of task drivers live.
const driverNamespace = "jobrunner.drivers"

// defaultName is the name of a runner whose block has none.
const defaultName = "default"

// runnerNames is what runners may be called: their names are part of the paths of
// the admin API and of metrics.
var runnerNames = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

func checkName(name string) error {
	if !runnerNames.MatchString(name) {
		return fmt.Errorf("invalid runner name %q: it consists of letters, digits, '_', '-' and '.'", name)
	}
	return nil
}

// resolved is the configuration that the runner describes, with placeholders, files and the
// environment read, and what Odoo's own configuration says, nil without odoo_config. What depends on
// more than one option is checked later, by [runner.Config.Validate].
func (r *Runner) resolved(ctx caddy.Context, log *zap.Logger) (cfg runner.Config, odoo *odooconf.Config, err error) {
	if r == nil {
		return cfg, nil, errors.New("it is null")
	}
	if err := errors.Join(r.checkDurations(), r.checkPublicRunjob()); err != nil {
		return cfg, nil, err
	}
	r, odoo, err = r.withOdooConfig(log)
	if err != nil {
		return cfg, nil, err
	}
	cfg = runner.Config{
		Connections:        r.Connections,
		Hibernate:          r.Hibernate.config(),
		DiscoverInterval:   time.Duration(r.DiscoverInterval),
		ShutdownTimeout:    r.shutdownTimeout(),
		RescueStartedAfter: time.Duration(r.RescueStartedAfter),
		ReleaseDependents:  r.ReleaseDependents,
		UpgradeGate:        r.UpgradeGate,
		Payloads:           r.Payloads,
		Quarantine:         r.Quarantine.config(),
		Logger:             log,
	}
	if cfg.Postgres, err = r.connection(odoo, log); err != nil {
		return cfg, nil, err
	}
	if err = r.Pooler.use(&cfg, log); err != nil {
		return cfg, nil, err
	}
	if cfg.Databases, err = r.databases(); err != nil {
		return cfg, nil, err
	}
	if cfg.Channels, err = r.channels(log); err != nil {
		return cfg, nil, err
	}
	if cfg.DatabaseChannels, err = r.capacities(log); err != nil {
		return cfg, nil, err
	}
	if cfg.Policies, err = r.policies(); err != nil {
		return cfg, nil, err
	}
	if cfg.Server, err = r.Server.config(); err != nil {
		return cfg, nil, err
	}
	if cfg.Driver, err = r.driver(ctx); err != nil {
		return cfg, nil, err
	}
	served := cfg.Databases
	if odoo != nil {
		useBasicAuth(cfg.Driver, odoo)
		served = append(slices.Clip(served), odoo.Databases...)
	}
	chooseMaintenance(cfg.Postgres, cfg.Driver, served)
	if cfg.Targets, err = r.targets(ctx, log); err != nil {
		return cfg, nil, err
	}
	cfg.Site = r.publicSite(ctx)
	if cfg.Server.Workers > 0 {
		if err := site.CountVisitors(ctx, cfg.Targets); err != nil {
			return cfg, nil, fmt.Errorf("server: workers: %w; use max_jobs alone", err)
		}
	}
	if err := r.usePools(ctx, &cfg); err != nil {
		return cfg, nil, err
	}
	return cfg, odoo, nil
}

// databases are the globs of the databases to serve.
func (r *Runner) databases() ([]string, error) {
	globs, err := resolveAll("databases", r.Databases)
	if err != nil {
		return nil, err
	}
	globs = append(globs, r.found.databases...)
	for _, glob := range globs {
		if err := checkText("pattern of databases", glob); err != nil {
			return nil, err
		}
	}
	if _, err := postgres.Patterns(globs); err != nil {
		return nil, fmt.Errorf("databases: %w", err)
	}
	return globs, nil
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
	if r.found.upstream != "" {
		return site.Explicit([]string{r.found.upstream})
	}
	address, err := resolve("site", r.Site)
	if err != nil {
		return nil, err
	}
	return site.OfProxy(ctx, address, log)
}

// publicSite is the address of Odoo's site for people; empty where the Odoo servers are named without one.
func (r *Runner) publicSite(ctx caddy.Context) string {
	address, err := resolve("site", r.Site)
	if err != nil || len(r.Upstreams) > 0 || r.found.upstream != "" {
		return ""
	}
	return site.Address(ctx, address)
}

// openSites lists the sites that let the public ask for the route by which Odoo runs jobs, and warns
// of them.
func (r *Runner) openSites(ctx caddy.Context, cfg runner.Config) []string {
	if _, ok := cfg.Driver.(*OdooDriver); !ok || r.PublicRunjob == publicRunjobAllow {
		return nil
	}
	open := site.Open(ctx, cfg.Targets)
	if len(open) > 0 {
		cfg.Logger.Warn("everyone can have jobs run by asking these sites for it: add the directive jobrunner_guard to them, or set public_runjob allow", zap.Strings("sites", open))
	}
	return open
}

// The values of public_runjob.
const (
	publicRunjobWarn  = "warn"
	publicRunjobAllow = "allow"
)

func (r *Runner) checkPublicRunjob() error {
	if v := r.PublicRunjob; v != "" && v != publicRunjobWarn && v != publicRunjobAllow {
		return fmt.Errorf("public_runjob: %q is neither %s nor %s", v, publicRunjobWarn, publicRunjobAllow)
	}
	return nil
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
	for _, key := range slices.Sorted(maps.Keys(r.Channels)) {
		name := channels.Normalize(key)
		c := r.Channels[key]
		if c == nil {
			c = new(Channel)
		}
		if err := c.check(key); err != nil {
			return nil, err
		}
		cfg := c.config(name)
		switch {
		case cfg.Capacity == 0 && cfg.Percent == 0:
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

// config turns quarantine into what the engine takes, nil without. The engine checks it.
func (q *Quarantine) config() *runner.Quarantine {
	if q == nil {
		return nil
	}
	return &runner.Quarantine{Attempts: q.Attempts, Within: time.Duration(q.Within)}
}

// capacities turns database_channels into what the scheduler takes, nil without.
func (r *Runner) capacities(log *zap.Logger) (*channels.Capacities, error) {
	if r.DatabaseChannels == nil {
		return nil, nil
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
	switch {
	case c.OCACapacity != nil:
		capacity = *c.OCACapacity
	case c.Capacity != nil:
		capacity = *c.Capacity
	case c.Percent != 0:
		capacity = 0
	}
	return channels.Config{
		Name:              name,
		Capacity:          capacity,
		Percent:           c.Percent,
		Min:               c.Min,
		Auto:              c.Auto,
		Sequential:        c.Sequential,
		Throttle:          time.Duration(c.Throttle),
		Paused:            c.Paused,
		CapacityDefault:   cmp.Or(c.CapacityDefault, c.OCACapacityDefault),
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

// readyFailsOn is the health from which on the runner does not count as ready.
func readyFailsOn(word string) (runner.Health, error) {
	switch word {
	case "", runner.NotReady.String():
		return runner.NotReady, nil
	case runner.Degraded.String():
		return runner.Degraded, nil
	case "never":
		return runner.NotReady + 1, nil
	}
	return 0, fmt.Errorf("ready_fails_on: %q is none of not_ready, degraded and never", word)
}

// resolve replaces placeholders. The result may be a secret: it is kept out of
// the fields that Caddy shows.
func resolve(option, value string) (string, error) {
	for _, match := range filePlaceholder.FindAllStringSubmatch(value, -1) {
		if err := checkRegular(match[1]); err != nil {
			return "", fmt.Errorf("%s: %w", option, err)
		}
	}
	out, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w%s", option, err, unreadable(value))
	}
	return out, nil
}

var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// unreadable says which file of a placeholder cannot be read, because Caddy itself
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
