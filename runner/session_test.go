package runner_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

func TestSessionLostWhileJobsRun(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 7 * time.Second, HoldAnswer: time.Second})
		keys := b.jobs("prod", "", "a", 20)
		r := b.start(b.config("root:4"))
		for range 20 {
			b.LoseSession("prod")
			b.settle(3 * time.Second)
		}
		b.settle(2 * time.Minute)
		b.requireRanOnce(keys...)
		require.LessOrEqual(b, b.MaxConcurrent(nil), 4)
		b.requireIdle(r)
	})
}

func TestSessionLostWhileClaiming(t *testing.T) {
	for name, generation := range map[string]func(*bench){
		"locks=true":  func(*bench) {},
		"locks=false": func(b *bench) { b.WithoutLocks("prod") },
		"unguarded":   func(b *bench) { b.Unguarded("prod") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				generation(b)
				b.SetPlan(mock.Plan{RunFor: time.Second})
				b.Fault("prod", func(f *mock.Faults) { f.LoseAfterClaim = true })
				r := b.start(b.config("root:4"))
				b.settle(time.Minute) // a former leader would know by now that it is none
				keys := b.jobs("prod", "", "a", 8)
				b.settle(time.Minute)
				require.Equal(b, 4, b.logs.FilterMessageSnippet("was reset from enqueued to pending").Len(),
					"all were claimed, and it is known that none was sent")
				b.requireRanOnce(keys...)
				for _, k := range keys {
					row, _ := b.Row(k)
					require.Zero(b, row.Retry)
				}
				b.requireIdle(r)
			})
		})
	}
}

func TestClaimHangs(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Fault("prod", func(f *mock.Faults) { f.HangClaim = true })
		keys := b.jobs("prod", "", "a", 8)
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Minute)
		require.Empty(b, b.Runs())
		require.LessOrEqual(b, b.Calls("prod", "Claim"), 30)
		b.Fault("prod", func(f *mock.Faults) { f.HangClaim = false })
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

// What a claim got is sent even if the look at what it did not get fails.
func TestReadAfterAClaimFails(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:4"))
		b.Fault("prod", func(f *mock.Faults) {
			f.Locked, f.ReadErr = mock.Rows("b"), errFault
			f.Deaf = true // so that both are found by the snapshot and claimed together
		})
		b.LoseSession("prod")
		a, k := b.one("prod", "a"), b.one("prod", "b")
		b.settle(2 * time.Second)
		require.Len(b, b.RunsOf(a), 1)
		b.Fault("prod", func(f *mock.Faults) { *f = mock.Faults{} })
		b.settle(time.Minute)
		b.requireRanOnce(a, k)
		b.requireIdle(r)
	})
}

// More notifications than are kept are made good by a snapshot, which whoever sends
// them cannot have made all the time, and which is no sign of a mistake.
func TestTooManyNotifications(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Events = j.add
		r := b.start(cfg)
		b.settle(time.Minute)
		snapshots := b.Calls("prod", "Snapshot")
		b.Fault("prod", func(f *mock.Faults) { f.Deaf = true })
		k := b.one("prod", "a")
		b.Overflow("prod")
		b.settle(time.Second)
		b.requireRanOnce(k)
		require.Equal(b, snapshots+1, b.Calls("prod", "Snapshot"))
		b.Fault("prod", func(f *mock.Faults) { f.Deaf = false })
		for range 60 {
			b.Overflow("prod")
			b.settle(time.Second)
		}
		require.LessOrEqual(b, b.Calls("prod", "Snapshot"), snapshots+8)
		require.Empty(b, j.of("", runner.EventResyncRepaired))
		b.requireIdle(r)
	})
}

// What is unwise about the connection is said once, however often it is opened.
func TestConnectionWarnings(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetWarnings("the role is a superuser")
		r := b.start(b.config("root:4"))
		for range 5 {
			b.settle(time.Minute)
			b.LoseClusters()
		}
		b.settle(time.Minute)
		require.Equal(b, 1, b.logs.FilterMessage("the role is a superuser").Len())
		b.requireIdle(r)
	})
}

// Without notifications nothing is heard of a new job until the probe, or the
// missing echo of a claim, shows that something is wrong.
func TestDeafSession(t *testing.T) {
	t.Run("probe", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.AddDatabase("prod")
			b.start(b.config("root:4"))
			b.Fault("prod", func(f *mock.Faults) { f.Deaf = true })
			k := b.one("prod", "a")
			b.settle(15 * time.Second)
			b.requireRanOnce(k)
			require.Greater(b, b.Calls("prod", "OpenSession"), 1)
		})
	})
	t.Run("echo", func(t *testing.T) {
		inBubble(t, func(b *bench) {
			b.AddDatabase("prod")
			b.SetPlan(mock.Plan{RunFor: time.Second})
			b.jobs("prod", "", "a", 60) // never silent for long enough to be probed
			b.start(b.config("root:1"))
			b.settle(time.Second)
			b.Fault("prod", func(f *mock.Faults) { f.Deaf = true })
			b.settle(8 * time.Second)
			require.Equal(b, 1, b.Calls("prod", "OpenSession"))
			b.settle(7 * time.Second)
			require.Equal(b, 2, b.Calls("prod", "OpenSession"))
			b.Fault("prod", func(f *mock.Faults) { f.Deaf = false })
			b.settle(2 * time.Minute)
			require.Equal(b, 60, b.Count("prod", channels.Done))
			require.Len(b, b.Runs(), 60)
			require.Equal(b, 2, b.Calls("prod", "OpenSession"))
		})
	})
}

