package runner

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// ending is a policy that ends jobs after a minute, with a warning after 45 s and ten seconds of grace.
func ending() *policy.Policy {
	return &policy.Policy{Channels: []string{"root"}, Timeout: &policy.Timeout{
		After: time.Minute, Warn: 45 * time.Second, Cancel: true, Grace: 10 * time.Second,
	}}
}

// What an operator reads of an attempt says what was done, and what follows.
func TestDescribeLimit(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)
	tells := ending()
	tells.Timeout.Cancel = false
	for name, c := range map[string]struct {
		limit limit
		want  string
	}{
		"warned":     {limit{policy: ending(), stage: TimeoutWarned}, "it has run for 1m5s, the time limit of policy root is 1m0s"},
		"no policy":  {limit{stage: TimeoutWarned}, "it has run for 1m5s"},
		"reached":    {limit{policy: ending(), stage: TimeoutReached}, "it has run for 1m5s, the time limit of policy root is 1m0s"},
		"only told":  {limit{policy: tells, stage: TimeoutReached}, "it has run for 1m5s, the time limit of policy root is 1m0s, and this policy ends nothing"},
		"terminated": {limit{policy: ending(), stage: TimeoutTerminated, why: "x"}, "it has run for 1m5s, the time limit of policy root is 1m0s; its connection to the database was closed; x"},
		"cancelled": {limit{policy: ending(), stage: TimeoutCancelled, closes: true, cancelled: now},
			"it has run for 1m5s, the time limit of policy root is 1m0s; what it does in the database was cancelled, " +
				"and should that not end it, its connection is closed within 5s of 2026-11-02T10:00:10Z"},
		"never closed":   {limit{policy: ending(), stage: TimeoutCancelled, cancelled: now}, "it has run for 1m5s, the time limit of policy root is 1m0s; what it does in the database was cancelled"},
		"not answered":   {limit{policy: ending(), stage: TimeoutCancelled, closes: true}, "it has run for 1m5s, the time limit of policy root is 1m0s; what it does in the database was cancelled"},
		"lifted":         {limit{stage: TimeoutCancelled, closes: true, cancelled: now}, "it has run for 1m5s; what it does in the database was cancelled"},
		"stuck":          {limit{policy: ending(), stage: TimeoutCancelled, closes: true, cancelled: now, stuck: true}, "it has run for 1m5s, the time limit of policy root is 1m0s; what it does in the database was cancelled; it keeps its slot until it ends, or the worker that runs it is restarted"},
		"stuck, refused": {limit{policy: ending(), stage: TimeoutReached, stuck: true, refused: true}, "it has run for 1m5s, the time limit of policy root is 1m0s; it keeps its slot until it ends"},
	} {
		c.limit.began = now.Add(-65 * time.Second)
		require.Equal(t, c.want, c.limit.describe(now), name)
	}

	require.Equal(t, "stuck", TimeoutStuck.String())
	require.Equal(t, "invalid", (TimeoutStuck + 1).String())
	require.Equal(t, TimeoutNone, (*limit)(nil).is())
	require.Nil(t, (*limit)(nil).status(now))
	require.Nil(t, (&limit{}).status(now))
	require.Equal(t, &TaskTimeout{Policy: "policy root", After: time.Minute}, (&limit{policy: ending()}).status(now), "nothing has come near")
	st := (&limit{ended: ending(), stage: TimeoutCancelled, began: now}).status(now)
	require.Equal(t, TimeoutCancelled, st.Stage)
	require.Empty(t, st.Policy)
	require.NotEmpty(t, st.Text)
}

// The cause in the row counts from the beginning of the attempt.
func TestCauseOfLimit(t *testing.T) {
	t.Parallel()
	began := time.Unix(1_800_000_000, 0)
	l := limit{ended: ending(), began: began, endedAt: began.Add(61 * time.Second)}
	text := "The job runner ended this job, because it had not ended within its time limit of 1m0s (policy root). " +
		"After 1m1s it cancelled what the job was doing in the database"
	require.Equal(t, text+".", l.cause())
	l.terminated = began.Add(75 * time.Second)
	l.ended.Timeout.Retry = true
	require.Equal(t, text+", and after 1m15s, as that was not enough, it closed the job's connection to the database. "+
		"The job is tried again as long as it has retries left.", l.cause())
}

