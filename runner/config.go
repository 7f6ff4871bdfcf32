package runner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/cluster"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Defaults of [Config].
const (
	DiscoverIntervalDefault = 30 * time.Second
	ShutdownTimeoutDefault  = 3 * time.Second
	PollDefault             = 5 * time.Second
)

// PollLeast is the least that [Config.Poll] may be.
const PollLeast = session.PollLeast

// Config is everything that one runner needs to know. Fields left zero get
// their defaults.
type Config struct {
	// Name tells runners apart; it is part of the leader lock's key.
	Name string

	// Postgres reaches the cluster; its database is where the maintenance
	// connection goes and where the leader lock is taken. It cannot be changed
	// while the runner lives.
	Postgres *pgx.ConnConfig

	// Pooler is how sessions of databases reach the cluster, through a connection pooler in any mode;
	// its database does not matter. They do not listen then, but read all jobs when something was
	// written, and after Poll. The driver must be capable of that. Postgres remains the way of the
	// maintenance connection and of operators, without a pooler in transaction mode. Default: nil,
	// sessions go to Postgres.
	Pooler *pgx.ConnConfig

	// Poll is the time between two reads of all jobs of a database behind a pooler, if nothing is known
	// to have been written there, at least [PollLeast]. Default: [PollDefault].
	Poll time.Duration

	// Databases are globs of the databases to serve; a leading "!" excludes.
	// Default: the databases that the application itself would list.
	Databases []string

	// Driver finds, starts and inspects tasks.
	Driver driver.Driver

	// Targets names the upstreams.
	Targets Targets

	// Channels is the channel tree. Default: root with capacity 1.
	Channels []channels.Config

	// DatabaseChannels gives each database its own channel tree, configured
	// in the database (docs/contract.md 6.2), and bounds them; Channels must then be
	// empty. The driver must be capable of that. Default: nil, one tree for all databases.
	DatabaseChannels *channels.Capacities

	// Server bounds the jobs of each server. Default: no limits, jobs go to a server whatever it does.
	Server upstream.Limits

	// Pools are sets of servers that run only the jobs whose policy names them, by their names, each with
	// the limits of its servers; without limits, Server holds. The servers tell their pool. Default: none.
	Pools map[string]upstream.Limits

	// Policies are what holds for jobs beyond the limits of their channels. A policy that ends
	// attempts needs a driver that is capable of [driver.Capabilities.Stopping]. Default: none.
	Policies []policy.Policy

	// ReleaseDependents releases the jobs that wait for others, all of which are done, when the worker
	// that should have done so has died. The driver must be capable of that. Default: false, they
	// wait.
	ReleaseDependents bool

	// UpgradeGate keeps the jobs of a database from being started while the application is being
	// changed there. The driver must be capable of telling. Default: false, they are started.
	UpgradeGate bool

	// Connections is how many connections to PostgreSQL the runner has at most, the maintenance
	// connection and those of operators among them, at least [ConnectionsLeast]. Default: 0, as many
	// as [ConnectionsAllowed] says.
	Connections int

	// Hibernate has databases sleep that have nothing to do. Default: nil, only those sleep whose
	// connections others need.
	Hibernate *Hibernate

	// DiscoverInterval is the time between two listings of the databases.
	// Default: 30 s.
	DiscoverInterval time.Duration

	// ShutdownTimeout is how long Stop waits for open requests. Default: 3 s.
	// A negative value means not to wait.
	ShutdownTimeout time.Duration

	// RescueStartedAfter is how long a started task may go on without a request of
	// ours before it counts as dead where nothing can prove that: in databases
	// without lock rows. It counts from when this process began to watch it. A task
	// that still runs then is run a second time. Default: 0, never.
	RescueStartedAfter time.Duration

	// Site is the address of the application's site for people, such as "https://odoo.example.com"; its
	// host may be a wildcard. It serves for links only. Default: none is known.
	Site string

	// Payloads lets those who may ask for a job see its arguments, its result and its traceback, too.
	// Default: false, they are not even read.
	Payloads bool

	// Quarantine fails jobs that do harm again and again. The driver must be capable of that. Default:
	// nil, they are put back as long as the application's own limit allows.
	Quarantine *Quarantine

	// Logger gets what the runner has to say; it should carry the name where there
	// are several. Default: nothing is logged.
	Logger *zap.Logger

	// Exchanges is the register of open requests, shared by all runners of the
	// process. Default: its own.
	Exchanges *exchange.Register

	// Events is told everything that happens. It is called from the engine's loop
	// and must not block. Default: they are dropped.
	Events func(Event)

	// Tracing makes a span of each attempt. Default: none are made.
	Tracing *Tracing

	// Elected is called when this process has become the leader, before it starts
	// anything: what operators have ordered elsewhere meanwhile can be put into
	// force there ([Runner.Control]). Default: nothing is done.
	Elected func(ctx context.Context)

	// Handover passes what runs on to the next leader. Default: nothing is passed on.
	Handover Handover

	// Setbacks passes on to the next leader what the quarantine counts. Default: nothing is passed on.
	Setbacks SetbackStore

	// Exiting reports that the process is about to end, so that nothing new is
	// started although Stop has not been called yet: Caddy says so at once, and stops
	// its apps later. Default: never.
	Exiting func() bool
}

