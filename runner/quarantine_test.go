package runner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// ledger is a store of setbacks.
type ledger struct {
	mu   sync.Mutex
	list []runner.Setback
	err  error
}

func (l *ledger) LoadSetbacks(context.Context) ([]runner.Setback, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]runner.Setback(nil), l.list...), l.err
}

func (l *ledger) StoreSetbacks(_ context.Context, list []runner.Setback) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.list = list
	}
	return l.err
}

// stored is what was stored last.
func (l *ledger) stored() []runner.Setback {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list
}

// quarantine is a configuration with one.
func (b *bench) quarantine(tree string, attempts int) runner.Config {
	cfg := b.config(tree)
	cfg.Targets = upstreams{"odoo0", "odoo1"}
	cfg.Quarantine = &runner.Quarantine{Attempts: attempts, Within: 72 * time.Hour}
	return cfg
}

// requireQuarantined waits for nothing.
func (b *bench) requireQuarantined(k channels.Key, attempts int) mock.Job {
	b.Helper()
	row, ok := b.Row(k)
	require.True(b, ok)
	require.Equal(b, channels.Failed.String(), row.State.String(), "%s after %d attempts", k, len(b.RunsOf(k)))
	require.Equal(b, driver.QuarantineName, row.Exception)
	require.Len(b, b.RunsOf(k), attempts)
	return row
}

// A job that kills its worker each time is failed after so many attempts, whatever its own limit says,
// and its channel goes on. Where no lock rows prove deaths, the operator's limit does.
func TestQuarantineOfAKiller(t *testing.T) {
	for name, prepare := range map[string]func(*bench, *runner.Config){
		"lock rows":    func(*bench, *runner.Config) {},
		"without them": func(b *bench, cfg *runner.Config) { b.WithoutLocks("prod"); cfg.RescueStartedAfter = time.Minute },
		"unguarded":    func(b *bench, cfg *runner.Config) { b.Unguarded("prod"); cfg.RescueStartedAfter = time.Minute },
	} {
		for _, limit := range []int32{0, 1, 5} {
			t.Run(fmt.Sprintf("%s, max_retries %d", name, limit), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					var j journal
					cfg := b.quarantine("root:1", 3)
					cfg.Events = j.add
					prepare(b, &cfg)
					k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries, j.Info = limit, "an earlier failure" })
					for range 10 {
						b.PlanFor(k, mock.Plan{RunFor: time.Second, Crash: true})
					}
					next := b.one("prod", "b")
					r := b.start(cfg)
					b.settle(10 * time.Minute)
					row := b.requireQuarantined(k, 3)
					require.EqualValues(b, 3, row.Retry)
					require.Regexp(b, `^an earlier failure

3 attempts of this job came to nothing within 72h, so it is not run again until it is requeued\.
(2000-01-01 00:..:.. UTC on odoo\d, after 1s: its request broke, and nothing ran the job any more: its worker died\.\n?){3}$`, row.Info)
					b.requireRanOnce(next)
					require.Len(b, j.of("a", runner.EventJobRescued), 2)
					failed, told := j.of("a", runner.EventJobFailed), j.of("a", runner.EventJobQuarantined)
					require.Len(b, failed, 1)
					require.Equal(b, "quarantined: 3 attempts came to nothing within 72h", failed[0].Detail)
					require.Len(b, told, 1)
					require.Equal(b, failed[0].Detail, told[0].Detail)
					require.Equal(b, failed[0].Upstream, told[0].Upstream)
					require.Equal(b, 1, b.logged("job quarantined: a"))
					b.requireIdle(r)
				})
			})
		}
	}
}

// Without a quarantine nothing is remembered, and nothing is stored.
func TestQuarantineIsOffByDefault(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{Crash: true})
		k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
		cfg := b.config("root:1")
		l := &ledger{err: errFault}
		cfg.Setbacks = l
		b.start(cfg)
		b.settle(10 * time.Minute)
		require.Greater(b, len(b.RunsOf(k)), 10)
		require.Zero(b, b.Calls("prod", "FailDead")+b.Calls("prod", "FailUnclaimed"))
		require.Empty(b, l.stored())
		require.Zero(b, b.logs.FilterMessageSnippet("setbacks").Len())
	})
}

