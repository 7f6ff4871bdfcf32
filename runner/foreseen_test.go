package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestForeseen(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	var f foreseen
	require.False(t, f.wait("new", now), "a job of which nothing is known")
	require.True(t, f.due().IsZero())

	f.claimed("a")
	require.True(t, f.wait("a", now), "Odoo has begun")
	require.Equal(t, now.Add(foreseenDelay), f.due())
	require.False(t, f.wait("a", now), "something else has happened")
	require.Empty(t, f.take(now.Add(foreseenDelay-1)))
	require.Equal(t, []string{"a"}, f.take(now.Add(foreseenDelay)))
	require.True(t, f.due().IsZero())

	f.claimed("b")
	f.end("b", now)
	require.True(t, f.wait("b", now), "Odoo has ended it, which its answer had told")
	require.False(t, f.wait("b", now))
	f.read("b")
	require.True(t, f.due().IsZero(), "it has been read meanwhile")

	f.claimed("c")
	f.end("c", now)
	f.end("other", now.Add(foreseenDelay+1))
	require.False(t, f.wait("c", now.Add(foreseenDelay+1)), "too late to be that of its end")
	require.Empty(t, f.stages)
	require.Empty(t, f.ended)
}

// No notification is forgotten: it is read at once, or after the delay at the latest.
func TestForeseenForgetsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var f foreseen
		now := time.Unix(1_700_000_000, 0)
		told := map[string]time.Time{} // the first notification since the last read
		read := func(uuid string) { delete(told, uuid) }
		jobs := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"claim":  func(t *rapid.T) { f.claimed(jobs.Draw(t, "job")) },
			"answer": func(t *rapid.T) { f.end(jobs.Draw(t, "job"), now) },
			"notification": func(t *rapid.T) {
				job := jobs.Draw(t, "job")
				if !f.wait(job, now) {
					f.read(job)
					read(job)
				} else if _, ok := told[job]; !ok {
					told[job] = now
				}
			},
			"time": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 150).Draw(t, "ms")) * time.Millisecond)
				for _, job := range f.take(now) {
					read(job)
				}
			},
			"": func(t *rapid.T) {
				for job, at := range told {
					require.False(t, f.due().IsZero())
					require.False(t, f.due().After(at.Add(foreseenDelay)), job)
				}
				require.Equal(t, len(told), f.waiting.len())
			},
		})
	})
}