// Targets is the set of servers that can run jobs. It is asked every few seconds and may change its
// answer.
type Targets = upstream.Targets

// withDefaults returns the configuration with the blanks filled in.
func (c Config) withDefaults() Config {
	if c.DiscoverInterval == 0 {
		c.DiscoverInterval = DiscoverIntervalDefault
	}
	if c.Poll == 0 {
		c.Poll = PollDefault
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = ShutdownTimeoutDefault
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Exchanges == nil {
		c.Exchanges = exchange.NewRegister()
	}
	if c.Exiting == nil {
		c.Exiting = func() bool { return false }
	}
	return c
}

// Validate reports the first mistake, in the channels and the patterns of databases too. It opens
// nothing.
func (c Config) Validate() error {
	if err := c.validate(); err != nil {
		if c.Name == "" {
			return err
		}
		return fmt.Errorf("runner %s: %w", c.Name, err)
	}
	return nil
}

func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("runner without a name")
	case c.Postgres == nil:
		return errors.New("no PostgreSQL connection configured")
	case c.Driver == nil:
		return errors.New("no driver")
	case c.Targets == nil:
		return errors.New("no upstreams")
	case c.DatabaseChannels != nil && len(c.Channels) > 0:
		return errors.New("channels and database_channels exclude each other")
	case c.Connections != 0 && c.Connections < ConnectionsLeast:
		return fmt.Errorf("connections must be at least %d: one for maintenance, one for operators, and one for databases", ConnectionsLeast)
	case c.DiscoverInterval < 0:
		return errors.New("discover_interval must not be negative")
	case c.RescueStartedAfter < 0:
		return errors.New("rescue_started_after must not be negative")
	case c.application() == "":
		return errors.New("the driver does not name its application")
	case c.Poll != 0 && c.Poll < PollLeast:
		return fmt.Errorf("poll of pooler must be at least %s", PollLeast)
	case c.Pooler != nil && !c.Driver.Capabilities().Poolers:
		return fmt.Errorf("pooler: this driver cannot reach the databases of %s through a pooler", c.application())
	case c.DatabaseChannels != nil && !c.Driver.Capabilities().DatabaseChannels:
		return fmt.Errorf("database_channels: this driver cannot read channels from the databases of %s", c.application())
	case c.ReleaseDependents && !c.Driver.Capabilities().Releases:
		return fmt.Errorf("release_dependents: this driver cannot release jobs of %s that wait for others", c.application())
	case c.UpgradeGate && !c.Driver.Capabilities().Upgrades:
		return fmt.Errorf("upgrade_gate: this driver cannot tell whether %s is being upgraded", c.application())
	}
	if c.Quarantine != nil {
		if err := c.Quarantine.Validate(); err != nil {
			return fmt.Errorf("quarantine: %w", err)
		}
		if !c.Driver.Capabilities().Quarantine {
			return fmt.Errorf("quarantine: this driver cannot fail jobs of %s", c.application())
		}
	}
	if c.Hibernate != nil {
		if err := c.Hibernate.Validate(); err != nil {
			return fmt.Errorf("hibernate: %w", err)
		}
	}
	if _, err := postgres.Patterns(c.Databases); err != nil {
		return fmt.Errorf("databases: %w", err)
	}
	if err := c.validatePolicies(); err != nil {
		return err
	}
	if err := c.Server.Validate(); err != nil {
		return fmt.Errorf("server: %w", err)
	}
	for name, limits := range c.Pools {
		if err := limits.Validate(); err != nil {
			return fmt.Errorf("pool %s: %w", name, err)
		}
	}
	if err := c.validateAuto(); err != nil {
		return err
	}
	return channels.NewManager().Configure(c.Channels)
}

