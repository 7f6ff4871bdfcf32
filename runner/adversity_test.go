package runner_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

// running inserts jobs that another node has left running.
func (b *bench) running(db string, n int) (keys []channels.Key) {
	now := time.Now().UnixMicro()
	for i := range n {
		keys = append(keys, b.one(db, fmt.Sprintf("running%d", i), func(j *mock.Job) {
			j.State, j.Enqueued, j.LockRow, j.LockPID = channels.Started, now, true, 7
		}))
	}
	return keys
}

// A new leader waits for a database that has stumbled, too: it may still tell of jobs that run.
func TestTakeOverWaitsForADatabaseThatStumbles(t *testing.T) {
	for name, fault := range map[string]func(*bench){
		"unreachable": func(b *bench) { b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault }) },
		"snapshot":    func(b *bench) { b.Fault("slow", func(f *mock.Faults) { f.SnapshotErr = errFault }) },
		"unhealthy":   func(b *bench) { b.Unhealthy("slow", "the trigger is missing") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("slow", "fast")
				left := b.running("slow", 2)
				keys := b.jobs("fast", "", "a", 10)
				fault(b)
				r := b.start(b.config("root:2"))
				b.Fault("slow", func(f *mock.Faults) { *f = mock.Faults{} })
				b.settle(3 * time.Second)
				require.Equal(b, 2, b.status(r).Watched)
				require.Empty(b, b.Runs(), "all slots are taken")
				for _, k := range left {
					b.SetState(k, channels.Done)
				}
				b.settle(time.Minute)
				b.requireRanOnce(keys...)
				b.requireIdle(r)
			})
		})
	}
}

// Nor does a leader that comes back trust what it knew: another one may have led meanwhile.
func TestTakeOverAfterALossOfBothConnections(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "fast")
		r := b.start(b.config("root:2"))
		b.settle(10 * time.Second)
		b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
		b.Down()
		left := b.running("slow", 2)
		keys := b.jobs("fast", "", "a", 10)
		b.settle(2 * time.Second)
		b.Up()
		for !b.status(r).Leader {
			b.settle(100 * time.Millisecond)
		}
		b.Fault("slow", func(f *mock.Faults) { *f = mock.Faults{} })
		b.settle(4 * time.Second)
		require.Empty(b, b.Runs(), "all slots are taken")
		for _, k := range left {
			b.SetState(k, channels.Done)
		}
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

// A database that is out of reach keeps no slot of a job that Odoo has answered for.
func TestAnsweredJobOfALostDatabaseFreesItsSlot(t *testing.T) {
	for name, c := range map[string]struct {
		plan mock.Plan
		runs int
	}{
		"done":      {mock.Plan{RunFor: 5 * time.Second}, 1},
		"not run":   {mock.Plan{StartAfter: 5 * time.Second, StayEnqueued: true}, 2},
		"refused":   {mock.Plan{Refuse: http.StatusSeeOther}, 2},
		"not begun": {mock.Plan{FailBeforeSend: true}, 2},
	} {
		for _, unguarded := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, unguarded=%t", name, unguarded), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("bad", "good")
					heal := func() { b.Fault("bad", func(f *mock.Faults) { *f = mock.Faults{} }) }
					if unguarded {
						heal = func() { b.Fault("bad", func(f *mock.Faults) { f.OpenErr = nil }) }
						b.Unguarded("bad")
					}
					late := make(chan struct{})
					cfg := b.config("root:1")
					cfg.Driver = &fakeDriver{Driver: b.Driver(), run: func(t driver.Task) {
						if t.DB == "bad" {
							<-late
						}
					}}
					b.PlanFor(key("bad", "a"), c.plan)
					k := b.one("bad", "a")
					r := b.start(cfg)
					b.Fault("bad", func(f *mock.Faults) { f.OpenErr = errFault })
					b.LoseSession("bad")
					close(late)
					b.settle(10 * time.Second)
					next := b.one("good", "b")
					b.settle(time.Second)
					b.requireRanOnce(next)
					b.settle(2 * time.Hour)
					heal()
					b.settle(time.Minute)
					b.requireDone(k)
					require.Len(b, b.RunsOf(k), c.runs)
					b.requireIdle(r)
				})
			})
		}
	}
}

