package channels

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		config string
		do     func(*fixture)
		now    float64
		want   string
		reason Reason
	}{
		{
			desc: "running", config: "root:1", reason: ReasonRunning,
			do:   func(f *fixture) { f.add("", "job"); f.run(1, "job"); f.state(Started, "job") },
			want: "job db/job is started in channel root",
		},
		{
			desc: "failed", config: "root:1", reason: ReasonFailed,
			do:   func(f *fixture) { f.add("A", "job"); f.state(Failed, "job") },
			want: "job db/job failed in channel root.A and runs again only if it is requeued",
		},
		{
			desc: "ready", config: "root:1,A:1", reason: ReasonReady,
			do:   func(f *fixture) { f.add("A", "job") },
			want: "job db/job starts in the next scheduling pass",
		},
		{
			desc: "own channel full", config: "root:5,A:1", reason: ReasonChannelFull,
			do:   func(f *fixture) { f.add("A", "a", "b", "job"); f.run(1, "a") },
			want: "job db/job waits: channel root.A is full (1 running, capacity 1), and 1 job goes before it",
		},
		{
			desc: "root full, job waits there", config: "root:1,A:5", reason: ReasonChannelFull,
			do:   func(f *fixture) { f.add("A", "a", "b", "c", "job"); f.run(1, "a") },
			want: "job db/job waits: channel root is full (1 running, capacity 1), and 2 jobs go before it",
		},
		{
			desc: "root full, job not there yet", config: "root:1,A:5", reason: ReasonChannelFull,
			do:   func(f *fixture) { f.add("A", "a"); f.run(1, "a"); f.add("A", "job") },
			want: "job db/job waits: channel root is full (1 running, capacity 1)",
		},
		{
			desc: "root full, job came up from a channel that is full with it", config: "root:1,A:1", reason: ReasonChannelFull,
			do:   func(f *fixture) { f.add("", "a"); f.run(1, "a"); f.add("A", "job"); f.run(1) },
			want: "job db/job waits: channel root is full (1 running, capacity 1)",
		},
		{
			desc: "negative capacity", config: "root:1,A:-1", reason: ReasonChannelFull,
			do:   func(f *fixture) { f.add("A", "job") },
			want: "job db/job waits: channel root.A has a negative capacity and never runs a job",
		},
		{
			desc: "paused", config: "root:1,A:5:paused", reason: ReasonPaused,
			do:   func(f *fixture) { f.add("A.x.y", "job"); f.run(1) },
			want: "job db/job waits: channel root.A is paused",
		},
		{
			desc: "throttled", config: "root:5,A:5:throttle=60", reason: ReasonThrottled, now: 1,
			do:   func(f *fixture) { f.add("A", "a", "job"); f.run(1, "a") },
			want: "job db/job waits: channel root.A is throttled until 1970-01-01T00:01:01Z",
		},
		{
			desc: "throttle is over, but not seen by a pass", config: "root:5,A:5:throttle=60", reason: ReasonReady, now: 61,
			do:   func(f *fixture) { f.add("A", "a", "job"); f.run(1, "a") },
			want: "job db/job starts in the next scheduling pass",
		},
		{
			desc: "eta", config: "root:5", reason: ReasonETA, now: 1,
			do:   func(f *fixture) { f.Set(Job{Key: key("job"), ETA: 50e6}, Pending) },
			want: "job db/job waits: its eta is 1970-01-01T00:00:50Z",
		},
		{
			desc: "eta has come, channel full", config: "root:1", reason: ReasonChannelFull, now: 50,
			do: func(f *fixture) {
				f.add("", "a")
				f.Set(Job{Key: key("job"), ETA: 50e6}, Pending)
				f.run(1, "a")
			},
			want: "job db/job waits: channel root is full (1 running, capacity 1)",
		},
		{
			desc: "eta has come together with another", config: "root:1", reason: ReasonBehind, now: 50,
			do: func(f *fixture) {
				f.Set(Job{Key: key("a"), ETA: 50e6}, Pending)
				f.Set(Job{Key: key("job"), ETA: 50e6, ID: 9}, Pending)
			},
			want: "job db/job waits: 1 job goes before it in channel root",
		},
		{
			desc: "sequential, but the next eta sorts behind another job", config: "root:5,S:1:sequential", now: 1,
			reason: ReasonBehind,
			do: func(f *fixture) {
				f.add("S", "a")
				f.Set(Job{Key: key("later"), Channel: "S", ETA: 50e6, ID: 50}, Pending)
				f.Set(Job{Key: key("job"), Channel: "S", ID: 99}, Pending)
			},
			want: "job db/job waits: 1 job goes before it in channel root.S",
		},
		{
			desc: "sequential, and none has an eta", config: "root:5,S:1:sequential", reason: ReasonBehind,
			do:   func(f *fixture) { f.add("S", "a", "job") },
			want: "job db/job waits: 1 job goes before it in channel root.S",
		},
		{
			desc: "suspended", config: "root:5", reason: ReasonSuspended,
			do:   func(f *fixture) { f.add("", "job"); f.Suspend("db") },
			want: "job db/job waits: database db is not being served",
		},
		{
			desc: "sequential, failed", config: "root:5,S:1:sequential", reason: ReasonSequentialFailed,
			do:   func(f *fixture) { f.add("S", "a", "b", "job"); f.state(Failed, "a", "b"); f.run(1) },
			want: "job db/job waits: channel root.S is sequential and job db/a failed in it",
		},
		{
			desc: "sequential, eta", config: "root:5,S:1:sequential", reason: ReasonSequentialETA, now: 1,
			do: func(f *fixture) {
				f.Set(Job{Key: key("later"), Channel: "S", ETA: 50e6}, Pending)
				f.add("S", "job")
				f.run(1)
			},
			want: "job db/job waits: channel root.S is sequential and job db/later comes first, whose eta is 1970-01-01T00:00:50Z",
		},
		{
			desc: "behind others that the next pass starts", config: "root:2", reason: ReasonBehind,
			do:   func(f *fixture) { f.add("", "a", "b", "job") },
			want: "job db/job waits: 2 jobs go before it in channel root",
		},
		{
			desc: "behind others that take what is left", config: "root:3", reason: ReasonBehind,
			do: func(f *fixture) {
				f.add("", "running")
				f.Next(at(1), 0)
				f.add("", "a", "b", "job")
			},
			want: "job db/job waits: 2 jobs go before it in channel root",
		},
		{
			desc: "behind another in a throttled channel", config: "root:9:throttle=1", reason: ReasonBehind,
			do:   func(f *fixture) { f.add("", "a", "job") },
			want: "job db/job waits: 1 job goes before it in channel root",
		},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, c.config)
			c.do(f)
			before := dump(f.Manager)
			e, ok := f.Explain(key("job"), at(c.now))
			require.True(t, ok)
			require.Equal(t, c.reason, e.Reason, e.Reason.String())
			require.Equal(t, c.want, e.String())
			require.Equal(t, before, dump(f.Manager))
			checkInvariants(t, f.Manager)
		})
	}
	_, ok := NewManager().Explain(key("unknown"), at(0))
	require.False(t, ok)
}

func TestReasonNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "Reason(0)", Reason(0).String())
	require.Equal(t, "max_capacity", ReasonMaxCapacity.String())
	require.Equal(t, fmt.Sprintf("Reason(%d)", len(reasonNames)), Reason(len(reasonNames)).String())
	e := Explanation{Job: Job{Key: key("a")}, Reason: ReasonMaxCapacity}
	require.Equal(t, "job db/a waits: max_capacity is 0, so nothing runs in any database", e.String())
	e.Capacity, e.Running = 1, 1
	require.Equal(t, "job db/a waits: max_capacity is reached (1 running in all databases, 1 may)", e.String())
}

func TestStates(t *testing.T) {
	t.Parallel()
	require.Equal(t, fmt.Sprintf("State(%d)", len(stateNames)), State(len(stateNames)).String())
	for i := range stateNames {
		s := State(i)
		require.Equal(t, stateNames[i], s.String())
		require.Equal(t, s == Enqueued || s == Started, s.Running(), s)
		require.Equal(t, s == Done || s == Cancelled || s == Failed, s.Finished(), s)
	}
}

// TestTurnsInWords: turns of others are told where there are some.
func TestTurnsInWords(t *testing.T) {
	for _, turns := range []*Turns{nil, {Key: "company 1"}} {
		for _, e := range []Explanation{{Reason: ReasonBehind, Channel: "root", Turns: turns}, {Reason: ReasonChannelFull, Channel: "root", Turns: turns}} {
			require.NotContains(t, e.String(), "turn", "%+v", e)
		}
	}
	e := Explanation{Reason: ReasonBehind, Channel: "root", Turns: &Turns{Key: "company 1", Before: 1}}
	require.Contains(t, e.String(), "1 turn of another comes before the one of company 1")
	e.Reason = ReasonChannelFull
	require.Contains(t, e.String(), "; 1 turn of another comes before the one of company 1")
}