// validatePolicies reports the first mistake in the policies.
func (c Config) validatePolicies() error {
	for i := range c.Policies {
		p := &c.Policies[i]
		if err := p.Validate(); err != nil {
			return err
		}
		if p.Timeout != nil && p.Timeout.Cancel && !c.Driver.Capabilities().Stopping {
			return fmt.Errorf("%s: cancel: this driver cannot end jobs of %s that run", p, c.application())
		}
		if err := c.validateRules(p); err != nil {
			return err
		}
		if p.Companies() && !c.Driver.Capabilities().Companies {
			return fmt.Errorf("%s: per company: this driver cannot tell the companies of the jobs of %s", p, c.application())
		}
		if p.Pool != nil {
			if _, ok := c.Pools[p.Pool.Pool]; !ok {
				return fmt.Errorf("%s: there is no pool %q", p, p.Pool.Pool)
			}
		}
		if p.Serialize != "" && !c.Driver.Capabilities().Identities {
			return fmt.Errorf("%s: serialize: this driver cannot tell the identity keys of the jobs of %s", p, c.application())
		}
	}
	return nil
}

// session, cluster and upstream are what the packages of those names need.
func (c Config) session() session.Config {
	return session.Config{
		Driver: c.Driver, Postgres: c.Postgres, Pooler: c.Pooler, Poll: c.Poll, DatabaseChannels: c.DatabaseChannels != nil,
		UpgradeGate: c.UpgradeGate, Keys: keys(c.Policies), DiscoverInterval: c.DiscoverInterval, Logger: c.Logger,
	}
}

func (c Config) cluster() cluster.Config {
	return cluster.Config{
		Name: c.Name, Driver: c.Driver, Postgres: c.Postgres, Databases: c.Databases,
		DiscoverInterval: c.DiscoverInterval, PollInterval: c.pollInterval(), Logger: c.Logger,
	}
}

// pollInterval is the time between two looks at what was written to databases that sleep.
func (c Config) pollInterval() time.Duration {
	if c.Hibernate == nil {
		return HibernatePollDefault
	}
	return c.Hibernate.withDefaults().Poll
}

func (c Config) upstream() upstream.Config {
	cfg := upstream.Config{Driver: c.Driver, Targets: c.Targets, Limits: c.Server, Pools: make(map[string]upstream.Limits), Logger: c.Logger}
	for name, limits := range c.Pools {
		if limits != (upstream.Limits{}) {
			cfg.Pools[name] = limits
		}
	}
	return cfg
}

// application is the name of what runs the jobs.
func (c Config) application() string { return c.Driver.Capabilities().Application }

// clusterName names the PostgreSQL cluster: all its addresses, which is what databases of one name
// have to differ in.
func (c Config) clusterName() string {
	addrs := []string{net.JoinHostPort(c.Postgres.Host, strconv.Itoa(int(c.Postgres.Port)))}
	for _, f := range c.Postgres.Fallbacks {
		addrs = append(addrs, net.JoinHostPort(f.Host, strconv.Itoa(int(f.Port))))
	}
	return strings.Join(addrs, ",")
}