// An answer proves nothing if an earlier request for the job broke and may have been read since. A
// leader that has taken over does not know of it: if it cannot ask the database, the slot goes to another
// job, but only until the database has told.
func TestAnswerWhileAnEarlierRequestRunsTheJob(t *testing.T) {
	for name, takenOver := range map[string]bool{"the same leader": false, "another leader": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("bad", "good")
				k := key("bad", "a")
				b.PlanFor(k, mock.Plan{StartAfter: 20 * time.Second, DropConnAfter: time.Second, RunFor: time.Minute}, mock.Plan{StartAfter: 20 * time.Second})
				first := b.start(b.config("root:1"))
				began := time.Now()
				b.Insert(mock.NewJob(k.DB, k.UUID))
				b.settle(1500 * time.Millisecond)
				if takenOver {
					b.stop(first)
					cfg := b.config("root:1")
					cfg.Driver = b.Driver()
					first = b.start(cfg)
				}
				b.settle(time.Until(began.Add(21 * time.Second)))
				runs := b.RunsOf(k)
				require.Len(b, runs, 2)
				require.True(b, runs[0].Executing() && runs[1].Open(), "or this test does not test it")
				b.Fault("bad", func(f *mock.Faults) { f.OpenErr = errFault })
				b.LoseSession("bad")
				b.SetPlan(mock.Plan{RunFor: 10 * time.Second})
				good := b.jobs("good", "", "b", 9)
				b.settle(9 * time.Second)
				require.Equal(b, takenOver, len(b.RunsOf(good[0])) == 1)
				b.Fault("bad", func(f *mock.Faults) { f.OpenErr = nil })
				b.settle(10 * time.Second)
				sent := len(b.Runs())
				b.settle(time.Until(began.Add(79 * time.Second)))
				require.Len(b, b.Runs(), sent, "the database has told that the job runs")
				b.settle(5 * time.Minute)
				b.requireDone(append(good, k)...)
				b.requireIdle(first)
			})
		})
	}
}

// A request that is open keeps its job from being sent again, also by the next engine of the process,
// and whatever its row says.
func TestOpenRequestOfAnotherEngine(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("put back while served=%t", after), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.Unguarded("prod")
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				k := b.one("prod", "a")
				cfg := b.config("root:1")
				cfg.Exchanges = exchange.NewRegister()
				b.stop(b.start(cfg))
				var r *runner.Runner
				if after {
					b.SetState(k, channels.Done)
					r = b.start(cfg)
				}
				b.SetState(k, channels.Pending)
				other := b.one("prod", "b", func(j *mock.Job) {
					if !after {
						j.Priority = 1 // it would be first
					}
				})
				if !after {
					r = b.start(cfg)
				}
				b.settle(30 * time.Second)
				require.Len(b, b.RunsOf(k), 1)
				require.Equal(b, 1, b.status(r).Open)
				b.settle(5 * time.Minute)
				b.requireDone(k, other)
				require.Equal(b, 1, b.MaxExecuting(nil))
				b.requireIdle(r)
			})
		})
	}
}

// Two inspections that find no holder are of the same state of the same attempt.
func TestInspectionsOfTheSameState(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		old := time.Now().Add(-time.Minute).UnixMicro()
		k := b.one("prod", "a", func(j *mock.Job) { j.State, j.Enqueued = channels.Enqueued, old })
		looks := make(chan time.Time, 1000)
		cfg := b.config("root:1")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, inspect: func([]driver.Liveness) { looks <- time.Now() }}
		}}
		b.start(cfg)
		for len(looks) == 0 {
			b.settle(100 * time.Millisecond)
		}
		b.SetState(k, channels.Started) // a worker has begun, and its lock was not seen yet
		first := <-looks
		for len(looks) == 0 {
			b.settle(100 * time.Millisecond)
		}
		<-looks
		row, _ := b.Row(k)
		require.Equal(b, channels.Started.String(), row.State.String(), "one inspection of that state was enough")
		b.settle(15 * time.Second)
		b.requireDone(k)
		require.Greater(b, b.RunsOf(k)[0].Opened.Sub(first), 7*time.Second)
	})
}

// What became of a job during an outage is read from its row.
func TestJobsThatEndDuringAnOutage(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"answered": {RunFor: 5 * time.Second},
		"open":     {RunFor: 5 * time.Second, HoldAnswer: time.Minute},
		"watched":  {RunFor: 5 * time.Second, DropConnAfter: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.PlanFor(key("prod", "a"), plan)
				b.PlanFor(key("prod", "b"), plan)
				var j journal
				cfg := b.config("root:2")
				cfg.Events = j.add
				b.one("prod", "a")
				k := b.one("prod", "b")
				r := b.start(cfg)
				b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
				b.LoseSession("prod")
				b.settle(20 * time.Second)
				b.Delete(k)
				b.Fault("prod", func(f *mock.Faults) { f.OpenErr = nil })
				b.settle(2 * time.Minute)
				require.Len(b, j.of("a", runner.EventJobDone), 1)
				require.Empty(b, j.of("a", runner.EventJobGone))
				require.Len(b, j.of("b", runner.EventJobGone), 1)
				b.requireIdle(r)
			})
		})
	}
}

