package runner_test

import (
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestOrderOverChannelsAndDatabases(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		for _, j := range []struct {
			db, uuid, channel string
			priority          int32
			created           int64
		}{
			{"one", "sixth", "", 10, 400},
			{"two", "fifth", "b", 10, 300},
			{"one", "fourth", "a", 10, 200},
			{"two", "third", "", 5, 900},
			{"two", "second", "a.x", 1, 20},
			{"one", "first", "b", 1, 10},
		} {
			b.one(j.db, j.uuid, func(m *mock.Job) { m.Channel, m.Priority, m.Created = j.channel, j.priority, j.created })
		}
		b.start(b.config("root:1,a:2,b:1"))
		b.settle(time.Minute)
		require.Equal(b, []string{"first", "second", "third", "fourth", "fifth", "sixth"}, b.Order())
	})
}

func TestRetryByOdoo(t *testing.T) {
	for name, c := range map[string]struct{ eta, answer time.Duration }{
		"answer before the eta": {time.Minute, 2 * time.Second},
		"eta before the answer": {2 * time.Second, 10 * time.Second},
		"no eta":                {0, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				r := b.start(b.config("root:1"))
				var eta time.Time
				b.PlanFor(key("prod", "a"), mock.Plan{
					Ends: channels.Pending, HoldAnswer: c.answer,
					Then: func(j *mock.Job) {
						j.Retry++
						if c.eta != 0 {
							eta = time.Now().Add(c.eta)
							j.ETA = eta.UnixMicro()
						}
					},
				})
				k := b.one("prod", "a")
				b.settle(time.Second)
				require.Equal(b, 1, b.status(r).Open)
				b.settle(2 * time.Minute)
				b.requireDone(k)
				runs := b.RunsOf(k)
				require.Len(b, runs, 2)
				from := runs[0].Closed
				if eta.After(from) {
					from = eta
				}
				b.within(from, runs[1].Opened, 0, 100*time.Millisecond)
				b.requireIdle(r)
			})
		})
	}
}

func TestFailedJobBlocksASequentialChannel(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a1"), mock.Plan{Ends: channels.Failed, Status: http.StatusInternalServerError})
		keys := b.jobs("prod", "seq", "a", 2)
		other := b.one("prod", "other")
		r := b.start(b.config("root:4,seq:1:sequential"))
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Failed))
		require.Empty(b, b.RunsOf(keys[1]))
		b.requireRanOnce(other)
		x, known, err := r.Explain(b.Context(), keys[1])
		require.NoError(b, err)
		require.True(b, known)
		require.NotZero(b, x)
		b.SetState(keys[0], channels.Done)
		b.settle(time.Second)
		b.requireRanOnce(keys[1])
		b.requireIdle(r)
	})
}

func TestPlaceHeldUntilTheAnswer(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second, HoldAnswer: 3 * time.Second})
		keys := b.jobs("prod", "", "a", 3)
		r := b.start(b.config("root:1"))
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))
		b.requireIdle(r)
	})
}

// An answer that never comes costs a place for a while, not for ever.
func TestAnswerLost(t *testing.T) {
	end := map[string]func(*bench, channels.Key){
		"done":      func(*bench, channels.Key) {},
		"cancelled": func(b *bench, k channels.Key) { b.SetState(k, channels.Cancelled) },
		"deleted":   func(b *bench, k channels.Key) { b.Delete(k) },
	}
	for name, change := range end {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				plan := mock.Plan{RunFor: time.Second, HoldAnswer: time.Hour}
				if name != "done" {
					plan = mock.Plan{RunFor: time.Hour}
				}
				b.PlanFor(key("prod", "a"), plan)
				k := b.one("prod", "a")
				r := b.start(b.config("root:1"))
				next := b.one("prod", "b")
				began := time.Now()
				change(b, k)
				b.settle(3 * time.Second)
				require.Empty(b, b.RunsOf(next), "the place is held while the answer may come")
				b.settle(15 * time.Second)
				b.requireRanOnce(next)
				b.within(began, b.RunsOf(next)[0].Opened, 4*time.Second, 13*time.Second)
				require.Len(b, b.RunsOf(k), 1)
				require.Equal(b, driver.Broken, b.RunsOf(k)[0].Result.Outcome)
				b.requireIdle(r)
			})
		})
	}
}