// A job whose requests are answered again and again without running it is failed, too.
func TestQuarantineOfAJobThatIsNeverRun(t *testing.T) {
	for _, test := range []struct {
		attempts, runs int
		// others are jobs that are run meanwhile, and took the time that it takes.
		others bool
		took   time.Duration
	}{{1, 2, true, 10 * time.Second}, {3, 3, true, 20 * time.Second}, {1, 0, false, 13 * time.Minute}, {3, 0, false, 25 * time.Minute}} {
		t.Run(fmt.Sprintf("%d, others run: %t", test.attempts, test.others), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				var j journal
				cfg := b.quarantine("root:2", test.attempts)
				cfg.Events = j.add
				k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
				for range 100 {
					b.PlanFor(k, mock.Plan{StayEnqueued: true})
				}
				r := b.start(cfg)
				for i := 0; len(j.of("a", runner.EventJobQuarantined)) == 0 && i < 3600; i++ {
					if !test.others {
						b.settle(time.Second)
						continue
					}
					b.one("prod", fmt.Sprint("other", i))
					b.settle(100 * time.Millisecond)
				}
				if runs := len(b.RunsOf(k)); test.others {
					require.Contains(b, []int{test.runs, test.runs + 1}, runs, "two may be made before others run")
				} else {
					require.Greater(b, runs, 10, "it may be the application")
				}
				row := b.requireQuarantined(k, len(b.RunsOf(k)))
				require.Zero(b, row.Retry)
				require.Contains(b, row.Info, "its request was answered with status 200 without having run the job.")
				told := j.of("a", runner.EventJobQuarantined)
				require.Len(b, told, 1)
				require.Less(b, told[0].Time.Sub(b.RunsOf(k)[0].Opened), test.took)
				b.requireIdle(r)
			})
		})
	}
}

// A job that is to be failed so while its table is locked is failed when the lock ends.
func TestQuarantineMeetsALock(t *testing.T) {
	for name, lock := range map[string]func(f *mock.Faults, err error){
		"nothing can be read":    lockTable,
		"nothing can be written": func(f *mock.Faults, err error) { f.UnclaimErr = err },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
				b.PlanFor(k, repeat(mock.Plan{StayEnqueued: true}, 100)...)
				r := b.start(b.quarantine("root:2", 3))
				for i := 0; b.Calls("prod", "FailUnclaimed") == 0; i++ {
					require.Less(b, i, 3600)
					var err error
					if n := b.Calls("prod", "Unclaim"); n == 2 || n > 3 { // one more may be made before others run
						err = errLocked
					}
					b.Fault("prod", func(f *mock.Faults) { f.UnclaimErr = err })
					b.one("prod", fmt.Sprint("other", i))
					b.settle(100 * time.Millisecond)
				}
				b.Fault("prod", func(f *mock.Faults) { lock(f, errLocked) })
				b.settle(20 * time.Minute)
				require.Equal(b, 1, b.Count("prod", channels.Enqueued))
				b.Fault("prod", func(f *mock.Faults) { lock(f, nil) })
				b.settle(10 * time.Second)
				b.requireQuarantined(k, len(b.RunsOf(k)))
				require.Equal(b, 1, b.Calls("prod", "OpenSession"))
				b.settle(time.Minute)
				b.requireIdle(r)
			})
		})
	}
}

// When the requests of several jobs end so, it is the application that does not run them.
func TestQuarantineSparesTheJobsOfABrokenApplication(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"answered":    {StayEnqueued: true, Status: 500},
		"login page":  {Refuse: 303},
		"unavailable": {Refuse: 503},
		"not sent":    {FailBeforeSend: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, attempts := range []int{1, 2} {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					b.SetPlan(plan)
					keys := b.jobs("prod", "", "a", 4)
					r := b.start(b.quarantine("root:1", attempts))
					b.settle(time.Hour)
					b.SetPlan(mock.Plan{})
					b.settle(5 * time.Minute)
					b.requireDone(keys...)
					b.requireIdle(r)
				})
			}
		})
	}
}

