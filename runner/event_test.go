package runner_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// journal collects events.
type journal struct {
	mu     sync.Mutex
	events []runner.Event
}

func (j *journal) add(ev runner.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, ev)
}

// of returns the events of a job, or of everything but jobs if uuid is empty.
func (j *journal) of(uuid string, kinds ...runner.EventKind) []runner.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []runner.Event
	for _, ev := range j.events {
		for _, k := range kinds {
			if ev.Kind == k && (uuid == "" || ev.UUID == uuid) {
				out = append(out, ev)
			}
		}
	}
	return out
}

// final returns the events that ended attempts at a job.
func (j *journal) final(uuid string) (kinds []runner.EventKind) {
	for _, ev := range j.of(uuid, runner.EventKinds()...) {
		if ev.Kind.Final() {
			kinds = append(kinds, ev.Kind)
		}
	}
	return kinds
}

// TestEveryAttemptEndsOnce: how an attempt ends is told, and logged, once.
func TestEveryAttemptEndsOnce(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("prod")
		cfg := b.config("root:9,seq:1:sequential")
		cfg.Events = j.add
		b.start(cfg)
		for uuid, plan := range map[string]mock.Plan{
			"done":   {RunFor: 2 * time.Second},
			"failed": {Ends: channels.Failed, Status: 500},
			"retry":  {Ends: channels.Pending, Then: func(j *mock.Job) { j.ETA = time.Now().Add(time.Hour).UnixMicro() }},
			"notrun": {StayEnqueued: true},
			"crash":  {Crash: true, RunFor: time.Second},
			"slow":   {DropConnAfter: time.Second, RunFor: 5 * time.Second},
		} {
			b.PlanFor(key("prod", uuid), plan)
			job := mock.NewJob("prod", uuid)
			if uuid == "failed" {
				job.Channel = "seq"
			}
			b.Insert(job)
		}
		b.settle(2 * time.Minute)
		require.Equal(b, []runner.EventKind{runner.EventJobDone}, j.final("done"))
		require.Equal(b, []runner.EventKind{runner.EventJobFailed}, j.final("failed"))
		require.Equal(b, []runner.EventKind{runner.EventJobRetried}, j.final("retry"))
		require.Equal(b, []runner.EventKind{runner.EventJobNotRun, runner.EventJobDone}, j.final("notrun"))
		require.Equal(b, []runner.EventKind{runner.EventJobRescued, runner.EventJobDone}, j.final("crash"))
		require.Equal(b, []runner.EventKind{runner.EventJobDone}, j.final("slow"))
		require.Len(b, j.of("slow", runner.EventJobLost), 1)
		require.Len(b, j.of("notrun", runner.EventUnclaimed), 1)

		done := j.of("done", runner.EventJobDone)[0]
		require.Equal(b, 2*time.Second, done.Run)
		require.Equal(b, "odoo1", done.Upstream)
		require.Equal(b, "answered", done.Outcome)
		require.Equal(b, 200, done.Status)
		require.Equal(b, "root", done.Channel)
		require.Equal(b, "default", done.Runner)
		require.InDelta(b, 5, j.of("slow", runner.EventJobDone)[0].Run.Seconds(), 0.1)
		require.Len(b, j.of("failed", runner.EventChannelBlocked), 1)
		require.Equal(b, "root.seq", j.of("", runner.EventChannelBlocked)[0].Channel)
		require.Len(b, j.of("", runner.EventDatabaseReady), 1)
		require.Equal(b, "leading", j.of("", runner.EventLeaderChanged)[0].Detail)
		require.Len(b, j.of("", runner.EventUpstreamUp), 1)
		require.NotEmpty(b, j.of("", runner.EventNotifications))

		lines := b.logs.FilterMessage("job failed").All()
		require.Len(b, lines, 1)
		require.Equal(b, "failed", lines[0].ContextMap()["uuid"])
		require.Equal(b, "attempt", lines[0].LoggerName)
		require.Equal(b, 1, b.logs.FilterMessage("job rescued").Len())
	})
}

// TestWaited: an attempt ends with a wait if something was sent for it, and the job has been waited for.
func TestWaited(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ev   runner.Event
		want bool
	}{
		"done":       {runner.Event{Kind: runner.EventJobDone, Wait: 1}, true},
		"found":      {runner.Event{Kind: runner.EventJobDone}, false},
		"goes on":    {runner.Event{Kind: runner.EventJobLost, Wait: 1}, false},
		"not run":    {runner.Event{Kind: runner.EventJobNotRun, Wait: 1}, false},
		"never sent": {runner.Event{Kind: runner.EventJobGone, Outcome: driver.NotSent.String(), Wait: 1}, false},
	} {
		require.Equal(t, c.want, c.ev.Waited(), name)
	}
}

func TestTasksHaveIDs(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.jobs("prod", "", "a", 3)
		b.start(b.config("root:4"))
		seen := map[string]bool{}
		for _, run := range b.Runs() {
			require.Regexp(b, "^[0-9a-f]{32}$", run.Task.ID)
			seen[run.Task.ID] = true
		}
		require.Len(b, seen, 3)
	})
}

