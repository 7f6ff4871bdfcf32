package runner_test

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

var errFault = errors.New("a fault")

func TestDiscovery(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("old")
		r := b.start(b.config("root:4"))
		b.AddDatabase("new")
		k := b.one("new", "a")
		b.settle(40 * time.Second)
		b.requireRanOnce(k)

		b.DropDatabase("new")
		b.settle(40 * time.Second)
		_, ok := b.state(r, "new")
		require.False(b, ok)
		require.Equal(b, 1, b.logged("database is not served any more"))

		b.AddDatabase("new")
		k = b.one("new", "b")
		b.settle(40 * time.Second)
		b.requireRanOnce(k)
	})
}

// A database that is restored between two looks has another OID and may hold
// jobs of the same uuid.
func TestDatabaseRecreatedUnderTheSameName(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "running"), mock.Plan{RunFor: 2 * time.Minute})
		b.one("prod", "running")
		b.one("prod", "waiting", func(j *mock.Job) { j.ETA = time.Now().Add(time.Hour).UnixMicro() })
		r := b.start(b.config("root:2"))
		b.DropDatabase("prod")
		b.AddDatabase("prod")
		running, fresh := b.one("prod", "running"), b.one("prod", "fresh")
		b.settle(40 * time.Second)
		b.requireRanOnce(fresh)
		require.Len(b, b.RunsOf(running), 1, "the request for the former job of that uuid is open")
		b.settle(10 * time.Minute)
		b.requireDone(running)
		b.requireIdle(r)
	})
}

func TestAddonInstalledAndRemoved(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Undetected("prod")
		r := b.start(b.config("root:4"))
		for range 10 {
			b.settle(30 * time.Second)
			b.requireState(r, "prod", runner.DatabaseUndetected)
			require.Zero(b, b.connections("prod"), "no connection is kept")
		}
		require.LessOrEqual(b, b.Calls("prod", "OpenSession"), 15)
		require.Equal(b, 1, b.logged("database is undetected"), "only transitions are logged")

		b.Fault("prod", func(f *mock.Faults) { f.Fingerprint = nil })
		k := b.one("prod", "a")
		b.settle(40 * time.Second)
		b.requireRanOnce(k)
		require.Equal(b, 1, b.connections("prod"))

		b.Undetected("prod")
		b.settle(7 * time.Minute)
		b.requireState(r, "prod", runner.DatabaseUndetected)
		require.Zero(b, b.connections("prod"))
		b.requireIdle(r)
	})
}

// A copy for trials is left alone for as long as it is marked as one.
func TestNeutralizedDatabase(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("copy")
		b.Neutralized("copy")
		k := b.one("copy", "a")
		r := b.start(b.config("root:4"))
		b.settle(5 * time.Minute)
		b.requireState(r, "copy", runner.DatabaseNeutralized)
		require.Zero(b, b.connections("copy"), "no connection is kept")
		require.Equal(b, 1, b.logged("a copy for trials"), "only transitions are logged")
		require.Empty(b, b.Runs())
		w, err := r.Why(b.Context(), k)
		require.NoError(b, err)
		require.Equal(b, "database_neutralized", w.Code)
		require.Contains(b, w.Text, "a copy for trials")

		b.Fault("copy", func(f *mock.Faults) { f.Fingerprint = nil })
		b.settle(40 * time.Second)
		b.requireRanOnce(k)

		b.Neutralized("copy")
		b.settle(7 * time.Minute)
		b.requireState(r, "copy", runner.DatabaseNeutralized)
		require.Zero(b, b.logged("database cannot be reached"))
		require.Equal(b, 2, b.logged("a copy for trials"))
		later := b.one("copy", "b")
		b.settle(time.Minute)
		require.Empty(b, b.RunsOf(later))
		b.requireIdle(r)
	})
}

func TestUnhealthyDatabaseIsLoggedOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.Unhealthy("prod", "queue_job_notify trigger is missing in db prod")
		k := b.one("prod", "a")
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Minute)
		b.requireState(r, "prod", runner.DatabaseUnhealthy)
		require.Equal(b, 1, b.logged("database cannot be served: queue_job_notify trigger is missing in db prod"))
		require.Empty(b, b.Runs())
		b.Fault("prod", func(f *mock.Faults) { f.Fingerprint = nil })
		b.settle(10 * time.Second)
		b.requireRanOnce(k)
	})
}

