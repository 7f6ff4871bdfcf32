package runner_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// A job that is committed while slots are free is claimed by the statement that reads it.
func TestClaimedWithItsFirstRead(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var j journal
		cfg := b.config("root:2")
		cfg.Events = j.add
		r := b.start(cfg)
		for i := range 5 {
			k := b.one("prod", fmt.Sprint(i))
			b.settle(time.Second)
			b.requireRanOnce(k)
			require.Len(b, j.of(k.UUID, runner.EventDispatched), 1)
		}
		require.GreaterOrEqual(b, b.Calls("prod", "ClaimVacant"), 5, "the row of a job that has ended may be read so, too")
		require.Zero(b, b.Calls("prod", "Claim"))
		b.requireIdle(r)
	})
}

// Where anything but its row could keep a job from starting, the scheduler decides.
func TestNothingIsGranted(t *testing.T) {
	for name, c := range map[string]struct {
		change func(b *bench, cfg *runner.Config)
		before func(b *bench, r *runner.Runner)
		runs   bool
	}{
		"another database":        {change: func(b *bench, _ *runner.Config) { b.AddDatabase("other") }, runs: true},
		"a policy":                {change: func(b *bench, cfg *runner.Config) { cfg.Policies = b.rate("root.x", "1/h", 1) }, runs: true},
		"limits of servers":       {change: func(_ *bench, cfg *runner.Config) { cfg.Server = upstream.Limits{MaxJobs: 3} }, runs: true},
		"an incapable driver":     {change: func(_ *bench, cfg *runner.Config) { cfg.Driver = incapable{cfg.Driver} }, runs: true},
		"a pause of all":          {before: func(b *bench, r *runner.Runner) { b.control(r, runner.Pause{}) }},
		"a pause of root":         {before: func(b *bench, r *runner.Runner) { b.control(r, runner.Pause{Channel: "root"}) }},
		"a pause of the database": {before: func(b *bench, r *runner.Runner) { b.control(r, runner.Pause{Database: "prod"}) }},
		"no slot": {before: func(b *bench, _ *runner.Runner) {
			b.PlanFor(key("prod", "long"), mock.Plan{RunFor: time.Hour})
			b.jobs("prod", "", "long", 1)
			b.PlanFor(key("prod", "long1"), mock.Plan{RunFor: time.Hour})
			b.PlanFor(key("prod", "long2"), mock.Plan{RunFor: time.Hour})
			b.jobs("prod", "", "long", 2)
		}},
		"a job that is to be tried again later": {before: func(b *bench, _ *runner.Runner) {
			b.PlanFor(key("prod", "again"), repeat(mock.Plan{StayEnqueued: true}, 9)...)
			b.one("prod", "again")
		}, runs: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				cfg := b.config("root:2")
				if c.change != nil {
					c.change(b, &cfg)
				}
				r := b.start(cfg)
				b.settle(2 * time.Second)
				if c.before != nil {
					c.before(b, r)
					b.settle(time.Second)
				}
				granted := b.Calls("prod", "ClaimVacant")
				k := b.one("prod", "a")
				b.settle(2 * time.Second)
				require.Equal(b, granted, b.Calls("prod", "ClaimVacant"))
				require.Equal(b, c.runs, len(b.RunsOf(k)) == 1)
			})
		})
	}
}

// incapable is a driver that can only do what it must.
type incapable struct{ driver.Driver }

func (d incapable) Capabilities() driver.Capabilities {
	return driver.Capabilities{Application: d.Driver.Capabilities().Application}
}

