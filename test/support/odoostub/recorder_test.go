package odoostub

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(n int) time.Time { return epoch.Add(time.Duration(n) * time.Second) }

// run records an execution; a negative end means that it still runs.
func run(r *Recorder, uuid, channel string, start, end int) {
	finish := r.Begin(Execution{Server: "a", DB: "db", UUID: uuid, Channel: channel, Start: at(start)})
	if end >= 0 {
		finish(at(end), Done)
	}
}

func TestRecorderReportsOverlaps(t *testing.T) {
	t.Parallel()
	r := &Recorder{}
	run(r, "one", "", 0, 10)
	run(r, "two", "", 0, 10)
	run(r, "one", "", 10, 12)
	require.Empty(t, r.Overlaps(), "one after the other, and different jobs at once")
	run(r, "two", "", 3, 4)
	run(r, "two", "", 9, 11)
	run(r, "three", "", 5, -1)
	run(r, "three", "", 6, 7)
	found := r.Overlaps()
	require.Len(t, found, 3)
	require.Contains(t, found[0].String(), "db/two")
	require.Equal(t, []string{"db/one", "db/two"}, r.Duplicates())
}

func TestRecorderReportsViolations(t *testing.T) {
	t.Parallel()
	r := &Recorder{}
	run(r, "1", "", 0, 10)
	run(r, "2", "root.a", 1, 3)
	run(r, "3", "a.b", 2, 4)
	run(r, "4", "a.b", 4, 5) // in the place of 3
	run(r, "5", "ab", 2, -1)
	require.Equal(t, 4, r.MaxConcurrent("root"))
	require.Equal(t, 2, r.MaxConcurrent("a"))
	require.Equal(t, 1, r.MaxConcurrent("root.a.b"))
	require.Equal(t, 0, r.MaxConcurrent("c"))
	require.Empty(t, r.Violations(map[string]int{"root": 4, "a": 2, "a.b": 0, "c": 1}))
	require.Equal(t, []Violation{
		{Channel: "root", Capacity: 3, Max: 4, At: at(2)},
		{Channel: "root.a", Capacity: 1, Max: 2, At: at(2)},
	}, r.Violations(map[string]int{"root": 3, "a": 1, "a.b": 1}))
}

func TestRecorderCountsTheLastOutcome(t *testing.T) {
	t.Parallel()
	r := &Recorder{}
	for range 2 {
		end := r.Begin(Execution{DB: "db", UUID: "1", Start: at(0)})
		end(at(0), Done)
		end(at(0), Lost)
	}
	require.Empty(t, r.Duplicates())
	require.Equal(t, map[Outcome]int{Lost: 2}, r.CountOutcomes())
	require.Equal(t, 2, r.Executions("db", "1"))
}

func TestRecorderReset(t *testing.T) {
	t.Parallel()
	r := &Recorder{}
	r.AddRequest(Request{DB: "db", UUID: "1"})
	end := r.Begin(Execution{DB: "db", UUID: "1", Start: at(0)})
	requests, executions := r.Reset()
	require.Len(t, requests, 1)
	require.Len(t, executions, 1)
	r.Begin(Execution{DB: "db", UUID: "2", Start: at(1)})
	end(at(2), Done)
	require.Equal(t, map[Outcome]int{"": 1}, r.CountOutcomes(), "what was forgotten does not end another")
	require.Zero(t, r.Requests("db", "1"))
}

// Sweeping agrees with looking at every moment.
func TestRecorderProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := &Recorder{}
		channels := []string{"", "root", "a", "root.a", "a.b", "ab"}
		n := rapid.IntRange(0, 12).Draw(t, "n")
		for range n {
			start := rapid.IntRange(0, 20).Draw(t, "start")
			end := rapid.IntRange(start+1, 22).Draw(t, "end")
			run(r, rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "uuid"), rapid.SampledFrom(channels).Draw(t, "channel"), start, end)
		}
		count := func(second int, belongs func(Execution) bool) (n int) {
			for _, e := range r.AllExecutions() {
				if belongs(e) && !at(second).Before(e.Start) && at(second).Before(e.End) {
					n++
				}
			}
			return n
		}
		most, twice := 0, false
		for second := range 22 {
			most = max(most, count(second, func(e Execution) bool { return fullName(e.Channel) == "root.a" || fullName(e.Channel) == "root.a.b" }))
			for _, uuid := range []string{"x", "y", "z"} {
				twice = twice || count(second, func(e Execution) bool { return e.UUID == uuid }) > 1
			}
		}
		require.Equal(t, most, r.MaxConcurrent("a"))
		require.Equal(t, twice, len(r.Overlaps()) > 0)
	})
}

func TestGates(t *testing.T) {
	t.Parallel()
	var g Gates
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, g.pass(ctx, "closed"), context.Canceled)
	passed := make(chan error)
	go func() { passed <- g.pass(t.Context(), "late") }()
	g.Open("other")
	g.Open("late")
	require.NoError(t, <-passed)
	require.NoError(t, g.pass(ctx, "late"), "an open gate does not hold anybody")
}