// TestJobsOfAnUnhealthyDatabaseAreCounted: their number is known although they could not be read, or
// it is said that it is not.
func TestJobsOfAnUnhealthyDatabaseAreCounted(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "blind")
		for _, db := range []string{"prod", "blind"} {
			b.Unhealthy(db, "the trigger is missing")
		}
		b.Fault("blind", func(f *mock.Faults) { f.CountErr = errors.New("no right to read") })
		b.one("prod", "a")
		b.one("prod", "b", inState(channels.Failed))
		b.one("blind", "c")
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Second)
		st := b.status(r)
		blind, prod := st.Databases[0], st.Databases[1]
		require.True(b, blind.JobsUnknown)
		require.False(b, prod.JobsUnknown)
		require.Equal(b, []int{0, 1, 1}, []int{blind.Pending, prod.Pending, prod.Failed})
		require.Equal(b, []channels.Count{{DB: "prod", Channel: "root", Pending: 1, Failed: 1}}, st.Counts)
		require.Equal(b, map[string]bool{"blind": true}, st.JobsUnknown())
		_, _, causes := st.Serving(time.Now())
		require.Equal(b, []string{
			"database blind runs no jobs: the trigger is missing (how many jobs wait is unknown)",
			"database prod runs no jobs: the trigger is missing (1 job waits)",
		}, causes)

		b.one("prod", "d")
		b.settle(2 * time.Minute)
		require.Equal(b, 2, b.status(r).Databases[1].Pending)
		require.Equal(b, 1, b.Calls("blind", "Count"), "one that failed is not repeated soon")
		require.LessOrEqual(b, b.Calls("prod", "Count"), 3)
		for _, db := range []string{"prod", "blind"} {
			b.Fault(db, func(f *mock.Faults) { f.Fingerprint = nil })
		}
		b.settle(10 * time.Second)
		st = b.status(r)
		require.Empty(b, st.JobsUnknown())
		require.Equal(b, []channels.Count{{DB: "prod", Channel: "root", Failed: 1}}, st.Counts)
	})
}

// An upgrade of the add-on can bring lock rows to a database that is served.
func TestGenerationChangesWhileServed(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.WithoutLocks("prod")
		r := b.start(b.config("root:4"))
		require.False(b, b.status(r).Databases[0].Fingerprint.Locks)
		b.Fault("prod", func(f *mock.Faults) { f.Fingerprint = nil })
		b.settle(time.Minute)
		require.True(b, b.status(r).Databases[0].Fingerprint.Locks, "the probe notices")
		require.Equal(b, 2, b.Calls("prod", "OpenSession"))
	})
}

func TestPatternsChange(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod_a", "prod_b", "test_a")
		cfg := b.config("root:4")
		cfg.Databases = []string{"prod_*", "!prod_b"}
		r := b.start(cfg)
		require.Len(b, b.status(r).Databases, 1)
		cfg.Databases = []string{"*_a", "prod_b"}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(3 * time.Second)
		require.Len(b, b.status(r).Databases, 3)
		var keys []channels.Key
		for _, db := range []string{"prod_a", "prod_b", "test_a"} {
			keys = append(keys, b.one(db, "a"))
		}
		b.settle(time.Second)
		b.requireRanOnce(keys...)
		require.Equal(b, 1, b.Calls("prod_a", "OpenSession"), "what stays is not touched")
		cfg.Databases = []string{"test_*"}
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(3 * time.Second)
		require.Len(b, b.status(r).Databases, 1)
		require.Zero(b, b.connections("prod_a"))
	})
}

func TestBusyDatabaseIsLeft(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.PlanFor(key("prod", "running"), mock.Plan{RunFor: 20 * time.Second})
		running := b.one("prod", "running")
		r := b.start(b.config("root:4"))
		b.SetBusy("prod")
		b.settle(2 * time.Second)
		require.Zero(b, b.connections("prod"))
		b.requireState(r, "prod", runner.DatabaseYielding)
		b.settle(time.Minute)
		require.Zero(b, b.connections("prod"), "no new one either")
		k, other := b.one("prod", "a"), b.one("other", "b")
		b.settle(time.Second)
		b.requireRanOnce(other)
		require.Empty(b, b.RunsOf(k))
		b.SetBusy()
		b.settle(3 * time.Second)
		b.requireRanOnce(k, running)
		b.requireState(r, "prod", runner.DatabaseReady)
		b.requireIdle(r)
	})
}

// Whoever was busy with a database may be done while nobody looks.
func TestBusyEndsDuringAnOutage(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.SetBusy("prod")
		r := b.start(b.config("root:4"))
		b.settle(2 * time.Second)
		b.requireState(r, "prod", runner.DatabaseYielding)
		b.Down()
		b.SetBusy()
		k := b.one("prod", "a")
		b.settle(time.Minute)
		b.Up()
		b.settle(15 * time.Second)
		b.requireRanOnce(k)
	})
}