// What still executes in a database that may not be served any more keeps its slot.
func TestRetiredDatabaseKeepsSlots(t *testing.T) {
	for name, retire := range map[string]func(*bench){
		"neutralized": func(b *bench) { b.Neutralized("copy") },
		"undetected":  func(b *bench) { b.Undetected("copy") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("copy", "good")
				b.PlanFor(key("copy", "a"), mock.Plan{RunFor: 5 * time.Minute, DropConnAfter: time.Second})
				b.one("copy", "a")
				r := b.start(b.config("root:1"))
				b.settle(2 * time.Second)
				retire(b)
				b.LoseSession("copy")
				b.settle(10 * time.Second)
				k := b.one("good", "b")
				b.settle(4 * time.Minute)
				require.Empty(b, b.RunsOf(k), "the job executes")
				b.settle(20 * time.Minute)
				b.requireRanOnce(k)
				b.requireIdle(r)
			})
		})
	}
}

// A state that nobody has heard of, after the run, is no reason to keep a slot for ever.
func TestUnknownStateAfterTheRun(t *testing.T) {
	for name, plan := range map[string]mock.Plan{
		"answered": {RunFor: time.Second},
		"broken":   {RunFor: time.Second, DropConnAfter: 500 * time.Millisecond},
	} {
		for _, locks := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, locks=%t", name, locks), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					if !locks {
						b.WithoutLocks("prod")
					}
					plan.Then = func(j *mock.Job) { j.RawState = "on_hold" }
					b.PlanFor(key("prod", "a"), plan)
					a := b.one("prod", "a")
					r := b.start(b.config("root:1"))
					k := b.one("prod", "b")
					if name == "answered" {
						b.settle(time.Second)
						b.requireRanOnce(k)
					}
					b.settle(11 * time.Minute)
					b.requireRanOnce(k)
					b.requireIdle(r)
					b.SetState(a, channels.Pending)
					b.settle(time.Second)
					require.Len(b, b.RunsOf(a), 2)
				})
			})
		}
	}
}

// A server that accepts requests and never answers does not keep jobs for ever that it has not
// started, where a second request does no harm.
func TestServerThatNeverAnswers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "old")
		b.Unguarded("old")
		for _, db := range []string{"prod", "old"} {
			b.PlanFor(key(db, "a"), mock.Plan{StartAfter: 1000 * time.Hour})
			b.one(db, "a")
		}
		r := b.start(b.config("root:4"))
		b.settle(9 * time.Minute)
		require.Equal(b, 2, b.status(r).Open)
		b.settle(3 * time.Minute)
		b.requireDone(key("prod", "a"))
		b.settle(time.Hour)
		require.Len(b, b.RunsOf(key("old", "a")), 1, "it would not notice the second request")
	})
}

// slowSession takes its time for a snapshot of a database in which something runs.
type slowSession struct{ driver.Session }

func (s *slowSession) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	var rows []driver.Row
	runs := false
	err := s.Session.Snapshot(ctx, func(row driver.Row) {
		rows, runs = append(rows, row), runs || row.State.Running()
	})
	if runs {
		<-time.After(time.Minute)
	}
	for _, row := range rows {
		yield(row)
	}
	return err
}

// What runs is read before the snapshot, which may take longer than others can wait for it.
func TestRunningJobsCountBeforeTheSnapshot(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "fast")
		left := b.running("slow", 2)
		keys := b.jobs("fast", "", "a", 10)
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &slowSession{s}
		}}
		b.SetPlan(mock.Plan{RunFor: time.Second})
		r := b.start(cfg)
		b.settle(20 * time.Second)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.MaxConcurrent(nil))
		require.Equal(b, 2, b.status(r).Watched)
		for _, k := range left {
			b.SetState(k, channels.Done)
		}
		b.settle(2 * time.Minute)
		b.requireIdle(r)
	})
}

// After hours in stand-by nothing is what it was.
func TestExaminedAgainAfterStandby(t *testing.T) {
	for name, change := range map[string]func(*bench){
		"neutralized": func(b *bench) { b.Neutralized("prod") },
		"generation":  func(b *bench) { b.WithoutLocks("prod") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.LockHeldBy("prod", "another runner")
				r := b.start(b.config("root:1"))
				b.settle(time.Hour)
				k := b.one("prod", "a")
				change(b)
				b.LockHeldBy("prod", "")
				b.settle(5 * time.Second)
				if name == "neutralized" {
					require.Empty(b, b.Runs())
					b.requireState(r, "prod", runner.DatabaseNeutralized)
					require.Zero(b, b.connections("prod"), "the lock is given back")
					return
				}
				b.requireRanOnce(k)
				require.False(b, b.status(r).Databases[0].Fingerprint.Locks)
			})
		})
	}
}

