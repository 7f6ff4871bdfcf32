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

// claims changes what a session claims, and what is done with its result before it arrives.
type claims struct {
	driver.Session
	ask  func(uuids []string) []string
	told func()
}

func (s *claims) Claim(ctx context.Context, uuids, reads []string) ([]driver.Task, []driver.Row, error) {
	if s.ask != nil {
		uuids = s.ask(uuids)
	}
	got, rows, err := s.Session.Claim(ctx, uuids, reads)
	if s.told != nil {
		s.told()
	}
	return got, rows, err
}

// claiming is a driver whose sessions claim so.
func (b *bench) claiming(c *claims) driver.Driver {
	return &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
		return &claims{Session: s, ask: c.ask, told: c.told}
	}}
}

// A job that was claimed although the scheduler gave it no slot is put back, and runs in its turn.
func TestAClaimThatNobodyOrdered(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		cfg := b.config("root:1")
		cfg.Driver = b.claiming(&claims{ask: func(uuids []string) []string {
			if uuids[0] == "a1" {
				return []string{"a1", "a2"}
			}
			return uuids
		}})
		keys := b.jobs("prod", "", "a", 3)
		r := b.start(cfg)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))
		require.Equal(b, 1, b.logged("state of job a2 was reset from enqueued to pending"))
		b.requireIdle(r)
	})
}

// What ends the engine may come while a claim or a request is under way: nothing is sent any more.
func TestTheEndComesInBetween(t *testing.T) {
	for name, exits := range map[string]bool{"stopping": false, "exiting": true} {
		// end has the end come, and waits until it is known.
		end := func(b *bench, r *runner.Runner, exiting *atomic.Bool) {
			if exits {
				exiting.Store(true)
				return
			}
			go func() { _ = r.Stop(b.Context()) }()
			b.settle(time.Millisecond)
		}
		t.Run(name+" after a claim", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				var exiting atomic.Bool
				made, late := make(chan struct{}), make(chan struct{})
				cfg := b.config("root:1")
				cfg.Exiting = exiting.Load
				cfg.Driver = b.claiming(&claims{told: func() { close(made); <-late }})
				k := b.one("prod", "a")
				r, err := runner.New(cfg)
				require.NoError(b, err)
				r.Start()
				b.Cleanup(func() { b.stop(r) })
				<-made
				end(b, r, &exiting)
				close(late)
				b.settle(time.Minute)
				require.Empty(b, b.Runs())
				row, _ := b.Row(k)
				require.Equal(b, channels.Pending, row.State)
			})
		})
		t.Run(name+" after an answer", func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				var exiting atomic.Bool
				sent, late := make(chan struct{}, 9), make(chan struct{})
				cfg := b.config("root:1")
				cfg.Exiting = exiting.Load
				cfg.Targets = upstreams{"odoo1", "odoo2"}
				cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(driver.Task) { sent <- struct{}{}; <-late }}
				k := b.one("prod", "a")
				b.PlanFor(k, mock.Plan{FailBeforeSend: true})
				r := b.start(cfg)
				<-sent
				end(b, r, &exiting)
				close(late)
				b.settle(time.Minute)
				require.Len(b, b.Runs(), 1, "no other server is asked")
				row, _ := b.Row(k)
				require.Equal(b, channels.Pending, row.State)
			})
		})
	}
}

// For one claim each server is asked once, also if it looks fine again meanwhile.
func TestAClaimAsksEachServerOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:1")
		cfg.Targets = upstreams{"odoo1", "odoo2"}
		cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(driver.Task) { <-time.After(10 * time.Second) }}
		k := b.one("prod", "a")
		b.PlanFor(k, repeat(mock.Plan{FailBeforeSend: true}, 4)...)
		r := b.start(cfg)
		b.settle(2 * time.Minute)
		b.requireDone(k)
		asked := make(map[int64]int)
		for _, run := range b.RunsOf(k) {
			asked[run.Task.Enqueued]++
		}
		require.Len(b, asked, 3)
		for _, n := range asked {
			require.LessOrEqual(b, n, 2)
		}
		b.requireIdle(r)
	})
}

// A leader that comes back waits again for what it cannot ask, as a new one does.
func TestALeaderThatComesBackWaitsAgain(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "fast")
		r := b.start(b.config("root:2"))
		b.settle(10 * time.Second)
		b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
		b.LoseSession("slow")
		b.LoseClusters()
		left := b.running("slow", 2)
		for b.logged("leading this runner") < 2 {
			b.settle(100 * time.Millisecond)
		}
		keys := b.jobs("fast", "", "a", 10)
		b.requireState(r, "fast", runner.DatabaseReady)
		b.settle(3 * time.Second)
		require.True(b, b.status(r).TakingOver)
		require.Empty(b, b.Runs(), "slow may have jobs that run")
		b.Fault("slow", func(f *mock.Faults) { *f = mock.Faults{} })
		for _, k := range left {
			b.SetState(k, channels.Done)
		}
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

