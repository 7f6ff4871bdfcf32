package drivertest

import (
	"context"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// quarantiner opens a session that is ready, with its ability to fail tasks; nil if the driver does
// not declare that. What it then must not have is a matter of testCapabilities.
func (b *bench) quarantiner() (driver.Session, driver.Quarantiner) {
	b.t.Helper()
	s := b.ready()
	if !b.Driver().Capabilities().Quarantine {
		return s, nil
	}
	return s, s.(driver.Quarantiner)
}

// testFailDead: what Rescue would put back fails, whatever its own limit says, and nothing else does.
func testFailDead(b *bench) {
	if s, q := b.quarantiner(); q != nil {
		b.failsTheDead(s, q.FailDead)
	}
}

// testFailStopped: the same of those that were stopped.
func testFailStopped(b *bench) {
	if s, stopper := b.stopper(); stopper != nil {
		b.failsTheDead(s, stopper.FailStopped)
	}
}

func (b *bench) failsTheDead(s driver.Session, fail func(context.Context, []driver.Liveness, []string) ([]driver.Row, error)) {
	for i, test := range []struct {
		job   Job
		retry int32
	}{
		{Job{State: "started", Retry: 0, MaxRetries: 5, LockRow: true}, 1},
		{Job{State: "started", Retry: 6, MaxRetries: 5, LockRow: true}, 7},
		{Job{State: "started", Retry: 99, MaxRetries: 0}, 100},
		{Job{State: "enqueued", Retry: 2, MaxRetries: 5}, 2},
	} {
		test.job.UUID = jobB[:len(jobB)-1] + string(rune('a'+i))
		test.job.Enqueued = ago(time.Minute)
		b.Insert(test.job)
		l := b.inspect(s, test.job.UUID)
		require.Equal(b.t, driver.Dead, l.Verdict)
		rows, err := fail(b.ctx, []driver.Liveness{l}, []string{"It died."})
		require.NoError(b.t, err)
		require.Len(b.t, rows, 1, "%+v", test.job)
		require.Equal(b.t, channels.Failed, rows[0].State, "%+v", test.job)
		require.Equal(b.t, test.retry, rows[0].Retry, "%+v", test.job)
		require.Equal(b.t, rows[0], b.row(s, test.job.UUID))
		rows, err = fail(b.ctx, []driver.Liveness{l}, []string{"It died."})
		require.NoError(b.t, err)
		require.Empty(b.t, rows, "once")
	}
	b.looksAgain(s, func(ctx context.Context, dead []driver.Liveness) ([]driver.Row, error) {
		return fail(ctx, dead, make([]string, len(dead)))
	})
}

// testFailUnclaimed: the same with what Unclaim would put back.
func testFailUnclaimed(b *bench) {
	s, q := b.quarantiner()
	if q == nil {
		return
	}
	for _, uuid := range []string{jobA, jobB, jobC} {
		b.Insert(Job{UUID: uuid, State: "pending", Created: ago(time.Hour)})
	}
	a, second, third := b.claim(s, jobA), b.claim(s, jobB), b.claim(s, jobC)
	b.SetState(jobB, "started")
	third.Enqueued -= 1_000_000 // an earlier attempt
	rows, err := q.FailUnclaimed(b.ctx, []driver.Task{a, second, third}, []string{"one", "two", "three"})
	require.NoError(b.t, err)
	require.Len(b.t, rows, 1)
	require.Equal(b.t, jobA, rows[0].UUID)
	require.Equal(b.t, channels.Failed, rows[0].State)
	require.Equal(b.t, rows[0], b.row(s, jobA))
	require.Equal(b.t, channels.Started, b.row(s, jobB).State)
	require.Equal(b.t, channels.Enqueued, b.row(s, jobC).State)
}
