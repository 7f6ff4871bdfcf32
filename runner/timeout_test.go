package runner_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// limited is a configuration in which every job has a time limit of a minute, and a warning at 40 s.
func (b *bench) limited(j *journal, change func(*policy.Timeout)) runner.Config {
	cfg := b.config("root:1")
	limit := &policy.Timeout{After: time.Minute, Warn: 40 * time.Second, Cancel: true, Grace: 20 * time.Second}
	if change != nil {
		change(limit)
	}
	cfg.Policies = []policy.Policy{{Channels: []string{"root*"}, Timeout: limit}}
	cfg.Events = j.add
	return cfg
}

var timeoutKinds = []runner.EventKind{
	runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled,
	runner.EventTimeoutTerminated, runner.EventTimeoutStuck,
}

// stages are the stages that were told of a job, each with the time since it was sent.
func (b *bench) stages(j *journal, uuid string) (kinds []runner.EventKind, after []time.Duration) {
	sent := j.of(uuid, runner.EventDispatched)
	for _, ev := range j.of(uuid, timeoutKinds...) {
		kinds = append(kinds, ev.Kind)
		if len(sent) > 0 {
			after = append(after, ev.Time.Sub(sent[0].Time))
		}
	}
	return kinds, after
}

// row returns the row of a job.
func (b *bench) row(k channels.Key) mock.Job {
	j, ok := b.Row(k)
	require.True(b, ok)
	return j
}

// never is a job that would not end for days.
func never(change func(*mock.Plan)) mock.Plan {
	p := mock.Plan{RunFor: 100 * time.Hour}
	if change != nil {
		change(&p)
	}
	return p
}

// A job that hangs is ended by what it takes, and its slot is free only when it has ended.
func TestTimeoutStages(t *testing.T) {
	ignores := func(cancel, terminate bool) func(*mock.Plan) {
		return func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = cancel, terminate }
	}
	for name, c := range map[string]struct {
		plan  func(*mock.Plan)
		fault func(*mock.Faults)
		// stages are those after the warning and the limit; ends is by when the job has ended, 0 if it
		// goes on.
		stages []runner.EventKind
		ends   time.Duration
		cause  string
	}{
		"in a query": {nil, nil, []runner.EventKind{runner.EventTimeoutCancelled}, 62 * time.Second, "After 1m"},
		"in a call": {
			ignores(true, false), nil, []runner.EventKind{runner.EventTimeoutCancelled, runner.EventTimeoutTerminated},
			87 * time.Second, "it closed the job's connection",
		},
		"in a call that does not end": {
			ignores(true, true), nil,
			[]runner.EventKind{runner.EventTimeoutCancelled, runner.EventTimeoutTerminated, runner.EventTimeoutStuck}, 0, "",
		},
		"that may not be signalled": {nil, func(f *mock.Faults) { f.StopDenied = true }, []runner.EventKind{runner.EventTimeoutStuck}, 0, ""},
		"that cannot be told": {
			func(p *mock.Plan) { p.Unstoppable = "it works on several connections" }, nil,
			[]runner.EventKind{runner.EventTimeoutStuck}, 0, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				if c.fault != nil {
					b.Fault("prod", c.fault)
				}
				k, next := key("prod", "a"), key("prod", "b")
				b.PlanFor(k, never(c.plan))
				r := b.start(b.limited(&j, nil))
				b.one("prod", "a")
				b.settle(time.Second)
				b.one("prod", "b")
				b.settle(5 * time.Minute)
				kinds, after := b.stages(&j, "a")
				require.Equal(b, append([]runner.EventKind{runner.EventTimeoutWarned, runner.EventTimeoutReached}, c.stages...), kinds)
				require.InDelta(b, 40, after[0].Seconds(), 1.1)
				require.InDelta(b, 60, after[1].Seconds(), 1.1)
				require.InDelta(b, 60, after[2].Seconds(), 2)
				run := b.RunsOf(k)[0]
				if c.ends == 0 {
					require.True(b, run.Executing())
					require.Empty(b, b.RunsOf(next), "its slot is taken")
					require.Len(b, b.status(r).Stuck, 1)
					require.Empty(b, b.row(k).Causes)
					return
				}
				require.LessOrEqual(b, run.Ended.Sub(run.Started), c.ends)
				require.Equal(b, channels.Failed.String(), b.row(k).State.String())
				require.Len(b, b.row(k).Causes, 1)
				require.Contains(b, b.row(k).Causes[0], "time limit of 1m0s (policy root*)")
				require.Contains(b, b.row(k).Causes[0], c.cause)
				require.Contains(b, j.of("a", runner.EventJobFailed)[0].Detail, "policy root* has a time limit of 1m0s")
				b.requireRanOnce(next)
				require.False(b, b.RunsOf(next)[0].Opened.Before(run.Closed), "the slot was taken until the end")
				require.Empty(b, b.Overlaps())
				require.Empty(b, b.Violations())
				b.requireIdle(r)
			})
		})
	}
}

