package drivertest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Run runs the suite. fresh returns a new harness for each test.
func Run(t *testing.T, fresh func(*testing.T) Harness) {
	t.Helper()
	run(t, fresh, true, false)
}

// RunPooled runs the part of the suite that concerns sessions of a [driver.PoolDriver], through a pooler
// that gives each transaction another backend.
func RunPooled(t *testing.T, fresh func(*testing.T) Harness) {
	t.Helper()
	run(t, fresh, true, true)
}

// RunWithoutLocks runs the part of the suite for applications whose jobs have no lock rows, so that
// nothing proves a task dead.
func RunWithoutLocks(t *testing.T, fresh func(*testing.T) Harness) {
	t.Helper()
	run(t, fresh, false, false)
}

func run(t *testing.T, fresh func(*testing.T) Harness, locks, pooled bool) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*bench)
		// locks is set for what is about lock rows, direct for what a session behind a pooler does not
		// have.
		locks, direct bool
	}{
		{"Capabilities", testCapabilities, false, false},
		{"Fingerprint", testFingerprint, false, false},
		{"OpenUnknownDatabase", testOpenUnknown, false, true},
		{"Lock", testLock, false, true},
		{"Snapshot", testSnapshot, false, false},
		{"Count", testCount, false, false},
		{"Read", testRead, false, false},
		{"Claim", testClaim, false, false},
		{"ClaimAndRead", testClaimAndRead, false, false},
		{"ClaimVacant", testClaimVacant, false, false},
		{"Unclaim", testUnclaim, false, false},
		{"Inspect", testInspect, true, false},
		{"Rescue", testRescue, true, false},
		{"RescueLooksAgain", testRescueLooksAgain, true, false},
		{"Stop", testStop, true, false},
		{"StopFindsTheAttempt", testStopFinds, true, false},
		{"StopWithoutLocks", testStopWithoutLocks, false, false},
		{"Account", testAccount, false, false},
		{"AccountFindsTheAttempt", testAccountFinds, false, false},
		{"FailDead", testFailDead, true, false},
		{"FailStopped", testFailStopped, true, false},
		{"FailUnclaimed", testFailUnclaimed, false, false},
		{"Wait", testWait, false, true},
		{"WaitIsInterruptible", testInterrupt, false, true},
		{"WaitMissesNothing", testNothingMissed, false, true},
		{"Echoes", testEchoes, true, true},
		{"Reload", testReload, false, true},
		{"Channels", testChannels, true, false},
		{"Upgrades", testUpgrades, false, false},
		{"Release", testRelease, true, false},
		{"Probe", testProbe, false, true},
		{"Lost", testLost, false, true},
		{"Run", testRun, false, true},
		{"RunOutcomes", testRunOutcomes, false, true},
		{"Check", testCheck, false, true},
		{"Sleep", testSleep, false, false},
		{"Limits", testLimits, false, true},
		{"Databases", testDatabases, false, true},
		{"Lead", testLead, false, true},
	} {
		if (locks || !test.locks) && !(pooled && test.direct) {
			t.Run(test.name, func(t *testing.T) {
				b := newBench(t, fresh)
				b.locks = locks
				if pooled {
					cfg := b.Postgres()
					cfg.Database = b.Database()
					b.pooler = NewPooler(t, cfg, PoolRoundRobin)
				}
				test.run(b)
			})
		}
	}
}

// testCapabilities: what a driver declares, it has, and the other way round.
func testCapabilities(b *bench) {
	d := b.Driver()
	can := d.Capabilities()
	require.NotEmpty(b.t, can.Application)
	_, operates := d.(driver.Operator)
	require.Equal(b.t, can.Operations, operates)
	_, examines := d.(driver.Examiner)
	require.Equal(b.t, can.Examination, examines)
	s := b.open()
	_, reads := s.(driver.ChannelReader)
	require.Equal(b.t, can.DatabaseChannels, reads)
	_, stops := s.(driver.Stopper)
	require.Equal(b.t, can.Stopping, stops)
	_, upgrades := s.(driver.Upgrader)
	require.Equal(b.t, can.Upgrades, upgrades)
	_, releases := s.(driver.Releaser)
	require.Equal(b.t, can.Releases, releases)
	_, quarantines := s.(driver.Quarantiner)
	require.Equal(b.t, can.Quarantine, quarantines)
	_, vacant := s.(driver.VacantClaimer)
	require.Equal(b.t, can.VacantClaims, vacant)
	_, shares := s.(driver.Sharer)
	require.Equal(b.t, can.Companies || can.Identities, shares)
	_, pools := d.(driver.PoolDriver)
	require.Equal(b.t, can.Poolers, pools)
}

