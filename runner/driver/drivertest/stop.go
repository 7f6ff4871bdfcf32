package drivertest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// stopper opens a session that is ready, with its ability to stop; nil if the driver does not
// declare that. What it then must not have is a matter of testCapabilities.
func (b *bench) stopper() (driver.Session, driver.Stopper) {
	b.t.Helper()
	s := b.ready()
	if !b.Driver().Capabilities().Stopping {
		return s, nil
	}
	return s, s.(driver.Stopper)
}

// started makes a job that runs, as far as its row tells, and returns the attempt.
func (b *bench) started(s driver.Session, uuid string) driver.Task {
	b.t.Helper()
	b.Insert(Job{UUID: uuid, State: "pending", Created: ago(time.Hour), LockRow: b.locks})
	task := b.claim(s, uuid)
	b.SetState(uuid, "started")
	return task
}

// stop stops one attempt.
func (b *bench) stop(s driver.Stopper, t driver.Task, terminate bool) driver.Stopped {
	b.t.Helper()
	list, err := s.Stop(b.ctx, []driver.Task{t}, terminate)
	require.NoError(b.t, err)
	require.Len(b.t, list, 1)
	require.Equal(b.t, t, list[0].Task)
	require.Equal(b.t, list[0].Result == driver.Signalled, list[0].Text == "", "%+v", list[0])
	return list[0]
}

// testStop: a worker that waits between two statements survives a cancellation, and no termination.
func testStop(b *bench) {
	s, stopper := b.stopper()
	if stopper == nil {
		return
	}
	task, other := b.started(s, jobA), b.started(s, jobB)
	pid, bystander := b.HoldLock(jobA), b.HoldLock(jobB)
	stopped := b.stop(stopper, task, false)
	require.Equal(b.t, driver.Signalled, stopped.Result)
	require.Equal(b.t, pid, stopped.PID)
	require.Equal(b.t, driver.Alive, b.inspect(s, jobA).Verdict)
	stopped = b.stop(stopper, task, true)
	require.Equal(b.t, driver.Signalled, stopped.Result)
	require.Equal(b.t, pid, stopped.PID)
	require.Eventually(b.t, func() bool { return b.inspect(s, jobA).PID == 0 }, timeout, time.Millisecond)
	require.Equal(b.t, bystander, b.inspect(s, jobB).PID, "nobody else was stopped")
	require.Equal(b.t, driver.NotRunning, b.stop(stopper, task, true).Result)
	require.Equal(b.t, channels.Started, b.row(s, jobA).State, "the row is the application's")

	list, err := stopper.Stop(b.ctx, []driver.Task{task, other, {Key: channels.Key{DB: b.Database(), UUID: nothing}}}, false)
	require.NoError(b.t, err)
	require.Len(b.t, list, 3)
	for i, want := range []driver.StopResult{driver.NotRunning, driver.Signalled, driver.NotRunning} {
		require.Equal(b.t, want, list[i].Result, i)
	}
	require.Equal(b.t, bystander, list[1].PID)
	list, err = stopper.Stop(b.ctx, nil, true)
	require.NoError(b.t, err)
	require.Empty(b.t, list)
}

// testStopFinds: only the attempt that is meant is stopped.
func testStopFinds(b *bench) {
	s, stopper := b.stopper()
	if stopper == nil {
		return
	}
	task := b.started(s, jobA)
	require.Equal(b.t, driver.NotRunning, b.stop(stopper, task, true).Result, "nobody holds its lock")
	pid := b.HoldLock(jobA)
	for name, change := range map[string]func(*driver.Task){
		"earlier": func(t *driver.Task) { t.Enqueued -= int64(time.Second / time.Microsecond) },
		"later":   func(t *driver.Task) { t.Enqueued += int64(time.Second / time.Microsecond) },
		"undated": func(t *driver.Task) { t.Enqueued = 0 },
		"unknown": func(t *driver.Task) { t.UUID = nothing },
	} {
		other := task
		change(&other)
		require.Equal(b.t, driver.NotRunning, b.stop(stopper, other, true).Result, name)
	}
	for _, state := range []string{"enqueued", "pending", "done", "failed", "cancelled"} {
		b.SetState(jobA, state)
		require.Equal(b.t, driver.NotRunning, b.stop(stopper, task, true).Result, state)
	}
	b.SetState(jobA, "started")
	require.Equal(b.t, pid, b.inspect(s, jobA).PID, "it was left alone all the time")
	b.FreeLock(jobA)
	require.Equal(b.t, driver.NotRunning, b.stop(stopper, task, true).Result)
}