// Without cancel the limit is told, and nothing is done.
func TestTimeoutThatOnlyTells(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod", "old")
		b.WithoutLocks("old")
		b.SetPlan(mock.Plan{RunFor: 5 * time.Minute})
		keys := []channels.Key{b.one("prod", "a"), b.one("old", "b")}
		cfg := b.limited(&j, func(t *policy.Timeout) { t.Cancel, t.Grace = false, 0 })
		cfg.Channels = b.config("root:2").Channels
		r := b.start(cfg)
		b.settle(10 * time.Minute)
		for _, k := range keys {
			kinds, _ := b.stages(&j, k.UUID)
			require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned, runner.EventTimeoutReached}, kinds)
			require.Zero(b, b.Calls(k.DB, "Stop"))
			require.Zero(b, b.Calls(k.DB, "Account"))
		}
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

// Without a lock table nothing can be cancelled: that is told.
func TestTimeoutWithoutLockTable(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("old")
		b.WithoutLocks("old")
		b.SetPlan(mock.Plan{RunFor: 5 * time.Minute})
		k := b.one("old", "a")
		r := b.start(b.limited(&j, nil))
		b.settle(3 * time.Minute)
		require.Equal(b, "there are no lock rows; it keeps its slot until it ends", j.of("a", runner.EventTimeoutStuck)[0].Detail[len("it has run for 1m0s, the time limit of policy root* is 1m0s; "):])
		b.settle(10 * time.Minute)
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}

// With retry a job that was ended is tried again, within its retries, and counts anew.
func TestTimeoutRetry(t *testing.T) {
	for name, c := range map[string]struct {
		plans []mock.Plan
		runs  int
		ends  channels.State
	}{
		"the second goes well": {[]mock.Plan{never(nil)}, 2, channels.Done},
		"none does":            {repeat(never(nil), 9), 3, channels.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, c.plans...)
				r := b.start(b.limited(&j, func(t *policy.Timeout) { t.Retry = true }))
				b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 3 })
				b.settle(20 * time.Minute)
				require.Equal(b, c.ends.String(), b.row(k).State.String())
				runs := b.RunsOf(k)
				require.Len(b, runs, c.runs)
				for i, run := range runs[1:] {
					require.False(b, run.Opened.Before(runs[i].Closed))
				}
				require.Contains(b, b.row(k).Causes[0], "tried again as long as it has retries left")
				require.Empty(b, b.Overlaps())
				b.requireIdle(r)
			})
		})
	}
}

// A job that ends in time, or in its own way, is left alone, whatever was told of it.
func TestTimeoutOfJobsThatEnd(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"done after the warning": {RunFor: 50 * time.Second},
		"failed in time":         {RunFor: 50 * time.Second, Ends: channels.Failed, Status: http.StatusInternalServerError},
		"done, answered late":    {RunFor: 58 * time.Second, HoldAnswer: 4 * time.Second},
		"put back by Odoo":       {RunFor: 50 * time.Second, Ends: channels.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, plan)
				r := b.start(b.limited(&j, nil))
				b.one("prod", "a")
				b.settle(3 * time.Minute)
				kinds, _ := b.stages(&j, "a")
				require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned}, kinds)
				require.Zero(b, b.Calls("prod", "Stop"))
				require.Empty(b, b.row(k).Causes)
				b.requireIdle(r)
			})
		})
	}
}