// testRelease: a job is released if all of its parents that there are are done, and there is one; once,
// and not as long as one of them may be about to do it.
func testRelease(b *bench) {
	if !b.Driver().Capabilities().Releases {
		return
	}
	s := b.ready()
	releaser, _ := s.(driver.Releaser)
	const waits = "wait_dependencies"
	uuid := func(n int) string { return fmt.Sprintf("%s%012d", jobA[:24], n) }
	long := ago(time.Hour)
	for i, test := range []struct {
		parents  []string
		done     time.Time
		busy     bool
		state    string
		released bool
	}{
		{[]string{"done"}, long, false, waits, true},
		{[]string{"done", "done"}, long, false, waits, true},
		{[]string{"done", "deleted"}, long, false, waits, true},
		{[]string{"done"}, time.Time{}, false, waits, true},
		{[]string{"deleted"}, long, false, waits, false},
		{[]string{"done", "pending"}, long, false, waits, false},
		{[]string{"done", "started"}, long, false, waits, false},
		{[]string{"done", "failed"}, long, false, waits, false},
		{[]string{"done", "cancelled"}, long, false, waits, false},
		{[]string{"done", waits}, long, false, waits, false},
		{[]string{"done"}, ago(2 * time.Second), false, waits, false},
		{[]string{"done"}, long, true, waits, false},
		{[]string{"done"}, long, false, "cancelled", false},
		{[]string{"done"}, long, false, "failed", false},
		{[]string{"done"}, long, false, "done", false},
	} {
		var names, busy []string
		for j, state := range test.parents {
			name := uuid(10*i + j + 1)
			names = append(names, name)
			if state != "deleted" {
				b.Insert(Job{UUID: name, State: state, Done: test.done})
			}
		}
		if test.busy {
			busy = names
		}
		child := uuid(10 * i)
		b.Insert(Job{UUID: child, State: test.state, DependsOn: names})
		ids, err := releaser.Dependents(b.ctx, names)
		require.NoError(b.t, err)
		all, err := releaser.Dependents(b.ctx, nil)
		require.NoError(b.t, err)
		require.Subset(b.t, all, ids)
		rows, err := releaser.Release(b.ctx, all, 10*time.Second, busy)
		require.NoError(b.t, err)
		if !test.released {
			require.Empty(b.t, rows, "%+v", test)
			require.Equal(b.t, test.state, b.row(s, child).RawState)
			b.Delete(child)
			continue
		}
		require.Len(b.t, rows, 1, "%+v", test)
		require.Equal(b.t, child, rows[0].UUID)
		require.Contains(b.t, ids, rows[0].ID)
		require.Equal(b.t, channels.Pending, rows[0].State)
		require.Equal(b.t, rows[0], b.row(s, child))
		rows, err = releaser.Release(b.ctx, all, 0, nil)
		require.NoError(b.t, err)
		require.Empty(b.t, rows, "once")
	}
}

// testUpgrades: where it is wanted, nothing is claimed while the application is marked for a change;
// and a change can be told that a claim does not see, until it has ended.
func testUpgrades(b *bench) {
	if !b.Driver().Capabilities().Upgrades {
		return
	}
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	b.Insert(Job{UUID: jobB, State: "pending", Created: ago(time.Hour)})
	s := b.ready()
	upgrader, _ := s.(driver.Upgrader)
	var last driver.Upgrade
	check := func() driver.Upgrade {
		b.t.Helper()
		u, err := upgrader.Upgrading(b.ctx, last)
		require.NoError(b.t, err)
		require.Equal(b.t, u.Active, u.Description != "", "it says what it is")
		last = u
		return u
	}
	require.Equal(b.t, driver.Upgrade{}, check())
	b.Mark("sale", "stock")
	require.Contains(b.t, check().Description, "sale")
	b.claim(s, jobA) // which nobody has forbidden
	upgrader.GateUpgrades(true)
	tasks, rows, err := s.Claim(b.ctx, []string{jobB}, []string{jobB})
	require.NoError(b.t, err)
	require.Empty(b.t, tasks)
	require.Len(b.t, rows, 1, "reads go on")
	require.Equal(b.t, channels.Pending, b.row(s, jobB).State)
	b.Mark()
	require.Equal(b.t, driver.Upgrade{}, check())

	end := b.Change()
	require.True(b.t, check().Active)
	require.True(b.t, check().Active)
	end()
	require.Eventually(b.t, func() bool { return !check().Active }, timeout, time.Millisecond)
	b.claim(s, jobB)
}