// The first of several that are not run is no worse than the others.
func TestQuarantineForgivesWhatWasNotTheJobsFault(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		k := b.one("prod", "a")
		b.PlanFor(k, mock.Plan{StayEnqueued: true}, mock.Plan{StayEnqueued: true}, mock.Plan{StayEnqueued: true})
		r := b.start(b.quarantine("root:1", 3))
		b.settle(500 * time.Millisecond)
		require.Len(b, b.RunsOf(k), 2)
		other := b.one("prod", "b")
		b.PlanFor(other, mock.Plan{StayEnqueued: true})
		b.settle(5 * time.Minute)
		b.requireDone(k, other)
		b.requireIdle(r)
	})
}

// What those who run servers do to jobs is not the jobs' fault.
func TestQuarantineSparesJobsThatOthersKill(t *testing.T) {
	crash := func(b *bench) { b.CrashServer("odoo0"); b.CrashServer("odoo1") }
	for name, kill := range map[string]func(b *bench, r *runner.Runner) *runner.Runner{
		"drained": func(b *bench, r *runner.Runner) *runner.Runner {
			up := b.RunsOf(key("prod", "a"))[len(b.RunsOf(key("prod", "a")))-1].Upstream
			require.NoError(b, r.Control(b.Context(), runner.Controls{Drains: []runner.Drain{{Upstream: up}}}))
			b.settle(time.Second)
			b.CrashServer(up)
			b.settle(time.Second)
			require.NoError(b, r.Control(b.Context(), runner.Controls{}))
			return r
		},
		"drained after its request had broken": func(b *bench, r *runner.Runner) *runner.Runner {
			up := b.RunsOf(key("prod", "a"))[len(b.RunsOf(key("prod", "a")))-1].Upstream
			require.NoError(b, r.Control(b.Context(), runner.Controls{Drains: []runner.Drain{{Upstream: up}}}))
			b.settle(time.Second)
			b.CrashServer(up)
			b.settle(30 * time.Second)
			require.NoError(b, r.Control(b.Context(), runner.Controls{}))
			return r
		},
		"all servers at once": func(b *bench, r *runner.Runner) *runner.Runner {
			for _, up := range []string{"odoo0", "odoo1"} {
				b.UpstreamFault(up, func(f *mock.UpstreamFaults) { f.CheckErr = errFault })
			}
			crash(b)
			b.settle(10 * time.Second)
			for _, up := range []string{"odoo0", "odoo1"} {
				b.UpstreamFault(up, func(f *mock.UpstreamFaults) { f.CheckErr = nil })
			}
			return r
		},
		"stopped before": func(b *bench, r *runner.Runner) *runner.Runner {
			b.UpstreamFault("odoo0", func(f *mock.UpstreamFaults) { f.CheckErr, f.FailBeforeSend = errFault, -1 })
			b.one("prod", fmt.Sprintf("probe%d", len(b.Runs()))) // it is refused
			b.settle(4 * time.Second)
			b.CrashServer("odoo0")
			b.settle(time.Second)
			b.UpstreamFault("odoo0", func(f *mock.UpstreamFaults) { f.CheckErr, f.FailBeforeSend = nil, 0 })
			return r
		},
		"we stop": func(b *bench, r *runner.Runner) *runner.Runner {
			b.stop(r)
			crash(b)
			return b.start(b.quarantine("root:3", 1))
		},
		"an upgrade": func(b *bench, r *runner.Runner) *runner.Runner {
			b.Upgrade("prod", true)
			b.settle(5 * time.Second)
			crash(b)
			b.settle(time.Second)
			b.Upgrade("prod", false)
			return r
		},
		"database away": func(b *bench, r *runner.Runner) *runner.Runner {
			b.LoseSession("prod")
			crash(b)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
				plan := mock.Plan{RunFor: time.Hour}
				if name == "drained after its request had broken" {
					plan.DropConnAfter = 10 * time.Second
				}
				for range 10 {
					b.PlanFor(k, plan)
				}
				cfg := b.quarantine("root:3", 1)
				cfg.UpgradeGate = name == "an upgrade"
				if name == "stopped before" {
					cfg.Targets = upstreams{"odoo0"}
				}
				r := b.start(cfg)
				for range 5 {
					b.settle(2 * time.Minute)
					r = kill(b, r)
				}
				b.settle(3 * time.Hour)
				b.requireDone(k)
				require.GreaterOrEqual(b, len(b.RunsOf(k)), 5)
				b.requireIdle(r)
			})
		})
	}
}

