package runner

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// telling is an engine that serves prod, with what it tells and logs.
func telling() (*engine, *[]Event, *observer.ObservedLogs) {
	e, _ := served()
	core, logs := observer.New(zap.DebugLevel)
	told := new([]Event)
	e.with(func(cfg *Config) {
		cfg.Logger = zap.New(core)
		cfg.Events = func(ev Event) { *told = append(*told, ev) }
	})
	return e, told, logs
}

// The end of an attempt is told as what it was.
func TestEndings(t *testing.T) {
	t.Parallel()
	stopped := &policy.Policy{Channels: []string{"root.slow"}, Timeout: &policy.Timeout{After: time.Hour}}
	row := func(s channels.State) *driver.Row { return &driver.Row{State: s} }
	for name, c := range map[string]struct {
		t      task
		served bool
		kind   EventKind
		detail string
	}{
		"done":                {task{row: row(channels.Done)}, true, EventJobDone, ""},
		"done after a rescue": {task{row: row(channels.Done), trail: trail{rescued: true, why: "why"}}, true, EventJobDone, ""},
		"failed":              {task{row: row(channels.Failed)}, true, EventJobFailed, ""},
		"quarantined":         {task{row: row(channels.Failed), trail: trail{quarantined: "3 attempts", rescued: true}}, true, EventJobFailed, "quarantined: 3 attempts"},
		"found dead":          {task{row: row(channels.Failed), trail: trail{rescued: true}}, true, EventJobFailed, deadDetail},
		"ended": {
			task{row: row(channels.Failed), limit: &limit{ended: stopped}}, true, EventJobFailed,
			"it was ended: " + stopped.String() + " has a time limit of 1h0m0s",
		},
		"limited, and failed":  {task{row: row(channels.Failed), limit: &limit{}}, true, EventJobFailed, ""},
		"cancelled":            {task{row: row(channels.Cancelled)}, true, EventJobGone, "the job was cancelled"},
		"unknown":              {task{row: row(channels.Unknown)}, true, EventJobGone, "the job is in a state that is not known"},
		"deleted":              {task{gone: true}, true, EventJobGone, "the job was deleted"},
		"not served":           {task{gone: true}, false, EventJobGone, "the database is not served any more"},
		"in a retired one":     {task{gone: true, unserved: true}, true, EventJobGone, "the database is not served any more"},
		"retried":              {task{row: row(channels.Pending)}, true, EventJobRetried, ""},
		"retried, and put off": {task{row: row(channels.Pending), phase: phaseWatched, trail: trail{why: "why"}}, true, EventJobRetried, ""},
		"rescued":              {task{row: row(channels.Pending), trail: trail{rescued: true}}, true, EventJobRescued, deadDetail},
		"put back":             {task{row: row(channels.Pending), phase: phaseUnclaiming, trail: trail{why: "why"}}, true, EventJobNotRun, "why"},
		"put back, unknown":    {task{row: row(channels.Pending), phase: phaseUnclaiming}, true, EventJobRetried, ""},
	} {
		kind, detail := c.t.ending(c.served)
		require.Equal(t, c.kind, kind, name)
		require.Equal(t, c.detail, detail, name)
	}
}