func testFingerprint(b *bench) {
	fp, err := b.open().Fingerprint(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, driver.Healthy, fp.Health, fp.Description)
	require.NotEmpty(b.t, fp.Description)
	require.NotEmpty(b.t, fp.Generation)
	require.Equal(b.t, b.locks, fp.Locks)

	s, err := b.Driver().OpenSession(b.ctx, b.Postgres(), b.Foreign())
	require.NoError(b.t, err)
	fp, err = s.Fingerprint(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, driver.Undetected, fp.Health)
	require.NotEmpty(b.t, fp.Description)
	require.NoError(b.t, s.Close(b.ctx))
}

func testOpenUnknown(b *bench) {
	_, err := b.Driver().OpenSession(b.ctx, b.Postgres(), "no_such_database")
	require.ErrorContains(b.t, err, "no_such_database")
	require.ErrorIs(b.t, err, driver.ErrLost)
}

func testLock(b *bench) {
	first, second := b.ready(), b.open()
	_, err := second.Fingerprint(b.ctx)
	require.NoError(b.t, err)
	lock, err := first.Lock(b.ctx)
	require.NoError(b.t, err)
	require.True(b.t, lock.Held, "asking again is a check")
	lock, err = second.Lock(b.ctx)
	require.NoError(b.t, err)
	require.False(b.t, lock.Held)
	require.Contains(b.t, lock.Holder, "pid ")
	require.NoError(b.t, first.Close(b.ctx))
	require.Eventually(b.t, func() bool {
		lock, err := second.Lock(b.ctx)
		return err == nil && lock.Held
	}, timeout, time.Millisecond, "closing releases the lock")
}

func testSnapshot(b *bench) {
	created, eta := ago(time.Hour).Add(123456*time.Microsecond), time.Now().Add(time.Hour).Truncate(time.Microsecond)
	enqueued := ago(time.Minute)
	want := map[string]channels.State{}
	for i, state := range []string{
		"pending", "enqueued", "started", "failed", "strange", "done", "cancelled", "wait_dependencies",
	} {
		uuid := jobA[:len(jobA)-1] + string(rune('a'+i))
		if i < 5 {
			want[uuid] = channels.ParseState(state)
		}
		b.Insert(Job{
			UUID: uuid, State: state, Channel: "sub", Priority: int32(i), Created: created,
			ETA: eta, Enqueued: enqueued, Retry: 3,
		})
	}
	s := b.ready()
	got := map[string]channels.State{}
	ids := map[int64]bool{}
	require.NoError(b.t, s.Snapshot(b.ctx, func(r driver.Row) {
		got[r.UUID] = r.State
		ids[r.ID] = true
		require.Equal(b.t, b.Database(), r.DB)
		require.Equal(b.t, "sub", r.Channel)
		require.Equal(b.t, created.UnixMicro(), r.Created)
		require.Equal(b.t, eta.UnixMicro(), r.ETA)
		require.Equal(b.t, enqueued.UnixMicro(), r.Enqueued)
		require.Equal(b.t, int32(3), r.Retry)
		if r.State == channels.Unknown {
			require.Equal(b.t, "strange", r.RawState)
		} else {
			require.Equal(b.t, r.State.String(), r.RawState)
		}
	}))
	require.Equal(b.t, want, got)
	require.Len(b.t, ids, len(want))

	running, err := s.Running(b.ctx)
	require.NoError(b.t, err)
	require.Len(b.t, running, 2)
	for _, r := range running {
		require.True(b.t, r.State.Running())
		require.Equal(b.t, want[r.UUID], r.State)
		require.Equal(b.t, "sub", r.Channel)
		require.Equal(b.t, enqueued.UnixMicro(), r.Enqueued)
	}
}