// A request that its server has not begun to serve is told of, and not ended before it has begun.
func TestTimeoutBeforeTheStart(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		k := key("prod", "a")
		b.PlanFor(k, never(func(p *mock.Plan) { p.StartAfter = 3 * time.Minute }))
		b.start(b.limited(&j, nil))
		b.one("prod", "a")
		b.settle(170 * time.Second)
		kinds, _ := b.stages(&j, "a")
		require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned, runner.EventTimeoutReached}, kinds)
		b.settle(20 * time.Second)
		kinds, _ = b.stages(&j, "a")
		require.Equal(b, runner.EventTimeoutCancelled, kinds[2])
		require.Len(b, kinds, 3)
		require.Equal(b, channels.Failed.String(), b.row(k).State.String())
	})
}

// What is told and done about an attempt survives what happens meanwhile, and no job is run twice.
func TestTimeoutAdversity(t *testing.T) {
	heal := func(b *bench) { b.Fault("prod", func(f *mock.Faults) { *f = mock.Faults{} }) }
	for name, c := range map[string]struct {
		plan func(*mock.Plan)
		// during happens while the job is in its grace period, and ends within a minute.
		during func(*bench)
		state  channels.State
		causes int
	}{
		"session lost": {nil, func(b *bench) { b.LoseSession("prod") }, channels.Failed, 1},
		"database lost": {nil, func(b *bench) {
			b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
			b.LoseSession("prod")
			b.settle(40 * time.Second)
			heal(b)
		}, channels.Failed, 1},
		"PostgreSQL restarts":            {nil, func(b *bench) { b.Down(); b.settle(10 * time.Second); b.Up() }, channels.Failed, 1},
		"the answer of a signal is lost": {nil, func(b *bench) { b.Fault("prod", func(f *mock.Faults) { f.LoseAfterStop = true }) }, channels.Failed, 1},
		"signals fail": {nil, func(b *bench) {
			b.Fault("prod", func(f *mock.Faults) { f.StopErr = errFault })
			b.settle(40 * time.Second)
			heal(b)
		}, channels.Failed, 1},
		"rights are granted late": {nil, func(b *bench) {
			b.Fault("prod", func(f *mock.Faults) { f.StopDenied = true })
			b.settle(40 * time.Second)
			heal(b)
		}, channels.Failed, 1},
		"the cause cannot be written": {nil, func(b *bench) {
			b.Fault("prod", func(f *mock.Faults) { f.AccountErr = errFault })
			b.settle(40 * time.Second)
			heal(b)
		}, channels.Failed, 1},
		"done meanwhile": {nil, func(b *bench) { b.SetState(key("prod", "a"), channels.Done) }, channels.Done, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, never(func(p *mock.Plan) { p.IgnoresCancel = true }))
				r := b.start(b.limited(&j, nil))
				b.one("prod", "a")
				b.settle(65 * time.Second)
				kinds, _ := b.stages(&j, "a")
				require.Equal(b, runner.EventTimeoutCancelled, kinds[len(kinds)-1])
				c.during(b)
				b.settle(10 * time.Minute)
				require.Equal(b, c.state.String(), b.row(k).State.String())
				require.Len(b, b.row(k).Causes, c.causes)
				require.Len(b, b.RunsOf(k), 1)
				require.Empty(b, b.Overlaps())
				require.Empty(b, b.Violations())
				b.requireIdle(r)
			})
		})
	}
}

// A new leader begins with the stages by the clock of PostgreSQL. It cancels what it finds, and closes no
// connection: nothing else shows that the job goes on.
func TestTimeoutOfAdoptedJobs(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(func(p *mock.Plan) { p.IgnoresCancel = true }))
		b.PlanFor(key("prod", "b"), never(nil))
		cfg := b.limited(&j, nil)
		cfg.Channels = b.config("root:2").Channels
		a, k := b.one("prod", "a"), b.one("prod", "b")
		b.stop(b.start(cfg))
		b.settle(50 * time.Second)
		var mine journal
		cfg.Driver, cfg.Events = b.Driver(), mine.add
		r := b.start(cfg)
		b.settle(5 * time.Second)
		kinds, _ := b.stages(&mine, "a")
		require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned}, kinds)
		b.settle(10 * time.Minute)
		require.Equal(b, channels.Failed.String(), b.row(k).State.String())
		require.Len(b, b.row(k).Causes, 1)
		kinds, _ = b.stages(&mine, "a")
		require.Equal(b, []runner.EventKind{
			runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled, runner.EventTimeoutStuck,
		}, kinds)
		require.Equal(b, channels.Started.String(), b.row(a).State.String())
		require.NotZero(b, b.row(a).LockPID, "its connection is its only sign of life")
		require.Equal(b, 1, b.status(r).Watched)
		require.Len(b, b.RunsOf(a), 1)
		require.Empty(b, b.Overlaps())
	})
}