// A bad database costs the others nothing but, at worst, the places of jobs that
// are being claimed there, for as long as a claim may take.
func TestIsolation(t *testing.T) {
	faults := map[string]struct {
		fault func(*mock.Faults)
		most  time.Duration
	}{
		"open":         {func(f *mock.Faults) { f.OpenErr = errFault }, 0},
		"fingerprint":  {func(f *mock.Faults) { f.FingerprintErr = errFault }, 0},
		"lock":         {func(f *mock.Faults) { f.LockErr = errFault }, 0},
		"snapshot":     {func(f *mock.Faults) { f.SnapshotErr, f.SnapshotErrAfter = errFault, 3 }, 0},
		"claim":        {func(f *mock.Faults) { f.ClaimErr = errFault }, 0},
		"hung claim":   {func(f *mock.Faults) { f.HangClaim = true }, 5 * time.Second},
		"inspect":      {func(f *mock.Faults) { f.InspectErr = errFault }, 0},
		"probe":        {func(f *mock.Faults) { f.ProbeErr = errFault }, 0},
		"deaf":         {func(f *mock.Faults) { f.Deaf = true }, 0},
		"frozen":       {func(f *mock.Faults) { f.Frozen = true }, 0},
		"locked rows":  {func(f *mock.Faults) { f.Locked = mock.Rows("b1", "b2") }, 0},
		"no resources": {func(f *mock.Faults) { f.OpenErr, f.ClaimErr = fmt.Errorf("%w: too many", driver.ErrLost), errFault }, 0},
	}
	for name, c := range faults {
		for _, early := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, early=%t", name, early), func(t *testing.T) {
				inBubble(t, func(b *bench) {
					b.AddDatabase("bad", "good")
					if early {
						b.Fault("bad", c.fault)
					}
					r := b.start(b.config("root:2"))
					b.Fault("bad", c.fault)
					keys := b.jobs("bad", "", "b", 20)
					b.settle(6 * time.Second)
					for i := range 60 {
						b.one("good", fmt.Sprintf("g%d", i))
						b.settle(7 * time.Second)
					}
					var longest time.Duration
					for _, run := range b.Runs() {
						if run.Task.DB == "good" {
							longest = max(longest, run.Opened.Sub(time.UnixMicro(run.Job.Created)))
						}
					}
					require.LessOrEqual(b, longest, c.most+100*time.Millisecond)
					require.Equal(b, 60, b.Count("good", channels.Done))
					require.LessOrEqual(b, b.Calls("bad", "OpenSession"), 110, "no hot loop")
					require.LessOrEqual(b, b.Calls("bad", "Snapshot"), 200, "no hot loop") // one that fails counts twice
					b.Fault("bad", func(f *mock.Faults) { *f = mock.Faults{} })
					b.settle(2 * time.Minute)
					b.requireDone(keys...)
					for _, k := range keys {
						require.Equal(b, 1, b.started(k))
					}
					b.requireIdle(r)
				})
			})
		}
	}
}

// What cannot be read keeps its places, but only as many as really ran.
func TestReadsFail(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("bad", "good")
		r := b.start(b.config("root:2"))
		b.Fault("bad", func(f *mock.Faults) { f.ReadErr = errFault })
		keys := b.jobs("bad", "", "b", 20)
		b.settle(5 * time.Second)
		good := b.jobs("good", "", "g", 20)
		b.settle(5 * time.Minute)
		b.requireRanOnce(good...)
		b.Fault("bad", func(f *mock.Faults) { f.ReadErr = nil })
		b.settle(time.Minute)
		b.requireRanOnce(keys...)
		b.requireIdle(r)
	})
}

func TestForeignLockHolder(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.LockHeldBy("prod", "pid 4711, application odoo-16")
		k, other := b.one("prod", "a"), b.one("other", "b")
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Second)
		b.requireState(r, "prod", runner.DatabaseStandby)
		require.Equal(b, "pid 4711, application odoo-16", b.status(r).Databases[1].Detail)
		b.requireRanOnce(other)
		b.settle(10 * time.Minute)
		require.Empty(b, b.RunsOf(k))
		require.Equal(b, 1, b.logged("master election lost: could not acquire master runner lock on prod"))
		b.LockHeldBy("prod", "")
		b.settle(3 * time.Second)
		b.requireRanOnce(k)
		// And the other way round: the lock is lost without a word.
		b.LockHeldBy("prod", "pid 4712")
		b.settle(20 * time.Second)
		b.requireState(r, "prod", runner.DatabaseStandby)
	})
}