func testCount(b *bench) {
	for i, state := range []string{"pending", "pending", "enqueued", "started", "failed", "failed", "failed", "done", "cancelled"} {
		b.Insert(Job{UUID: fmt.Sprintf("00000000-0000-4000-8000-%012d", i), State: state, Channel: "root.a", Created: ago(time.Hour)})
	}
	s := b.open()
	counter, ok := s.(driver.Counter)
	if !ok {
		return // it is optional
	}
	_, err := s.Fingerprint(b.ctx)
	require.NoError(b.t, err)
	found, err := counter.Count(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, channels.Count{DB: b.Database(), Pending: 2, Enqueued: 1, Started: 1, Failed: 3}, found)
}

func testRead(b *bench) {
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	b.Insert(Job{UUID: jobB, State: "done", Created: ago(time.Hour)})
	s := b.ready()
	rows, err := s.Read(b.ctx, []string{jobA, jobB, nothing})
	require.NoError(b.t, err)
	states := map[string]channels.State{}
	for _, r := range rows {
		states[r.UUID] = r.State
		require.Zero(b.t, r.ETA)
		require.Zero(b.t, r.Enqueued)
		require.Empty(b.t, r.Channel)
	}
	require.Equal(b.t, map[string]channels.State{jobA: channels.Pending, jobB: channels.Done}, states)
	rows, err = s.Read(b.ctx, nil)
	require.NoError(b.t, err)
	require.Empty(b.t, rows)
}

func testClaim(b *bench) {
	for uuid, state := range map[string]string{jobA: "pending", jobB: "cancelled", jobC: "enqueued"} {
		b.Insert(Job{UUID: uuid, State: state, Created: ago(time.Hour)})
	}
	s := b.ready()
	before := time.Now().Add(-time.Second).UnixMicro()
	tasks, _, err := s.Claim(b.ctx, []string{jobA, jobB, jobC, nothing}, nil)
	require.NoError(b.t, err)
	require.Len(b.t, tasks, 1, "only what is pending")
	require.Equal(b.t, jobA, tasks[0].UUID)
	require.Greater(b.t, tasks[0].Enqueued, before)
	require.Zero(b.t, tasks[0].Enqueued%int64(time.Second/time.Microsecond), "whole seconds")
	row := b.row(s, jobA)
	require.Equal(b.t, channels.Enqueued, row.State)
	require.Equal(b.t, tasks[0].Enqueued, row.Enqueued)
	require.Equal(b.t, channels.Cancelled, b.row(s, jobB).State)
	tasks, _, err = s.Claim(b.ctx, []string{jobA}, nil)
	require.NoError(b.t, err)
	require.Empty(b.t, tasks, "only once")
}

func testClaimAndRead(b *bench) {
	for uuid, state := range map[string]string{jobA: "pending", jobB: "failed"} {
		b.Insert(Job{UUID: uuid, State: state, Created: ago(time.Hour), Channel: "root.x"})
	}
	s := b.ready()
	tasks, rows, err := s.Claim(b.ctx, []string{jobA}, []string{jobA, jobB, nothing})
	require.NoError(b.t, err)
	require.Len(b.t, tasks, 1)
	states := map[string]channels.State{}
	for _, r := range rows {
		states[r.UUID] = r.State
		require.Equal(b.t, "root.x", r.Channel)
	}
	require.Equal(b.t, map[string]channels.State{jobA: channels.Pending, jobB: channels.Failed}, states, "as before the claim")
	require.Equal(b.t, channels.Enqueued, b.row(s, jobA).State)
	tasks, rows, err = s.Claim(b.ctx, []string{nothing}, []string{jobA})
	require.NoError(b.t, err)
	require.Empty(b.t, tasks)
	require.Len(b.t, rows, 1)
}