func TestHalfOpenConnection(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:4"))
		b.Fault("prod", func(f *mock.Faults) { f.Frozen = true })
		k := b.one("prod", "a")
		b.settle(20 * time.Second)
		got, _ := b.state(r, "prod")
		require.NotEqual(b, runner.DatabaseReady, got, "noticed within seconds")
		b.Fault("prod", func(f *mock.Faults) { f.Frozen = false })
		b.settle(20 * time.Second)
		b.requireRanOnce(k)
	})
}

func TestResyncRepairsALostNotification(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		cfg := b.config("root:4")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, wait: func(n driver.Notifications) driver.Notifications {
				n.Changed = slices.DeleteFunc(n.Changed, func(uuid string) bool { return uuid == "lost" })
				return n
			}}
		}}
		r := b.start(cfg)
		k := b.one("prod", "lost")
		b.settle(time.Minute)
		require.Empty(b, b.RunsOf(k))
		b.settle(6 * time.Minute)
		b.requireRanOnce(k)
		require.Equal(b, 1, b.logged("a full read repaired what no notification had told"))
		b.settle(time.Hour)
		require.Equal(b, 1, b.logged("a full read repaired what no notification had told"))
		b.requireIdle(r)
	})
}

func TestPostgresDown(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.Down()
		keys := append(b.jobs("prod", "", "a", 20), b.jobs("other", "", "b", 20)...)
		b.SetPlan(mock.Plan{RunFor: 5 * time.Second})
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Minute)
		require.False(b, b.status(r).Leader)
		require.Equal(b, 1, b.logged("maintenance connection lost, starting no jobs until it is back"))
		b.Up()
		b.settle(10 * time.Second)
		require.NotEmpty(b, b.Runs())

		b.Down()
		sent := len(b.Runs())
		b.settle(time.Minute)
		require.Len(b, b.Runs(), sent)
		b.Up()
		b.settle(2 * time.Minute)
		b.requireRanOnce(keys...)
		require.LessOrEqual(b, b.MaxConcurrent(nil), 4)
		require.Less(b, b.logs.FilterLevelExact(zap.ErrorLevel).Len()+b.logs.FilterLevelExact(zap.WarnLevel).Len(), 20)
		b.requireIdle(r)
	})
}

func TestNotificationsAreReadInBatches(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:0"))
		b.jobs("prod", "", "a", 5000)
		b.settle(time.Second)
		require.Equal(b, 5000, b.Count("prod", channels.Done))
		require.Less(b, b.Calls("prod", "Claim")+b.Calls("prod", "Read"), 2500)
		b.requireIdle(r)
	})
}

// A panic in a session ends one connection, not the service.
func TestSessionPanics(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.panics = true
		b.AddDatabase("prod", "other")
		var times atomic.Int32
		cfg := b.config("root:4")
		cfg.Driver = &fakeDriver{Driver: b.Driver(), session: func(s driver.Session) driver.Session {
			return &fakeSession{Session: s, read: func() {
				if times.Add(1) <= 2 {
					panic("as the test wants it")
				}
			}}
		}}
		r := b.start(cfg)
		keys := append(b.jobs("prod", "", "a", 5), b.jobs("other", "", "b", 5)...)
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.connections("prod"))
		require.Equal(b, 2, b.logged("panic in session"))
		b.requireIdle(r)
	})
}

// The wait for a turn must not be lost between two looks at the orders.
func TestManyProducers(t *testing.T) {
	inBubble(t, func(b *bench) {
		var names []string
		for i := range 30 {
			names = append(names, fmt.Sprintf("db%02d", i))
		}
		b.AddDatabase(names...)
		r := b.start(b.config("root:7"))
		b.SetPlan(mock.Plan{RunFor: 10 * time.Millisecond})
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		for _, name := range names {
			go func() {
				for i := 0; i < 50 && ctx.Err() == nil; i++ {
					b.Insert(mock.NewJob(name, fmt.Sprintf("j%d", i)))
					<-time.After(time.Millisecond)
				}
			}()
		}
		b.settle(10 * time.Second)
		for _, name := range names {
			require.Equal(b, 50, b.Count(name, channels.Done), name)
		}
		require.Len(b, b.Runs(), 1500)
		require.Equal(b, 7, b.MaxConcurrent(nil))
		b.requireIdle(r)
	})
}

// That Odoo has begun, and that it has ended after its answer, is read only if
// nothing else asks for the row.
func TestForeseenNotificationsWait(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: 50 * time.Millisecond})
		r := b.start(b.config("root:4"))
		reads := func() int { return b.Calls("prod", "Read") + b.Calls("prod", "ClaimVacant") }
		before := reads()
		k := b.one("prod", "a")
		b.settle(40 * time.Millisecond)
		require.Equal(b, before+1, reads(), "the new job")
		b.settle(20 * time.Millisecond)
		require.Equal(b, before+2, reads(), "its end")
		b.requireRanOnce(k)
		b.settle(time.Second)
		require.LessOrEqual(b, reads(), before+3)

		b.SetPlan(mock.Plan{RunFor: time.Second})
		before = reads()
		b.one("prod", "b")
		b.settle(90 * time.Millisecond)
		require.Equal(b, before+1, reads())
		b.settle(20 * time.Millisecond)
		require.Equal(b, before+2, reads(), "that it has begun, a little late")
		b.settle(time.Minute)
		b.requireIdle(r)
	})
}

// A session that is never silent is probed all the same.
func TestBusySessionIsProbed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.jobs("prod", "", "a", 100)
		r := b.start(b.config("root:1"))
		b.settle(95 * time.Second)
		require.Equal(b, 3, b.Calls("prod", "Probe"))
		b.settle(time.Minute)
		b.requireIdle(r)
	})
}
