package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
)

// What the last request proves of an attempt, by how it ended.
func TestRequestSays(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[driver.Outcome]requestSays{
		driver.Answered: requestEnded, driver.Refused: requestEnded, driver.NotSent: requestUnsent,
		driver.Unavailable: requestUnknown, driver.Broken: requestUnknown,
	} {
		for _, sent := range []bool{false, true} {
			ours := &task{ours: true, sent: sent, result: &driver.Result{Outcome: outcome}}
			require.Equal(t, want, ours.request(), outcome)
			theirs := &task{sent: sent, result: ours.result}
			require.Equal(t, requestUnknown, theirs.request(), outcome)
		}
	}
	require.Equal(t, requestUnsent, (&task{ours: true}).request())
	require.Equal(t, requestUnknown, (&task{ours: true, sent: true}).request())
	require.Equal(t, requestUnknown, (&task{}).request())
	require.False(t, (&evidence{open: true, request: requestEnded}).concluded())
}

func TestRowSays(t *testing.T) {
	t.Parallel()
	require.Equal(t, rowEnded, saysOf(nil))
	for state, want := range map[channels.State]rowSays{
		channels.Enqueued: rowEnqueued, channels.Started: rowStarted, channels.Unknown: rowMystery,
		channels.Pending: rowEnded, channels.Done: rowEnded, channels.Failed: rowEnded, channels.Cancelled: rowEnded,
	} {
		require.Equal(t, want, saysOf(&driver.Row{State: state}), state)
	}
}

// Lock rows prove nothing where there are none.
func TestNoProofWithoutLocks(t *testing.T) {
	t.Parallel()
	for _, row := range []rowSays{rowEnqueued, rowStarted} {
		ev := evidence{row: row, lock: driver.Dead, dated: true, ours: true, unguarded: true}
		require.Equal(t, mayExecute, ev.judge())
		ev.locks = true
		require.Equal(t, dead, ev.judge())
	}
}

// What is collected of a task.
func TestEvidenceOfATask(t *testing.T) {
	t.Parallel()
	cfg := Config{Logger: zap.NewNop(), RescueStartedAfter: time.Hour}
	e := newEngine(func() Config { return cfg })
	now := time.Unix(1_700_000_000, 0)
	answered := &driver.Result{Outcome: driver.Answered}
	row := func(state channels.State, enqueued int64) *driver.Row {
		return &driver.Row{State: state, Enqueued: enqueued}
	}
	attempt := driver.Task{Enqueued: 5}
	locks := &database{fingerprint: driver.Fingerprint{Locks: true}}
	unguarded := &database{fingerprint: driver.Fingerprint{Unguarded: true}}
	for name, c := range map[string]struct {
		db   *database
		t    task
		want evidence
	}{
		"nothing": {nil, task{}, evidence{}},
		"open":    {locks, task{exchange: &exchange.Exchange{}}, evidence{open: true, locks: true}},
		"gone":    {unguarded, task{gone: true}, evidence{row: rowEnded, unguarded: true}},
		"ours, answered": {
			nil, task{ours: true, attempt: attempt, result: answered, row: row(channels.Enqueued, 5)},
			evidence{row: rowEnqueued, ours: true, request: requestEnded, dated: true},
		},
		"enqueued again": {
			nil, task{ours: true, attempt: attempt, result: answered, row: row(channels.Enqueued, 6)},
			evidence{row: rowEnqueued, dated: true},
		},
		"put back": {
			nil, task{ours: true, attempt: attempt, result: answered, row: row(channels.Pending, 0)},
			evidence{row: rowEnded, request: requestEnded},
		},
		"another's": {
			nil, task{attempt: attempt, result: answered, row: row(channels.Started, 5)},
			evidence{row: rowStarted, dated: true},
		},
		"watched": {nil, task{phase: phaseWatched, since: now.Add(-time.Minute)}, evidence{waited: time.Minute}},
		"asked":   {nil, task{phase: phaseAsked, since: now.Add(-time.Minute)}, evidence{}},
		"alive":   {nil, task{alive: true}, evidence{lock: driver.Alive}},
	} {
		c.want.limit = time.Hour
		require.Equal(t, c.want, e.evidence(c.db, &c.t, now), name)
	}
}