// testClaimVacant: a job that wants a slot of root at once is claimed, and every other one is only read.
func testClaimVacant(b *bench) {
	if !b.Driver().Capabilities().VacantClaims {
		return
	}
	s := b.ready()
	claimer, _ := s.(driver.VacantClaimer)
	uuid := func(n int) string { return fmt.Sprintf("%s%012d", jobA[:24], n) }
	for i, test := range []struct {
		state, channel string
		eta            time.Time
		claimed        bool
	}{
		{"pending", "", time.Time{}, true},
		{"pending", "root", time.Time{}, true},
		{"pending", "root.x", time.Time{}, false},
		{"pending", "x", time.Time{}, false},
		{"pending", "root", time.Now().Add(time.Hour), false},
		{"pending", "root", ago(time.Hour), false},
		{"enqueued", "root", time.Time{}, false},
		{"started", "root", time.Time{}, false},
		{"done", "root", time.Time{}, false},
		{"failed", "root", time.Time{}, false},
		{"cancelled", "root", time.Time{}, false},
	} {
		b.Insert(Job{UUID: uuid(i), State: test.state, Channel: test.channel, Created: ago(time.Hour), ETA: test.eta})
		tasks, rows, err := claimer.ClaimVacant(b.ctx, uuid(i))
		require.NoError(b.t, err)
		require.Len(b.t, rows, 1)
		require.Equal(b.t, test.state, rows[0].RawState, "as before the claim")
		row := b.row(s, uuid(i))
		if !test.claimed {
			require.Empty(b.t, tasks, "%+v", test)
			require.Equal(b.t, test.state, row.RawState)
			continue
		}
		require.Len(b.t, tasks, 1, "%+v", test)
		require.Equal(b.t, uuid(i), tasks[0].UUID)
		require.Equal(b.t, channels.Enqueued, row.State)
		require.Equal(b.t, tasks[0].Enqueued, row.Enqueued)
	}
	tasks, rows, err := claimer.ClaimVacant(b.ctx, nothing)
	require.NoError(b.t, err)
	require.Empty(b.t, tasks)
	require.Empty(b.t, rows)
}

func testUnclaim(b *bench) {
	for _, uuid := range []string{jobA, jobB, jobC} {
		b.Insert(Job{UUID: uuid, State: "pending", Created: ago(time.Hour)})
	}
	s := b.ready()
	a, second, third := b.claim(s, jobA), b.claim(s, jobB), b.claim(s, jobC)
	b.SetState(jobB, "started")
	third.Enqueued -= 1_000_000 // an earlier attempt
	rows, err := s.Unclaim(b.ctx, []driver.Task{a, second, third})
	require.NoError(b.t, err)
	require.Len(b.t, rows, 1)
	require.Equal(b.t, jobA, rows[0].UUID)
	require.Equal(b.t, channels.Pending, rows[0].State)
	require.Zero(b.t, rows[0].Enqueued)
	require.Equal(b.t, rows[0], b.row(s, jobA))
	require.Equal(b.t, channels.Started, b.row(s, jobB).State)
	require.Equal(b.t, channels.Enqueued, b.row(s, jobC).State)
}

func testInspect(b *bench) {
	const held = jobA
	s := b.ready()
	b.Insert(Job{UUID: held, State: "started", Enqueued: ago(time.Minute), LockRow: true})
	pid := b.HoldLock(held)
	l := b.inspect(s, held)
	require.Equal(b.t, driver.Alive, l.Verdict)
	require.Equal(b.t, pid, l.PID)
	require.InDelta(b.t, time.Minute.Seconds(), l.Age.Seconds(), 20)
	b.FreeLock(held)
	require.Equal(b.t, driver.Dead, b.inspect(s, held).Verdict)

	for i, test := range []struct {
		job  Job
		want driver.Verdict
	}{
		{Job{State: "started", Enqueued: ago(3 * time.Second), LockRow: true}, driver.Uncertain},
		{Job{State: "started", Enqueued: ago(time.Minute)}, driver.Dead},
		{Job{State: "started", LockRow: true}, driver.Uncertain},
		{Job{State: "enqueued", Enqueued: ago(time.Minute), LockRow: true}, driver.Dead},
		{Job{State: "enqueued", Enqueued: ago(time.Minute)}, driver.Dead},
		{Job{State: "enqueued", Enqueued: ago(3 * time.Second)}, driver.Uncertain},
		{Job{State: "pending", Enqueued: ago(time.Minute)}, driver.Uncertain},
		{Job{State: "done", Enqueued: ago(time.Minute), LockRow: true}, driver.Uncertain},
	} {
		test.job.UUID = jobB[:len(jobB)-1] + string(rune('a'+i))
		b.Insert(test.job)
		l := b.inspect(s, test.job.UUID)
		require.Equal(b.t, test.want, l.Verdict, "%+v", test.job)
		require.Zero(b.t, l.PID)
		require.False(b.t, l.Gone)
		require.Equal(b.t, test.job.State, l.Row.RawState)
	}
	require.True(b.t, b.inspect(s, nothing).Gone)
}