// When an attempt began is known of those that were sent from here; the rest is told by an inspection, or
// by the row where there are no lock rows.
func TestSentAt(t *testing.T) {
	t.Parallel()
	now := time.UnixMicro(1_800_000_000_000_000)
	sent, opened := now.Add(-time.Minute), now.Add(-2*time.Minute)
	db := &database{}
	of := func(enqueued int64) *driver.Task { return &driver.Task{Enqueued: enqueued} }
	k := &task{attempt: *of(1), trail: trail{sent: sent}, since: now.Add(-time.Hour)}
	require.Equal(t, sent, k.sentAt(db, of(1), now))
	k.exchange = &exchange.Exchange{Opened: opened}
	require.Equal(t, sent, k.sentAt(db, of(1), now))
	require.Equal(t, opened, k.sentAt(db, of(2), now), "of another attempt")
	k.trail.sent = time.Time{}
	require.Equal(t, opened, k.sentAt(db, of(1), now))
	k.exchange = nil
	require.Equal(t, k.since, k.sentAt(db, of(0), now))
	claimed := now.Add(-3 * time.Minute)
	require.Equal(t, claimed, k.sentAt(db, of(claimed.UnixMicro()), now))
	require.Equal(t, now, k.sentAt(db, of(now.Add(time.Hour).UnixMicro()), now), "a clock that is ahead")
	db.fingerprint.Locks = true
	require.Zero(t, k.sentAt(db, of(claimed.UnixMicro()), now))

	l := &limit{enqueued: 7}
	found := driver.Liveness{Row: driver.Row{Enqueued: 7}, Age: time.Minute}
	l.claimedAt(&found, now)
	require.Equal(t, now.Add(-time.Minute), l.began)
	l.claimedAt(&found, now.Add(time.Hour))
	require.Equal(t, now.Add(-time.Minute), l.began, "it is known")
	for _, found := range []driver.Liveness{{Row: driver.Row{Enqueued: 8}, Age: time.Minute}, {Row: driver.Row{Enqueued: 7}}} {
		l := &limit{enqueued: 7}
		l.claimedAt(&found, now)
		require.Zero(t, l.began)
	}
	require.NotPanics(t, func() { (*limit)(nil).claimedAt(&found, now) })
}

// attemptUnder is an attempt under a policy, with an open request, that began a while ago.
func attemptUnder(e *engine, p *policy.Policy, ran time.Duration, now time.Time) *task {
	key := channels.Key{DB: "prod", UUID: "a"}
	k := &task{phase: phaseOpen, attempt: driver.Task{Key: key, Enqueued: 7}, since: now.Add(-ran)}
	k.limit = &limit{policy: p, enqueued: 7, began: now.Add(-ran)}
	e.holds("prod", "a", k)
	return k
}

// Each stage begins at its time, not before.
func TestStagesBeginInTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := channels.Key{DB: "prod", UUID: "a"}
	for _, c := range []struct {
		ran  time.Duration
		want TimeoutStage
	}{
		{45*time.Second - 1, TimeoutNone}, {45 * time.Second, TimeoutWarned}, {time.Minute - 1, TimeoutWarned}, {time.Minute, TimeoutReached},
	} {
		e, db := served()
		k := attemptUnder(e, ending(), c.ran, now)
		e.checkTimeout(db, key, k, now)
		require.Equal(t, c.want, k.limit.is(), c.ran)
		require.Equal(t, c.want == TimeoutReached, !k.limit.next.IsZero(), "whether it is signalled after %s", c.ran)
	}
	e, db := served()
	quiet := ending()
	quiet.Timeout.Warn = 0
	k := attemptUnder(e, quiet, 59*time.Second, now)
	e.checkTimeout(db, key, k, now)
	require.Equal(t, TimeoutNone, k.limit.is())
}