// testStopWithoutLocks: nothing tells which backend runs an attempt.
func testStopWithoutLocks(b *bench) {
	s, stopper := b.stopper()
	if stopper == nil || b.locks {
		return
	}
	task := b.started(s, jobA)
	require.Equal(b.t, driver.Unstoppable, b.stop(stopper, task, false).Result)
	require.Equal(b.t, driver.Unstoppable, b.stop(stopper, task, true).Result)
}

// testAccount: the row says why, and those that may are tried again.
func testAccount(b *bench) {
	s, stopper := b.stopper()
	if stopper == nil {
		return
	}
	for i, test := range []struct {
		retry, limit int32
		again        bool
		want         channels.State
	}{
		{1, 5, false, channels.Failed},
		{1, 5, true, channels.Pending},
		{4, 5, true, channels.Pending},
		{5, 5, true, channels.Failed},
		{6, 5, true, channels.Failed},
		{99, 0, true, channels.Pending},
		{99, 0, false, channels.Failed},
	} {
		uuid := jobB[:len(jobB)-1] + string(rune('a'+i))
		b.Insert(Job{UUID: uuid, State: "pending", Created: ago(time.Hour), Retry: test.retry, MaxRetries: test.limit, LockRow: b.locks})
		task := b.claim(s, uuid)
		b.SetState(uuid, "failed")
		before := b.Cause(uuid)
		cause := driver.Cause{Attempt: task, Text: "It ran for too long (15 min).", Retry: test.again}
		rows, err := stopper.Account(b.ctx, []driver.Cause{cause})
		require.NoError(b.t, err)
		require.Len(b.t, rows, 1, "%+v", test)
		require.Equal(b.t, test.want, rows[0].State, "%+v", test)
		require.Equal(b.t, test.retry, rows[0].Retry, "the application has counted the attempt")
		require.Equal(b.t, test.want == channels.Pending, rows[0].Enqueued == 0)
		require.Equal(b.t, rows[0], b.row(s, uuid))
		text := b.Cause(uuid)
		require.Contains(b.t, text, "It ran for too long (15 min).")
		require.Contains(b.t, text, before)
		rows, err = stopper.Account(b.ctx, []driver.Cause{cause})
		require.NoError(b.t, err)
		require.Empty(b.t, rows, "once")
		require.Equal(b.t, text, b.Cause(uuid))
	}
	rows, err := stopper.Account(b.ctx, nil)
	require.NoError(b.t, err)
	require.Empty(b.t, rows)
}

// testAccountFinds: an attempt that did not end failed, or another one, is left alone.
func testAccountFinds(b *bench) {
	s, stopper := b.stopper()
	if stopper == nil {
		return
	}
	task := b.started(s, jobA)
	none := func(task driver.Task, why string) {
		rows, err := stopper.Account(b.ctx, []driver.Cause{{Attempt: task, Text: "Stopped.", Retry: true}})
		require.NoError(b.t, err)
		require.Empty(b.t, rows, why)
	}
	for _, state := range []string{"started", "enqueued", "done", "pending", "cancelled"} {
		b.SetState(jobA, state)
		none(task, state)
		require.Equal(b.t, channels.ParseState(state), b.row(s, jobA).State)
	}
	b.SetState(jobA, "failed")
	earlier := task
	earlier.Enqueued -= int64(time.Second / time.Microsecond)
	none(earlier, "another attempt")
	earlier.Enqueued = 0
	none(earlier, "no attempt")
	none(driver.Task{Key: channels.Key{DB: b.Database(), UUID: nothing}, Enqueued: task.Enqueued}, "no job")
	require.Equal(b.t, channels.Failed, b.row(s, jobA).State)
	require.NotContains(b.t, b.Cause(jobA), "Stopped.")
}