func testRescue(b *bench) {
	s := b.ready()
	for i, test := range []struct {
		job   Job
		state channels.State
		retry int32
	}{
		{Job{State: "started", Retry: 0, MaxRetries: 5, LockRow: true}, channels.Pending, 1},
		{Job{State: "started", Retry: 6, MaxRetries: 5, LockRow: true}, channels.Failed, 7},
		{Job{State: "started", Retry: 99, MaxRetries: 0}, channels.Pending, 100},
		{Job{State: "enqueued", Retry: 2, MaxRetries: 5}, channels.Pending, 2},
		{Job{State: "enqueued", Retry: 6, MaxRetries: 5}, channels.Failed, 6},
	} {
		test.job.UUID = jobB[:len(jobB)-1] + string(rune('a'+i))
		test.job.Enqueued = ago(time.Minute)
		b.Insert(test.job)
		l := b.inspect(s, test.job.UUID)
		require.Equal(b.t, driver.Dead, l.Verdict)
		rows, err := s.Rescue(b.ctx, []driver.Liveness{l})
		require.NoError(b.t, err)
		require.Len(b.t, rows, 1, "%+v", test.job)
		require.Equal(b.t, test.state, rows[0].State, "%+v", test.job)
		require.Equal(b.t, test.retry, rows[0].Retry, "%+v", test.job)
		require.Equal(b.t, rows[0], b.row(s, test.job.UUID))
		rows, err = s.Rescue(b.ctx, []driver.Liveness{l})
		require.NoError(b.t, err)
		require.Empty(b.t, rows, "once")
	}
}

func testRescueLooksAgain(b *bench) {
	s := b.ready()
	b.looksAgain(s, s.Rescue)
}

// looksAgain hands dead tasks to a way of ending them when they are not dead any more.
func (b *bench) looksAgain(s driver.Session, end func(context.Context, []driver.Liveness) ([]driver.Row, error)) {
	for name, revive := range map[string]func(uuid string){
		"held":    func(uuid string) { b.HoldLock(uuid) },
		"done":    func(uuid string) { b.SetState(uuid, "done") },
		"started": func(uuid string) { b.SetState(uuid, "started") },
		"deleted": func(uuid string) { b.Delete(uuid) },
		"restarted": func(uuid string) {
			b.Delete(uuid)
			b.Insert(Job{UUID: uuid, State: "enqueued", Enqueued: ago(2 * time.Minute)})
		},
	} {
		uuid := jobA[:len(jobA)-len(name)] + name
		b.Insert(Job{UUID: uuid, State: "enqueued", Enqueued: ago(time.Minute), LockRow: true})
		l := b.inspect(s, uuid)
		require.Equal(b.t, driver.Dead, l.Verdict)
		revive(uuid)
		rows, err := end(b.ctx, []driver.Liveness{l})
		require.NoError(b.t, err)
		require.Empty(b.t, rows, name)
	}
}

func testWait(b *bench) {
	s := b.ready()
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	b.SetState(jobA, "cancelled")
	b.Insert(Job{UUID: jobB, State: "pending", Created: ago(time.Hour)})
	b.Delete(jobB)
	b.Insert(Job{UUID: jobC, State: "done", Created: ago(time.Hour)})
	n := b.wait(s, func(n driver.Notifications) bool { return slices.Contains(n.Changed, jobC) })
	require.Subset(b.t, n.Changed, []string{jobA, jobB, jobC})
	require.Empty(b.t, n.Echoes)
	require.False(b.t, n.Reload)

	b.Delete(jobC) // the end of a job that was done is not told
	b.Delete(jobA)
	n = b.wait(s, func(n driver.Notifications) bool { return slices.Contains(n.Changed, jobA) })
	require.NotContains(b.t, n.Changed, jobC)
}

func testInterrupt(b *bench) {
	s := b.ready()
	for range 20 {
		ctx, cancel := context.WithCancel(b.ctx)
		go cancel()
		n, err := s.Wait(ctx)
		require.NoError(b.t, err)
		require.Zero(b.t, n)
	}
	require.NoError(b.t, s.Probe(b.ctx), "the session remains usable")
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	b.wait(s, func(n driver.Notifications) bool { return slices.Contains(n.Changed, jobA) })

	over, cancel := context.WithCancel(b.ctx)
	cancel()
	n, err := s.Wait(over)
	require.NoError(b.t, err)
	require.Zero(b.t, n)
}