// Signals follow each other by five seconds, or by thirty where they have had no effect for long; the
// connection is closed after the grace period, and what still goes on after twenty seconds is stuck.
func TestSignalsFollowInTime(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := channels.Key{DB: "prod", UUID: "a"}
	for name, c := range map[string]struct {
		change func(k *task)
		next   time.Duration
		closed bool
		stuck  bool
	}{
		"the first":    {func(*task) {}, 5 * time.Second, false, false},
		"within grace": {func(k *task) { k.limit.cancelled = now.Add(-10*time.Second + 1) }, 5 * time.Second, false, false},
		"after grace":  {func(k *task) { k.limit.cancelled = now.Add(-10 * time.Second) }, 5 * time.Second, true, false},
		"terminated a while": {func(k *task) {
			k.limit.cancelled, k.limit.terminated = now.Add(-30*time.Second), now.Add(-20*time.Second+1)
		}, 5 * time.Second, true, false},
		"terminated for long": {func(k *task) {
			k.limit.cancelled, k.limit.terminated = now.Add(-30*time.Second), now.Add(-20*time.Second)
		}, 30 * time.Second, true, true},
		"no time of its claim":  {func(k *task) { k.attempt.Enqueued = 0 }, 30 * time.Second, false, true},
		"not ours, for a while": {func(k *task) { k.phase, k.limit.cancelled = phaseWatched, now.Add(-30*time.Second+1) }, 5 * time.Second, false, false},
		"not ours, for long":    {func(k *task) { k.phase, k.limit.cancelled = phaseWatched, now.Add(-30*time.Second) }, 30 * time.Second, false, true},
		"not ours, but lately": {func(k *task) {
			k.phase, k.limit.cancelled, k.since = phaseWatched, now.Add(-30*time.Second), now.Add(-20*time.Second+1)
		}, 5 * time.Second, false, false},
		"not ours since then": {func(k *task) {
			k.phase, k.limit.cancelled, k.since = phaseWatched, now.Add(-30*time.Second), now.Add(-20*time.Second)
		}, 30 * time.Second, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, db := served()
			k := attemptUnder(e, ending(), time.Hour, now)
			c.change(k)
			e.stop(db, key, k, now)
			require.Equal(t, now.Add(c.next), k.limit.next)
			require.Equal(t, c.closed, len(e.handover.closed) == 1)
			require.Equal(t, c.stuck, k.limit.stuck)
			require.Equal(t, k.phase == phaseOpen, k.limit.closes)
		})
	}
}

// Nothing is ended before its time for a signal, in a database that is not known, or by a runner that ends.
func TestNothingIsEndedThen(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := channels.Key{DB: "prod", UUID: "a"}
	for name, c := range map[string]struct {
		change func(e *engine, db *database, k *task)
		ended  bool
	}{
		"now":           {func(*engine, *database, *task) {}, true},
		"only told":     {func(_ *engine, _ *database, k *task) { k.limit.policy.Timeout.Cancel = false }, false},
		"at its time":   {func(_ *engine, _ *database, k *task) { k.limit.next = now }, true},
		"not yet":       {func(_ *engine, _ *database, k *task) { k.limit.next = now.Add(1) }, false},
		"not known":     {func(_ *engine, db *database, _ *task) { db.stage = stageUnreachable }, false},
		"we are ending": {func(e *engine, _ *database, _ *task) { e.shutdown.begun = true }, false},
	} {
		e, db := served()
		k := attemptUnder(e, ending(), time.Hour, now)
		c.change(e, db, k)
		before := k.limit.next
		e.checkTimeout(db, key, k, now)
		require.Equal(t, c.ended, !k.limit.next.Equal(before), name)
		require.Equal(t, TimeoutReached, k.limit.stage, name)
	}
}

// Attempts are checked once a second.
func TestTimeoutsAreCheckedOnceASecond(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e, _ := served()
	k := attemptUnder(e, nil, time.Hour, now)
	k.limit = nil
	k.trail.sent = now.Add(-time.Hour)
	e.checkTimeouts(now)
	require.Nil(t, k.limit, "without policies")
	e.limit([]policy.Policy{*ending()})
	e.timeouts.at = now.Add(1)
	e.checkTimeouts(now)
	require.Nil(t, k.limit, "not yet")
	e.checkTimeouts(now.Add(1))
	require.Equal(t, TimeoutReached, k.limit.is())
	require.Equal(t, now.Add(time.Second+1), e.timeouts.at)
	for _, p := range []phase{phaseClaiming, phaseUnclaiming, phaseParked} {
		k.phase, k.limit = p, nil
		e.timeouts.at = now
		e.checkTimeouts(now)
		require.Nil(t, k.limit)
	}
	k.phase, k.row = phaseOpen, jobRow(k.attempt.Key, channels.Done, 7)
	e.timeouts.at = now
	e.checkTimeouts(now)
	require.Nil(t, k.limit, "it has ended")
}

