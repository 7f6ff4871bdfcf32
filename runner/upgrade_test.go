package runner_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// gated is a runner with the option on.
func (b *bench) gated(channels string, j *journal) (*runner.Runner, runner.Config) {
	b.AddDatabase("prod", "other")
	b.SetPlan(mock.Plan{RunFor: time.Second})
	cfg := b.config(channels)
	cfg.UpgradeGate = true
	if j != nil {
		cfg.Events = j.add
	}
	return b.start(cfg), cfg
}

// named returns the status of a database; nil if it is not served.
func statusOf(st *runner.Status, database string) *runner.DatabaseStatus {
	for i := range st.Databases {
		if st.Databases[i].Name == database {
			return &st.Databases[i]
		}
	}
	return nil
}

// TestUpgradeGate: nothing of a database starts while its modules are marked, what runs goes on, other
// databases are served, and all of it is said.
func TestUpgradeGate(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		r, _ := b.gated("root:2", &j)
		for i := range 6 {
			b.one("prod", fmt.Sprint(i))
		}
		b.settle(1500 * time.Millisecond)
		require.Len(b, b.Runs(), 4, "two have ended, two run")
		b.Mark("prod", "sale (to upgrade)")
		b.settle(time.Minute)
		require.Len(b, b.Runs(), 4)
		require.Equal(b, 4, b.Count("prod", channels.Done), "what ran was not disturbed")
		require.Equal(b, 2, b.Count("prod", channels.Pending))
		b.one("other", "free")
		b.settle(2 * time.Second)
		require.Equal(b, 1, b.Count("other", channels.Done))

		st, err := r.Status(b.Context())
		require.NoError(b, err)
		db := statusOf(&st, "prod")
		require.Equal(b, runner.DatabaseUpgrading, db.State)
		require.InDelta(b, time.Minute, time.Since(db.UpgradeSince), float64(10*time.Second))
		require.Contains(b, db.Obstacle(time.Now()), "modules are marked: sale (to upgrade)")
		require.NotContains(b, db.Obstacle(time.Now()), "cancel it in Apps")
		require.Equal(b, runner.Degraded, st.Health(time.Now()))
		w, err := r.Why(b.Context(), channels.Key{DB: "prod", UUID: "5"})
		require.NoError(b, err)
		require.Equal(b, "database_upgrading", w.Code)
		require.Contains(b, w.Text, "sale (to upgrade)")
		require.Equal(b, 1, b.logged("database is being upgraded, its jobs wait: modules are marked: sale (to upgrade)"))

		b.Mark("prod", "stock (to upgrade)")
		b.settle(5 * time.Second)
		require.Len(b, j.of("", runner.EventDatabaseUpgrading), 1, "once, however many modules there are")
		b.Mark("prod", "")
		b.settle(5 * time.Second)
		require.Equal(b, 6, b.Count("prod", channels.Done), "it returns by itself")
		st, err = r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.Ready, st.Health(time.Now()))
		require.True(b, statusOf(&st, "prod").UpgradeSince.IsZero())
	})
}

// TestUpgradeBeforeItsMarks: an upgrade that no claim can see keeps jobs from starting within a second,
// and after its marks are gone.
func TestUpgradeBeforeItsMarks(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.gated("root:1", nil)
		for i := range 20 {
			b.one("prod", fmt.Sprint(i))
		}
		b.settle(2500 * time.Millisecond)
		began := len(b.Runs())
		require.GreaterOrEqual(b, began, 2)
		b.Upgrade("prod", true)
		b.settle(time.Minute)
		require.LessOrEqual(b, len(b.Runs()), began+1, "what starts within a second may")
		began = len(b.Runs())
		b.Mark("prod", "sale")
		b.settle(10 * time.Second)
		b.Mark("prod", "")
		b.settle(10 * time.Second)
		require.Len(b, b.Runs(), began)
		b.LoseSession("prod")
		b.settle(10 * time.Second)
		require.Len(b, b.Runs(), began, "nor on another connection")
		b.Upgrade("prod", false)
		b.settle(time.Minute)
		require.Equal(b, 20, b.Count("prod", channels.Done))
	})
}

