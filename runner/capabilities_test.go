package runner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// other is a driver with other capabilities than the one that it wraps.
type other struct {
	driver.Driver
	can driver.Capabilities
}

func (d other) Capabilities() driver.Capabilities { return d.can }

// TestValidateAsksTheDriver: what a driver cannot do is refused before anything runs.
func TestValidateAsksTheDriver(t *testing.T) {
	inBubble(t, func(b *bench) {
		cfg := b.perDatabase(1, "")
		require.NoError(b, cfg.Validate())
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.ErrorContains(b, cfg.Validate(), "database_channels: this driver cannot read channels from the databases of Tryton")
		_, err := runner.New(cfg)
		require.Error(b, err)
		cfg = b.config("root:1")
		cfg.Driver = other{Driver: b.Driver()}
		require.ErrorContains(b, cfg.Validate(), "does not name its application")
		cfg = b.config("root:1")
		cfg.Policies = []policy.Policy{{Channels: []string{"root"}, Timeout: &policy.Timeout{After: time.Minute}}}
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.NoError(b, cfg.Validate(), "it only tells")
		cfg.Policies[0].Timeout.Cancel = true
		require.ErrorContains(b, cfg.Validate(), "policy root: cancel: this driver cannot end jobs of Tryton that run")
		cfg.Driver = b.Driver()
		require.NoError(b, cfg.Validate())
		cfg.Policies[0].Channels = nil
		require.ErrorContains(b, cfg.Validate(), "a policy without channels")
		cfg = b.config("root:1")
		cfg.Databases = []string{"["}
		require.ErrorContains(b, cfg.Validate(), "databases")
	})
}

// TestWordsOfTheApplication: the engine calls it what the driver calls it.
func TestWordsOfTheApplication(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{StayEnqueued: true})
		cfg := b.config("root:1")
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		var j journal
		cfg.Events = j.add
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(10 * time.Second)
		require.NotZero(b, b.logged("asking Tryton to run job a on db prod"))
		require.Equal(b, "Tryton answered without running it", j.of("a", runner.EventJobNotRun)[0].Detail)
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.FailBeforeSend = -1 })
		w, err := r.Why(b.Context(), channels.Key{DB: "prod", UUID: b.one("prod", "c").UUID})
		require.NoError(b, err)
		require.NotContains(b, w.Text, "Odoo")
		_, err = r.Jobs(b.Context(), runner.JobQuery{})
		require.ErrorIs(b, err, runner.ErrNoOperator, "it declares no operations")
		_, err = r.Change(b.Context(), runner.JobChange{})
		require.ErrorIs(b, err, runner.ErrNoOperator)
	})
}