// An attempt that has ended keeps no other from being checked.
func TestTimeoutsOfOthersAreChecked(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e, _ := served()
	e.limit([]policy.Policy{*ending()})
	var runs []*task
	for i := range 40 {
		key := channels.Key{DB: "prod", UUID: fmt.Sprint(i)}
		k := &task{phase: phaseOpen, attempt: driver.Task{Key: key, Enqueued: 7}, trail: trail{sent: now.Add(-time.Hour)}}
		if i%2 == 0 {
			k.row = jobRow(key, channels.Done, 7)
		} else {
			runs = append(runs, k)
		}
		e.holds("prod", key.UUID, k)
	}
	e.checkTimeouts(now)
	for _, k := range runs {
		require.Equal(t, TimeoutReached, k.limit.is())
	}
}

// An attempt that goes on under other policies keeps what was done; what was told of a limit that has not
// passed under these does not hold any more.
func TestLimitsUnderOtherPolicies(t *testing.T) {
	t.Parallel()
	now := time.Now()
	key := channels.Key{DB: "prod", UUID: "a"}
	cancelled := now.Add(-time.Second)
	// under returns an attempt that was cancelled, and is stuck, under a policy that is not in force any
	// more. In force is one of a minute, or none for its channel.
	under := func(limited bool, ran time.Duration) (*engine, *database, *task) {
		e, db := served()
		k := attemptUnder(e, ending(), ran, now)
		k.limit.stage, k.limit.stuck, k.limit.cancelled = TimeoutCancelled, true, cancelled
		p := *ending()
		if !limited {
			p.Channels = []string{"root.other"}
		}
		e.limit([]policy.Policy{p})
		e.lookUp(db, key, k, now)
		return e, db, k
	}
	for _, c := range []struct {
		ran   time.Duration
		want  TimeoutStage
		keeps bool
	}{
		{45*time.Second - 1, TimeoutNone, false}, {45 * time.Second, TimeoutWarned, false},
		{time.Minute - 1, TimeoutWarned, false}, {time.Minute, TimeoutCancelled, true}, {time.Hour, TimeoutCancelled, true},
	} {
		e, db, k := under(true, c.ran)
		require.Equal(t, c.want, k.limit.stage, c.ran)
		require.Equal(t, c.keeps, k.limit.stuck, c.ran)
		require.Equal(t, c.keeps, !k.limit.cancelled.IsZero(), c.ran)
		require.NotNil(t, k.limit.policy)

		// That is found out once, not each second: an answer to an earlier order may come meanwhile.
		k.limit.stage, k.limit.cancelled = TimeoutCancelled, cancelled
		e.lookUp(db, key, k, now)
		require.Equal(t, TimeoutCancelled, k.limit.stage)
		require.Equal(t, cancelled, k.limit.cancelled)
	}

	e, _, k := under(false, time.Hour)
	require.Same(t, e.timeouts.none, k.limit, "nothing is to be remembered of it")
	require.Equal(t, TimeoutNone, k.limit.is())
	_, db, k := under(true, time.Hour)
	k.limit.ended = ending()
	e.lookUp(db, key, k, now)
	require.False(t, k.limit.stuck)
	require.Nil(t, k.limit.policy)
	require.NotNil(t, k.limit.ended, "that it was ended is remembered")
	kept := k.limit
	k.phase, k.row = phaseWatched, jobRow(key, channels.Started, 9)
	e.lookUp(db, key, k, now)
	require.Same(t, e.timeouts.none, k.limit, "of another attempt, nothing is")
	require.NotNil(t, kept.ended)

	// What no policy has limited is another limit than that of the attempts without one.
	e, db = served()
	k = attemptUnder(e, nil, time.Hour, now)
	k.attempt.Enqueued = 1
	e.limit([]policy.Policy{{Channels: []string{"root.other"}, Timeout: ending().Timeout}})
	e.lookUp(db, key, k, now)
	none := e.timeouts.none
	require.Same(t, none, k.limit)
	e.limit([]policy.Policy{*ending()})
	e.lookUp(db, key, k, now)
	require.NotSame(t, none, k.limit)
	require.False(t, k.limit.began.IsZero())
	require.Nil(t, none.policy)
}