// Something between us and the server answers in its place after the connection was closed: the server
// may go on, and its lock row says nothing any more.
func TestTimeoutAndAFalseAnswer(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		k := key("prod", "a")
		b.PlanFor(k, never(func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = true, true }))
		cfg := b.limited(&j, nil)
		cfg.Driver = &unavailable{Driver: b.Driver(), after: 100 * time.Second}
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(time.Hour)
		require.Len(b, j.of("a", runner.EventTimeoutTerminated), 1)
		require.Len(b, b.RunsOf(k), 1)
		require.Empty(b, b.Overlaps())
		require.Len(b, b.status(r).Stuck, 1)
	})
}

// A request that breaks after the connection was closed proves nothing: the worker has died, or something
// on the way has cut it. With retry, the job is left alone until its row changes, or for as long as an
// operator has said; without, it ends failed.
func TestTimeoutAndABrokenRequest(t *testing.T) {
	for name, c := range map[string]struct {
		retry  bool
		rescue time.Duration
		runs   int
		ends   channels.State
		says   string
	}{
		"no retry":             {false, 0, 1, channels.Failed, "the job failed with JobTimeLimitExceeded"},
		"retry":                {true, 0, 1, channels.Started, "nothing shows whether it goes on; it is left alone until its row changes"},
		"retry, and a limit":   {true, 2 * time.Hour, 2, channels.Done, "unless its row changes, it is put back at 2000-01-01T02:01:4"},
		"no retry and a limit": {false, 2 * time.Hour, 1, channels.Failed, "the job failed with JobTimeLimitExceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, never(func(p *mock.Plan) {
					p.IgnoresCancel, p.IgnoresTerminate, p.DropConnAfter = true, true, 100*time.Second
				}))
				cfg := b.limited(&j, func(p *policy.Timeout) { p.Retry = c.retry })
				cfg.RescueStartedAfter = c.rescue
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(time.Hour)
				require.Len(b, j.of("a", runner.EventTimeoutTerminated), 1)
				require.Len(b, b.RunsOf(k), 1)
				require.True(b, b.RunsOf(k)[0].Executing())
				w, err := r.Why(b.Context(), k)
				require.NoError(b, err)
				require.Contains(b, w.Text, c.says)
				b.CrashServer("odoo1")
				b.settle(2 * time.Hour)
				require.Len(b, b.RunsOf(k), c.runs)
				require.Equal(b, c.ends.String(), b.row(k).State.String())
			})
		})
	}
}

// A connection that was to be closed, and was not, still proves what it does: a job whose worker dies then
// is put back. Only where nobody knows whether it was closed, the job is left alone.
func TestTimeoutThatClosesNoConnection(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(b *bench, d *desk)
		runs int
	}{
		"the next leader would not know": {func(_ *bench, d *desk) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.err = errFault
		}, 2},
		"no backend shows it": {func(b *bench, _ *desk) {
			b.Update(key("prod", "a"), func(j *mock.Job) { j.LockPID = 0 }) // as a lock inside a savepoint that has ended
		}, 2},
		"the role may not": {func(b *bench, _ *desk) { b.Fault("prod", func(f *mock.Faults) { f.StopDenied = true }) }, 2},
		"the answer fails": {func(b *bench, _ *desk) { b.Fault("prod", func(f *mock.Faults) { f.StopErr = errFault }) }, 1},
		"the answer is lost": {func(b *bench, _ *desk) {
			b.settle(2500 * time.Millisecond) // the last order to cancel has been answered
			b.Fault("prod", func(f *mock.Faults) { f.LoseAfterStop = true })
		}, 1},
		"it is closed": {func(*bench, *desk) {}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, never(func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = true, true }))
				cfg := b.limited(&j, func(p *policy.Timeout) { p.Retry = true })
				d := &desk{}
				cfg.Handover = d
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(78 * time.Second)
				require.Len(b, j.of("a", runner.EventTimeoutCancelled), 1)
				c.do(b, d)
				b.settle(30 * time.Second)
				require.Equal(b, name == "it is closed", len(j.of("a", runner.EventTimeoutTerminated)) == 1)
				b.CrashServer("odoo1")
				b.settle(time.Minute)
				require.Len(b, b.RunsOf(k), c.runs)
				if c.runs == 2 {
					b.requireDone(k)
					b.requireIdle(r)
					require.False(b, slices.ContainsFunc(d.note, func(s runner.Slots) bool { return s.UUID != "" }))
					return
				}
				w, err := r.Why(b.Context(), k)
				require.NoError(b, err)
				require.Contains(b, w.Text, "nothing shows whether it goes on")
			})
		})
	}
}

