package runner_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// window is a policy with capacities for certain times, as a Caddyfile has them.
func (b *bench) window(glob string, lines ...string) []policy.Policy {
	p := policy.Policy{Channels: []string{glob}}
	for _, line := range lines {
		f := strings.Fields(line)
		w, err := channels.ParseWindow(f[0], f[1], f[2], f[3])
		require.NoError(b, err)
		p.Capacity = append(p.Capacity, w)
	}
	return []policy.Policy{p}
}

// rate is a policy with a rate.
func (b *bench) rate(glob, rate string, burst int) []policy.Policy {
	r, err := channels.ParseRate(rate)
	require.NoError(b, err)
	r.Burst = burst
	return []policy.Policy{{Channels: []string{glob}, Rate: &r}}
}

// begun returns when the jobs of a channel were first sent, since midnight, in that order.
func (b *bench) begun(channel string) (at []time.Duration) {
	for _, run := range b.Runs() {
		if run.Job.Channel == channel {
			at = append(at, run.Opened.UTC().Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
		}
	}
	return at
}

// TestOnlyAtNight: nothing starts while a window is shut, everything that waits when it opens, and what
// runs when it shuts goes on. The bubble's time begins at midnight, 1 January 2000, a Saturday.
func TestOnlyAtNight(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		// The bubble begins on Friday at 20:00 there.
		cfg.Policies = b.window("root.night", "9 sat 20:00-24:00 Etc/GMT+4", "0 daily 20:00-22:00 Etc/GMT+4", "2 fri 22:00-24:00 Etc/GMT+4", "0 sat 00:00-03:00 Etc/GMT+4")
		zone, err := time.LoadLocation("Etc/GMT+4")
		require.NoError(b, err)
		b.SetPlan(mock.Plan{RunFor: 90 * time.Minute})
		r := b.start(cfg)
		b.jobs("prod", "night", "n", 7)
		b.jobs("prod", "day", "d", 1)
		b.settle(2*time.Hour - time.Minute)
		require.Empty(b, b.begun("night"))
		require.Len(b, b.begun("day"), 1, "others go on")
		require.Equal(b, &channels.Window{Capacity: 0, Days: 127, From: 20 * 60, To: 22 * 60, Zone: zone}, b.channel(r, "root.night").Window)
		b.settle(4 * time.Hour)
		at := b.begun("night")
		require.Len(b, at, 2+2, "two at 22:00, and two of them at 23:30; after midnight nothing starts")
		for i, want := range []time.Duration{2 * time.Hour, 2 * time.Hour, 3*time.Hour + 30*time.Minute, 3*time.Hour + 30*time.Minute} {
			require.InDelta(b, want.Seconds(), at[i].Seconds(), 2)
		}
		require.Equal(b, 4+1, b.Count("prod", channels.Done), "what ran at midnight went on")
		b.settle(2 * time.Hour)
		require.Len(b, b.begun("night"), 7, "on Saturday at 03:00 the channel has no capacity of its own, which is no limit")
	})
}

// TestOnlyAtNightInOneDatabase: where each database has its own channels, a policy may name one of them.
func TestOnlyAtNightInOneDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		for _, db := range []string{"a", "b"} {
			b.AddDatabase(db)
			b.SetChannels(db, channels.Config{Name: "root", Capacity: 4}, channels.Config{Name: "root.mail", Percent: 50})
		}
		cfg := b.perDatabase(10, "")
		// The bubble begins at 19:00 there.
		cfg.Policies = append(b.window("root", "0 daily 00:00-22:00 Etc/GMT+5"), b.rate("root", "1/h", 1)...)
		cfg.Policies[0].Database, cfg.Policies[1].Database = "a", "b"
		require.NoError(b, cfg.Validate())
		b.start(cfg)
		b.jobs("a", "", "a", 3)
		b.jobs("b", "", "b", 3)
		b.settle(2*time.Hour + time.Minute)
		require.Zero(b, b.Count("a", channels.Done))
		require.Equal(b, 2, b.Count("b", channels.Done))
		b.settle(time.Hour)
		require.Equal(b, 3, b.Count("a", channels.Done))
		cfg.DatabaseChannels, cfg.Channels = nil, nil
		require.ErrorContains(b, cfg.Validate(), "policy root database a: capacity: the channels are those of all databases")
	})
}

// TestStatusWhilePaused: what is shown follows the clock, also while nothing may start.
func TestStatusWhilePaused(t *testing.T) {
	inBubble(t, func(b *bench) {
		r := b.prod("root:9", func(cfg *runner.Config) {
			cfg.Policies = b.window("root", "1 daily 00:00-02:00 UTC", "2 daily 02:00-04:00 UTC")
		})
		b.settle(time.Second)
		require.Equal(b, 1, b.channel(r, "root").Window.Capacity)
		b.control(r, runner.Pause{By: "operator"})
		b.settle(3 * time.Hour)
		st := b.channel(r, "root")
		require.Equal(b, 2, st.Window.Capacity)
		require.Equal(b, time.Date(2000, 1, 1, 4, 0, 0, 0, time.UTC), st.WindowUntil)
	})
}