// Two inspections must agree, of the same state, and lie apart.
func TestInspections(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	found := func(v driver.Verdict, enqueued int64, state channels.State) *driver.Liveness {
		return &driver.Liveness{Verdict: v, Row: driver.Row{State: state, Enqueued: enqueued}}
	}
	dead := found(driver.Dead, 5, channels.Started)
	var task task
	require.Equal(t, driver.Uncertain, task.lock(now))
	inspected := func(after time.Duration, l *driver.Liveness, want driver.Verdict) {
		t.Helper()
		task.inspectedAs(l, now.Add(after))
		require.Equal(t, want, task.lock(now.Add(after)))
	}
	inspected(0, dead, driver.Uncertain)
	require.Equal(t, driver.Uncertain, task.lock(now.Add(time.Hour)), "it was one")
	inspected(deadApart-1, dead, driver.Uncertain)
	inspected(deadApart, dead, driver.Dead)
	inspected(time.Hour, found(driver.Alive, 5, channels.Started), driver.Alive)
	inspected(2*time.Hour, dead, driver.Uncertain)
	inspected(3*time.Hour, found(driver.Uncertain, 5, channels.Started), driver.Uncertain)
	inspected(4*time.Hour, dead, driver.Uncertain)
	inspected(5*time.Hour, found(driver.Dead, 6, channels.Started), driver.Uncertain)
	inspected(6*time.Hour, found(driver.Dead, 6, channels.Enqueued), driver.Uncertain)
	inspected(7*time.Hour, found(driver.Dead, 6, channels.Enqueued), driver.Dead)
	task.alive = true
	require.Equal(t, driver.Alive, task.lock(now.Add(8*time.Hour)), "whatever was before")
}

// A claim whose result got lost is known by its job, its state and its time, and by nothing less.
func TestClaimedInVain(t *testing.T) {
	t.Parallel()
	second := time.Unix(1_700_000_000, 0)
	from, to := second.Add(500*time.Millisecond), second.Add(3*time.Second)
	db := &database{lostClaims: map[string]lostClaim{"a": {from: from, to: to}}}
	row := func(uuid string, s channels.State, at time.Time) *driver.Row {
		return jobRow(channels.Key{DB: "prod", UUID: uuid}, s, at.UnixMicro())
	}
	for name, c := range map[string]struct {
		row  *driver.Row
		want bool
	}{
		"as the claim left it":   {row("a", channels.Enqueued, second.Add(time.Second)), true},
		"the clocks differ":      {row("a", channels.Enqueued, second.Add(-claimLeeway)), true},
		"in the other direction": {row("a", channels.Enqueued, to.Add(claimLeeway)), true},
		"claimed before":         {row("a", channels.Enqueued, second.Add(-claimLeeway-time.Microsecond)), false},
		"claimed after":          {row("a", channels.Enqueued, to.Add(claimLeeway+time.Microsecond)), false},
		"another job":            {row("b", channels.Enqueued, second.Add(time.Second)), false},
		"started":                {row("a", channels.Started, second.Add(time.Second)), false},
		"pending":                {row("a", channels.Pending, second.Add(time.Second)), false},
		"enqueued by another":    {jobRow(channels.Key{DB: "prod", UUID: "a"}, channels.Enqueued, 0), false},
	} {
		require.Equal(t, c.want, db.claimedInVain(c.row), name)
	}
	epoch := &database{lostClaims: map[string]lostClaim{"a": {from: time.Unix(0, 0), to: time.Unix(1, 0)}}}
	require.False(t, epoch.claimedInVain(jobRow(channels.Key{UUID: "a"}, channels.Enqueued, 0)), "it has no time")
	unknown := &database{lostClaims: map[string]lostClaim{}}
	require.False(t, unknown.claimedInVain(row("a", channels.Enqueued, time.Unix(0, 1000))), "nothing got lost")
}

// That a lock row once showed a job alive means nothing where there are no lock rows any more.
func TestAliveBeforeTheLocksWent(t *testing.T) {
	t.Parallel()
	for locks, want := range map[bool]finding{true: mayExecute, false: idle} {
		e := still(map[string]stage{"prod": stageServed})
		db := e.databases.get("prod")
		db.fingerprint.Locks = locks
		row := &driver.Row{State: channels.Unknown, RawState: "on_hold"}
		task := &task{phase: phaseWatched, alive: true, row: row, since: time.Now().Add(-mysteryLimit)}
		ev := e.evidence(db, task, time.Now())
		require.Equal(t, want, ev.judge(), locks)
	}
}