// An attempt that ends is told once, with what is known of it; what was only being claimed is none.
func TestEndedIsTold(t *testing.T) {
	t.Parallel()
	sent := time.Now().Add(-time.Minute)
	ended := sent.Add(time.Second)
	for name, c := range map[string]struct {
		t       task
		want    []EventKind
		channel string
		outcome string
		ran     time.Duration
	}{
		"claiming": {task{phase: phaseClaiming}, nil, "", "", 0},
		"done": {
			task{row: jobRow(channels.Key{}, channels.Done, 0), trail: trail{sent: sent, ended: ended, outcome: "answered"}},
			[]EventKind{EventJobDone}, "root.a", "answered", time.Second,
		},
		"moved": {
			task{row: &driver.Row{Job: channels.Job{Channel: "b"}, State: channels.Done}, trail: trail{sent: sent, ended: ended}},
			[]EventKind{EventJobDone}, "root.b", "", time.Second,
		},
		"went on": {
			task{row: jobRow(channels.Key{}, channels.Done, 0), trail: trail{sent: sent, ended: ended, lost: true}},
			[]EventKind{EventJobDone}, "root.a", "", time.Minute,
		},
		"never answered": {
			task{row: jobRow(channels.Key{}, channels.Done, 0), trail: trail{sent: sent}}, []EventKind{EventJobDone}, "root.a", "", time.Minute,
		},
		"rescued": {
			task{row: jobRow(channels.Key{}, channels.Pending, 0), trail: trail{rescued: true, outcome: "broken"}},
			[]EventKind{EventJobRescued}, "root.a", outcomeDead, 0,
		},
		"failed dead": {
			task{row: jobRow(channels.Key{}, channels.Failed, 0), trail: trail{rescued: true, outcome: "broken"}},
			[]EventKind{EventJobFailed}, "root.a", outcomeDead, 0,
		},
		"failed": {
			task{row: jobRow(channels.Key{}, channels.Failed, 0), trail: trail{outcome: "answered"}}, []EventKind{EventJobFailed}, "root.a", "answered", 0,
		},
		"quarantined": {
			task{row: jobRow(channels.Key{}, channels.Failed, 0), trail: trail{quarantined: "why", outcome: "answered"}},
			[]EventKind{EventJobFailed, EventJobQuarantined}, "root.a", "answered", 0,
		},
		"done, once quarantined": {
			task{row: jobRow(channels.Key{}, channels.Done, 0), trail: trail{quarantined: "why"}}, []EventKind{EventJobDone}, "root.a", "", 0,
		},
		"failed in a sequence": {
			task{row: &driver.Row{Job: channels.Job{Channel: "s"}, State: channels.Failed}}, []EventKind{EventJobFailed, EventChannelBlocked}, "root.s", "", 0,
		},
		"done in a sequence": {
			task{row: &driver.Row{Job: channels.Job{Channel: "s"}, State: channels.Done}}, []EventKind{EventJobDone}, "root.s", "", 0,
		},
	} {
		e, told, logs := telling()
		require.NoError(t, e.tree.Configure([]channels.Config{{Name: "root", Capacity: 3}, {Name: "a", Capacity: 1}, {Name: "s", Capacity: 1, Sequential: true}}))
		key := channels.Key{DB: "prod", UUID: "a"}
		e.tree.Set(channels.Job{Key: key, Channel: "a"}, channels.Started)
		if c.want != nil {
			c.t.phase = phaseAsked
		}
		if c.t.row != nil {
			c.t.row.Exception = "KeyError" // which the row may keep of an earlier attempt
		}
		e.notes.ended(key, &c.t, true)
		var kinds []EventKind
		for _, ev := range *told {
			kinds = append(kinds, ev.Kind)
		}
		require.Equal(t, c.want, kinds, name)
		if c.want == nil {
			require.Zero(t, logs.Len())
			continue
		}
		ev := (*told)[0]
		require.Equal(t, c.channel, ev.Channel, name)
		require.Equal(t, c.outcome, ev.Outcome, name)
		require.Equal(t, ev.Kind == EventJobFailed, ev.Exception != "", name)
		require.InDelta(t, c.ran, ev.Run, float64(10*time.Second)*min(1, float64(c.ran/time.Minute)), name)
		require.Equal(t, 1, logs.FilterMessage(endings[ev.Kind]).Len(), name)
	}
}

// Why a task is put back is told as far as it is known.
func TestWhyATaskIsPutBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		t        task
		stopping bool
		why      string
	}{
		"an error":   {task{result: &driver.Result{Err: errors.New("refused")}}, true, "refused"},
		"an answer":  {task{result: &driver.Result{}}, true, "Odoo answered without running it"},
		"stopping":   {task{row: &driver.Row{}}, true, "the runner is stopping"},
		"not sent":   {task{row: &driver.Row{}}, false, "nobody started it"},
		"nowhere":    {task{}, false, "there is no upstream to send it to"},
		"nowhere, 2": {task{row: &driver.Row{}, trail: trail{sent: time.Now()}}, false, "there is no upstream to send it to"},
	} {
		e, told, _ := telling()
		e.notes.unclaimed(channels.Key{DB: "prod", UUID: "a"}, &c.t, c.stopping)
		require.Equal(t, c.why, c.t.trail.why, name)
		require.Len(t, *told, 1)
		require.Equal(t, EventUnclaimed, (*told)[0].Kind)
		require.Equal(t, c.why, (*told)[0].Detail)
	}
}

// How long a dispatch took is told of what the scheduler chose, of its first server; how long the job
// waited is never nothing, because the clock of the database may be ahead.
func TestDispatchedIsTold(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	for name, c := range map[string]struct {
		t        task
		created  time.Time
		eta      time.Time
		dispatch bool
		waited   time.Duration
	}{
		"chosen":       {task{chosen: time.Now().Add(-time.Minute)}, time.Now().Add(-time.Hour), time.Time{}, true, time.Hour},
		"adopted":      {task{}, time.Now().Add(-time.Hour), time.Time{}, false, time.Hour},
		"second":       {task{chosen: time.Now().Add(-time.Minute), tried: []string{"odoo1"}}, time.Now().Add(-time.Hour), time.Time{}, false, time.Hour},
		"since an eta": {task{}, time.Now().Add(-time.Hour), time.Now().Add(-10 * time.Minute), false, 10 * time.Minute},
		"the future":   {task{}, time.Now().Add(time.Hour), time.Time{}, false, 1},
	} {
		e, told, _ := telling()
		job := channels.Job{Key: key, Channel: "a", Created: c.created.UnixMicro()}
		if !c.eta.IsZero() {
			job.ETA = c.eta.UnixMicro()
		}
		e.tree.Set(job, channels.Enqueued)
		e.notes.dispatched(key, &c.t, "odoo2")
		require.Len(t, *told, 1)
		ev := (*told)[0]
		require.Equal(t, []any{EventDispatched, "prod", "a", "root.a", "odoo2"}, []any{ev.Kind, ev.Database, ev.UUID, ev.Channel, ev.Upstream})
		require.Equal(t, c.dispatch, ev.Dispatch > time.Minute/2, name)
		require.Equal(t, c.dispatch, ev.Dispatch != 0, name)
		require.InDelta(t, c.waited, ev.Wait, float64(min(10*time.Second, c.waited-1)), name)
		require.Zero(t, ev.Run)
	}
	e, told, _ := telling()
	e.notes.dispatched(key, &task{}, "odoo2")
	require.Zero(t, (*told)[0].Wait, "a job that is not known")
}

