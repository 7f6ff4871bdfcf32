package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Defaults of [Config].
const (
	DiscoverIntervalDefault = 30 * time.Second
	ShutdownTimeoutDefault  = 3 * time.Second
)

// Config is everything that one runner needs to know. Fields left zero get
// their defaults.
type Config struct {
	// Name tells runners apart; it is part of the leader lock's key.
	Name string

	// Postgres reaches the cluster; its database is where the maintenance
	// connection goes and where the leader lock is taken. It cannot be changed
	// while the runner lives.
	Postgres *pgx.ConnConfig

	// Databases are globs of the databases to serve; a leading "!" excludes.
	// Default: the databases that Odoo itself would list.
	Databases []string

	// Driver finds, starts and inspects tasks.
	Driver driver.Driver

	// Targets names the upstreams.
	Targets Targets

	// Channels is the channel tree. Default: root with capacity 1.
	Channels []channels.Config

	// DatabaseChannels gives each database a channel tree of its own, configured
	// in the database (contract.md 6.2), and bounds them; Channels must then be
	// empty. The driver's sessions have to be a [driver.ChannelReader]. Default:
	// nil, one tree for all databases.
	DatabaseChannels *channels.Capacities

	// DiscoverInterval is the time between two looks at the list of databases.
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

	// Logger gets what the runner has to say; it should carry the name where there
	// are several. Default: nothing is logged.
	Logger *zap.Logger

	// Exchanges is the register of open requests, shared by all runners of the
	// process. Default: one of its own.
	Exchanges *Exchanges

	// Events is told everything that happens. It is called from the engine's loop
	// and must not block. Default: nobody is told.
	Events func(Event)

	// Tracing makes a span of each attempt. Default: none are made.
	Tracing *Tracing

	// Elected is called when this process has become the leader, before it starts
	// anything: what operators have ordered elsewhere meanwhile can be put into
	// force there ([Runner.Control]). Default: nothing is done.
	Elected func(ctx context.Context)

	// Exiting reports that the process is about to end, so that nothing new is
	// started although nobody has called Stop yet (caddy.md 1.2). Default: never.
	Exiting func() bool
}

// Targets is the set of servers that can run jobs. It is asked before every
// round of dispatches, so it must be quick and may change its answer.
type Targets interface {
	Upstreams(ctx context.Context) ([]driver.Upstream, error)
}

// withDefaults returns the configuration with the blanks filled in.
func (c Config) withDefaults() Config {
	if c.DiscoverInterval == 0 {
		c.DiscoverInterval = DiscoverIntervalDefault
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = ShutdownTimeoutDefault
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Exchanges == nil {
		c.Exchanges = NewExchanges()
	}
	if c.Exiting == nil {
		c.Exiting = func() bool { return false }
	}
	return c
}

// validate reports the first mistake.
func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("runner without a name")
	case c.Postgres == nil:
		return fmt.Errorf("runner %s: no PostgreSQL connection configured", c.Name)
	case c.Driver == nil:
		return fmt.Errorf("runner %s: no driver", c.Name)
	case c.Targets == nil:
		return fmt.Errorf("runner %s: no upstreams", c.Name)
	case c.DatabaseChannels != nil && len(c.Channels) > 0:
		return fmt.Errorf("runner %s: channels and database_channels exclude each other", c.Name)
	case c.DiscoverInterval < 0:
		return fmt.Errorf("runner %s: discover_interval must not be negative", c.Name)
	case c.RescueStartedAfter < 0:
		return fmt.Errorf("runner %s: rescue_started_after must not be negative", c.Name)
	}
	return nil
}