func TestPauses(t *testing.T) {
	inBubble(t, func(b *bench) {
		var j journal
		b.AddDatabase("one", "two")
		cfg := b.config("root:9")
		cfg.Events = j.add
		r := b.start(cfg)
		run := func(p ...runner.Pause) (before, after int) {
			require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: p}))
			n := len(b.Runs())
			b.jobs("one", "mail.de", "a", 4)
			b.settle(time.Second)
			before = len(b.Runs()) - n
			require.NoError(b, r.Control(b.Context(), runner.Controls{}))
			b.settle(time.Second)
			return before, len(b.Runs()) - n
		}
		for _, p := range []runner.Pause{{}, {Database: "one"}, {Channel: "root.mail"}, {Channel: "root"}} {
			before, after := run(p)
			require.Zero(b, before, p)
			require.Equal(b, 4, after, p)
		}
		before, _ := run(runner.Pause{Database: "two"})
		require.Equal(b, 4, before)
		require.Len(b, j.of("", runner.EventPaused), 5)
		require.Len(b, j.of("", runner.EventResumed), 5)

		// A pause that ends by itself, and one of a database that is held back too.
		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{Until: time.Now().Add(time.Minute)}}}))
		b.jobs("one", "", "b", 1)
		b.settle(50 * time.Second)
		require.Equal(b, channels.Pending, b.jobState("one", "b1"))
		b.settle(11 * time.Second)
		require.Equal(b, channels.Done, b.jobState("one", "b1"))
		require.Len(b, j.of("", runner.EventResumed), 6)
	})
}

func (b *bench) jobState(db, uuid string) channels.State {
	job, _ := b.Row(key(db, uuid))
	return job.State
}

// TestPauseOutlivesTheSession: a lost connection does not end a pause.
func TestPauseOutlivesTheSession(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one")
		r := b.start(b.config("root:9"))
		require.NoError(b, r.Control(b.Context(), runner.Controls{Pauses: []runner.Pause{{Database: "one"}}}))
		b.LoseSession("one")
		b.jobs("one", "", "a", 1)
		b.settle(10 * time.Second)
		require.Empty(b, b.Runs())
		w, err := r.Why(b.Context(), key("one", "a1"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyPausedDatabase, w.Code)
	})
}

// TestElected: what was ordered elsewhere is in force before a new leader starts
// anything.
func TestElected(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("prod")
		b.jobs("prod", "", "a", 3)
		cfg := b.config("root:4")
		first := b.start(cfg)
		require.Len(b, b.Runs(), 3)
		var standby *runner.Runner
		calls := 0
		cfg.Elected = func(ctx context.Context) {
			calls++
			require.NoError(b, standby.Control(ctx, runner.Controls{Pauses: []runner.Pause{{By: "operator"}}}))
		}
		standby, err := runner.New(cfg)
		require.NoError(b, err)
		standby.Start()
		b.Cleanup(func() { b.stop(standby) })
		b.settle(time.Minute)
		require.Zero(b, calls)
		b.stop(first)
		b.jobs("prod", "", "b", 3)
		b.settle(time.Minute)
		require.Equal(b, 1, calls)
		require.True(b, b.status(standby).Leader)
		require.Len(b, b.Runs(), 3, "nothing was started")
	})
}

func TestDrains(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one")
		cfg := b.config("root:9")
		cfg.Targets = upstreams{"odoo1", "odoo2"}
		r := b.start(cfg)
		drain := runner.Controls{Drains: []runner.Drain{{Upstream: "odoo1"}}}
		require.NoError(b, r.Control(b.Context(), drain))
		b.jobs("one", "", "a", 5)
		b.settle(time.Second)
		require.Len(b, b.Runs(), 5)
		for _, run := range b.Runs() {
			require.Equal(b, "odoo2", run.Upstream)
		}
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.NotNil(b, st.Upstreams[0].Drain)
		require.Nil(b, st.Upstreams[1].Drain)
		drain.Drains = append(drain.Drains, runner.Drain{Upstream: "odoo2"})
		require.NoError(b, r.Control(b.Context(), drain))
		b.jobs("one", "", "b", 1)
		b.settle(time.Second)
		w, err := r.Why(b.Context(), key("one", "b1"))
		require.NoError(b, err)
		require.Equal(b, runner.WhyDrained, w.Code)
		require.NoError(b, r.Control(b.Context(), runner.Controls{}))
		b.settle(time.Second)
		require.Equal(b, channels.Done, b.jobState("one", "b1"))
	})
}

func TestJobsAndChanges(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.AddDatabase("one", "two")
		r := b.start(b.config("root:1"))
		for _, db := range []string{"one", "two"} {
			for i := range 1200 {
				j := mock.NewJob(db, fmt.Sprintf("f%d", i+1))
				j.State, j.Channel = channels.Failed, "mail"
				b.Insert(j)
			}
		}
		b.settle(time.Second)
		n := 0
		q := runner.JobQuery{Limit: 700, Filter: driver.Filter{States: []channels.State{channels.Failed}}}
		for more := true; more; more = q.Cursor != "" {
			page, err := r.Jobs(b.Context(), q)
			require.NoError(b, err)
			n += len(page.Jobs)
			q.Cursor = page.Next
		}
		require.Equal(b, 2400, n)
		change := runner.JobChange{Change: driver.Change{Action: driver.Cancel}, Filter: driver.Filter{Channel: "root.mail"}, DryRun: true}
		result, err := r.Change(b.Context(), change)
		require.NoError(b, err)
		require.Equal(b, 2400, result.Changed)
		require.Equal(b, 2400, b.Count("one", channels.Failed)+b.Count("two", channels.Failed))
		change.DryRun, change.Limit = false, 1300
		result, err = r.Change(b.Context(), change)
		require.NoError(b, err)
		require.Equal(b, 1300, result.Changed)
		require.True(b, result.More)
		require.Equal(b, 1100, b.Count("one", channels.Failed)+b.Count("two", channels.Failed))
		b.settle(time.Second)
		st, err := r.Status(b.Context())
		require.NoError(b, err)
		require.Equal(b, 1100, st.Databases[0].Failed+st.Databases[1].Failed)
		_, err = r.Jobs(b.Context(), runner.JobQuery{Database: "postgres"})
		require.ErrorIs(b, err, runner.ErrUnknownDatabase)
	})
}
