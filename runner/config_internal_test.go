package runner

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// able is a driver that can do some things.
type able struct {
	driver.Driver
	can driver.Capabilities
}

func (d able) Capabilities() driver.Capabilities { return d.can }

// Each mistake is refused alone, in words that say which, and what is just no mistake is not.
func TestConfigMistakes(t *testing.T) {
	t.Parallel()
	everything := driver.Capabilities{
		Application: "Odoo", DatabaseChannels: true, Stopping: true, Upgrades: true, Releases: true, Quarantine: true, Companies: true, Identities: true,
	}
	cannot := func(what func(*driver.Capabilities)) func(*Config) {
		return func(c *Config) {
			can := everything
			what(&can)
			c.Driver = able{can: can}
		}
	}
	with := func(changes ...func(*Config)) Config {
		c := Config{
			Name: "default", Postgres: &pgx.ConnConfig{}, Driver: able{can: everything}, Targets: pair{},
			Channels: []channels.Config{{Name: "root", Capacity: 1}},
		}
		for _, change := range changes {
			change(&c)
		}
		return c
	}
	own := func(c *Config) { c.Channels, c.DatabaseChannels = nil, &channels.Capacities{} }
	root := []string{"root"}
	hold := func(p policy.Policy) func(*Config) {
		p.Channels = root
		return func(c *Config) { c.Policies = []policy.Policy{p} }
	}
	fast := &channels.Rate{Starts: 1, Period: time.Second, Burst: 1}
	for text, cfg := range map[string]Config{
		"runner without a name":               with(func(c *Config) { c.Name = "" }),
		"no PostgreSQL connection configured": with(func(c *Config) { c.Postgres = nil }),
		"no driver":                           with(func(c *Config) { c.Driver = nil }),
		"no upstreams":                        with(func(c *Config) { c.Targets = nil }),
		"channels and database_channels exclude each other": with(func(c *Config) { c.DatabaseChannels = &channels.Capacities{} }),
		"connections must be at least 3":                    with(func(c *Config) { c.Connections = ConnectionsLeast - 1 }),
		"connections must be at least 3: one":               with(func(c *Config) { c.Connections = -1 }),
		"poll of pooler must be at least 500ms":             with(func(c *Config) { c.Poll = PollLeast - 1 }),
		"discover_interval must not be negative":            with(func(c *Config) { c.DiscoverInterval = -1 }),
		"rescue_started_after must not be negative":         with(func(c *Config) { c.RescueStartedAfter = -1 }),
		"the driver does not name its application":          with(cannot(func(can *driver.Capabilities) { can.Application = "" })),
		"database_channels: this driver cannot":             with(own, cannot(func(can *driver.Capabilities) { can.DatabaseChannels = false })),
		"release_dependents: this driver cannot":            with(cannot(func(can *driver.Capabilities) { can.Releases = false }), func(c *Config) { c.ReleaseDependents = true }),
		"upgrade_gate: this driver cannot":                  with(cannot(func(can *driver.Capabilities) { can.Upgrades = false }), func(c *Config) { c.UpgradeGate = true }),
		"quarantine: this driver cannot":                    with(cannot(func(can *driver.Capabilities) { can.Quarantine = false }), func(c *Config) { c.Quarantine = &Quarantine{Attempts: 3, Within: time.Hour} }),
		"quarantine: the number of attempts":                with(func(c *Config) { c.Quarantine = &Quarantine{Within: time.Hour} }),
		"hibernate: the time must be":                       with(func(c *Config) { c.Hibernate = &Hibernate{} }),
		"databases: ":                                       with(func(c *Config) { c.Databases = []string{"["} }),
		"server: reserve needs workers":                     with(func(c *Config) { c.Server = upstream.Limits{Reserve: 1} }),
		"channel root: auto is the sum":                     with(func(c *Config) { c.Channels[0].Auto = true }),
		"channel root.a is configured twice": with(func(c *Config) {
			c.Channels = append(c.Channels, channels.Config{Name: "a"}, channels.Config{Name: "a"})
		}),
		"cancel: this driver cannot end jobs":           with(cannot(func(can *driver.Capabilities) { can.Stopping = false }), hold(policy.Policy{Timeout: &policy.Timeout{After: time.Hour, Cancel: true, Grace: time.Minute}})),
		"per company: this driver cannot":               with(cannot(func(can *driver.Capabilities) { can.Companies = false }), hold(policy.Policy{Fair: policy.PerCompany})),
		"serialize: this driver cannot":                 with(cannot(func(can *driver.Capabilities) { can.Identities = false }), hold(policy.Policy{Serialize: policy.ByIdentityKey})),
		"rate: the channels are those of all databases": with(hold(policy.Policy{Database: "prod", Rate: fast})),
	} {
		require.ErrorContains(t, cfg.Validate(), text)
	}
	nothing := cannot(func(can *driver.Capabilities) { *can = driver.Capabilities{Application: "Odoo"} })
	for name, cfg := range map[string]Config{
		"nothing":                   with(nothing),
		"the least":                 with(func(c *Config) { c.Connections, c.Poll = ConnectionsLeast, PollLeast }),
		"channels of the databases": with(own),
		"all that a driver can do": with(func(c *Config) {
			c.ReleaseDependents, c.UpgradeGate, c.Quarantine = true, true, &Quarantine{Attempts: 1, Within: QuarantineWithinLeast}
			c.Policies = []policy.Policy{
				{Channels: root, Timeout: &policy.Timeout{After: time.Hour, Cancel: true, Grace: time.Minute}},
				{Channels: root, Fair: policy.PerCompany}, {Channels: root, Serialize: policy.ByIdentityKey},
			}
		}),
		"a limit that is told only":    with(nothing, hold(policy.Policy{Timeout: &policy.Timeout{After: time.Hour}})),
		"a share that needs no driver": with(nothing, hold(policy.Policy{Fair: policy.PerDatabase})),
		"a rate of one database":       with(own, hold(policy.Policy{Database: "prod", Rate: fast})),
		"a rate of all":                with(hold(policy.Policy{Rate: fast})),
		"auto": with(func(c *Config) {
			c.Channels[0].Auto, c.Server = true, upstream.Limits{MaxJobs: 1}
		}),
	} {
		require.NoError(t, cfg.Validate(), name)
	}
	require.ErrorContains(t, with(func(c *Config) { c.Driver = nil }).Validate(), "runner default: no driver")
}