// A worker that does not live to write that its job has failed leaves it to us: without retry the job
// ends failed all the same.
func TestTimeoutOfAWorkerThatDies(t *testing.T) {
	for name, after := range map[string]time.Duration{"after the cancellation": 70 * time.Second, "after the termination": 95 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, never(func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = true, true }))
				cfg := b.limited(&j, nil)
				cfg.Quarantine = &runner.Quarantine{Attempts: 3, Within: time.Hour}
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(after)
				b.CrashServer("odoo1")
				b.settle(30 * time.Second)
				require.Equal(b, channels.Failed.String(), b.row(k).State.String())
				require.Equal(b, driver.StoppedName, b.row(k).Exception)
				require.Contains(b, b.row(k).Info, "time limit of 1m0s (policy root*)")
				require.Contains(b, j.of("a", runner.EventJobFailed)[0].Detail, "policy root* has a time limit of 1m0s")
				require.Equal(b, driver.StoppedName, j.of("a", runner.EventJobFailed)[0].Exception)
				require.Empty(b, j.of("a", runner.EventDispatched)[0].Exception)
				require.Zero(b, b.Calls("prod", "Account"), "the row says it already")
				require.Zero(b, b.Calls("prod", "Rescue"))
				b.settle(time.Hour)
				require.Len(b, b.RunsOf(k), 1)
				b.requireIdle(r)
			})
		})
	}
}

// A database that is not served for a while comes back with a job whose connection was closed before, and
// which goes on: what its lock row says proves nothing then either.
func TestTimeoutAndADatabaseThatComesBack(t *testing.T) {
	for name, away := range map[string]time.Duration{"answered before": 150 * time.Second, "answered meanwhile": 95 * time.Second} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod", "other")
				k := key("prod", "a")
				b.PlanFor(k, never(func(p *mock.Plan) { p.IgnoresCancel, p.IgnoresTerminate = true, true }))
				cfg := b.limited(&j, nil)
				cfg.Driver = &unavailable{Driver: b.Driver(), after: 100 * time.Second}
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(away)
				require.Len(b, j.of("a", runner.EventTimeoutTerminated), 1)
				cfg.Databases = []string{"other"}
				require.NoError(b, r.Reconfigure(cfg))
				b.settle(time.Minute)
				cfg.Databases = nil
				require.NoError(b, r.Reconfigure(cfg))
				b.settle(time.Hour)
				require.Len(b, b.RunsOf(k), 1)
				require.Empty(b, b.Overlaps())
			})
		})
	}
}

// A reload applies to jobs that run.
func TestTimeoutAndReload(t *testing.T) {
	for name, c := range map[string]struct {
		before, after func(*policy.Timeout)
		none          bool
		want          []runner.EventKind
	}{
		"added": {func(t *policy.Timeout) { *t = policy.Timeout{After: time.Hour} }, nil, false, []runner.EventKind{
			runner.EventTimeoutReached, runner.EventTimeoutCancelled,
		}},
		"removed": {func(p *policy.Timeout) { p.Warn = time.Second }, nil, true, []runner.EventKind{runner.EventTimeoutWarned}},
		"raised": {func(p *policy.Timeout) { p.Warn = time.Second }, func(p *policy.Timeout) { p.After, p.Warn = time.Hour, 2*time.Minute }, false, []runner.EventKind{
			runner.EventTimeoutWarned, runner.EventTimeoutWarned,
		}},
		"the same": {func(p *policy.Timeout) { p.Warn = time.Second }, func(p *policy.Timeout) { p.Warn = time.Second }, false, []runner.EventKind{
			runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 10 * time.Minute})
				r := b.start(b.limited(&j, c.before))
				b.one("prod", "a")
				b.settle(50 * time.Second)
				cfg := b.limited(&j, c.after)
				if c.none {
					cfg.Policies = nil
				}
				if name == "added" {
					cfg.Policies[0].Timeout.After = 45 * time.Second
				}
				require.NoError(b, r.Reconfigure(cfg))
				b.settle(20 * time.Minute)
				kinds, _ := b.stages(&j, "a")
				require.Equal(b, c.want, kinds)
				b.requireIdle(r)
			})
		})
	}
}