// A job that takes its whole server down is failed; those that die with it are not.
func TestQuarantineTellsTheKillerFromItsNeighbours(t *testing.T) {
	for _, attempts := range []int{1, 2, 3} {
		t.Run(fmt.Sprint(attempts), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				cfg := b.quarantine("root:6", attempts)
				cfg.Targets = upstreams{"odoo0"}
				b.SetPlan(mock.Plan{RunFor: 5 * time.Minute})
				k := b.one("prod", "killer", func(j *mock.Job) { j.MaxRetries = 0 })
				for range 20 {
					b.PlanFor(k, mock.Plan{RunFor: time.Minute, CrashServer: true})
				}
				keys := b.jobs("prod", "", "a", 4)
				r := b.start(cfg)
				b.settle(3 * time.Hour)
				b.requireDone(keys...)
				b.requireQuarantined(k, max(2, attempts))
				b.requireIdle(r)
			})
		})
	}
}

// What counts survives a change of the leader, a reload, and storage that is away for a while.
func TestQuarantineCountsOn(t *testing.T) {
	for name, change := range map[string]func(b *bench, r *runner.Runner, cfg runner.Config) *runner.Runner{
		"another leader": func(b *bench, r *runner.Runner, cfg runner.Config) *runner.Runner {
			b.stop(r)
			return b.start(cfg)
		},
		"reload": func(b *bench, r *runner.Runner, cfg runner.Config) *runner.Runner {
			cfg.Quarantine = &runner.Quarantine{Attempts: 3, Within: time.Hour}
			require.NoError(b, r.Reconfigure(cfg))
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				l := &ledger{}
				cfg := b.quarantine("root:1", 3)
				cfg.Setbacks = l
				k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
				b.SetPlan(mock.Plan{RunFor: 10 * time.Second, Crash: true})
				r := b.start(cfg)
				for len(b.RunsOf(k)) < 3 {
					b.settle(time.Second)
				}
				b.settle(3 * time.Second)
				require.Len(b, l.stored(), 2)
				r = change(b, r, cfg)
				b.settle(10 * time.Minute)
				if name == "reload" {
					b.requireQuarantined(k, 3)
				} else {
					b.requireQuarantined(k, 4) // nobody saw the end of the one that ran meanwhile
				}
				b.requireIdle(r)
				b.settle(3 * time.Second)
				require.Empty(b, l.stored(), "it has ended")
			})
		})
	}
}

// A node that cannot read what the former leader left begins anew, and a reload without a quarantine
// forgets.
func TestQuarantineBeginsAnew(t *testing.T) {
	for name, change := range map[string]func(b *bench, r *runner.Runner, cfg runner.Config, l *ledger) *runner.Runner{
		"storage broken": func(b *bench, r *runner.Runner, cfg runner.Config, l *ledger) *runner.Runner {
			b.stop(r)
			l.mu.Lock()
			l.err = errFault
			l.mu.Unlock()
			r = b.start(cfg)
			require.Equal(b, 1, b.logs.FilterMessageSnippet("the setbacks of jobs that the former leader has seen cannot be read").Len())
			return r
		},
		"switched off": func(b *bench, r *runner.Runner, cfg runner.Config, l *ledger) *runner.Runner {
			q := cfg.Quarantine
			cfg.Quarantine = nil
			require.NoError(b, r.Reconfigure(cfg))
			b.settle(3 * time.Second)
			require.Empty(b, l.stored())
			cfg.Quarantine = q
			require.NoError(b, r.Reconfigure(cfg))
			return r
		},
		"requeued by hand": func(b *bench, r *runner.Runner, _ runner.Config, _ *ledger) *runner.Runner {
			b.Update(key("prod", "a"), func(j *mock.Job) { j.State, j.Retry, j.LockPID = channels.Pending, 0, 0 })
			return r
		},
		"time passes": func(b *bench, r *runner.Runner, _ runner.Config, _ *ledger) *runner.Runner {
			b.settle(2 * time.Hour)
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				l := &ledger{}
				cfg := b.quarantine("root:1", 3)
				cfg.Setbacks, cfg.Quarantine.Within = l, time.Hour
				k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
				plan := mock.Plan{RunFor: 10 * time.Second, Crash: true}
				if b.SetPlan(plan); name == "time passes" {
					late := plan
					late.RunFor = time.Hour
					b.PlanFor(k, plan, plan, late)
				}
				r := b.start(cfg)
				for len(l.stored()) < 2 {
					b.settle(time.Second)
				}
				before := len(b.RunsOf(k))
				r = change(b, r, cfg, l)
				b.settle(10 * time.Minute)
				row, _ := b.Row(k)
				require.Equal(b, channels.Failed, row.State)
				require.GreaterOrEqual(b, len(b.RunsOf(k)), before+2)
				b.requireIdle(r)
			})
		})
	}
}