// TestUpgradeOfAFoundDatabase: one whose modules are marked already runs nothing from the beginning.
func TestUpgradeOfAFoundDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Mark("prod", "sale")
		b.one("prod", "a")
		cfg := b.config("root:1")
		cfg.UpgradeGate = true
		r := b.start(cfg)
		b.settle(time.Minute)
		require.Empty(b, b.Runs())
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.Degraded, st.Health(time.Now()), "although it is the only one")
		require.Zero(b, b.Calls("prod", "Claim"))
		b.settle(time.Hour)
		st, err = r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.NotReady, st.Health(time.Now()), "a mark by mistake")
		require.Contains(b, st.Problems(time.Now())[0], "finish the upgrade, or cancel it in Apps (1 job waits)")
	})
}

// TestUpgradeGateIsAnOption: without it nothing is asked, and jobs run; it can be turned on and off.
func TestUpgradeGateIsAnOption(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.Mark("prod", "sale")
		cfg := b.config("root:1")
		r := b.start(cfg)
		b.one("prod", "a")
		b.settle(time.Minute)
		require.Len(b, b.Runs(), 1)
		require.Zero(b, b.Calls("prod", "Upgrading"))

		cfg.UpgradeGate = true
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(10 * time.Millisecond)
		b.one("prod", "b")
		b.settle(time.Minute)
		require.Len(b, b.Runs(), 1)
		cfg.UpgradeGate = false
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(2 * time.Second)
		require.Len(b, b.Runs(), 2)
		calls := b.Calls("prod", "Upgrading")
		b.settle(time.Hour)
		require.Equal(b, calls, b.Calls("prod", "Upgrading"))
	})
}

// TestUpgradeIsAskedAboutDeaths: what a job has died of matters where deaths are counted, and is
// not asked elsewhere.
func TestUpgradeIsAskedAboutDeaths(t *testing.T) {
	for name, q := range map[string]*runner.Quarantine{"no quarantine": nil, "quarantine": {Attempts: 3, Within: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 20 * time.Second, Crash: true})
				cfg := b.config("root:1")
				cfg.UpgradeGate, cfg.Quarantine = true, q
				b.start(cfg)
				b.one("prod", "a")
				asked := 0
				for b.Calls("prod", "Inspect") == 0 {
					asked = b.Calls("prod", "Upgrading")
					b.settle(10 * time.Millisecond)
				}
				require.Equal(b, q != nil, b.Calls("prod", "Upgrading") > asked)
			})
		})
	}
}

// TestUpgradeOfTheAddOn: one that cannot be served because of its upgrade is shown as upgraded.
func TestUpgradeOfTheAddOn(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, _ := b.gated("root:1", nil)
		b.settle(time.Second)
		b.Mark("prod", "queue_job (to upgrade)")
		b.Unhealthy("prod", "the add-on is being changed")
		b.LoseSession("prod")
		b.settle(20 * time.Second)
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.DatabaseUpgrading, statusOf(&st, "prod").State)
		b.Mark("prod", "")
		b.settle(20 * time.Second)
		st, err = r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, runner.DatabaseUnhealthy, statusOf(&st, "prod").State)
	})
}

// TestUpgradeThatCannotBeTold: a check that fails is as bad as a lost connection.
func TestUpgradeThatCannotBeTold(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.gated("root:1", nil)
		b.settle(time.Second)
		b.Fault("prod", func(f *mock.Faults) { f.UpgradingErr = errors.New("canceled") })
		b.one("prod", "a")
		b.settle(time.Minute)
		require.Empty(b, b.Runs())
		b.Fault("prod", func(f *mock.Faults) { f.UpgradingErr = nil })
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Done))
	})
}

// TestUpgradeGateNeedsTheDriver: a driver that cannot tell makes it an error.
func TestUpgradeGateNeedsTheDriver(t *testing.T) {
	inBubble(t, func(b *bench) {
		cfg := b.config("root:1")
		cfg.UpgradeGate = true
		require.NoError(b, cfg.Validate())
		cfg.Driver = other{b.Driver(), driver.Capabilities{Application: "Tryton"}}
		require.ErrorContains(b, cfg.Validate(), "upgrade_gate: this driver cannot tell whether Tryton is being upgraded")
	})
}

