package runner_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

const gaveWay = "the job is not known to run, and its row cannot be changed, giving the slot of the job to others: " +
	"another transaction has locked the row or its table"

// Rows that can be read and not changed, because of an index that is being built or of a transaction that
// somebody has forgotten, keep no slots for long of jobs that nothing executes. Once they can be changed
// again, the jobs run.
func TestRowsThatCannotBeChangedKeepNoSlots(t *testing.T) {
	rows := func(f *mock.Faults, locked bool) {
		if f.Locked = nil; locked {
			lockRow(f)
		}
	}
	table := func(f *mock.Faults, locked bool) {
		var err error
		if locked {
			err = errLocked
		}
		f.UnclaimErr, f.RescueErr = err, err // claims, too, but it has been claimed just before
	}
	for name, c := range map[string]struct {
		prepare func(*bench, *runner.Config)
		plan    mock.Plan
		lock    func(*mock.Faults, bool)
		runs    int
	}{
		"dead, row":               {nil, mock.Plan{RunFor: 10 * time.Second, Crash: true}, rows, 2},
		"dead, table":             {nil, mock.Plan{RunFor: 10 * time.Second, Crash: true}, table, 2},
		"not run, row":            {nil, mock.Plan{StayEnqueued: true}, rows, 1},
		"not run, table":          {nil, mock.Plan{StayEnqueued: true}, table, 1},
		"not run, no locks, row":  {noLocks, mock.Plan{StayEnqueued: true}, rows, 1},
		"not sent, table":         {nil, mock.Plan{FailBeforeSend: true}, table, 1},
		"broken, row":             {nil, mock.Plan{StartAfter: time.Hour, DropConnAfter: 2 * time.Second}, rows, 1},
		"dead, no locks, row":     {impatient, mock.Plan{RunFor: 10 * time.Second, Crash: true}, rows, 2},
		"quarantine, dead, row":   {quarantined, mock.Plan{RunFor: 10 * time.Second, Crash: true}, rows, 2},
		"quarantine, dead, table": {quarantined, mock.Plan{RunFor: 10 * time.Second, Crash: true}, table, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "other")
				cfg := b.config("root:1")
				if c.prepare != nil {
					c.prepare(b, &cfg)
				}
				b.PlanFor(key("prod", "a"), c.plan, mock.Plan{RunFor: time.Second})
				r := b.start(cfg)
				b.settle(time.Second)
				b.Fault("prod", func(f *mock.Faults) { c.lock(f, true) })
				k := b.one("prod", "a")
				b.settle(time.Minute)
				waits := b.one("other", "b")
				b.settle(8 * time.Minute)
				require.Zero(b, b.started(waits), "the lock may end soon")
				b.settle(4 * time.Minute)
				b.requireRanOnce(waits)
				require.Equal(b, 1, b.logged(gaveWay))
				w, err := r.Why(b.Context(), k)
				require.NoError(b, err)
				require.Contains(b, w.Text, "the job is not known to run, and its row cannot be changed since")
				b.settle(time.Hour)
				require.Equal(b, 1, b.logged(gaveWay))
				require.Equal(b, 1, b.Calls("prod", "OpenSession"))
				b.Fault("prod", func(f *mock.Faults) { c.lock(f, false) })
				b.settle(3 * time.Minute)
				b.requireDone(k)
				require.Equal(b, c.runs, b.started(k))
				b.requireIdle(r)
			})
		})
	}
}

// lockRow has others lock the row of job a once it has been claimed.
func lockRow(f *mock.Faults) {
	f.Locked = func(j *mock.Job) bool { return j.UUID == "a" && j.State.Running() }
}

func noLocks(b *bench, _ *runner.Config) { b.WithoutLocks("prod") }

func impatient(b *bench, cfg *runner.Config) {
	b.WithoutLocks("prod")
	cfg.RescueStartedAfter = 30 * time.Second
}

func quarantined(b *bench, cfg *runner.Config) { *cfg = b.quarantine("root:1", 3) }