// A node that cannot ask who leads gives up what another one needs in order to lead.
func TestLockGivenUpToAnotherLeader(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var refuse atomic.Bool
		cfg := b.config("root:3")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), openCluster: func() error {
			if refuse.Load() {
				return errFault
			}
			return nil
		}}
		first := b.start(cfg)
		second := b.start(b.config("root:3"))
		require.True(b, b.status(first).Leader)
		refuse.Store(true)
		b.LoseClusters()
		k := b.one("prod", "a")
		b.settle(45 * time.Second)
		require.True(b, b.status(second).Leader)
		b.requireRanOnce(k)
	})
}

// An engine that is busy for long takes a new configuration afterwards.
func TestReconfigureOfABusyEngine(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		var busy atomic.Bool
		cfg := b.config("root:1")
		cfg.Exiting = func() bool {
			if busy.CompareAndSwap(true, false) {
				<-time.After(20 * time.Second)
			}
			return false
		}
		r := b.start(cfg)
		busy.Store(true)
		b.settle(3 * time.Second)
		cfg.Channels = b.config("root:3").Channels
		began := time.Now()
		require.NoError(b, r.Reconfigure(cfg))
		b.within(began, time.Now(), 10*time.Second, 10*time.Second)
		require.Equal(b, 1, b.logged("the engine is busy, it takes the new configuration when it is not any more"))
		b.settle(20 * time.Second)
		b.SetPlan(mock.Plan{RunFor: time.Second})
		keys := b.jobs("prod", "", "a", 9)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 3, b.MaxConcurrent(nil))
	})
}

// A panic in the answer to a question is the matter of the one who asks.
func TestQuestionPanics(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		var broken atomic.Bool
		cfg := b.config("root:1")
		cfg.Exiting = func() bool {
			if broken.CompareAndSwap(true, false) {
				panic("as the test wants it")
			}
			return false
		}
		keys := b.jobs("prod", "", "a", 2)
		r := b.start(cfg)
		broken.Store(true)
		_, err := r.Why(b.Context(), keys[1])
		require.Error(b, err)
		require.Equal(b, 1, b.logged("panic in question"))
		require.Zero(b, b.logged("panic in engine"))
		require.Equal(b, 1, b.status(r).Open)
		b.settle(3 * time.Minute)
		b.requireRanOnce(keys...)
	})
}

// Rows that nothing can be made of do not fill the log.
func TestOddRowsAreLoggedOnceAMinute(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		for i := range 1000 {
			b.one("prod", fmt.Sprintf("strange%d", i), func(j *mock.Job) { j.State, j.RawState = channels.Unknown, "strange" })
			b.one("prod", fmt.Sprintf("nameless%d", i), func(j *mock.Job) { j.Nameless = true })
		}
		b.start(b.config("root:1"))
		b.settle(20 * time.Minute)
		require.NotZero(b, b.logs.FilterMessageSnippet("unexpected state strange for job strange").Len())
		require.NotZero(b, b.logged("a job without a uuid can never run"))
		for _, entry := range b.logs.FilterMessage("more rows of this kind").All() {
			require.GreaterOrEqual(b, entry.ContextMap()["rows"], int64(999))
		}
		lines := b.logs.FilterMessageSnippet("unexpected state").Len() + b.logged("a job without a uuid can never run") +
			b.logged("more rows of this kind")
		require.LessOrEqual(b, lines, 2*2*5)
	})
}

// A worker that dies while it loads the registry has read the request and not started the job. Where
// Odoo would notice a second request the job is put back at once, elsewhere an operator is told.
func TestWorkerDiesBeforeItStartsTheJob(t *testing.T) {
	for name, c := range map[string]struct {
		generation func(*bench)
		runs       int
	}{
		"locks":     {func(*bench) {}, 2},
		"no locks":  {func(b *bench) { b.WithoutLocks("prod") }, 2},
		"unguarded": {func(b *bench) { b.Unguarded("prod") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				c.generation(b)
				b.UpstreamFault("odoo1", func(f *mock.UpstreamFaults) { f.CutN = 1 })
				k := b.one("prod", "a")
				b.start(b.config("root:1"))
				b.settle(3 * time.Second)
				require.Len(b, b.RunsOf(k), c.runs, "the first pause of a job is a second, with jitter")
				b.settle(time.Minute)
				require.Len(b, b.RunsOf(k), c.runs)
				row, _ := b.Row(k)
				require.Zero(b, row.Retry)
				require.Equal(b, 2-c.runs, b.logs.FilterMessageSnippet("job stays enqueued").Len())
			})
		})
	}
}