// TestLocksCostNoConnection: while a table of the database is locked, for longer than the time between two
// snapshots, the connection stays, no job holds a slot that it cannot use, and what runs goes on. After
// that, everything is read and run.
func TestLocksCostNoConnection(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.PlanFor(key("prod", "long"), mock.Plan{RunFor: 9 * time.Minute})
		r := b.start(b.config("root:2"))
		keys := []channels.Key{b.one("prod", "long")}
		b.settle(2 * time.Second)
		before := b.Calls("prod", "OpenSession")
		lock := func(err error) {
			b.Fault("prod", func(f *mock.Faults) {
				f.FingerprintErr, f.SnapshotErr, f.ReadErr, f.ClaimErr, f.InspectErr, f.ChannelsErr = err, err, err, err, err, err
			})
		}
		b.Fault("prod", func(f *mock.Faults) { f.ClaimErr = errLocked })
		keys = append(keys, b.one("prod", "known"))
		b.settle(10 * time.Second)
		lock(errLocked)
		keys = append(keys, b.one("prod", "read later"))
		b.settle(7 * time.Minute)
		b.untilHeld(r, "prod")
		require.Equal(b, before, b.Calls("prod", "OpenSession"))
		require.Len(b, b.Runs(), 1)
		elsewhere := b.one("other", "elsewhere")
		b.settle(10 * time.Second)
		b.requireRanOnce(elsewhere)
		lock(nil)
		b.settle(time.Minute)
		require.Len(b, b.Runs(), 4)
		b.settle(5 * time.Minute)
		b.requireRanOnce(keys...)
		require.Equal(b, before, b.Calls("prod", "OpenSession"))
		require.Empty(b, b.Violations())
		b.requireIdle(r)
	})
}

// errLocked is a statement that has waited for a lock for too long.
var errLocked = fmt.Errorf("locked: %w", driver.ErrUpgrading)

// A job that was answered has no slot while its row cannot be read, because the table is locked; nor has one
// whose request broke, once nothing could be learnt of it for long. The rows decide in the end.
func TestLockedTableKeepsNoSlots(t *testing.T) {
	for name, c := range map[string]struct {
		plan        mock.Plan
		keeps, ends time.Duration
	}{
		"answered": {mock.Plan{RunFor: 2 * time.Second}, 0, 3 * time.Second},
		"broken":   {mock.Plan{RunFor: 40 * time.Minute, DropConnAfter: 2 * time.Second}, 9 * time.Minute, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "other")
				k := key("prod", "a")
				b.PlanFor(k, c.plan)
				r := b.start(b.config("root:1"))
				b.one("prod", "a")
				b.settle(time.Second)
				b.Fault("prod", func(f *mock.Faults) { lockTable(f, errLocked) })
				b.settle(2 * time.Second)
				waits := b.one("other", "b")
				b.settle(c.keeps)
				if c.keeps > 0 {
					require.Len(b, b.Runs(), 1, "it may be executing")
				}
				b.settle(c.ends)
				b.requireRanOnce(waits)
				require.Equal(b, 1, b.Calls("prod", "OpenSession"))
				b.Fault("prod", func(f *mock.Faults) { lockTable(f, nil) })
				b.settle(time.Hour)
				b.requireRanOnce(k)
				b.requireIdle(r)
			})
		})
	}
}