func testNothingMissed(b *bench) {
	s := b.ready()
	want := map[string]bool{}
	for i := range 200 {
		uuid := jobA[:len(jobA)-2] + string(rune('a'+i/20)) + string(rune('a'+i%20))
		want[uuid] = true
		b.Insert(Job{UUID: uuid, State: "pending", Created: ago(time.Hour)})
		if i%10 == 0 { // notifications also arrive during statements
			_, err := s.Read(b.ctx, []string{uuid})
			require.NoError(b.t, err)
		}
	}
	b.wait(s, func(n driver.Notifications) bool {
		for _, uuid := range n.Changed {
			delete(want, uuid)
		}
		return len(want) == 0
	})
}

func testEchoes(b *bench) {
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	b.Insert(Job{UUID: jobB, State: "enqueued", Enqueued: ago(time.Minute)})
	s := b.ready()
	b.claim(s, jobA)
	rows, err := s.Rescue(b.ctx, []driver.Liveness{b.inspect(s, jobB)})
	require.NoError(b.t, err)
	require.Len(b.t, rows, 1)
	b.SetState(jobA, "started")
	n := b.wait(s, func(n driver.Notifications) bool {
		return slices.Contains(n.Changed, jobA) && slices.Contains(n.Echoes, jobB)
	})
	require.Equal(b.t, []string{jobA}, n.Changed, "by the worker")
	require.ElementsMatch(b.t, []string{jobA, jobB}, n.Echoes)
}

func testReload(b *bench) {
	s := b.ready()
	b.Notify("reload")
	n := b.wait(s, func(n driver.Notifications) bool { return n.Reload })
	require.Equal(b.t, []string{"reload"}, n.Changed, "it might be an odd uuid")
	b.Notify(jobA)
	n = b.wait(s, func(n driver.Notifications) bool { return slices.Contains(n.Changed, jobA) })
	require.False(b.t, n.Reload)
}

// testChannels is for drivers whose sessions are a [driver.ChannelReader].
func testChannels(b *bench) {
	s := b.ready()
	reader, ok := s.(driver.ChannelReader)
	require.True(b.t, ok)
	for _, want := range [][]channels.Config{
		{{Name: "root", Capacity: 4}, {Name: "root.mail", Capacity: 2, Throttle: 3 * time.Second}},
		{
			{Name: "root"},
			{Name: "root.mail", Capacity: 1, Sequential: true, Paused: true},
			{Name: "root.many", CapacityDefault: 1, SequentialDefault: true},
		},
	} {
		b.SetChannels(want)
		if b.pooler == nil {
			b.wait(s, func(n driver.Notifications) bool { return n.Reload })
		}
		got, err := reader.Channels(b.ctx)
		require.NoError(b.t, err)
		require.ElementsMatch(b.t, want, got)
	}
	if b.pooler != nil {
		return // its backends are replaced
	}
	b.Terminate()
	_, err := reader.Channels(b.ctx)
	require.ErrorIs(b.t, err, driver.ErrLost)
	require.NotErrorIs(b.t, err, driver.ErrChannels)
}

func testProbe(b *bench) {
	s := b.ready()
	require.NoError(b.t, s.Probe(b.ctx))
	b.Terminate()
	require.ErrorIs(b.t, s.Probe(b.ctx), driver.ErrLost)
}

func testLost(b *bench) {
	s := b.ready()
	b.Terminate()
	_, err := s.Wait(b.ctx)
	require.ErrorIs(b.t, err, driver.ErrLost)
	_, _, err = s.Claim(b.ctx, []string{jobA}, nil)
	require.ErrorIs(b.t, err, driver.ErrLost)
	_, err = s.Read(b.ctx, []string{jobA})
	require.ErrorIs(b.t, err, driver.ErrLost)
	require.ErrorIs(b.t, s.Snapshot(b.ctx, func(driver.Row) {}), driver.ErrLost)
	_, err = s.Inspect(b.ctx, []string{jobA})
	require.ErrorIs(b.t, err, driver.ErrLost)
	_, err = s.Lock(b.ctx)
	require.ErrorIs(b.t, err, driver.ErrLost)
	require.ErrorIs(b.t, s.Listen(b.ctx), driver.ErrLost)
	require.NoError(b.t, s.Close(b.ctx))

	again := b.ready() // its lock is free again
	late, cancel := context.WithCancel(b.ctx)
	cancel()
	_, err = again.Read(late, []string{jobA})
	require.ErrorIs(b.t, err, driver.ErrLost, "an interrupted statement ends the connection")
}