// What the row asks for is left to the scheduler.
func TestReadAndNotClaimed(t *testing.T) {
	for name, c := range map[string]struct {
		job  func(*mock.Job)
		runs bool
	}{
		"another channel":     {inChannel("root.x"), true},
		"root by name":        {inChannel("root"), true},
		"later":               {func(j *mock.Job) { j.ETA = time.Now().Add(time.Hour).UnixMicro() }, false},
		"an eta that is over": {func(j *mock.Job) { j.ETA = time.Now().Add(-time.Hour).UnixMicro() }, true},
		"failed":              {func(j *mock.Job) { j.State = channels.Failed }, false},
		"waits":               {func(j *mock.Job) { j.State = channels.WaitDependencies }, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				r := b.start(b.config("root:1"))
				k := b.one("prod", "a", c.job)
				b.settle(2 * time.Second)
				require.Positive(b, b.Calls("prod", "ClaimVacant"), "it may read the end of the job, too")
				claims := 0
				if c.runs && name != "root by name" {
					claims = 1
				}
				require.Equal(b, claims, b.Calls("prod", "Claim"))
				require.Equal(b, c.runs, len(b.RunsOf(k)) == 1)
				if c.runs {
					b.requireIdle(r)
				}
			})
		})
	}
}

// A sequential channel, one with a throttle and one with a minimum below are the scheduler's.
func TestRootsThatAreNotVacant(t *testing.T) {
	for name, set := range map[string]func(*runner.Config){
		"sequential": func(cfg *runner.Config) { cfg.Channels[0].Sequential, cfg.Channels[0].Capacity = true, 1 },
		"throttled":  func(cfg *runner.Config) { cfg.Channels[0].Throttle = time.Second },
		"a minimum":  func(cfg *runner.Config) { cfg.Channels = append(cfg.Channels, channels.Config{Name: "alerts", Min: 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				cfg := b.config("root:2")
				set(&cfg)
				b.start(cfg)
				k := b.one("prod", "a")
				b.settle(2 * time.Second)
				b.requireRanOnce(k)
				require.Zero(b, b.Calls("prod", "ClaimVacant"))
			})
		})
	}
}

// A claim whose result gets lost is found again, and its job runs once.
func TestGrantThatGetsLost(t *testing.T) {
	for name, fault := range map[string]func(*mock.Faults){
		"before it is made":   func(f *mock.Faults) { f.HangClaim = true },
		"after it was made":   func(f *mock.Faults) { f.LoseAfterClaim = true },
		"the server is ready": func(f *mock.Faults) { f.ClaimErr = driver.ErrLost },
		"it meets a lock":     func(f *mock.Faults) { f.ClaimErr = driver.ErrUpgrading },
	} {
		for generation, set := range map[string]func(*mock.World, string){
			"with locks": func(*mock.World, string) {}, "without": (*mock.World).WithoutLocks, "unguarded": (*mock.World).Unguarded,
		} {
			t.Run(name+", "+generation, func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					set(b.World, "prod")
					r := b.start(b.config("root:1"))
					b.settle(time.Minute) // it has led for long enough to know its own claims
					b.Fault("prod", fault)
					keys := b.jobs("prod", "", "a", 1)
					b.settle(2 * time.Second)
					held := name != "before it is made" // of that, nothing is known yet
					require.Equal(b, held, b.logged("holding back the jobs of a database") > 0)
					keys = append(keys, b.jobs("prod", "", "b", 2)...)
					b.settle(8 * time.Second)
					b.Fault("prod", func(f *mock.Faults) { f.HangClaim, f.ClaimErr = false, nil })
					b.settle(2 * time.Minute)
					b.requireRanOnce(keys...)
					require.Equal(b, 1, b.MaxConcurrent(nil))
					b.requireIdle(r)
				})
			})
		}
	}
}