// The worker of a job whose request broke may die while its table is locked, and no inspection can tell: its
// slot is for others when nothing could be learnt for long.
func TestLockedTableHidesWhoDied(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 10 * time.Minute, DropConnAfter: 2 * time.Second, Crash: true})
		r := b.start(b.config("root:1"))
		k := b.one("prod", "a")
		b.settle(5 * time.Minute)
		b.Fault("prod", func(f *mock.Faults) { lockTable(f, errLocked) })
		waits := b.one("other", "b")
		b.settle(9 * time.Minute)
		require.Len(b, b.Runs(), 1, "it may be executing, and was 9 minutes ago")
		b.settle(2 * time.Minute)
		b.requireRanOnce(waits)
		require.Equal(b, 1, b.logged("the row of the job cannot be read because its table is locked, giving the slot of the job to others"))
		b.settle(time.Hour)
		b.SetPlan(mock.Plan{RunFor: time.Second})
		b.PlanFor(k, mock.Plan{RunFor: time.Second})
		b.Fault("prod", func(f *mock.Faults) { lockTable(f, nil) })
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Done))
		require.Equal(b, 1, b.Calls("prod", "OpenSession"))
		require.Empty(b, b.Violations())
		b.requireIdle(r)
	})
}

// A claim that cannot be taken back, because the table has been locked since, costs neither the connection
// nor, for long, the slot.
func TestLockedTableKeepsNoClaims(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.PlanFor(key("prod", "a"), mock.Plan{FailBeforeSend: true}, mock.Plan{RunFor: time.Second})
		r := b.start(b.config("root:1"))
		b.settle(time.Second)
		b.Fault("prod", func(f *mock.Faults) { f.UnclaimErr = errLocked })
		b.one("prod", "a")
		b.settle(100 * time.Millisecond)
		require.Equal(b, 1, b.Count("prod", channels.Enqueued))
		b.Fault("prod", func(f *mock.Faults) { lockTable(f, errLocked) })
		waits := b.one("other", "b")
		b.settle(5 * time.Second)
		b.requireRanOnce(waits)
		b.Fault("prod", func(f *mock.Faults) { lockTable(f, nil) })
		b.settle(time.Minute)
		require.Equal(b, 1, b.Count("prod", channels.Done))
		require.Equal(b, 1, b.Calls("prod", "OpenSession"))
		b.requireIdle(r)
	})
}

// Whenever the lock ends, what a job of the same database is doing that had lost its slot is read before
// another starts. Until then, a question about the others is told so.
func TestUnlockedTableIsReadFirst(t *testing.T) {
	for name, c := range map[string]struct {
		breaks time.Duration
		lock   func(f *mock.Faults, err error)
	}{
		"asked":            {time.Second, lockTable},
		"watched":          {time.Second / 2, lockTable},
		"rows can be read": {time.Second / 2, func(f *mock.Faults, err error) { f.InspectErr = err }},
	} {
		t.Run(name, func(t *testing.T) {
			for after := time.Duration(0); after < 5*time.Second; after += 410 * time.Millisecond {
				inBubble(t, func(b *bench) {
					b.AddDatabase("prod")
					b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 40 * time.Minute, DropConnAfter: c.breaks})
					r := b.start(b.config("root:1"))
					b.one("prod", "a")
					k := b.jobs("prod", "root", "b", 3)[0]
					b.settle(900 * time.Millisecond)
					b.Fault("prod", func(f *mock.Faults) { c.lock(f, errLocked) })
					b.settle(15*time.Minute + after)
					require.Len(b, b.Runs(), 1)
					b.requireState(r, "prod", runner.DatabaseLoading)
					w, err := r.Why(b.Context(), k)
					require.NoError(b, err)
					require.Contains(b, w.Text, "prod is loading: it is not known yet whether jobs still run")
					b.Fault("prod", func(f *mock.Faults) { c.lock(f, nil) })
					b.settle(20 * time.Second)
					require.Len(b, b.Runs(), 1, after)
					b.requireState(r, "prod", runner.DatabaseReady)
					b.settle(time.Hour)
					require.Equal(b, 4, b.Count("prod", channels.Done))
					b.requireIdle(r)
				})
			}
		})
	}
}