func TestRequeuedWhileOpen(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "running"), mock.Plan{RunFor: 30 * time.Second})
		b.PlanFor(key("prod", "ended"), mock.Plan{RunFor: time.Second, HoldAnswer: 30 * time.Second})
		running, ended := b.one("prod", "running"), b.one("prod", "ended")
		r := b.start(b.config("root:4"))
		b.settle(3 * time.Second)
		b.SetState(running, channels.Pending)
		b.SetState(ended, channels.Pending)
		b.settle(20 * time.Second)
		require.Equal(b, 2, b.status(r).Open)
		b.settle(time.Minute)
		b.requireRanOnce(running)
		b.requireDone(ended)
		require.Len(b, b.RunsOf(ended), 2)
		b.requireIdle(r)
	})
}

func TestNotSentGoesToTheNextUpstream(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Targets = upstreams{"odoo1", "odoo2", "odoo3"}
		var j journal
		cfg.Events = j.add
		b.PlanFor(key("prod", "a"), mock.Plan{FailBeforeSend: true}, mock.Plan{FailBeforeSend: true})
		r := b.start(cfg)
		k := b.one("prod", "a")
		b.settle(time.Second)
		runs := b.RunsOf(k)
		require.Len(b, runs, 3)
		require.Equal(b, runs[0].Task.Enqueued, runs[1].Task.Enqueued, "the same claim")
		require.Equal(b, runs[0].Task.Enqueued, runs[2].Task.Enqueued, "the same claim")
		require.Len(b, map[string]bool{runs[0].Upstream: true, runs[1].Upstream: true, runs[2].Upstream: true}, 3)
		require.Equal(b, 1, b.Calls("prod", "Claim")+b.Calls("prod", "ClaimVacant"))
		waited := 0
		for _, ev := range j.of("a", runner.EventKinds()...) {
			if ev.Waited() {
				waited++
			}
		}
		require.Equal(b, 1, waited, "one attempt, whatever the number of requests")
		b.requireDone(k)
		b.requireIdle(r)
	})
}

func TestNothingIsClaimedWithoutUpstreams(t *testing.T) {
	down := errors.New("connection refused")
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		keys := b.jobs("prod", "", "a", 20)
		r := b.start(b.config("root:4"))
		b.settle(2 * time.Second)
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.FailBeforeSend, f.CheckErr = -1, down })
		b.settle(5 * time.Second)
		claims, reads := b.Calls("prod", "Claim"), b.Calls("prod", "Read")
		b.settle(10 * time.Minute)
		require.Equal(b, claims, b.Calls("prod", "Claim"))
		require.Equal(b, reads, b.Calls("prod", "Read"))
		require.Zero(b, b.Count("prod", channels.Enqueued))
		require.False(b, b.status(r).Upstreams[0].Up)
		require.NotEmpty(b, b.status(r).Upstreams[0].Reason)
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
		b.settle(20 * time.Second)
		b.requireDone(keys...)
		for _, k := range keys {
			require.Equal(b, 1, b.started(k))
		}
		b.requireIdle(r)
	})
}

// A server that looks fine and takes nothing must not be asked without end.
func TestNoHotLoopWhenEveryRequestFails(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.FailBeforeSend = -1 })
		b.jobs("prod", "", "a", 20)
		b.start(b.config("root:4"))
		b.settle(time.Minute)
		require.LessOrEqual(b, b.Calls("prod", "Claim"), 40)
		require.LessOrEqual(b, len(b.Runs()), 160)
	})
}