// A job whose row says pending while an earlier request for it is open is read and not claimed: its turn
// comes when that has ended.
func TestNothingIsGrantedWhileItsRequestIsOpen(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Second, HoldAnswer: 30 * time.Second})
		cfg := b.config("root:3")
		cfg.Quarantine = &runner.Quarantine{Attempts: 1, Within: time.Hour}
		var j journal
		cfg.Events = j.add
		r := b.start(cfg)
		k := b.one("prod", "a")
		b.settle(3 * time.Second)
		b.SetState(k, channels.Pending) // somebody wants it to run once more
		b.settle(time.Second)
		row, _ := b.Row(k)
		require.Equal(b, channels.Pending, row.State)
		other := b.one("prod", "b")
		b.settle(time.Second)
		require.Equal(b, 2, b.Calls("prod", "ClaimVacant"), "the grant is left for others")
		b.requireRanOnce(other)
		b.settle(time.Minute)
		require.Len(b, b.RunsOf(k), 2)
		require.Zero(b, b.Calls("prod", "Unclaim"))
		require.Empty(b, j.of(k.UUID, runner.EventUnclaimed))
		b.requireIdle(r)
	})
}

// Jobs that come at any moment, some later, some together, never exceed the capacity, also while claims
// take their time.
func TestGrantsKeepTheCapacity(t *testing.T) {
	for seed := range uint64(20) {
		inBubble(t, func(b *bench) {
			dice := rand.New(rand.NewPCG(seed, 1))
			b.AddDatabase("prod")
			b.SetPlan(mock.Plan{RunFor: 30 * time.Millisecond})
			cfg := b.config("root:2")
			sessions(func(s driver.Session) driver.Session { return unhurried{s, rand.New(rand.NewPCG(seed, 2))} })(&cfg)
			r := b.start(cfg)
			var keys []channels.Key
			for i := range 200 {
				later := time.Duration(dice.IntN(3)) * 20 * time.Millisecond
				keys = append(keys, b.one("prod", fmt.Sprint(i), func(j *mock.Job) {
					if later > 0 {
						j.ETA = time.Now().Add(later).UnixMicro()
					}
				}))
				if dice.IntN(3) > 0 {
					<-time.After(time.Duration(dice.IntN(80)) * time.Millisecond)
				}
			}
			b.settle(time.Minute)
			b.requireRanOnce(keys...)
			require.LessOrEqual(b, b.MaxConcurrent(nil), 2)
			require.Greater(b, b.Calls("prod", "ClaimVacant"), 10)
			b.requireIdle(r)
		})
	}
}

// unhurried is a session whose claims take their time.
type unhurried struct {
	driver.Session
	dice *rand.Rand
}

func (s unhurried) pause() { <-time.After(time.Duration(s.dice.IntN(20)) * time.Millisecond) }

func (s unhurried) ClaimVacant(ctx context.Context, uuid string) ([]driver.Task, []driver.Row, error) {
	s.pause()
	defer s.pause()
	return s.Session.(driver.VacantClaimer).ClaimVacant(ctx, uuid)
}

// A grant ends with the engine: what is committed afterwards stays pending.
func TestGrantEndsWithTheEngine(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
		r := b.start(b.config("root:2"))
		b.one("prod", "a")
		b.settle(time.Second)
		stopped := make(chan struct{})
		go func() { b.stopIn(r, time.Minute); close(stopped) }()
		b.settle(time.Second)
		k := b.one("prod", "b")
		<-stopped
		require.Empty(b, b.RunsOf(k))
		row, _ := b.Row(k)
		require.Equal(b, channels.Pending, row.State)
	})
}

// A grant ends with its database.
func TestGrantEndsWithTheDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.start(b.config("root:2"))
		b.DropDatabase("prod")
		b.settle(2 * time.Minute)
		b.AddDatabase("new")
		b.settle(2 * time.Minute)
		k := b.one("new", "a")
		b.settle(time.Second)
		b.requireRanOnce(k)
		require.Equal(b, 1, b.Calls("new", "ClaimVacant"))
	})
}

// So it does where the database is there, and not served any more.
func TestGrantEndsWithTheService(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:2")
		r := b.start(cfg)
		cfg.Databases = []string{"other"}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(time.Minute)
		k := b.one("prod", "a")
		b.settle(time.Minute)
		require.Empty(b, b.RunsOf(k))
		b.requireIdle(r)
	})
}