// channel returns the status of a channel.
func (b *bench) channel(r *runner.Runner, name string) runner.ChannelStatus {
	st, err := r.Status(b.Context())
	require.NoError(b, err)
	for _, c := range st.Channels {
		if c.FullName == name {
			return c
		}
	}
	b.Fatalf("no channel %s", name)
	return runner.ChannelStatus{}
}

// TestRulesAreLive: a reload puts them into force at once, counts what runs, and keeps the tokens of a
// rate that has not changed.
func TestRulesAreLive(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:9")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		r := b.start(cfg)
		b.jobs("prod", "a", "a", 3)
		b.settle(time.Second)
		require.Len(b, b.begun("a"), 3)
		cfg.Policies = b.window("root.a", "4 daily 00:00-12:00 UTC")
		require.NoError(b, r.Reconfigure(cfg))
		b.jobs("prod", "a", "more", 3)
		b.settle(time.Second)
		require.Len(b, b.begun("a"), 4, "three ran")
		cfg.Policies = b.rate("root.*", "1/m", 5)
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(90 * time.Second)
		require.Len(b, b.begun("a"), 5, "it began without tokens, and got one")
		limit := policy.Policy{Channels: []string{"root"}, Limit: &policy.Limit{Jobs: 9, Per: policy.PerDatabase}}
		cfg.Policies = append(cfg.Policies, limit) // says nothing of when jobs start
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(45 * time.Second)
		require.Len(b, b.begun("a"), 6, "it went on")
		b.jobs("prod", "b", "b", 1)
		b.settle(time.Second)
		require.Len(b, b.begun("b"), 1, "so did that of a channel that had no jobs")
	})
}

// TestRateOfStarts: as many jobs start as the rate says, and those of other channels are not held up.
func TestRateOfStarts(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Policies = b.rate("root.slow", "2/m", 2)
		b.start(cfg)
		b.jobs("prod", "slow", "s", 10)
		b.jobs("prod", "fast", "f", 20)
		b.settle(3 * time.Minute)
		require.Len(b, b.begun("fast"), 20)
		at := b.begun("slow")
		require.Len(b, at, 6)
		for i := range at {
			require.InDelta(b, float64(30*(i+1)), at[i].Seconds(), 1, i)
		}
		b.settle(10 * time.Minute) // the bucket fills
		b.jobs("prod", "slow", "t", 5)
		b.settle(time.Second)
		require.Len(b, b.begun("slow"), 12, "two at once")
	})
}

// TestRatePerDatabase: a database without tokens is in nobody's way, and a token comes back if nothing was
// sent.
func TestRatePerDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.AddDatabase("other")
		cfg := b.config("root:1")
		cfg.Policies = b.rate("root", "2/m", 1)
		cfg.Policies[0].Rate.PerDatabase = true
		cfg.Policies[0].Database = "prod"
		b.PlanFor(channels.Key{DB: "prod", UUID: "a1"}, mock.Plan{FailBeforeSend: true})
		r := b.start(cfg)
		b.jobs("prod", "", "a", 3)
		b.settle(time.Second)
		b.jobs("other", "", "o", 3)
		b.settle(time.Second)
		require.Equal(b, 3, b.Count("other", channels.Done))
		require.Equal(b, 1, b.channel(r, "root").Rated)
		b.settle(31 * time.Second)
		b.Fault("prod", func(f *mock.Faults) { *f = mock.Faults{} })
		require.Equal(b, 1, b.Count("prod", channels.Done), "the token of the job that could not be sent was there for another one")
	})
}

// TestPercentIsLive: a part of the channel above follows a reload, and what runs stays counted.
func TestPercentIsLive(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Channels = append(cfg.Channels, channels.Config{Name: "root.mail", Percent: 50})
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		r := b.start(cfg)
		b.jobs("prod", "mail", "m", 9)
		b.settle(time.Second)
		require.Equal(b, 2, b.channel(r, "root.mail").Running)
		cfg.Channels = []channels.Config{{Name: "root", Capacity: 9}, {Name: "root.mail", Percent: 50}}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Second)
		st := b.channel(r, "root.mail")
		require.Equal(b, 4, st.Running)
		require.Equal(b, 4, st.Capacity)
		require.Equal(b, 50, st.Percent)
	})
}

// TestTokenIsGivenBack: a job that could not be sent, or claimed, has not started.
func TestTokenIsGivenBack(t *testing.T) {
	for name, prepare := range map[string]func(b *bench){
		"not sent": func(b *bench) { b.PlanFor(channels.Key{DB: "prod", UUID: "a"}, mock.Plan{FailBeforeSend: true}) },
		"claim lost": func(b *bench) {
			b.Fault("prod", func(f *mock.Faults) { f.Locked = mock.Rows("a") })
		},
		"connection lost": func(b *bench) { b.Fault("prod", func(f *mock.Faults) { f.ClaimErr = driver.ErrLost }) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				prepare(b)
				cfg := b.config("root:4")
				cfg.Policies = b.rate("root*", "1/h", 1)
				b.start(cfg)
				b.one("prod", "a")
				b.settle(time.Hour + 5*time.Second)
				b.Fault("prod", func(f *mock.Faults) { *f = mock.Faults{} })
				b.settle(2 * time.Minute)
				require.Equal(b, channels.Done, b.jobState("prod", "a"), "not an hour later")
			})
		})
	}
}
