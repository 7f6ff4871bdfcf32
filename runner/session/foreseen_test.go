package session

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
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

// claimer claims what it is asked for; of what it is to read, there is a pending row.
type claimer struct{ driver.Session }

func (claimer) Claim(_ context.Context, uuids, others []string) (tasks []driver.Task, rows []driver.Row, err error) {
	for _, uuid := range uuids {
		tasks = append(tasks, driver.Task{Key: channels.Key{UUID: uuid}})
	}
	for _, uuid := range others {
		rows = append(rows, driver.Row{Job: channels.Job{Key: channels.Key{UUID: uuid}}, State: channels.Pending})
	}
	return tasks, rows, nil
}

// deaf is a listener that does nothing.
type deaf struct{ Listener }

func (deaf) Rows(Reading)              {}
func (deaf) Claimed(Claims)            {}
func (deaf) Vacant(Vacant)             {}
func (deaf) Scheduled(context.Context) {}

// The row that comes with a claim is older than the claim: it has not ended the job.
func TestRowOfAClaimIsOlder(t *testing.T) {
	t.Parallel()
	s := &Session{out: deaf{}, conn: claimer{}}
	require.NoError(t, s.claim(t.Context(), []string{"a"}, []string{"a"}))
	require.Equal(t, map[string]stage{"a": stageClaimed}, s.foreseen.stages)
	require.Empty(t, s.foreseen.ended)
}

// A job that has been deleted is not remembered for ever.
func TestDeletedJobIsNotForeseen(t *testing.T) {
	t.Parallel()
	s := &Session{out: deaf{}, heard: time.Unix(1_700_000_000, 0)}
	s.foreseen.claimed("a")
	require.True(t, s.foreseen.wait("a", s.heard))
	s.deliver([]string{"a"}, nil)
	s.foreseen.end("other", s.heard.Add(2*foreseenDelay))
	require.Empty(t, s.foreseen.stages)
}