// desk is where a leader leaves a note for the next one.
type desk struct {
	mu   sync.Mutex // guards the following
	note []runner.Slots
	err  error
}

func (d *desk) Load(context.Context) ([]runner.Slots, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.note, d.err
}

func (d *desk) Store(_ context.Context, note []runner.Slots) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.note = note
	}
	return d.err
}

// A new leader reserves what ran in databases that it cannot ask, as far as the former one has told.
func TestHandover(t *testing.T) {
	for name, c := range map[string]struct {
		back, broken bool
	}{"back": {back: true}, "never back": {}, "storage broken": {broken: true}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("slow", "fast")
				d := &desk{}
				cfg := b.config("root:3,sub:2")
				cfg.Handover = d
				for _, k := range b.jobs("slow", "sub", "s", 2) {
					b.PlanFor(k, mock.Plan{RunFor: 5 * time.Minute})
				}
				first := b.start(cfg)
				b.settle(5 * time.Second)
				require.Equal(b, []runner.Slots{{Database: "slow", Channel: "root.sub", Jobs: 2}}, d.note)
				b.stop(first)
				if d.mu.Lock(); c.broken {
					d.err = errFault
				}
				d.mu.Unlock()
				b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				keys := b.jobs("fast", "", "f", 3)
				second := b.start(cfg)
				b.settle(20 * time.Second)
				if c.broken {
					require.Equal(b, 3, b.status(second).Open, "it does not wait for ever")
					require.Equal(b, 1, b.logged("what the former leader ran cannot be read, its slots are not reserved"))
					return
				}
				require.Equal(b, 1, b.status(second).Open)
				if c.back {
					b.Fault("slow", func(f *mock.Faults) { f.OpenErr = nil })
					b.settle(10 * time.Second)
					require.Equal(b, 2, b.status(second).Watched)
					require.Equal(b, 1, b.status(second).Open)
				}
				b.settle(10 * time.Minute)
				b.requireRanOnce(keys...)
				require.LessOrEqual(b, b.MaxExecuting(nil), 3)
				b.requireIdle(second)
			})
		})
	}
}

// A task that a lost database has given up is not forgotten when the next connection is lost, too.
func TestParkedTaskSurvivesASecondLoss(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 5 * time.Second})
		b.one("prod", "a")
		var j journal
		cfg := b.config("root:1")
		cfg.Events = j.add
		r := b.start(cfg)
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
		b.LoseSession("prod")
		b.settle(10 * time.Second)
		require.Empty(b, j.of("a", runner.EventJobDone))
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr, f.ReadErr = nil, errFault }) // after each snapshot
		b.settle(time.Minute)
		require.Empty(b, j.of("a", runner.EventJobDone))
		b.Fault("prod", func(f *mock.Faults) { f.ReadErr = nil })
		b.settle(10 * time.Second)
		require.Len(b, j.of("a", runner.EventJobDone), 1)
		b.requireIdle(r)
	})
}

// A lost claim is known by its time. One that cannot be of that time is left alone where a second request
// would not be noticed.
func TestLostClaimIsKnownByItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(b *bench, k channels.Key)
		runs      int
		// led is for how long the process has led.
		led time.Duration
	}{
		"as it was left":            {func(*bench, channels.Key) {}, 1, time.Minute},
		"a former leader may claim": {func(*bench, channels.Key) {}, 0, 50 * time.Second},
		"claimed at another time": {func(b *bench, k channels.Key) {
			b.Update(k, func(j *mock.Job) { j.Enqueued += (10 * time.Second).Microseconds() })
		}, 0, time.Minute},
		"lock elsewhere meanwhile": {func(b *bench, _ channels.Key) {
			b.LockHeldBy("prod", "another runner")
			b.Fault("prod", func(f *mock.Faults) { f.OpenErr = nil })
			b.settle(5 * time.Second)
			b.LockHeldBy("prod", "")
		}, 0, time.Minute},
		"lead lost meanwhile": {func(b *bench, _ channels.Key) {
			b.LoseClusters()
			b.settle(3 * time.Second)
		}, 0, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.Unguarded("prod")
				r := b.start(b.config("root:1"))
				b.settle(c.led)
				b.Fault("prod", func(f *mock.Faults) { f.LoseAfterClaim, f.OpenErr = true, errFault })
				k := b.one("prod", "a")
				b.settle(time.Second)
				row, _ := b.Row(k)
				require.Equal(b, channels.Enqueued.String(), row.State.String())
				c.meanwhile(b, k)
				b.Fault("prod", func(f *mock.Faults) { f.OpenErr = nil })
				b.settle(10 * time.Minute)
				require.Len(b, b.RunsOf(k), c.runs)
				require.Equal(b, 1-c.runs, b.status(r).Watched)
			})
		})
	}
}