// An application that runs some of its jobs is not held back for the others, however many these are.
func TestRefusalsInBetweenHoldNothingBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		for _, k := range b.jobs("prod", "", "a", 20) {
			if k.UUID[1]%2 == 0 {
				b.PlanFor(k, mock.Plan{StayEnqueued: true})
			}
		}
		r := b.start(b.config("root:1"))
		b.settle(5 * time.Minute)
		require.Zero(b, b.logged("holding back the jobs of a database"))
		require.Equal(b, 20, b.Count("prod", channels.Done))
		b.requireIdle(r)
	})
}

// A claim that succeeds lets the next failure count as the first.
func TestClaimsThatSucceedInBetween(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:1"))
		for i := range 6 {
			b.Fault("prod", func(f *mock.Faults) { f.LoseAfterClaim = true })
			k := b.jobs("prod", "", string(rune('a'+i)), 2)
			b.settle(2 * time.Minute)
			b.requireDone(k...)
		}
		holds := b.logs.FilterMessage("holding back the jobs of a database").All()
		require.Len(b, holds, 6)
		for _, h := range holds {
			require.Less(b, h.ContextMap()["for"], 2*time.Second)
		}
		b.requireIdle(r)
	})
}

// An answer is overdue once the job has ended for good: a job that was put back and ended again
// counts from its second end.
func TestAnAnswerIsOverdueSinceTheLastEnd(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		k := key("prod", "a")
		b.PlanFor(k, mock.Plan{RunFor: time.Hour})
		b.one("prod", "a")
		r := b.start(b.config("root:1"))
		b.SetState(k, channels.Done)
		b.settle(3 * time.Second)
		b.SetState(k, channels.Started)
		b.settle(time.Minute)
		require.Equal(b, 1, b.status(r).Open)
		b.SetState(k, channels.Done)
		b.settle(4 * time.Second)
		require.Equal(b, 1, b.status(r).Open, "it has just ended")
		b.settle(10 * time.Second)
		require.Zero(b, b.status(r).Open)
		b.requireIdle(r)
	})
}

// Another attempt at a job that is watched has its own time.
func TestAnotherAttemptHasItsOwnTime(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.WithoutLocks("prod")
		k := b.one("prod", "a", func(j *mock.Job) {
			j.State, j.Enqueued = channels.Started, time.Now().UnixMicro()
		})
		cfg := b.config("root:1")
		cfg.RescueStartedAfter = 2 * time.Hour
		r := b.start(cfg)
		b.settle(90 * time.Minute)
		b.Update(k, func(j *mock.Job) { j.Enqueued = time.Now().UnixMicro() })
		b.settle(90 * time.Minute)
		row, _ := b.Row(k)
		require.Equal(b, channels.Started, row.State, "of this attempt only half the time has passed")
		b.settle(31 * time.Minute)
		require.Equal(b, 1, b.logged("Re-queued dead job with uuid: a"))
		b.requireDone(k)
		b.requireIdle(r)
	})
}

// A job whose request broke while its database was away is watched since its row was read.
func TestWatchedSinceTheRowWasRead(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.WithoutLocks("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: time.Minute, Crash: true})
		cfg := b.config("root:1")
		cfg.RescueStartedAfter = 2 * time.Hour
		k := b.one("prod", "a")
		r := b.start(cfg)
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
		b.LoseSession("prod")
		b.settle(110 * time.Minute)
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr = nil })
		b.settle(time.Hour)
		require.Equal(b, 1, b.status(r).Watched)
		require.Len(b, b.RunsOf(k), 1, "what happened before is not known")
		b.settle(61 * time.Minute)
		require.Len(b, b.RunsOf(k), 2)
		b.requireDone(k)
		b.requireIdle(r)
	})
}

// A job that changes between its turn and its claim gives its slot back, or keeps it if it runs.
func TestClaimsThatMiss(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*bench, channels.Key)
		keeps  bool
	}{
		"deleted": {func(b *bench, k channels.Key) { b.Delete(k) }, false},
		"done":    {func(b *bench, k channels.Key) { b.SetState(k, channels.Done) }, false},
		"later":   {func(b *bench, k channels.Key) { b.Update(k, func(j *mock.Job) { later(j); j.State = channels.Failed }) }, false},
		"not known": {func(b *bench, k channels.Key) {
			b.Update(k, func(j *mock.Job) { j.State, j.RawState = channels.Unknown, "on_hold" })
		}, false},
		"started": {func(b *bench, k channels.Key) {
			b.Update(k, func(j *mock.Job) {
				j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, time.Now().UnixMicro(), true, 7
			})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				k := b.one("prod", "a")
				next := b.one("prod", "b", func(j *mock.Job) { j.Priority++ })
				cfg := b.config("root:1")
				// Nothing but the result of the claim tells of the change.
				cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
					return &claims{
						Session: &fakeSession{Session: s, wait: func(n driver.Notifications) driver.Notifications { n.Changed = nil; return n }},
						ask: func(uuids []string) []string {
							if uuids[0] == "a" {
								c.change(b, k)
							}
							return uuids
						},
					}
				}}
				r := b.start(cfg)
				require.Empty(b, b.RunsOf(k))
				if c.keeps {
					require.Empty(b, b.RunsOf(next))
					require.Equal(b, 1, b.status(r).Watched)
					b.SetState(k, channels.Done)
					b.settle(10 * time.Second)
				}
				require.Len(b, b.RunsOf(next), 1)
				require.Zero(b, b.status(r).Claiming)
			})
		})
	}
}