// What became of attempts is taken in of those that are still to be ended, wherever they are in the list.
func TestWhatBecameOfAttempts(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e, db := served()
	limited := func(uuid string, p *policy.Policy, change func(k *task)) *task {
		key := channels.Key{DB: "prod", UUID: uuid}
		k := &task{phase: phaseOpen, attempt: driver.Task{Key: key, Enqueued: 7}, row: jobRow(key, channels.Started, 7)}
		k.limit = &limit{policy: p, enqueued: 7, began: now.Add(-time.Hour)}
		if change != nil {
			change(k)
		}
		e.holds("prod", uuid, k)
		return k
	}
	lifted, denied := limited("lifted", nil, nil), limited("denied", nil, nil)
	signalled := limited("signalled", nil, nil)
	later := limited("later", ending(), func(k *task) { k.limit.enqueued = 8 })
	waits := limited("waits", ending(), func(k *task) { k.row.State = channels.Enqueued })
	stuck := limited("stuck", ending(), func(k *task) { k.limit.stuck, k.limit.why = true, "it is" })
	closed := limited("closed", ending(), func(k *task) { k.limit.stage = TimeoutTerminated })
	unread := limited("unread", ending(), func(k *task) { k.row = nil })
	runs := limited("runs", ending(), nil)
	var attempts []driver.Task
	var found []driver.Stopped
	for _, uuid := range []string{"nobody's", "later", "lifted", "denied", "signalled", "waits", "stuck", "closed", "unread", "runs"} {
		attempts = append(attempts, driver.Task{Key: channels.Key{DB: "prod", UUID: uuid}, Enqueued: 7})
		result := driver.NotRunning
		switch uuid {
		case "denied":
			result = driver.Denied
		case "signalled":
			result = driver.Signalled
		}
		found = append(found, driver.Stopped{Task: attempts[len(attempts)-1], Result: result, Text: "no backend"})
	}
	e.stopped(db, attempts, found, false, nil)
	for _, k := range []*task{later, lifted, denied} {
		require.Empty(t, k.limit.why, k.attempt.UUID)
		require.Zero(t, k.limit.cancelled, k.attempt.UUID)
		require.False(t, k.limit.stuck, k.attempt.UUID)
	}
	require.NotZero(t, signalled.limit.cancelled, "that was done, whatever the policies say now")
	require.Nil(t, signalled.limit.ended)
	require.Equal(t, TimeoutNone, signalled.limit.stage)
	for k, why := range map[*task]string{
		waits: "no backend", unread: "no backend", stuck: "it is", closed: "the server has not let it go yet", runs: "no backend",
	} {
		require.Equal(t, why, k.limit.why, k.attempt.UUID)
		require.Equal(t, k == waits || k == unread, k.limit.cancelled.IsZero(), k.attempt.UUID)
	}

	// After an error, the attempts of which nothing was found are stuck, and no others.
	first := limited("first", ending(), nil)
	second := limited("second", ending(), nil)
	attempts = []driver.Task{first.attempt, second.attempt}
	e.stopped(db, attempts, []driver.Stopped{{Task: first.attempt, Result: driver.Signalled, PID: 7}}, false, errors.New("refused"))
	require.Equal(t, TimeoutCancelled, first.limit.is())
	require.Equal(t, "the backend has pid 7", first.limit.why)
	require.Equal(t, TimeoutStuck, second.limit.is())
	require.Equal(t, "it cannot be signalled: refused", second.limit.why)
	require.True(t, second.limit.refused)

	// One that can be signalled after all is not stuck any more, and is told of once.
	e.stopped(db, attempts, []driver.Stopped{{Task: second.attempt, Result: driver.Signalled, PID: 8}}, false, nil)
	require.Equal(t, TimeoutCancelled, second.limit.is())
	require.False(t, second.limit.refused)
	first.limit.why = "told"
	e.stopped(db, attempts, []driver.Stopped{{Task: first.attempt, Result: driver.Signalled, PID: 9}}, false, nil)
	require.Equal(t, "told", first.limit.why)
	first.limit.stuck = true
	e.stopped(db, attempts, []driver.Stopped{{Task: first.attempt, Result: driver.Signalled, PID: 9}}, true, nil)
	require.Equal(t, TimeoutTerminated, first.limit.stage)
	require.True(t, first.limit.stuck, "it was not because of rights")
	require.NotZero(t, first.limit.terminated)
}

