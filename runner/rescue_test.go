package runner_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestWorkerCrash(t *testing.T) {
	for _, ran := range []time.Duration{0, time.Second, time.Minute} {
		t.Run(ran.String(), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: ran, Crash: true})
				looks := make(chan driver.Verdict, 1000)
				cfg := b.config("root:1")
				cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
					return &fakeSession{Session: s, inspect: func(found []driver.Liveness) {
						for _, l := range found {
							looks <- l.Verdict
						}
					}}
				}}
				k := b.one("prod", "a")
				r := b.start(cfg)
				b.settle(ran + 30*time.Second)
				b.requireDone(k)
				row, _ := b.Row(k)
				require.EqualValues(b, 1, row.Retry)
				runs := b.RunsOf(k)
				require.Len(b, runs, 2)
				b.within(runs[0].Closed, runs[1].Opened, 3*time.Second, 25*time.Second)
				dead := 0
				for len(looks) > 0 {
					if <-looks == driver.Dead {
						dead++
					}
				}
				require.Equal(b, 2, dead, "two looks must agree")
				require.Equal(b, 1, b.logged("Re-queued dead job with uuid: a"))
				b.requireIdle(r)
			})
		})
	}
}

// A job that kills its worker each time fails in the end (docs/contract.md 3.4).
func TestWorkerCrashesEachTime(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{Crash: true})
		k := b.one("prod", "a")
		var j journal
		cfg := b.config("root:1")
		cfg.Events = j.add
		r := b.start(cfg)
		b.settle(10 * time.Minute)
		row, _ := b.Row(k)
		require.Equal(b, channels.Failed, row.State)
		rescued, failed := j.of("a", runner.EventJobRescued), j.of("a", runner.EventJobFailed)
		require.Len(b, rescued, 6)
		require.Len(b, failed, 1, "marked failed by the rescue")
		for _, ev := range append(rescued, failed...) {
			require.Equal(b, "dead", ev.Outcome)
			require.Equal(b, "the job was found dead", ev.Detail)
		}
		lines := b.logs.FilterMessage("job failed").All()
		require.Len(b, lines, 1)
		require.Equal(b, "dead", lines[0].ContextMap()["outcome"])
		require.Len(b, b.RunsOf(k), 7)
		b.requireIdle(r)
	})
}

// Without lock rows nothing tells a job that died from one that is slow.
func TestWorkerCrashWithoutLockRows(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.WithoutLocks("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Second, Crash: true})
		k := b.one("prod", "a")
		r := b.start(b.config("root:2"))
		b.settle(6 * time.Hour)
		b.LoseSession("prod")
		b.settle(6 * time.Hour)
		require.Len(b, b.RunsOf(k), 1)
		require.Equal(b, 1, b.status(r).Watched)
		require.Equal(b, 1, b.logged("job goes on although its request ended, watching it"))
		b.SetState(k, channels.Pending) // somebody knows better
		b.settle(time.Second)
		require.Len(b, b.RunsOf(k), 2)
		b.requireDone(k)
		b.requireIdle(r)
	})
}

// Where Odoo would not notice a second request, a job whose request may still wait
// in a backlog keeps its place, however long that takes.
func TestUnguardedJobsAreNotSentTwice(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Unguarded("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{StartAfter: time.Hour, RunFor: time.Minute, DropConnAfter: time.Second})
		a := b.one("prod", "a")
		r := b.start(b.config("root:2"))
		b.settle(30 * time.Minute)
		b.LoseSession("prod")
		b.settle(29 * time.Minute)
		row, _ := b.Row(a)
		require.Equal(b, channels.Enqueued, row.State)
		require.Equal(b, 1, b.status(r).Watched)
		require.Equal(b, 1, b.logs.FilterMessageSnippet("job stays enqueued").Len())
		b.settle(2 * time.Minute)
		b.requireRanOnce(a)
		b.requireIdle(r)

		// One that somebody else enqueued, and never sent, waits for somebody too.
		lost := b.one("prod", "lost", func(j *mock.Job) {
			j.State, j.RawState, j.Enqueued = channels.Enqueued, "enqueued", time.Now().Add(-time.Hour).UnixMicro()
		})
		b.settle(time.Hour)
		require.Empty(b, b.RunsOf(lost))
		b.SetState(lost, channels.Pending)
		b.settle(time.Minute)
		b.requireRanOnce(lost)
		b.requireIdle(r)
	})
}