// A limit that is removed while a job is in its grace period ends nothing more, but what was done is
// written down.
func TestTimeoutRemovedDuringGrace(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		k := key("prod", "a")
		until := make(chan struct{})
		b.PlanFor(k, mock.Plan{Until: until, IgnoresCancel: true, Ends: channels.Failed})
		cfg := b.limited(&j, nil)
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(65 * time.Second)
		cfg.Policies = nil
		require.NoError(b, r.Reconfigure(cfg))
		stops := b.Calls("prod", "Stop")
		b.settle(10 * time.Minute)
		require.Equal(b, stops, b.Calls("prod", "Stop"))
		require.Empty(b, b.status(r).Stuck)
		close(until)
		b.settle(time.Second)
		require.Equal(b, channels.Failed.String(), b.row(k).State.String())
		require.Len(b, b.row(k).Causes, 1)
		b.requireIdle(r)
	})
}

// The first policy counts that matches the channel, the database and the function.
func TestTimeoutOfTheFirstPolicy(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 90 * time.Second})
		cfg := b.limited(&j, nil)
		cfg.Channels = b.config("root:9").Channels
		limit := func(after time.Duration, channel, function string) policy.Policy {
			return policy.Policy{Channels: []string{channel}, Function: function, Timeout: &policy.Timeout{After: after}}
		}
		cfg.Policies = []policy.Policy{limit(time.Hour, "root.long", ""), limit(time.Minute, "root.f", "sale.order.f"), limit(30*time.Second, "root.*", "")}
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session { return &named{s} }}
		for uuid, channel := range map[string]string{"a": "long", "b": "other", "c": "", "sale.order.f": "f", "sale.order.g": "f"} {
			b.one("prod", uuid, func(j *mock.Job) { j.Channel = channel })
		}
		b.start(cfg)
		b.settle(10 * time.Minute)
		for uuid, want := range map[string]float64{"a": 0, "b": 30, "c": 0, "sale.order.f": 60, "sale.order.g": 30} {
			_, after := b.stages(&j, uuid)
			if want == 0 {
				require.Empty(b, after, uuid)
				continue
			}
			require.Len(b, after, 1, uuid)
			require.InDelta(b, want, after[0].Seconds(), 1.1, uuid)
		}
	})
}

// Of a job that was found running the function is not known: a limit that could be meant for others
// does not end it.
func TestTimeoutOfAnUnknownFunction(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		cfg := b.limited(&j, nil)
		cfg.Channels = b.config("root:9").Channels
		cfg.Policies = append([]policy.Policy{{
			Channels: []string{"root.f"}, Function: "sale.order.f", Timeout: &policy.Timeout{After: time.Hour},
		}}, cfg.Policies...)
		now := time.Now().Add(-10 * time.Minute).UnixMicro()
		for uuid, channel := range map[string]string{"a": "f", "b": "other"} {
			b.one("prod", uuid, func(j *mock.Job) {
				j.State, j.Enqueued, j.LockRow, j.LockPID, j.Channel = channels.Started, now, true, 7, channel
			})
		}
		b.start(cfg)
		b.settle(10 * time.Second)
		kinds, _ := b.stages(&j, "b")
		require.Equal(b, []runner.EventKind{runner.EventTimeoutReached, runner.EventTimeoutCancelled}, kinds)
		kinds, _ = b.stages(&j, "a")
		require.Empty(b, kinds)
	})
}

// A later attempt at a job has its own time and its own stages.
func TestTimeoutOfALaterAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		k := b.one("prod", "a", func(j *mock.Job) {
			j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, time.Now().UnixMicro(), true, 7
		})
		b.start(b.limited(&j, func(t *policy.Timeout) { t.Cancel, t.Grace = false, 0 }))
		b.settle(90 * time.Second)
		kinds, _ := b.stages(&j, "a")
		require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned, runner.EventTimeoutReached}, kinds)
		b.Update(k, func(j *mock.Job) { j.Enqueued = time.Now().UnixMicro() })
		b.settle(30 * time.Second)
		kinds, _ = b.stages(&j, "a")
		require.Len(b, kinds, 2)
		b.settle(time.Minute)
		kinds, _ = b.stages(&j, "a")
		require.Equal(b, []runner.EventKind{
			runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutWarned, runner.EventTimeoutReached,
		}, kinds)
	})
}