func testRun(b *bench) {
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour), MaxRetries: 5})
	s := b.ready()
	task := b.claim(s, jobA)
	res := b.Driver().Run(b.t.Context(), b.Upstream(Works), task)
	require.Equal(b.t, driver.Answered, res.Outcome, res.Err)
	require.Equal(b.t, 200, res.Status)
	require.NoError(b.t, res.Err)
	require.Equal(b.t, channels.Done, b.row(s, jobA).State)
	b.wait(s, func(n driver.Notifications) bool { return slices.Contains(n.Changed, jobA) })
}

func testRunOutcomes(b *bench) {
	b.Insert(Job{UUID: jobA, State: "pending", Created: ago(time.Hour)})
	s := b.ready()
	task := b.claim(s, jobA)
	for behaviour, want := range map[Behaviour]driver.Result{
		Unavailable: {Outcome: driver.Unavailable, Status: 503},
		Closed:      {Outcome: driver.NotSent},
		Cuts:        {Outcome: driver.Broken},
	} {
		res := b.Driver().Run(b.t.Context(), b.Upstream(behaviour), task)
		require.Error(b.t, res.Err)
		res.Err = nil
		if behaviour == Unavailable && res.Outcome == driver.NotSent {
			continue // what it had to ask before was not answered
		}
		require.Equal(b.t, want, res)
	}
	over, cancel := context.WithCancel(b.ctx)
	cancel()
	require.Equal(b.t, driver.NotSent, b.Driver().Run(over, b.Upstream(Works), task).Outcome)
	require.Equal(b.t, channels.Enqueued, b.row(s, jobA).State)
}

func testCheck(b *bench) {
	require.NoError(b.t, b.Driver().Check(b.ctx, b.Upstream(Works)))
	require.Error(b.t, b.Driver().Check(b.ctx, b.Upstream(Unavailable)))
	require.Error(b.t, b.Driver().Check(b.ctx, b.Upstream(Closed)))
}

func testDatabases(b *bench) {
	c, foreign := b.cluster(), b.Foreign()
	list, err := c.Databases(b.ctx, nil)
	require.NoError(b.t, err)
	var names []string
	for _, db := range list {
		names = append(names, db.Name)
		require.NotZero(b.t, db.OID)
	}
	require.Contains(b.t, names, b.Database())
	require.Contains(b.t, names, foreign)
	require.True(b.t, slices.IsSorted(names))
	list, err = c.Databases(b.ctx, []string{b.Database()})
	require.NoError(b.t, err)
	require.Len(b.t, list, 1)
	list, err = c.Databases(b.ctx, []string{"*", "!" + b.Database()})
	require.NoError(b.t, err)
	require.False(b.t, slices.ContainsFunc(list, func(db driver.Database) bool { return db.Name == b.Database() }))
	busy, err := c.Busy(b.ctx)
	require.NoError(b.t, err)
	require.NotContains(b.t, busy, b.Database())
}

// cluster opens a maintenance connection that ends with the test.
func (b *bench) cluster() driver.Cluster {
	b.t.Helper()
	c, err := b.Driver().OpenCluster(b.ctx, b.Postgres())
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_ = c.Close(ctx) // it may be closed already
	})
	return c
}

func testLead(b *bench) {
	const key = 4711
	first, second := b.cluster(), b.cluster()
	for range 2 { // the second time is a check
		lock, err := first.Lead(b.ctx, key)
		require.NoError(b.t, err)
		require.True(b.t, lock.Held)
	}
	lock, err := second.Lead(b.ctx, key)
	require.NoError(b.t, err)
	require.False(b.t, lock.Held)
	require.NotEmpty(b.t, lock.Holder)
	require.NoError(b.t, first.Unlead(b.ctx, key))
	lock, err = second.Lead(b.ctx, key)
	require.NoError(b.t, err)
	require.True(b.t, lock.Held, "taken twice, given back once")
	require.NoError(b.t, second.Close(b.ctx))
	_, err = second.Lead(b.ctx, key)
	require.ErrorIs(b.t, err, driver.ErrLost)
	require.Eventually(b.t, func() bool {
		lock, err := first.Lead(b.ctx, key)
		return err == nil && lock.Held
	}, timeout, time.Millisecond, "closing releases the lock")
}