// A sequential channel does not go on without a job that gave way.
func TestASequentialChannelWaitsForWhatGaveWay(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 10 * time.Second, Crash: true}, mock.Plan{RunFor: time.Second})
		b.Fault("prod", lockRow)
		r := b.start(b.config("root:1,root.seq:1:sequential"))
		first := b.one("prod", "a", inChannel("root.seq"))
		b.settle(time.Second)
		next := b.one("prod", "b", inChannel("root.seq"))
		waits := b.one("other", "c")
		b.settle(20 * time.Minute)
		b.requireRanOnce(waits)
		require.Zero(b, b.started(next))
		w, err := r.Why(b.Context(), next)
		require.NoError(b, err)
		require.Equal(b, channels.ReasonSequentialFailed.String(), w.Code)
		require.Equal(b, "channel root.seq is sequential and waits for job prod/a, of which it is not known whether it has run, or whose row is locked", w.Text)
		b.Fault("prod", func(f *mock.Faults) { f.Locked = nil })
		b.settle(time.Minute)
		b.requireDone(first, next)
		runs := b.Runs()
		require.Equal(b, next, runs[len(runs)-1].Task.Key)
		b.requireIdle(r)
	})
}

// Nor does it when its connection was lost, before it has been read what became of a job that was answered
// for and not run.
func TestASequentialChannelWaitsForWhatIsRead(t *testing.T) {
	for name, plan := range map[string]mock.Plan{"not run": {StayEnqueued: true}, "not sent": {FailBeforeSend: true}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod")
				seq := inChannel("root.seq")
				b.PlanFor(key("prod", "a"), plan, mock.Plan{RunFor: time.Second})
				b.Fault("prod", lockRow)
				r := b.start(b.config("root:4,root.seq:1:sequential"))
				first := b.one("prod", "a", seq)
				b.settle(time.Second)
				next := b.one("prod", "b", seq)
				b.settle(10 * time.Second)
				b.LoseSession("prod")
				b.settle(5 * time.Minute)
				require.Zero(b, b.started(next))
				b.Fault("prod", func(f *mock.Faults) { f.Locked = nil })
				b.settle(5 * time.Minute)
				b.requireDone(first, next)
				b.requireIdle(r)
			})
		})
	}
}

// While a table can not even be read, a sequential channel goes on for other databases; for its own, when it is
// known what became of the job that was answered.
func TestASequentialChannelGoesOnForOthers(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod", "other")
		seq := inChannel("root.seq")
		b.PlanFor(key("prod", "a"), mock.Plan{StayEnqueued: true}, mock.Plan{RunFor: time.Second})
		// Claims would meet it as well, and nothing would start for that reason alone.
		lock := func(err error) {
			b.Fault("prod", func(f *mock.Faults) { f.ReadErr, f.SnapshotErr, f.UnclaimErr, f.InspectErr = err, err, err, err })
		}
		r := b.start(b.config("root:4,root.seq:1:sequential"))
		b.settle(time.Second)
		first, next := b.one("prod", "a", seq), b.one("prod", "b", seq)
		b.settle(0)
		lock(errLocked)
		waits := b.one("other", "c", seq)
		b.settle(20 * time.Minute)
		b.requireRanOnce(waits)
		require.Zero(b, b.started(next))
		lock(nil)
		b.settle(5 * time.Minute)
		b.requireDone(first, next)
		runs := b.Runs()
		require.Equal(b, next, runs[len(runs)-1].Task.Key)
		b.requireIdle(r)
	})
}

// What such a job does counts again as soon as it may be executing: its row has changed, its worker lives
// after all, or its database was lost.
func TestWhatGaveWayHasItsSlotAgain(t *testing.T) {
	for name, happens := range map[string]func(*bench, channels.Key){
		"its worker lives":  func(b *bench, k channels.Key) { b.HoldLock(k, 4711) },
		"claimed by others": func(b *bench, k channels.Key) { b.Update(k, func(j *mock.Job) { j.Enqueued = time.Now().UnixMicro() }) },
		"its state":         func(b *bench, k channels.Key) { b.Update(k, func(j *mock.Job) { j.RawState = "on_hold" }) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				b.AddDatabase("prod", "other")
				b.PlanFor(key("prod", "a"), mock.Plan{RunFor: 10 * time.Second, Crash: true})
				r := b.start(b.config("root:1"))
				k := b.one("prod", "a")
				b.settle(time.Second)
				b.Fault("prod", func(f *mock.Faults) { f.Locked = mock.Rows("a") })
				b.settle(15 * time.Minute)
				require.Equal(b, 1, b.logged(gaveWay))
				require.Zero(b, b.slots(r))
				happens(b, k)
				b.settle(20 * time.Second)
				require.Equal(b, 1, b.slots(r))
				b.Fault("prod", func(f *mock.Faults) { f.Locked = nil })
			})
		})
	}
}

// slots is how many are taken.
func (b *bench) slots(r *runner.Runner) int {
	a, err := r.Audit(context.Background())
	require.NoError(b, err)
	return len(a.Slots)
}