// A database is dropped and made again, and its session is back before the list of databases says so. A
// job that began in the new one keeps its slot when the list comes, and no other database gets it.
func TestJobsOfAReplacedDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		cfg := b.config("root:1")
		cfg.DiscoverInterval = time.Minute
		r := b.start(cfg)
		b.DropDatabase("prod")
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 5 * time.Minute, DropConnAfter: time.Second})
		a := b.one("prod", "a")
		b.settle(30 * time.Second)
		next := b.one("other", "b")
		b.settle(3 * time.Minute)
		require.Equal(b, 1, b.logged("database is not served any more"))
		require.Empty(b, b.RunsOf(next), "root has one slot")
		b.settle(5 * time.Minute)
		b.requireRanOnce(a, next)
		b.requireIdle(r)
	})
}

// What is known of a job that was not run is not forgotten while nothing may run in its database.
func TestKnowledgeSurvivesARetirement(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Unguarded("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{StartAfter: 2 * time.Second, StayEnqueued: true})
		k := b.one("prod", "a")
		r := b.start(b.config("root:1"))
		b.Undetected("prod")
		b.LoseSession("prod")
		b.settle(10 * time.Second)
		b.Unguarded("prod")
		b.settle(2 * time.Minute)
		b.requireDone(k)
		require.Len(b, b.RunsOf(k), 2)
		b.requireIdle(r)
	})
}

// A job whose request broke keeps its slot while its database is out of reach, but not for ever: it
// must not starve others. If the database comes back, it counts again.
func TestBrokenRequestInAnUnreachableDatabase(t *testing.T) {
	for name, fault := range map[string]func(*mock.Faults){
		"unreachable": func(f *mock.Faults) { f.OpenErr = errFault },
		"no snapshot": func(f *mock.Faults) { f.SnapshotErr = errFault },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("bad", "good")
				b.PlanFor(key("bad", "a"), mock.Plan{RunFor: time.Hour, DropConnAfter: time.Second})
				b.one("bad", "a")
				r := b.start(b.config("root:1"))
				b.settle(2 * time.Second)
				b.Fault("bad", fault)
				b.LoseSession("bad")
				b.SetPlan(mock.Plan{RunFor: time.Second})
				k := b.one("good", "b")
				b.settle(9 * time.Minute)
				require.Empty(b, b.RunsOf(k), "the job executes")
				b.settle(2 * time.Minute)
				b.requireRanOnce(k)
				require.Equal(b, 1, b.logged("the database of the job has not been served for long, giving the slot of the job to others"))
				b.settle(10 * time.Minute)
				k = b.one("good", "c")
				b.settle(5 * time.Second)
				b.requireRanOnce(k)
				b.Fault("bad", func(f *mock.Faults) { *f = mock.Faults{} })
				b.settle(10 * time.Second)
				require.Equal(b, 1, b.status(r).Watched, "it counts again")
				late := b.one("good", "d")
				b.settle(time.Minute)
				require.Empty(b, b.RunsOf(late))
				b.settle(time.Hour)
				b.requireDone(key("bad", "a"), late)
				b.requireIdle(r)
			})
		})
	}
}

// A job that is not among those that run gives its slot back, also where its row cannot be read.
func TestNotAmongThoseThatRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("bad", "good")
		b.PlanFor(key("bad", "a"), mock.Plan{RunFor: 5 * time.Second, DropConnAfter: time.Second})
		b.one("bad", "a")
		r := b.start(b.config("root:1"))
		b.settle(2 * time.Second)
		b.Fault("bad", func(f *mock.Faults) { f.ReadErr = errFault })
		k := b.one("good", "b")
		b.settle(30 * time.Second)
		b.requireRanOnce(k)
		b.Fault("bad", func(f *mock.Faults) { f.ReadErr = nil })
		b.settle(30 * time.Second)
		b.requireIdle(r)
	})
}

// A server that hangs is given up although it has answered something that it had begun before, and gets
// no other job before a check has found it well.
func TestServerThatHangs(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:2")
		cfg.Targets = upstreams{"odoo1", "odoo2"}
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 5 * time.Second})
		r := b.start(cfg)
		a := b.one("prod", "a")
		b.settle(time.Second)
		hangs := b.RunsOf(a)[0].Upstream
		b.UpstreamFault(hangs, func(f *mock.UpstreamFaults) { f.Hang, f.CheckErr = true, errFault })
		b.SetPlan(mock.Plan{RunFor: time.Second})
		for i := 0; ; i++ { // until it gets one
			k := b.one("prod", fmt.Sprintf("b%d", i))
			b.settle(100 * time.Millisecond)
			if b.RunsOf(k)[0].Upstream == hangs {
				break
			}
			b.settle(time.Second)
		}
		b.settle(9 * time.Minute)
		require.Equal(b, 1, b.status(r).Open)
		b.settle(3 * time.Minute)
		require.Zero(b, b.Count("prod", channels.Pending)+b.Count("prod", channels.Enqueued))
		n := 0
		for _, run := range b.Runs() {
			if run.Upstream == hangs {
				n++
			}
		}
		require.Equal(b, 2, n, "none was sent there again")
		b.UpstreamFault(hangs, func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
		b.settle(10 * time.Second)
		b.requireIdle(r)
	})
}