// The state of a job that had lost its slot may not be known when the lock ends: it has its slot again, and
// others start.
func TestUnlockedTableTellsAnUnknownState(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*bench)
		breaks  time.Duration
		lock    func(f *mock.Faults, err error)
	}{
		"asked":               {func(*bench) {}, time.Second, lockTable},
		"no lock rows, asked": {func(b *bench) { b.WithoutLocks("prod") }, time.Second, lockTable},
		"watched":             {func(*bench) {}, time.Second / 2, lockTable},
		"rows can be read":    {func(*bench) {}, time.Second / 2, func(f *mock.Faults, err error) { f.InspectErr = err }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				c.prepare(b)
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 40 * time.Minute, DropConnAfter: c.breaks})
				r := b.start(b.config("root:2"))
				k := b.one("prod", "a")
				b.settle(900 * time.Millisecond)
				b.Fault("prod", func(f *mock.Faults) { c.lock(f, errLocked) })
				b.settle(15 * time.Minute)
				b.requireState(r, "prod", runner.DatabaseLoading)
				b.Update(k, func(j *mock.Job) { j.State, j.RawState = channels.Unknown, "on_hold" })
				b.settle(time.Minute)
				b.Fault("prod", func(f *mock.Faults) { c.lock(f, nil) })
				b.settle(20 * time.Second)
				b.requireState(r, "prod", runner.DatabaseReady)
				require.Equal(b, 1, b.status(r).Channels[0].Running)
			})
		})
	}
}

// As long as inspections are hidden, that rows say again and again what they did is no reason to take the slot
// back, nor to say anew that it is for others.
func TestHiddenInspectionsAreToldOfOnce(t *testing.T) {
	for _, pooled := range []bool{false, true} {
		t.Run(fmt.Sprint(pooled), func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 2 * time.Hour, DropConnAfter: time.Second / 2})
				cfg := b.config("root:1")
				if pooled {
					cfg = b.pooled("root:1", 30*time.Second)
				}
				r := b.start(cfg)
				b.one("prod", "a")
				b.settle(3 * time.Second)
				b.Fault("prod", func(f *mock.Faults) { f.InspectErr = errLocked })
				b.settle(11 * time.Minute)
				for range 100 {
					b.settle(6 * time.Second)
					b.requireState(r, "prod", runner.DatabaseLoading)
					require.Zero(b, b.status(r).Channels[0].Running)
				}
				require.Equal(b, 1, b.logged("the row of the job cannot be read because its table is locked, giving the slot of the job to others"))
				b.Fault("prod", func(f *mock.Faults) { f.InspectErr = nil })
				b.settle(20 * time.Second)
				b.requireState(r, "prod", runner.DatabaseReady)
				require.Equal(b, 1, b.status(r).Channels[0].Running)
			})
		})
	}
}

// A database that is served again after so long that a job of it had lost its slot is read first, too.
func TestServedAgainIsReadFirst(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 40 * time.Minute, DropConnAfter: time.Second / 2})
		r := b.start(b.config("root:1"))
		b.one("prod", "a")
		b.jobs("prod", "root", "b", 3)
		b.settle(5 * time.Second)
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr = errFault })
		b.LoseSession("prod")
		b.settle(11 * time.Minute)
		b.Fault("prod", func(f *mock.Faults) { f.OpenErr, f.Slow = nil, 100*time.Millisecond })
		b.settle(7 * time.Second)
		require.Len(b, b.Runs(), 1)
		b.requireState(r, "prod", runner.DatabaseReady)
		b.Fault("prod", func(f *mock.Faults) { f.Slow = 0 })
		b.settle(time.Hour)
		require.Equal(b, 4, b.Count("prod", channels.Done))
		b.requireIdle(r)
	})
}

// Nor does a database keep its connection from others because it has such a job.
func TestLockedTableLeavesItsConnection(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 2 * time.Second})
		cfg := b.config("root:1")
		cfg.Connections = runner.ConnectionsLeast
		r := b.start(cfg)
		k := b.one("prod", "a")
		for len(b.Runs()) == 0 {
			b.settle(100 * time.Millisecond)
		}
		b.Fault("prod", func(f *mock.Faults) { f.ReadErr = errLocked })
		waits := b.one("other", "b")
		b.settle(2 * time.Minute)
		b.requireRanOnce(waits)
		b.Fault("prod", func(f *mock.Faults) { f.ReadErr = nil })
		b.settle(2 * time.Minute)
		b.requireRanOnce(k)
		b.requireIdle(r)
	})
}