// A job that was quarantined and requeued has a clean slate.
func TestQuarantineEndsWithARequeue(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		k := b.one("prod", "a")
		for range 4 {
			b.PlanFor(k, mock.Plan{Crash: true})
		}
		r := b.start(b.quarantine("root:1", 2))
		b.settle(5 * time.Minute)
		b.requireQuarantined(k, 2)
		w, err := r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, runner.WhyQuarantined, w.Code)
		_, err = r.Change(b.Context(), runner.JobChange{
			Change: driver.Change{Action: driver.Requeue}, Database: "prod", Filter: driver.Filter{UUIDs: []string{"a"}},
		})
		require.NoError(b, err)
		b.settle(5 * time.Second)
		require.Len(b, b.RunsOf(k), 3)
		b.settle(5 * time.Minute)
		b.requireQuarantined(k, 4)
		b.requireIdle(r)
	})
}

// A job that is near its quarantine says so, and one that is suspected says what it waits for.
func TestWhyOfSetbacks(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.quarantine("root:4", 3)
		cfg.Targets = upstreams{"odoo0"}
		for _, uuid := range []string{"a", "b"} {
			b.PlanFor(key("prod", uuid), mock.Plan{RunFor: time.Hour}, mock.Plan{RunFor: time.Minute})
			b.one("prod", uuid)
		}
		r := b.start(cfg)
		b.CrashServer("odoo0")
		for len(b.Runs()) < 3 {
			b.settle(time.Second)
		}
		texts := map[string]string{}
		for _, uuid := range []string{"a", "b"} {
			w, err := r.Why(b.Context(), key("prod", uuid))
			require.NoError(b, err)
			require.Contains(b, w.Text, "; 1 attempt came to nothing within 72h, and a job with 3 is quarantined")
			texts[w.Code] = w.Text
		}
		require.Contains(b, texts[runner.WhySuspected], "the job died together with others and is not run beside these, the next attempt follows at ")
		require.Contains(b, texts, channels.ReasonRunning.String())
		b.settle(10 * time.Minute)
		b.requireDone(key("prod", "a"), key("prod", "b"))
		require.Len(b, b.Runs(), 4)
		b.requireIdle(r)
	})
}

// An attempt that was stopped because of its time limit is the affair of that limit.
func TestQuarantineSparesJobsThatAreStopped(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		k := b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 0 })
		for range 3 {
			b.PlanFor(k, mock.Plan{RunFor: time.Hour, IgnoresCancel: true, IgnoresTerminate: true})
		}
		cfg := b.limited(&j, func(p *policy.Timeout) { p.Retry = true })
		cfg.Quarantine = &runner.Quarantine{Attempts: 1, Within: time.Hour}
		r := b.start(cfg)
		for range 3 {
			b.settle(62 * time.Second)
			b.CrashServer("odoo1")
			b.settle(20 * time.Second)
		}
		b.settle(time.Minute)
		b.requireDone(k)
		require.Len(b, b.RunsOf(k), 4)
		require.Len(b, j.of("a", runner.EventTimeoutCancelled), 3)
		b.requireIdle(r)
	})
}