// What an attempt in quarantine may be is bounded on both sides.
func TestQuarantineBounds(t *testing.T) {
	t.Parallel()
	for _, q := range []Quarantine{
		{Attempts: 1, Within: QuarantineWithinLeast}, {Attempts: QuarantineAttemptsMax, Within: time.Hour},
	} {
		require.NoError(t, q.Validate(), q)
	}
	for text, q := range map[string]Quarantine{
		"must be between 1 and 100": {Within: time.Hour},
		"between 1 and 100":         {Attempts: QuarantineAttemptsMax + 1, Within: time.Hour},
		"is missing":                {Attempts: 1},
		"write it with a unit":      {Attempts: 1, Within: time.Millisecond - 1},
		"at least 1m, it is 1ms":    {Attempts: 1, Within: time.Millisecond},
		"at least 1m, it is 59":     {Attempts: 1, Within: QuarantineWithinLeast - 1},
		"at least 1m, it is -1ns":   {Attempts: 1, Within: -1},
	} {
		require.ErrorContains(t, q.Validate(), text)
	}
}

// What databases that sleep may be told is bounded.
func TestHibernateBounds(t *testing.T) {
	t.Parallel()
	for text, h := range map[string]Hibernate{
		"":                   {After: HibernateLeast},
		"the time must be":   {After: HibernateLeast - 1},
		"poll must be":       {After: time.Minute, Poll: HibernatePollLeast - 1},
		"check must be":      {After: time.Minute, Check: HibernateCheckLeast - 1},
		"shorter than poll":  {After: time.Minute, Poll: 20*time.Second + 1, Check: 20 * time.Second},
		"max_awake must not": {After: time.Minute, MaxAwake: -1},
	} {
		if text == "" {
			require.NoError(t, h.Validate())
			continue
		}
		require.ErrorContains(t, h.Validate(), text)
	}
	require.NoError(t, Hibernate{After: HibernateLeast, Poll: HibernatePollLeast, Check: HibernateCheckLeast}.Validate())
	require.NoError(t, Hibernate{After: HibernateLeast, Poll: 20 * time.Second, Check: 20 * time.Second}.Validate())
	require.Equal(t, "1m0s, poll 2s, check 1m0s", Hibernate{After: time.Minute}.String())
	require.Equal(t, "1m0s, poll 2s, check 1m0s, max_awake 1", Hibernate{After: time.Minute, MaxAwake: 1}.String())
}

// What is left out is what the documentation says.
func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	c := Config{}.withDefaults()
	require.Equal(t, []time.Duration{30 * time.Second, 3 * time.Second, 5 * time.Second}, []time.Duration{c.DiscoverInterval, c.ShutdownTimeout, c.Poll})
	require.NotNil(t, c.Logger)
	require.NotNil(t, c.Exchanges)
	require.False(t, c.Exiting())
	set := Config{DiscoverInterval: 1, ShutdownTimeout: -1, Logger: c.Logger, Exchanges: c.Exchanges, Exiting: func() bool { return true }}.withDefaults()
	require.Equal(t, []time.Duration{1, -1}, []time.Duration{set.DiscoverInterval, set.ShutdownTimeout})
	require.Same(t, c.Exchanges, set.Exchanges)
	require.Same(t, c.Logger, set.Logger)
	require.True(t, set.Exiting())
	require.Equal(t, HibernatePollDefault, c.pollInterval())
	c.Hibernate = &Hibernate{Poll: time.Second}
	require.Equal(t, time.Second, c.pollInterval())
}
