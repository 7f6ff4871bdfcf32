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

// shared is a configuration with one policy that divides what root has.
func (b *bench) shared(tree string, limit policy.Limit) runner.Config {
	cfg := b.config(tree)
	cfg.Policies = []policy.Policy{{Channels: []string{"root"}, Limit: &limit}}
	return cfg
}

// TestLimitPerDatabase: one database with many jobs leaves the slots to others, and a reload that
// changes the limit counts what runs.
func TestLimitPerDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("big")
		b.AddDatabase("small")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		cfg := b.shared("root:4", policy.Limit{Jobs: 2, Per: policy.PerDatabase})
		r := b.start(cfg)
		keys := b.jobs("big", "", "a", 20)
		b.settle(time.Second)
		require.Equal(b, 2, b.Count("big", channels.Started))
		b.jobs("small", "", "b", 1)
		b.settle(time.Second)
		require.Equal(b, 1, b.Count("small", channels.Started), "it has not waited for the other one")

		w, err := r.Why(b.Context(), keys[19])
		require.NoError(b, err)
		require.Equal(b, channels.ReasonLimit.String(), w.Code)
		require.Contains(b, w.Text, "database big has 2 of at most 2 at once in channel root (policy root)")
		require.Equal(b, 18, b.status(r).Channels[0].PassedBy)

		cfg = b.shared("root:4", policy.Limit{Jobs: 3, Per: policy.PerDatabase})
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Second)
		require.Equal(b, 3, b.Count("big", channels.Started), "the two that run count")
		cfg.Policies = nil
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Second)
		require.Equal(b, 3, b.Count("big", channels.Started), "root is full")
		b.settle(time.Hour)
		b.requireIdle(r)
	})
}

// TestLimitAfterARestart: jobs that the new process finds running count.
func TestLimitAfterARestart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Minute})
		cfg := b.shared("root:4", policy.Limit{Jobs: 2, Per: policy.PerDatabase})
		first := b.start(cfg)
		b.jobs("prod", "", "a", 5)
		b.settle(time.Second)
		b.stop(first)
		b.start(cfg)
		b.settle(5 * time.Minute)
		require.Equal(b, 2, b.Count("prod", channels.Started))
		b.settle(time.Hour)
		require.Equal(b, 5, b.Count("prod", channels.Done))
	})
}

// TestLimitPerCompany: the driver is asked for the companies only while a policy counts them.
func TestLimitPerCompany(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		cfg := b.perCompany("root:9")
		r := b.start(cfg)
		for i, uuid := range []string{"a", "b", "c", "d"} {
			b.one("prod", uuid, ofCompany(int32(i%2)))
		}
		b.settle(time.Second)
		require.Equal(b, 2, b.Count("prod", channels.Started))
		w, err := r.Why(b.Context(), key("prod", "d"))
		require.NoError(b, err)
		require.Contains(b, w.Text, "company 1 of database prod has 1 of at most 1 at once in channel root")

		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.ErrorContains(b, cfg.Validate(), "policy root: per company: this driver cannot tell the companies of the jobs of Tryton")
		cfg.Policies[0].Limit = &policy.Limit{Jobs: 1, Per: policy.PerDatabase}
		require.NoError(b, cfg.Validate())
		cfg.Policies[0].Limit.Per = "user"
		require.ErrorContains(b, cfg.Validate(), `policy root: limit: "user" is neither database nor company`)
	})
}

// TestLimitPerCompanyByReload: the companies of jobs that wait already are asked for then.
func TestLimitPerCompanyByReload(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		r := b.start(b.config("root:1"))
		b.one("prod", "a", ofCompany(1))
		b.settle(time.Second)
		for i, uuid := range []string{"b", "c", "d"} {
			b.one("prod", uuid, ofCompany(int32(i)))
		}
		b.settle(time.Second)
		require.NoError(b, r.Reconfigure(b.perCompany("root:9")))
		b.settle(10 * time.Second)
		require.Equal(b, 3, b.Count("prod", channels.Started), "of companies 0, 1 and 2")
		w, err := r.Why(b.Context(), key("prod", "c"))
		require.NoError(b, err)
		require.Contains(b, w.Text, "company 1 of database prod has 1 of at most 1")
	})
}

// TestFair: a database with few jobs does not wait behind one with many, and who runs long jobs gets
// fewer of them.
func TestFair(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("big")
		b.AddDatabase("small")
		cfg := b.config("root:2")
		cfg.Policies = []policy.Policy{{Channels: []string{"root"}, Fair: policy.PerDatabase}}
		r := b.start(cfg)
		b.SetPlan(mock.Plan{RunFor: 9 * time.Second})
		keys := b.jobs("big", "", "a", 300)
		for _, k := range keys {
			b.PlanFor(k, mock.Plan{RunFor: 9 * time.Second})
		}
		b.settle(time.Second)
		b.SetPlan(mock.Plan{RunFor: 3 * time.Second})
		b.jobs("small", "", "b", 300)
		b.settle(time.Second)
		w, err := r.Why(b.Context(), keys[299])
		require.NoError(b, err)
		require.Equal(b, channels.ReasonChannelFull.String(), w.Code)
		require.Contains(b, w.Text, "1 turn of another comes before the one of database big")
		b.settle(180 * time.Second)
		big, small := b.Count("big", channels.Done), b.Count("small", channels.Done)
		require.InDelta(b, 20, big, 3)
		require.InDelta(b, 60, small, 9)
		cfg.Policies = nil
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(30 * time.Second)
		require.InDelta(b, small, b.Count("small", channels.Done), 3, "the older ones go first again")
	})
}

// TestSerialize: of two jobs with one identity key one runs at a time, also when the policy comes with
// a reload while one of them runs.
func TestSerialize(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		cfg := b.config("root:9,a:1,b:1")
		r := b.start(cfg)
		same := func(channel string) func(*mock.Job) {
			return func(j *mock.Job) { j.Identity, j.Channel = 7, channel }
		}
		b.one("prod", "a", same("a"))
		b.settle(time.Second)
		cfg.Policies = []policy.Policy{{Channels: []string{"root.a", "root.b"}, Serialize: policy.ByIdentityKey}}
		require.NoError(b, r.Reconfigure(cfg))
		b.one("prod", "b", same("b"))
		b.one("prod", "c", same("c"))
		b.one("prod", "d", inChannel("b"))
		b.settle(time.Second)
		require.Equal(b, 3, b.Count("prod", channels.Started))
		require.Equal(b, 1, b.Count("prod", channels.Pending))
		w, err := r.Why(b.Context(), key("prod", "b"))
		require.NoError(b, err)
		require.Equal(b, channels.ReasonSerialized.String(), w.Code)
		require.Equal(b, key("prod", "a"), w.Blocker)
		b.settle(2 * time.Minute)
		b.requireIdle(r)
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.ErrorContains(b, cfg.Validate(), "policy root.a root.b: serialize: this driver cannot tell the identity keys of the jobs of Tryton")
	})
}