// A cause is tried to be written three times, and forgotten once it is written.
func TestCausesAreTriedAgain(t *testing.T) {
	t.Parallel()
	e, db := served()
	cause := driver.Cause{Attempt: driver.Task{Key: channels.Key{DB: "prod", UUID: "a"}, Enqueued: 7}}
	db.causes = map[string]unwritten{"a": {Cause: cause, ordered: time.Now()}}
	for tries := 1; tries < 3; tries++ {
		e.accounted(db, []driver.Cause{cause}, nil, errors.New("refused"))
		require.Equal(t, tries, db.causes["a"].tries)
		require.Zero(t, db.causes["a"].ordered)
	}
	other := cause
	other.Attempt.Enqueued = 8
	e.accounted(db, []driver.Cause{other}, nil, nil)
	require.Equal(t, 2, db.causes["a"].tries, "it is about another attempt")
	e.accounted(db, []driver.Cause{cause}, nil, nil)
	require.Empty(t, db.causes)
	db.causes["a"] = unwritten{Cause: cause}
	e.accounted(db, []driver.Cause{cause}, []driver.Row{*jobRow(channels.Key{DB: "prod", UUID: "b"}, channels.Failed, 7)}, nil)
	require.Len(t, db.causes, 1, "another row was changed")
	e.accounted(db, []driver.Cause{cause}, []driver.Row{*jobRow(cause.Attempt.Key, channels.Failed, 7)}, nil)
	require.Empty(t, db.causes)
}

// Each of several causes is accounted for, whatever has become of those before it, and the log tells of
// an error, and of a job that is tried again.
func TestCausesOfSeveral(t *testing.T) {
	t.Parallel()
	e, db := served()
	core, logs := observer.New(zap.InfoLevel)
	cfg := e.config()
	cfg.Logger = zap.New(core)
	e.config = func() Config { return cfg }
	cause := func(uuid string) driver.Cause {
		return driver.Cause{Attempt: driver.Task{Key: channels.Key{DB: "prod", UUID: uuid}, Enqueued: 7}}
	}
	db.causes = map[string]unwritten{"written": {Cause: cause("written")}, "again": {Cause: cause("again")}, "left": {Cause: cause("left")}}
	causes := []driver.Cause{cause("unknown"), cause("written"), cause("again"), cause("left")}
	e.accounted(db, causes, []driver.Row{
		*jobRow(causes[1].Attempt.Key, channels.Failed, 7), *jobRow(causes[2].Attempt.Key, channels.Pending, 7),
	}, nil)
	require.Len(t, db.causes, 1)
	require.Equal(t, 1, db.causes["left"].tries)
	require.Equal(t, 1, logs.Len())
	require.Equal(t, "again", logs.All()[0].ContextMap()["uuid"])
	e.accounted(db, causes, nil, errors.New("refused"))
	require.Equal(t, 2, db.causes["left"].tries)
	require.Equal(t, 2, logs.Len())
	require.Equal(t, "refused", logs.All()[1].ContextMap()["error"])
}

// The cause is for the row of the attempt that was ended, and failed, once.
func TestAccount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(k *task)
		want   bool
	}{
		"failed":           {func(*task) {}, true},
		"not ended":        {func(k *task) { k.limit.ended = nil }, false},
		"written":          {func(k *task) { k.limit.written = true }, false},
		"gone":             {func(k *task) { k.gone = true }, false},
		"not failed":       {func(k *task) { k.row.State = channels.Done }, false},
		"another attempt":  {func(k *task) { k.row.Enqueued = 8 }, false},
		"nothing is known": {func(k *task) { k.limit = nil }, false},
	} {
		e, db := served()
		k := attemptUnder(e, ending(), time.Hour, time.Now())
		k.limit.ended = ending()
		k.row = jobRow(k.attempt.Key, channels.Failed, 7)
		c.change(k)
		e.account(db, k)
		require.Equal(t, c.want, len(db.causes) == 1, name)
		require.NotPanics(t, func() { e.account(nil, k) }, name)
	}
	synctest.Test(t, func(t *testing.T) {
		_, db := served()
		old := time.Now()
		db.causes = map[string]unwritten{"a": {}, "b": {ordered: old}}
		timing.Sleep(t.Context(), time.Minute)
		db.accountAgain()
		require.Equal(t, time.Now(), db.causes["a"].ordered)
		require.Equal(t, old, db.causes["b"].ordered)
	})
}