// An answer is told, and logged as an error if it is none.
func TestAnsweredIsTold(t *testing.T) {
	t.Parallel()
	key := channels.Key{DB: "prod", UUID: "a"}
	for outcome, logged := range map[driver.Outcome]int{driver.Answered: 0, driver.Refused: 1, driver.Broken: 1, driver.NotSent: 1, driver.Unavailable: 1} {
		for _, dispatched := range []string{"root.was", ""} {
			e, told, logs := telling()
			e.tree.Set(channels.Job{Key: key, Channel: "is"}, channels.Started)
			task := &task{trail: trail{channel: dispatched, sent: time.Now().Add(-time.Hour)}}
			x := &exchange.Exchange{Attempt: driver.Task{Key: key}, Upstream: driver.Upstream{Name: "odoo1"}}
			e.notes.answered(x, task, driver.Result{Outcome: outcome, Status: 500, Err: errors.New("why")})
			require.Equal(t, logged, logs.FilterMessage("exception in GET odoo1").Len(), outcome)
			ev := (*told)[0]
			require.Equal(t, "why", ev.Detail)
			require.Equal(t, 500, ev.Status)
			require.Equal(t, outcome.String(), ev.Outcome)
			require.Greater(t, ev.Run, time.Minute)
			if dispatched == "" {
				require.Equal(t, "root.is", ev.Channel)
			} else {
				require.Equal(t, dispatched, ev.Channel)
			}
			e.notes.answered(x, task, driver.Result{Outcome: outcome})
			require.Empty(t, (*told)[1].Detail)
		}
	}
}

// That a job goes on without its request is told once, if it had one.
func TestLostIsTold(t *testing.T) {
	t.Parallel()
	e, told, _ := telling()
	k := &task{}
	key := channels.Key{DB: "prod", UUID: "a"}
	e.notes.lost(key, k)
	require.Empty(t, *told)
	k.result = &driver.Result{}
	e.notes.lost(key, k)
	e.notes.lost(key, k)
	require.Len(t, *told, 1)
}

// What a snapshot repaired is told as far as no notification had named it.
func TestRepairsAreTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		named map[string]struct{}
		count int
	}{
		"nothing was named": {map[string]struct{}{}, 3},
		"one was":           {map[string]struct{}{"b": {}, "x": {}}, 2},
		"all were":          {map[string]struct{}{"a": {}, "b": {}, "c": {}}, 0},
		"too many were":     {nil, 0},
	} {
		e, told, logs := telling()
		db := e.databases.get("prod")
		db.repairs = []string{"a", "b", "c"}
		e.notes.repaired(db, c.named)
		require.Nil(t, db.repairs)
		require.Equal(t, c.count > 0, len(*told) == 1 && logs.Len() == 1, name)
		if c.count > 0 {
			require.Equal(t, c.count, (*told)[0].Count)
			require.EqualValues(t, c.count, logs.All()[0].ContextMap()["jobs"])
			require.Equal(t, "a", logs.All()[0].ContextMap()["first"])
		} else {
			require.Empty(t, *told, name)
			require.Zero(t, logs.Len(), name)
		}
	}
}

// The first odd row of a kind is logged, and once a minute how many more there were.
func TestOddRowsAreCounted(t *testing.T) {
	t.Parallel()
	e, _, logs := telling()
	kind := oddity{"prod", "no uuid"}
	for range 3 {
		e.notes.oddRow(kind, "odd")
	}
	require.Equal(t, 1, logs.Len())
	since := e.notes.odd[kind].since
	e.notes.countOdd(since.Add(oddInterval - 1))
	require.Equal(t, 1, logs.Len())
	e.notes.countOdd(since.Add(oddInterval))
	require.Equal(t, 2, logs.Len())
	require.EqualValues(t, 2, logs.All()[1].ContextMap()["rows"])
	e.notes.countOdd(since.Add(2*oddInterval - 1))
	require.NotEmpty(t, e.notes.odd)
	e.notes.countOdd(since.Add(2 * oddInterval))
	require.Empty(t, e.notes.odd, "there were no more")
	require.Equal(t, 2, logs.Len())
}
