package runner_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// slowGrants is a session that does something before and after it claims by a grant.
type slowGrants struct {
	driver.Session
	before, after func(uuid string)
}

func (s slowGrants) ClaimVacant(ctx context.Context, uuid string) ([]driver.Task, []driver.Row, error) {
	s.before(uuid)
	defer s.after(uuid)
	return s.Session.(driver.VacantClaimer).ClaimVacant(ctx, uuid)
}

// slow has the claims by grants do something before and after.
func slow(before, after func(uuid string)) func(*runner.Config) {
	return sessions(func(s driver.Session) driver.Session { return slowGrants{s, before, after} })
}

func nothing(string) {}

// A claim by a grant is a statement under way: the end waits for it, and what it has claimed goes back.
func TestTheEndComesWhileAGrantIsUsed(t *testing.T) {
	for when, claimed := range map[string]bool{"before": false, "after": true} {
		for name, exits := range map[string]bool{"stopping": false, "exiting": true} {
			t.Run(name+" "+when+" the claim", func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					var exiting atomic.Bool
					reached, goOn := make(chan struct{}), make(chan struct{})
					stop := func(string) { close(reached); <-goOn }
					cfg := b.config("root:1")
					cfg.Exiting = exiting.Load
					if claimed {
						slow(nothing, stop)(&cfg)
					} else {
						slow(stop, nothing)(&cfg)
					}
					r := b.start(cfg)
					k := b.one("prod", "a")
					<-reached
					exiting.Store(exits)
					if !exits {
						go func() { _ = r.Stop(b.Context()) }()
					}
					b.settle(500 * time.Millisecond)
					close(goOn)
					b.settle(time.Minute)
					require.Empty(b, b.Runs())
					row, _ := b.Row(k)
					require.Equal(b, channels.Pending, row.State)
				})
			})
		}
	}
}

// While the loop takes in what has changed, no grant is in force that was given before that.
func TestNothingIsGrantedMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		kind   runner.EventKind
		change func(b *bench, r *runner.Runner)
	}{
		"a pause":          {runner.EventPaused, func(b *bench, r *runner.Runner) { b.control(r, runner.Pause{}) }},
		"the lead is lost": {runner.EventLeaderChanged, func(b *bench, _ *runner.Runner) { b.LoseClusters() }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				cfg := b.config("root:1")
				var armed atomic.Bool
				cfg.Events = func(ev runner.Event) {
					if ev.Kind == c.kind && armed.CompareAndSwap(true, false) {
						b.one("prod", "a")
						<-time.After(time.Second)
						require.Zero(b, b.Calls("prod", "ClaimVacant"))
					}
				}
				r := b.start(cfg)
				armed.Store(true)
				c.change(b, r)
				b.settle(time.Second)
				require.False(b, armed.Load())
			})
		})
	}
}

// A job that somebody puts back while its request is open keeps its slot, whatever claims it.
func TestGrantOfAJobThatRuns(t *testing.T) {
	for generation, set := range map[string]func(*mock.World, string){
		"with locks": func(*mock.World, string) {}, "without": (*mock.World).WithoutLocks, "unguarded": (*mock.World).Unguarded,
	} {
		for name, plan := range map[string]mock.Plan{
			"done":            {RunFor: 10 * time.Second},
			"to be retried":   {RunFor: 10 * time.Second, Ends: channels.Pending},
			"it begins later": {StartAfter: 10 * time.Second},
			"it never runs":   {StartAfter: 10 * time.Second, StayEnqueued: true},
		} {
			t.Run(name+", "+generation, func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					set(b.World, "prod")
					first := func(j *mock.Job) { j.Priority = 1 }
					r := b.start(b.config("root:2"))
					b.settle(time.Minute)
					b.SetPlan(mock.Plan{RunFor: 4 * time.Second})
					a := key("prod", "a")
					b.PlanFor(a, plan)
					b.one("prod", "a")
					b.settle(time.Second)
					b.SetState(a, channels.Pending)
					b.settle(time.Millisecond)
					keys := []channels.Key{a, b.one("prod", "b", first), b.one("prod", "c", first)}
					b.settle(2 * time.Minute)
					b.requireDone(keys...)
					require.Equal(b, 2, b.MaxConcurrent(nil))
					b.requireIdle(r)
				})
			})
		}
	}
}