// While the leader lock cannot be asked for, and after that, nothing is given up that need not be.
func TestABriefLossOfTheLeaderLock(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "odd", "none")
		b.Unhealthy("odd", "the trigger is missing")
		b.Undetected("none")
		var away atomic.Bool
		cfg := b.config("root:1")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), openCluster: func() error {
			if away.Load() {
				return errFault
			}
			return nil
		}}
		r := b.start(cfg)
		away.Store(true)
		b.LoseClusters()
		b.settle(20 * time.Second)
		require.False(b, b.status(r).Leader)
		away.Store(false)
		b.settle(2 * time.Minute)
		require.True(b, b.status(r).Leader)
		require.Zero(b, b.logged("database is not served any more"))
		require.Equal(b, 1, b.logged("queue job runner ready for db prod"))
		require.Equal(b, 2, b.logged("leading this runner"))
		k := b.one("prod", "a")
		b.settle(time.Second)
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}

// A database that is dropped while it is held back leaves nothing to one of the same name.
func TestDroppedWhileHeldBack(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{StayEnqueued: true})
		b.jobs("prod", "", "a", 3)
		cfg := b.config("root:3")
		cfg.DiscoverInterval = 50 * time.Millisecond
		r, err := runner.New(cfg)
		require.NoError(b, err)
		r.Start()
		b.Cleanup(func() { b.stop(r) })
		for b.logged("holding back the jobs of a database") == 0 {
			b.settle(10 * time.Millisecond)
		}
		b.DropDatabase("prod")
		b.settle(100 * time.Millisecond)
		require.Equal(b, 1, b.logged("database is not served any more"))
		b.SetPlan(mock.Plan{})
		b.AddDatabase("prod")
		keys := b.jobs("prod", "", "b", 3)
		b.LockHeldBy("prod", "another runner")
		b.settle(time.Minute)
		require.Empty(b, b.RunsOf(keys[0]))
		state, _ := b.state(r, "prod")
		require.Equal(b, runner.DatabaseStandby, state)
	})
}

// A job that is deleted without a word is found by the next snapshot, whatever it was doing.
func TestDeletedWithoutAWord(t *testing.T) {
	for name, c := range map[string]struct {
		plan    mock.Plan
		watched bool
	}{"open": {mock.Plan{RunFor: time.Hour}, false}, "watched": {mock.Plan{}, true}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.WithoutLocks("prod")
				var deaf atomic.Bool
				cfg := b.config("root:1")
				cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
					return &fakeSession{Session: s, wait: func(n driver.Notifications) driver.Notifications {
						if deaf.Load() {
							n.Changed = nil
						}
						return n
					}}
				}}
				b.PlanFor(key("prod", "a"), c.plan)
				k := b.one("prod", "a", func(j *mock.Job) {
					if c.watched {
						j.State, j.Enqueued = channels.Started, time.Now().UnixMicro()
					}
				})
				r := b.start(cfg)
				waits, next := b.one("prod", "b"), b.one("prod", "c")
				b.settle(time.Second)
				require.Equal(b, 2, b.status(r).Databases[0].Pending)
				deaf.Store(true)
				b.Delete(k)
				b.Delete(waits)
				b.settle(7 * time.Minute)
				require.Empty(b, b.RunsOf(waits))
				b.requireRanOnce(next)
				b.requireIdle(r)
			})
		})
	}
}

// A rescue that did nothing is tried again only when another inspection agrees.
func TestARescueThatDidNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.one("prod", "a", func(j *mock.Job) {
			j.State, j.Enqueued, j.LockRow = channels.Started, time.Now().Add(-time.Hour).UnixMicro(), true
		})
		cfg := b.config("root:1")
		var rescues, inspections int
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &idle{Session: &fakeSession{Session: s, toInspect: func() { inspections++ }}, n: &rescues}
		}}
		b.start(cfg)
		b.settle(time.Minute)
		require.GreaterOrEqual(b, rescues, 3)
		require.GreaterOrEqual(b, inspections, rescues)
	})
}

// idle is a session that rescues nothing, and counts how often it was to.
type idle struct {
	driver.Session
	n *int
}

func (s *idle) Rescue(context.Context, []driver.Liveness) ([]driver.Row, error) {
	*s.n++
	return nil, nil
}

// A database of the same name may be another one.
func TestAnotherDatabaseOfTheSameName(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:1")
		cfg.DiscoverInterval = time.Minute
		r := b.start(cfg)
		b.DropDatabase("prod")
		b.AddDatabase("prod")
		k := b.one("prod", "a")
		b.settle(3 * time.Minute)
		require.Equal(b, 1, b.logged("database is not served any more"))
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}