// A server whose workers are busy with our jobs is left its time, however long a request waits there.
func TestBusyServerIsLeftItsTime(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "long"), mock.Plan{RunFor: time.Hour})
		b.PlanFor(key("prod", "waits"), mock.Plan{StartAfter: time.Hour})
		long, waits := b.one("prod", "long"), b.one("prod", "waits")
		r := b.start(b.config("root:2"))
		b.settle(3 * time.Hour)
		b.requireRanOnce(long, waits)
		b.requireIdle(r)
	})
}

// What a former leader ran in a database is reserved once, for the database that is listed then.
func TestReservedOnceAndOnlyForWhatIsListed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("gone", "good")
		d := &desk{note: []runner.Slots{{Database: "gone", Channel: "root", Jobs: 1}, {Database: "never", Channel: "root", Jobs: 5}}}
		cfg := b.config("root:1")
		cfg.Handover = d
		cfg.DiscoverInterval = time.Second
		b.Fault("gone", func(f *mock.Faults) { f.OpenErr = errFault })
		b.SetPlan(mock.Plan{RunFor: time.Second})
		k := b.one("good", "a")
		b.start(cfg)
		b.settle(20 * time.Second)
		require.Empty(b, b.RunsOf(k), "the slot is reserved")
		b.DropDatabase("gone")
		b.settle(5 * time.Second)
		b.requireRanOnce(k)
		b.AddDatabase("gone", "never")
		b.Fault("gone", func(f *mock.Faults) { f.OpenErr = errFault })
		b.Fault("never", func(f *mock.Faults) { f.OpenErr = errFault })
		b.settle(5 * time.Second)
		next := b.one("good", "b")
		b.settle(5 * time.Second)
		b.requireRanOnce(next)
	})
}

// A reservation ends as soon as the database tells, and what runs there counts in its place.
func TestReservationEndsWhenTheDatabaseTells(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("slow", "good")
		cfg := b.config("root:2")
		cfg.Handover = &desk{note: []runner.Slots{{Database: "slow", Channel: "root", Jobs: 2}}}
		b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		keys := b.jobs("good", "", "a", 2)
		left := b.running("slow", 1)
		r := b.start(cfg)
		b.settle(20 * time.Second)
		require.Empty(b, b.Runs(), "both slots are reserved")
		b.Fault("slow", func(f *mock.Faults) { f.OpenErr, f.SnapshotErr = nil, errFault })
		b.settle(10 * time.Second)
		require.Len(b, b.Runs(), 1, "one of two has ended, which is told before the snapshot")
		b.SetState(left[0], channels.Done)
		b.Fault("slow", func(f *mock.Faults) { f.SnapshotErr = nil })
		b.settle(3 * time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

// A leader that comes back reserves what another one has run meanwhile in databases that are out of its
// own reach. What it runs there itself counts once.
func TestLeaderThatComesBackReserves(t *testing.T) {
	for name, c := range map[string]struct{ others, open int }{"another one led": {2, 1}, "no other led": {1, 2}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("slow", "good")
				d := &desk{}
				cfg := b.config("root:3")
				cfg.Handover = d
				b.PlanFor(key("slow", "s"), mock.Plan{RunFor: 5 * time.Minute, DropConnAfter: time.Second})
				b.one("slow", "s")
				r := b.start(cfg)
				b.settle(5 * time.Second)
				b.Fault("slow", func(f *mock.Faults) { f.OpenErr = errFault })
				b.LoseSession("slow")
				b.settle(5 * time.Second)
				b.LoseClusters()
				require.NoError(b, d.Store(b.Context(), []runner.Slots{{Database: "slow", Channel: "root", Jobs: c.others}}))
				b.settle(100 * time.Millisecond)
				b.SetPlan(mock.Plan{RunFor: time.Minute})
				b.settle(2 * time.Second)
				b.jobs("good", "", "a", 5)
				b.settle(20 * time.Second)
				require.True(b, b.status(r).Leader)
				require.Equal(b, c.open, b.status(r).Open)
			})
		})
	}
}