func TestRefusedJobRunsOnce(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%t", locks), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if !locks {
					b.WithoutLocks("prod")
				}
				r := b.start(b.config("root:4"))
				b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.RefuseN, f.CheckErr = 1, errors.New("status 503") })
				k := b.one("prod", "a")
				b.settle(time.Second)
				require.False(b, b.status(r).Upstreams[0].Up)
				require.Len(b, b.RunsOf(k), 1)
				b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
				b.settle(time.Minute)
				b.requireDone(k)
				require.Len(b, b.RunsOf(k), 2)
				require.Equal(b, 1, b.started(k))
				row, _ := b.Row(k)
				require.Zero(b, row.Retry, "a job that was not started has not been tried")
				b.requireIdle(r)
			})
		})
	}
}

// Redirects and login pages concern one database, and must not cost the others
// their servers or their places.
func TestARefusedDatabaseDoesNotDisturbOthers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("bad", "good")
		for _, k := range b.jobs("bad", "", "a", 300) {
			b.PlanFor(k, repeat(mock.Plan{Refuse: http.StatusSeeOther}, 1000)...)
		}
		r := b.start(b.config("root:3"))
		for i := range 20 {
			b.settle(10 * time.Second)
			b.one("good", fmt.Sprintf("g%d", i))
			require.True(b, b.status(r).Upstreams[0].Up)
		}
		b.settle(time.Minute)
		require.Equal(b, 20, b.Count("good", channels.Done))
		var longest time.Duration
		for _, run := range b.Runs() {
			if run.Task.DB == "good" {
				longest = max(longest, run.Opened.Sub(time.UnixMicro(run.Job.Created)))
			}
		}
		require.Less(b, longest, 30*time.Second)
		require.Less(b, len(b.Runs()), 200)
	})
}

// One job that Odoo never runs is asked for less and less often, and is in
// nobody's way.
func TestJobThatOdooDoesNotRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		bad := key("prod", "bad")
		b.PlanFor(bad, repeat(mock.Plan{StayEnqueued: true}, 9)...)
		b.one("prod", "bad")
		r := b.start(b.config("root:1"))
		for i := range 60 {
			k := b.one("prod", fmt.Sprintf("good%d", i))
			b.settle(100 * time.Millisecond)
			b.requireRanOnce(k)
			b.settle(5 * time.Second)
		}
		b.settle(time.Minute)
		b.requireDone(bad)
		runs := b.RunsOf(bad)
		require.Len(b, runs, 10)
		for i := 1; i < len(runs); i++ {
			want := min(time.Second<<(i-1), time.Minute)
			b.within(runs[i-1].Closed, runs[i].Opened, want*8/10, want*12/10+100*time.Millisecond)
		}
		require.Zero(b, b.logged("holding back the jobs of a database"))
		b.requireIdle(r)
	})
}

// The same two jobs failing in turn say nothing about the others either.
func TestASingleBadJobNeverHoldsTheDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "bad1"), repeat(mock.Plan{StayEnqueued: true}, 1000)...)
		b.PlanFor(key("prod", "bad2"), repeat(mock.Plan{StayEnqueued: true}, 1000)...)
		b.jobs("prod", "", "bad", 2)
		r := b.start(b.config("root:2"))
		b.settle(30 * time.Minute)
		require.Zero(b, b.logged("holding back the jobs of a database"))
		b.requireState(r, "prod", runner.DatabaseReady)
		require.Less(b, len(b.Runs()), 100)
	})
}

func TestDatabaseThatRunsNothingIsHeld(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("bad", "good")
		keys := b.jobs("bad", "", "a", 300)
		b.SetPlan(mock.Plan{StayEnqueued: true})
		r := b.start(b.config("root:3"))
		b.requireState(r, "bad", runner.DatabaseHeld)
		b.PlanFor(key("good", "g"), mock.Plan{RunFor: time.Second})
		k := b.one("good", "g")
		b.settle(2 * time.Second)
		b.requireRanOnce(k)
		b.settle(10 * time.Minute)
		require.Less(b, len(b.Runs()), 120, "held back longer and longer")
		b.SetPlan(mock.Plan{})
		b.settle(2 * time.Minute)
		b.requireDone(keys...)
		b.requireState(r, "bad", runner.DatabaseReady)
		b.requireIdle(r)
	})
}