// What is told of a job that was claimed by a grant is what is told of others.
func TestTimesOfAGrant(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var j journal
		cfg := b.config("root:1")
		cfg.Events = j.add
		slow(func(string) { <-time.After(100 * time.Millisecond) }, func(string) { <-time.After(200 * time.Millisecond) })(&cfg)
		b.start(cfg)
		b.one("prod", "a")
		b.settle(time.Second)
		sent := j.of("a", runner.EventDispatched)
		require.Len(b, sent, 1)
		require.Equal(b, 300*time.Millisecond, sent[0].Dispatch)
		require.Equal(b, 300*time.Millisecond, sent[0].Wait)
	})
}

// A claim by a grant took no tokens, so it gives none back if a rate has come meanwhile and nothing is
// sent.
func TestGrantsTakeNoTokens(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var exiting atomic.Bool
		var r *runner.Runner
		cfg := b.config("root:1")
		cfg.Exiting = exiting.Load
		slow(func(string) {
			cfg := cfg
			cfg.Policies = b.rate("root", "1/h", 1)
			require.NoError(b, r.Reconfigure(cfg))
			exiting.Store(true)
		}, nothing)(&cfg)
		r = b.start(cfg)
		k := b.one("prod", "a")
		b.settle(time.Second)
		exiting.Store(false)
		b.settle(59 * time.Minute)
		require.Empty(b, b.RunsOf(k))
		b.settle(2 * time.Minute)
		b.requireRanOnce(k)
		require.Equal(b, 1, b.Calls("prod", "ClaimVacant"))
	})
}

// A capacity that shrinks while a grant is used counts for what comes then: the claim has its slot.
func TestCapacityShrinksWhileAGrantIsUsed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
		var r *runner.Runner
		cfg := b.config("root:2")
		slow(func(uuid string) {
			if uuid == "b" {
				cfg := cfg
				cfg.Channels = b.config("root:1").Channels
				require.NoError(b, r.Reconfigure(cfg))
			}
		}, nothing)(&cfg)
		r = b.start(cfg)
		for _, uuid := range []string{"a", "b", "c"} {
			b.one("prod", uuid)
			b.settle(time.Second)
		}
		require.Len(b, b.Runs(), 2)
		b.settle(time.Minute)
		b.requireRanOnce(key("prod", "a"), key("prod", "b"), key("prod", "c"))
		runs := b.Runs()
		require.False(b, runs[2].Opened.Before(runs[1].Closed))
		b.requireIdle(r)
	})
}

// A job that is being claimed by a grant is told of as any other.
func TestWhatIsToldOfAGrantThatIsUsed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:1")
		slow(func(string) { <-time.After(2 * time.Second) }, nothing)(&cfg)
		r := b.start(cfg)
		k := b.one("prod", "a")
		began := time.Now()
		b.settle(time.Second)
		require.Equal(b, 1, b.status(r).Claiming)
		why, err := r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, runner.WhyClaiming, why.Code)
		require.Equal(b, began, why.Since)
		why, err = r.Why(b.Context(), b.one("prod", "b"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyUnread, why.Code)
		b.settle(2 * time.Second)
		b.requireRanOnce(k)
		require.Zero(b, b.status(r).Claiming)
	})
}

// A database that is not served any more while its session uses a grant takes the grant along.
func TestServiceEndsWhileAGrantIsUsed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var r *runner.Runner
		cfg := b.config("root:1")
		slow(func(uuid string) {
			if uuid == "a" {
				cfg := cfg
				cfg.Databases = []string{"other"}
				require.NoError(b, r.Reconfigure(cfg))
				<-time.After(time.Second)
			}
		}, nothing)(&cfg)
		r = b.start(cfg)
		b.one("prod", "a")
		b.settle(2 * time.Minute)
		_, served := b.state(r, "prod")
		require.False(b, served)
		require.Empty(b, b.Runs())
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(2 * time.Minute)
		k := b.one("prod", "b")
		b.settle(time.Second)
		b.requireRanOnce(key("prod", "a"), k)
		b.requireIdle(r)
	})
}