// Nothing is inspected where there are no lock rows, and where there are, only what is watched.
func TestWhatIsInspected(t *testing.T) {
	for name, c := range map[string]struct {
		plan      mock.Plan
		locks     bool
		inspected bool
	}{
		"watched":                     {mock.Plan{RunFor: time.Minute, DropConnAfter: time.Second}, true, true},
		"watched, without a lock row": {mock.Plan{RunFor: time.Minute, DropConnAfter: time.Second}, false, false},
		"open":                        {mock.Plan{RunFor: time.Minute}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if !c.locks {
					b.WithoutLocks("prod")
				}
				k := b.one("prod", "a")
				b.PlanFor(k, c.plan)
				b.start(b.config("root:1"))
				b.settle(50 * time.Second)
				require.Equal(b, c.inspected, b.Calls("prod", "Inspect") > 0)
				b.settle(time.Minute)
				b.requireRanOnce(k)
			})
		})
	}
}

func TestWarningsAreLoggedOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) {
			f.Fingerprint = &driver.Fingerprint{Health: driver.Healthy, Generation: "mock", Warnings: []string{"stop the other one"}}
		})
		b.start(b.config("root:2"))
		b.settle(time.Hour)
		b.LoseSession("prod")
		b.settle(time.Hour)
		require.Equal(b, 1, b.logged("stop the other one"))
	})
}

func TestConnectionDroppedWhileTheJobLives(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%t", locks), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if !locks {
					b.WithoutLocks("prod")
				}
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 10 * time.Minute, DropConnAfter: time.Second})
				a := b.one("prod", "a")
				r := b.start(b.config("root:1"))
				next := b.one("prod", "b")
				b.settle(9 * time.Minute)
				require.Equal(b, 1, b.status(r).Watched)
				require.Empty(b, b.RunsOf(next))
				b.settle(time.Minute)
				b.requireRanOnce(a, next)
				ended := b.RunsOf(a)[0].Ended
				b.within(ended, b.RunsOf(next)[0].Opened, 0, 100*time.Millisecond)
				b.requireIdle(r)
			})
		})
	}
}

// A connection that breaks before the job is started leaves a request in the backlog. The job is put
// back at once and sent again, and of the two requests one starts it.
func TestConnectionDroppedInTheBacklog(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{StartAfter: 8 * time.Second, RunFor: time.Minute, DropConnAfter: time.Second})
		k := b.one("prod", "a")
		r := b.start(b.config("root:1"))
		b.settle(5 * time.Minute)
		b.requireDone(k)
		require.Len(b, b.RunsOf(k), 2)
		require.Equal(b, 1, b.started(k))
		b.requireIdle(r)
	})
}

// The server goes with all requests that wait there. Those jobs do not keep their slots until it is
// known what became of each: others run as soon as there is a server.
func TestRestartOfTheServer(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.jobs("prod", "", "first", 4)
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.CutN = 4 })
		r := b.start(b.config("root:4"))
		b.settle(100 * time.Millisecond)
		others := b.jobs("prod", "", "other", 4)
		b.settle(2 * time.Second)
		b.requireDone(others...)
		b.settle(time.Minute)
		b.requireIdle(r)
		require.Zero(b, b.logs.FilterMessageSnippet("Re-queued dead job").Len())
	})
}

func TestTakeOver(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		now := time.Now().UnixMicro()
		for i := range 2 {
			b.one("prod", fmt.Sprintf("running%d", i), func(j *mock.Job) {
				j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, now, true, 7
			})
		}
		b.SetPlan(mock.Plan{RunFor: time.Second})
		keys := b.jobs("prod", "", "a", 10)
		r := b.start(b.config("root:3"))
		b.settle(4 * time.Second)
		require.Equal(b, 2, b.status(r).Watched)
		require.Equal(b, 1, b.MaxConcurrent(nil), "two places are taken")
		b.settle(10 * time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))
		for i := range 2 {
			k := key("prod", fmt.Sprintf("running%d", i))
			require.Empty(b, b.RunsOf(k))
			b.FreeLock(k)
			b.SetState(k, channels.Done)
		}
		b.settle(time.Second)
		b.requireIdle(r)
	})
}