// The clock of a database that is wrong ends no job that was found running too early.
func TestTimeoutAndClocks(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.one("prod", "a", func(j *mock.Job) {
			j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, time.Now().Add(-time.Hour).UnixMicro(), true, 7
		})
		cfg := b.limited(&j, nil)
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, inspect: func(found []driver.Liveness) {
				for i := range found {
					found[i].Age -= time.Hour // by the database's own clock
				}
			}}
		}}
		b.start(cfg)
		b.settle(35 * time.Second)
		kinds, _ := b.stages(&j, "a")
		require.Empty(b, kinds)
		b.settle(15 * time.Second)
		kinds, _ = b.stages(&j, "a")
		require.Equal(b, []runner.EventKind{runner.EventTimeoutWarned}, kinds)
	})
}

// A process that is about to end ends nothing: it could not write down why.
func TestTimeoutWhileExiting(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 2 * time.Minute})
		cfg := b.limited(&j, nil)
		var exits atomic.Bool
		cfg.Exiting = exits.Load
		b.start(cfg)
		k := b.one("prod", "a")
		b.settle(50 * time.Second)
		exits.Store(true)
		b.settle(5 * time.Minute)
		require.Zero(b, b.Calls("prod", "Stop"))
		b.requireRanOnce(k)
	})
}

// A cause is about the attempt that was ended: one that an operator has set failed meanwhile, after it
// was claimed again, is another.
func TestTimeoutCauseOfTheAttempt(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(func(p *mock.Plan) { p.IgnoresCancel = true }))
		b.start(b.limited(&j, nil))
		k := b.one("prod", "a")
		b.settle(65 * time.Second)
		b.Update(k, func(j *mock.Job) {
			j.State, j.Enqueued = channels.Failed, j.Enqueued+int64(time.Second/time.Microsecond)
		})
		b.settle(time.Minute)
		require.Empty(b, b.row(k).Causes)
		require.Zero(b, b.Calls("prod", "Account"))
	})
}

// The next leader knows of a job whose connection was closed: nothing in the database shows that it goes
// on, and it must not be sent again.
func TestTimeoutAndTheNextLeader(t *testing.T) {
	for _, policies := range []bool{true, false} {
		t.Run(fmt.Sprintf("policies=%t", policies), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				until := make(chan struct{})
				b.PlanFor(k, mock.Plan{Until: until, IgnoresCancel: true, IgnoresTerminate: true})
				cfg := b.limited(&j, nil)
				cfg.Handover = &desk{}
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(100 * time.Second)
				require.Len(b, j.of("a", runner.EventTimeoutTerminated), 1)
				require.Zero(b, b.row(k).LockPID)
				b.stop(r)
				cfg.Driver = b.Driver()
				if !policies {
					cfg.Policies = nil
				}
				r = b.start(cfg)
				b.settle(time.Hour)
				require.Len(b, b.RunsOf(k), 1)
				require.Equal(b, 1, b.status(r).Watched)
				if policies {
					require.Contains(b, b.status(r).Stuck[0].Text, "nothing shows whether the server goes on")
				}
				b.stop(r) // it passes that on
				r = b.start(cfg)
				b.settle(time.Hour)
				require.Len(b, b.RunsOf(k), 1)
				close(until)
				b.settle(time.Minute)
				require.Equal(b, channels.Failed.String(), b.row(k).State.String())
				require.Empty(b, b.Overlaps())
				b.requireIdle(r)
				require.Empty(b, cfg.Handover.(*desk).note)
			})
		})
	}
}

// A connection is not closed before the next leader would know.
func TestTimeoutWithoutStorage(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(func(p *mock.Plan) { p.IgnoresCancel = true }))
		cfg := b.limited(&j, nil)
		d := &desk{err: errFault}
		cfg.Handover = d
		b.start(cfg)
		b.one("prod", "a")
		b.settle(3 * time.Minute)
		require.Empty(b, j.of("a", runner.EventTimeoutTerminated))
		d.mu.Lock()
		d.err = nil
		d.mu.Unlock()
		b.settle(10 * time.Second)
		require.Len(b, j.of("a", runner.EventTimeoutTerminated), 1)
	})
}