func TestLockedRowBacksOff(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) { f.Locked = mock.Rows("locked") })
		locked := b.one("prod", "locked")
		r := b.start(b.config("root:1"))
		other := b.one("prod", "other")
		b.settle(100 * time.Millisecond)
		b.requireRanOnce(other)
		claims := b.Calls("prod", "Claim")
		b.settle(20 * time.Minute)
		require.Less(b, b.Calls("prod", "Claim")-claims, 320)
		require.Zero(b, b.logged("a full read repaired what no notification had told"))
		b.Fault("prod", func(f *mock.Faults) { f.Locked = nil })
		b.settle(10 * time.Second)
		b.requireRanOnce(locked)
		b.requireIdle(r)
	})
}

// A row that cannot be put back because somebody has it locked is not asked
// about without end.
func TestLockedRowIsPutBackLater(t *testing.T) {
	for _, locks := range []bool{true, false} {
		t.Run(fmt.Sprintf("locks=%t", locks), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				if !locks {
					b.WithoutLocks("prod")
				}
				b.PlanFor(key("prod", "a"), mock.Plan{StayEnqueued: true})
				var locked atomic.Bool
				locked.Store(true)
				cfg := b.config("root:4")
				cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
					return &fakeSession{Session: s, unclaim: func(tasks []driver.Task) []driver.Task {
						if locked.Load() {
							return nil
						}
						return tasks
					}}
				}}
				r := b.start(cfg)
				k := b.one("prod", "a")
				b.settle(9 * time.Second)
				require.Less(b, b.Calls("prod", "Read"), 10)
				locked.Store(false)
				b.settle(time.Minute)
				b.requireDone(k)
				require.Equal(b, 1, b.started(k))
				b.requireIdle(r)
			})
		})
	}
}

// A database that is not served any more gives its places back, however the
// requests end.
func TestRequestsOfAnUnservedDatabaseEnd(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"answered": {RunFor: time.Minute},
		"broken":   {RunFor: time.Minute, DropConnAfter: 30 * time.Second},
		"crashed":  {RunFor: time.Minute, Crash: true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "other")
				b.PlanFor(key("prod", "a"), plan)
				b.one("prod", "a")
				cfg := b.config("root:1")
				r := b.start(cfg)
				cfg.Databases = []string{"other"}
				require.NoError(b, r.Reconfigure(cfg))
				b.settle(5 * time.Second)
				k := b.one("other", "b")
				b.settle(10 * time.Second)
				require.Empty(b, b.RunsOf(k), "the open request keeps its place")
				b.settle(time.Minute)
				b.requireRanOnce(k)
				b.requireIdle(r)
			})
		})
	}
}

// The request is refused at a time when its database is not served any more.
func TestNotSentForAnUnservedDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		late := make(chan struct{})
		cfg := b.config("root:1")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(t driver.Task) {
			if t.DB == "prod" {
				<-late // dialling takes its time
			}
		}}
		b.PlanFor(key("prod", "a"), mock.Plan{FailBeforeSend: true})
		b.one("prod", "a")
		r := b.start(cfg)
		cfg.Databases = []string{"other"}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(5 * time.Second)
		close(late)
		b.settle(time.Second)
		k := b.one("other", "b")
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}

// Servers that run nothing are checked every ten seconds, although they are looked up more often.
func TestIdleServersAreChecked(t *testing.T) {
	inBubble(t, func(b *bench) {
		var checks atomic.Int32
		cfg := b.config("root:1")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), check: func() { checks.Add(1) }}
		b.start(cfg)
		b.settle(9 * time.Second)
		checks.Store(0)
		b.settle(time.Minute)
		require.InDelta(b, 6, checks.Load(), 1)
	})
}