// What runs in one database counts for the capacity that all share, so a new
// leader has to look at all of them first, but does not wait for ever.
func TestTakeOverOfSeveralDatabases(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "fast", "foreign")
		b.LockHeldBy("slow", "the former leader")
		b.LockHeldBy("foreign", "somebody else")
		now := time.Now().UnixMicro()
		for i := range 4 {
			b.one("slow", fmt.Sprintf("running%d", i), func(j *mock.Job) {
				j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, now, true, 7
			})
		}
		keys := b.jobs("fast", "", "a", 10)
		r := b.start(b.config("root:4"))
		b.LockHeldBy("slow", "")
		b.settle(time.Minute)
		require.Equal(b, 4, b.status(r).Watched)
		require.Empty(b, b.Runs(), "all places are taken")
		for i := range 4 {
			b.SetState(key("slow", fmt.Sprintf("running%d", i)), channels.Done)
		}
		b.settle(time.Second)
		b.requireRanOnce(keys...)
	})
	inBubble(t, func(b *bench) {
		b.AddDatabase("foreign", "fast")
		b.LockHeldBy("foreign", "somebody else")
		keys := b.jobs("fast", "", "a", 10)
		b.start(b.config("root:4"))
		b.settle(5 * time.Second)
		b.requireRanOnce(keys...)
	})
}

func TestEnqueuedAndNeverArrived(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%t", locks), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if !locks {
					b.WithoutLocks("prod")
				}
				began := time.Now()
				k := b.one("prod", "a", func(j *mock.Job) { j.State, j.Enqueued = channels.Enqueued, began.UnixMicro() })
				odd := b.one("prod", "odd", func(j *mock.Job) { j.State = channels.Enqueued })
				r := b.start(b.config("root:4"))
				b.settle(time.Minute)
				b.requireRanOnce(k)
				b.within(began, b.RunsOf(k)[0].Opened, 10*time.Second, 25*time.Second)
				row, _ := b.Row(k)
				require.Zero(b, row.Retry)
				require.Empty(b, b.RunsOf(odd), "without date_enqueued nobody knows")
				require.Equal(b, 1, b.status(r).Watched)
			})
		})
	}
}

// Two looks must lie apart, also when a slow session takes them one right after
// the other.
func TestLooksLieApart(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var slow sync.Once
		looks := make(chan time.Time, 1000)
		cfg := b.config("root:1")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &fakeSession{
				Session:   s,
				toInspect: func() { slow.Do(func() { <-time.After(20 * time.Second) }) },
				inspect: func(found []driver.Liveness) {
					for _, l := range found {
						if l.Verdict == driver.Dead {
							looks <- time.Now()
						}
					}
				},
			}
		}}
		b.PlanFor(key("prod", "a"), mock.Plan{Crash: true})
		k := b.one("prod", "a")
		b.start(cfg)
		b.settle(time.Minute)
		runs := b.RunsOf(k)
		require.Len(b, runs, 2)
		first, second := <-looks, <-looks
		require.Less(b, second.Sub(first), 3*time.Second, "or this test does not test it")
		require.GreaterOrEqual(b, runs[1].Opened.Sub(first), 3*time.Second)
	})
}

// Without lock rows a started job is never put back, unless somebody says when.
func TestRescueStartedAfter(t *testing.T) {
	for _, limit := range []time.Duration{0, 30 * time.Minute} {
		t.Run(limit.String(), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.WithoutLocks("prod")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Minute, Crash: true})
				cfg := b.config("root:1")
				cfg.RescueStartedAfter = limit
				k := b.one("prod", "a")
				r := b.start(cfg)
				b.settle(30*time.Minute + 50*time.Second)
				require.Len(b, b.RunsOf(k), 1, "not before the limit")
				require.Equal(b, 1, b.status(r).Watched)
				b.settle(time.Minute)
				if limit == 0 {
					b.settle(12 * time.Hour)
					require.Len(b, b.RunsOf(k), 1)
					return
				}
				row, _ := b.Row(k)
				require.EqualValues(b, 1, row.Retry)
				require.Len(b, b.RunsOf(k), 2)
				b.requireIdle(r)
			})
		})
	}
}