// What has ended while nobody led is not passed on for ever.
func TestTimeoutOfWhatEndsBetweenLeaders(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		until := make(chan struct{})
		b.PlanFor(key("prod", "a"), mock.Plan{Until: until, IgnoresCancel: true, IgnoresTerminate: true})
		cfg := b.limited(&j, nil)
		d := &desk{}
		cfg.Handover = d
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(100 * time.Second)
		b.stop(r)
		require.Len(b, d.note, 2)
		close(until)
		b.settle(time.Second)
		cfg.Driver = b.Driver()
		r = b.start(cfg)
		b.PlanFor(key("prod", "b"), mock.Plan{RunFor: 10 * time.Second})
		b.one("prod", "b")
		b.settle(time.Minute)
		require.Empty(b, d.note)
		b.requireIdle(r)
	})
}

// A row that another program has locked gets its cause, and its retry, later. What cannot be written is
// not tried for ever.
func TestTimeoutOfALockedRow(t *testing.T) {
	for name, c := range map[string]struct {
		fault, better func(*mock.Faults)
	}{
		"locked":  {func(f *mock.Faults) { f.Locked = func(j *mock.Job) bool { return j.State == channels.Failed } }, func(f *mock.Faults) { f.Locked = nil }},
		"refused": {func(f *mock.Faults) { f.AccountErr = errFault }, func(f *mock.Faults) { f.AccountErr = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				var j journal
				b.AddDatabase("prod")
				k := key("prod", "a")
				b.PlanFor(k, never(nil))
				b.Fault("prod", c.fault)
				r := b.start(b.limited(&j, func(t *policy.Timeout) { t.Retry = true }))
				b.one("prod", "a", func(j *mock.Job) { j.MaxRetries = 3 })
				b.settle(2 * time.Minute)
				require.Equal(b, channels.Failed.String(), b.row(k).State.String())
				b.Fault("prod", c.better)
				b.settle(10 * time.Minute)
				require.Equal(b, channels.Done.String(), b.row(k).State.String())
				require.Empty(b, b.Overlaps())
				b.requireIdle(r)

				b.Fault("prod", c.fault)
				b.PlanFor(key("prod", "b"), never(nil))
				b.one("prod", "b")
				calls := b.Calls("prod", "Account")
				b.settle(3 * time.Hour)
				require.Equal(b, calls+3, b.Calls("prod", "Account"))
			})
		})
	}
}

// Signals that fail are told, as those that are refused.
func TestTimeoutOfSignalsThatFail(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(nil))
		b.Fault("prod", func(f *mock.Faults) { f.StopErr = errFault })
		r := b.start(b.limited(&j, nil))
		b.one("prod", "a")
		b.settle(5 * time.Minute)
		require.Len(b, j.of("a", runner.EventTimeoutStuck), 1)
		require.Contains(b, b.status(r).Stuck[0].Text, "it cannot be signalled: ")
		require.Equal(b, 1, b.status(r).Overdue)
		require.Equal(b, 1, b.Calls("prod", "OpenSession"), "the session lives")
	})
}

// A job whose limit is raised while it is in its grace period begins with the stages anew.
func TestTimeoutRaisedDuringGrace(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), never(func(p *mock.Plan) { p.IgnoresCancel = true }))
		cfg := b.limited(&j, nil)
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(65 * time.Second)
		require.Equal(b, 1, b.status(r).Overdue)
		cfg = b.limited(&j, func(t *policy.Timeout) { t.After = 3 * time.Minute })
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(5 * time.Second)
		require.Zero(b, b.status(r).Overdue)
		b.settle(115 * time.Second)
		kinds, after := b.stages(&j, "a")
		require.Equal(b, []runner.EventKind{
			runner.EventTimeoutWarned, runner.EventTimeoutReached, runner.EventTimeoutCancelled,
			runner.EventTimeoutReached, runner.EventTimeoutCancelled,
		}, kinds)
		require.InDelta(b, 180, after[4].Seconds(), 2)
		b.settle(time.Minute)
		require.Equal(b, channels.Failed.String(), b.row(key("prod", "a")).State.String())
		require.Contains(b, b.row(key("prod", "a")).Causes[0], "time limit of 1m0s (policy root*). After 1m")
	})
}