func TestSnapshotFailsHalfWay(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		keys := b.jobs("prod", "", "a", 10)
		b.Fault("prod", func(f *mock.Faults) { f.SnapshotErr, f.SnapshotErrAfter = errFault, 5 })
		r := b.start(b.config("root:4"))
		b.settle(10 * time.Minute)
		require.Empty(b, b.Runs(), "nothing is started on half the knowledge")
		require.Equal(b, 1, b.logged("database cannot be reached"), "only transitions are logged")
		b.Delete(keys[0])
		b.Fault("prod", func(f *mock.Faults) { f.SnapshotErr = nil })
		b.settle(10 * time.Second)
		b.requireRanOnce(keys[1:]...)
		require.Empty(b, b.RunsOf(keys[0]))
		b.requireIdle(r)
	})
}

// A full read must not disturb what is under way.
func TestResyncLeavesRunningJobsAlone(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "long"), mock.Plan{RunFor: time.Hour})
		b.PlanFor(key("prod", "backlog"), mock.Plan{StartAfter: time.Hour})
		long, backlog := b.one("prod", "long"), b.one("prod", "backlog")
		r := b.start(b.config("root:3"))
		b.settle(30 * time.Minute)
		require.GreaterOrEqual(b, b.Calls("prod", "Snapshot"), 5)
		require.Equal(b, 2, b.status(r).Open)
		b.LoseSession("prod")
		b.settle(20 * time.Minute)
		require.Equal(b, 2, b.status(r).Open)
		b.settle(time.Hour)
		b.requireRanOnce(long, backlog)
		for _, run := range b.Runs() {
			require.Equal(b, driver.Answered, run.Result.Outcome)
		}
		require.Zero(b, b.logged("a full read repaired what no notification had told"))
		b.requireIdle(r)
	})
}

func TestOddRows(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		far := time.Now().AddDate(200, 0, 0).UnixMicro()
		r := b.start(b.config("root:4"))
		run := []channels.Key{
			b.one("prod", "no canonical uuid"),
			b.one("prod", "0e2cd9ef-3a48-4b27-8f5c-4a2a6a2d9b7e", func(j *mock.Job) { j.Priority = 0 }),
			b.one("prod", "lowest", func(j *mock.Job) { j.Priority, j.Created = math.MinInt32, -1 }),
			b.one("prod", "highest", func(j *mock.Job) { j.Priority, j.ID = math.MaxInt32, math.MaxInt64 }),
			b.one("prod", "channel", func(j *mock.Job) { j.Channel = "root..a b.ü" }),
			b.one("prod", "", func(j *mock.Job) { j.Channel = "root" }),
			b.one("prod", "past", func(j *mock.Job) { j.ETA = 1 }),
			b.one("prod", "way past", func(j *mock.Job) { j.ETA = math.MinInt64 }),
		}
		wait := []channels.Key{
			b.one("prod", "far", func(j *mock.Job) { j.ETA = far }),
			b.one("prod", "farther", func(j *mock.Job) { j.ETA = math.MaxInt64 }),
			b.one("prod", "unknown", func(j *mock.Job) { j.RawState, j.State = "paused", channels.Unknown }),
			b.one("prod", "dependent", func(j *mock.Job) { j.State = channels.WaitDependencies }),
		}
		b.settle(time.Hour)
		b.requireRanOnce(run...)
		for _, k := range wait {
			require.Empty(b, b.RunsOf(k), "%s", k)
		}
		b.SetState(wait[2], channels.Pending)
		b.SetState(wait[3], channels.Pending)
		b.settle(time.Second)
		b.requireRanOnce(wait[2:]...)
		st := b.status(r)
		require.Zero(b, st.Claiming+st.Open+st.Watched)
	})
}

// A state that nobody has heard of changes nothing (docs/contract.md 1.3): neither
// for a job that runs nor for one that waits.
func TestUnknownStateChangesNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.PlanFor(key("prod", "running"), mock.Plan{RunFor: 20 * time.Minute})
		running := b.one("prod", "running")
		r := b.start(b.config("root:1"))
		b.Update(running, func(j *mock.Job) { j.RawState = "paused" })
		b.settle(15 * time.Minute)
		require.Equal(b, 1, b.status(r).Open)
		require.NotZero(b, b.logged("unexpected state paused for job running"))
		b.settle(10 * time.Minute)
		b.requireRanOnce(running)
		b.requireIdle(r)
	})
}

func TestStormOfOddNotifications(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		r := b.start(b.config("root:4"))
		for i := range 3000 {
			b.Insert(mock.Job{Row: driver.Row{
				Job:   channels.Job{Key: key("prod", fmt.Sprintf("storm%d", i))},
				State: channels.Unknown, RawState: "strange",
			}})
			b.Notify("prod", fmt.Sprintf("no row %d", i))
		}
		b.Notify("prod", mock.ReloadPayload)
		b.Notify("prod", "")
		k := b.one("prod", "a")
		b.settle(time.Second)
		b.requireRanOnce(k)
		require.Less(b, b.Calls("prod", "Read"), 600)
		b.requireIdle(r)
	})
}