// Lock rows prove nothing of an attempt whose connection was closed and whose end was not seen, unless
// what broke is failed anyway.
func TestBlinded(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	result := func(o driver.Outcome) func(*task, *closedAttempt) {
		return func(k *task, _ *closedAttempt) { k.result = &driver.Result{Outcome: o} }
	}
	retried := func(k *task, _ *closedAttempt) { k.limit.ended.Timeout.Retry = true }
	for name, c := range map[string]struct {
		changes []func(k *task, c *closedAttempt)
		want    bool
	}{
		"no result":                    {nil, true},
		"answered":                     {[]func(*task, *closedAttempt){result(driver.Answered)}, false},
		"answered, by a former leader": {[]func(*task, *closedAttempt){result(driver.Answered), func(_ *task, c *closedAttempt) { c.inherited = true }}, true},
		"a proxy's answer":             {[]func(*task, *closedAttempt){result(driver.Unavailable)}, true},
		"broken, to be failed":         {[]func(*task, *closedAttempt){result(driver.Broken)}, false},
		"broken, to be retried":        {[]func(*task, *closedAttempt){result(driver.Broken), retried}, true},
		"broken, enqueued":             {[]func(*task, *closedAttempt){result(driver.Broken), func(k *task, _ *closedAttempt) { k.row.State = channels.Enqueued }}, true},
		"broken, of another attempt":   {[]func(*task, *closedAttempt){result(driver.Broken), func(k *task, _ *closedAttempt) { k.limit.enqueued = 8 }}, true},
		"broken, not ended":            {[]func(*task, *closedAttempt){result(driver.Broken), func(k *task, _ *closedAttempt) { k.limit.ended = nil }}, true},
		"broken, no limit":             {[]func(*task, *closedAttempt){result(driver.Broken), func(k *task, _ *closedAttempt) { k.limit = nil }}, true},
		"still open":                   {[]func(*task, *closedAttempt){func(k *task, _ *closedAttempt) { k.exchange = &exchange.Exchange{} }}, false},
		"no row":                       {[]func(*task, *closedAttempt){func(k *task, _ *closedAttempt) { k.row = nil }}, false},
		"another attempt":              {[]func(*task, *closedAttempt){func(_ *task, c *closedAttempt) { c.enqueued = 8 }}, false},
	} {
		e, _ := served()
		k := attemptUnder(e, ending(), time.Hour, time.Now())
		k.phase, k.limit.ended, k.row = phaseWatched, ending(), jobRow(key, channels.Started, 7)
		closed := closedAttempt{enqueued: 7}
		for _, change := range c.changes {
			change(k, &closed)
		}
		require.False(t, e.blinded(k), "none was closed")
		e.handover.closed = map[channels.Key]closedAttempt{{DB: "prod", UUID: "other"}: {}}
		require.False(t, e.blinded(k), "another one was closed")
		e.handover.closed[key] = closed
		require.Equal(t, c.want, e.blinded(k), name)
	}
}

// An attempt is that which was sent while its request is open, and else that of which the row tells.
func TestExecuting(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	ours := driver.Task{Key: key, Enqueued: 7, ID: "id"}
	for name, c := range map[string]struct {
		task task
		want int64
	}{
		"no row":           {task{phase: phaseWatched}, 7},
		"the same":         {task{phase: phaseWatched, row: jobRow(key, channels.Started, 7)}, 7},
		"a later one":      {task{phase: phaseWatched, row: jobRow(key, channels.Started, 8)}, 8},
		"one that waits":   {task{phase: phaseWatched, row: jobRow(key, channels.Pending, 8)}, 7},
		"open, in any way": {task{phase: phaseOpen, row: jobRow(key, channels.Started, 8)}, 7},
	} {
		c.task.attempt = ours
		got := c.task.executing()
		require.Equal(t, c.want, got.Enqueued, name)
		require.Equal(t, c.want == 7, got.ID == "id", name)
		require.Equal(t, key, got.Key, name)
	}
}