// What is reserved in a database that has told already what runs there, because its process has come to
// lead once more while the other jobs are being read, is given back once these have been.
func TestReservedWhileLoading(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		d := &desk{}
		cfg := b.config("root:1")
		cfg.Handover = d
		r := b.start(cfg)
		b.settle(5 * time.Second)
		b.Fault("prod", func(f *mock.Faults) { f.Slow = 4 * time.Second })
		before := b.Calls("prod", "Snapshot")
		b.LoseSession("prod")
		for b.Calls("prod", "Snapshot") == before {
			b.settle(100 * time.Millisecond)
		}
		b.LoseClusters()
		require.NoError(b, d.Store(b.Context(), []runner.Slots{{Database: "prod", Channel: "root", Jobs: 1}}))
		b.settle(2 * time.Second)
		require.True(b, b.status(r).Leader)
		b.requireState(r, "prod", runner.DatabaseLoading)
		require.Equal(b, 1, b.logged("reserving the slots of jobs that the former leader ran"))
		b.Fault("prod", func(f *mock.Faults) { f.Slow = 0 })
		k := b.one("prod", "a")
		b.settle(5 * time.Second)
		b.requireState(r, "prod", runner.DatabaseReady)
		b.requireRanOnce(k)
		require.Zero(b, b.logged("a full read repaired what no notification had told"))
		b.requireIdle(r)
	})
}

// A leader that ends leaves what runs at that moment, however lately that has changed.
func TestHandoverAtTheEnd(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		d := &desk{}
		cfg := b.config("root:2")
		cfg.Handover = d
		b.SetPlan(mock.Plan{RunFor: time.Minute})
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(3 * time.Second)
		b.one("prod", "b")
		b.settle(10 * time.Millisecond)
		require.Equal(b, []runner.Slots{{Database: "prod", Channel: "root", Jobs: 1}}, d.note, "not yet")
		b.stop(r)
		require.Equal(b, []runner.Slots{{Database: "prod", Channel: "root", Jobs: 2}}, d.note)
	})
}

// A driver that hands over two rows of one uuid hands over one task: the row that was read last counts,
// and a second claim of the same job is not sent while the first one is.
func TestTwoRowsOfOneUUID(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		cfg := b.config("root:2")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session { return &twins{s} }}
		k := b.one("prod", "a")
		r := b.start(cfg)
		b.settle(time.Minute)
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}

// twins is a session that says everything twice.
type twins struct{ driver.Session }

func (s *twins) Running(ctx context.Context) ([]driver.Row, error) {
	rows, err := s.Session.Running(ctx)
	return append(rows, rows...), err
}

func (s *twins) Snapshot(ctx context.Context, yield func(driver.Row)) error {
	return s.Session.Snapshot(ctx, func(row driver.Row) { yield(row); yield(row) })
}

func (s *twins) Read(ctx context.Context, uuids []string) ([]driver.Row, error) {
	rows, err := s.Session.Read(ctx, uuids)
	return append(rows, rows...), err
}

func (s *twins) Claim(ctx context.Context, uuids, others []string) ([]driver.Task, []driver.Row, error) {
	tasks, rows, err := s.Session.Claim(ctx, uuids, others)
	return append(tasks, tasks...), rows, err
}

// slowDesk is a desk at which it takes long to write, and that watches that one does something there at
// a time.
type slowDesk struct {
	desk
	busy, times, together atomic.Int32
}

func (d *slowDesk) enter() (leave func()) {
	if d.busy.Add(1) > 1 {
		d.together.Add(1)
	}
	return func() { d.busy.Add(-1) }
}

func (d *slowDesk) Load(ctx context.Context) ([]runner.Slots, error) {
	defer d.enter()()
	return d.desk.Load(ctx)
}

func (d *slowDesk) Store(ctx context.Context, note []runner.Slots) error {
	defer d.enter()()
	d.times.Add(1)
	<-time.After(1900 * time.Millisecond)
	return d.desk.Store(ctx, note)
}

// A leader that is elected again while it writes down what runs neither reads nor writes beside that.
func TestHandoverWhileOneIsWritten(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Hour})
		cfg := b.config("root:99")
		d := &slowDesk{}
		cfg.Handover = d
		r := b.start(cfg)
		b.settle(10 * time.Second)
		for i := range 20 {
			b.jobs("prod", "", fmt.Sprintf("j%d-", i), 1)
			b.settle(time.Duration(i+1) * 100 * time.Millisecond)
			b.LoseClusters()
			b.settle(3 * time.Second)
		}
		require.Greater(b, d.times.Load(), int32(10))
		require.Zero(b, d.together.Load())
		b.settle(10 * time.Second)
		require.Equal(b, []runner.Slots{{Database: "prod", Channel: "root", Jobs: 20}}, d.note)
		require.True(b, b.status(r).Leader)
	})
}
