package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPauseByHand(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:3,A:9")
	f.Pause("A", true)
	f.add("A.B", "a", "b")
	f.add("", "c")
	require.Equal(t, []Key{key("c")}, f.Next(at(1), 0))
	e, ok := f.Explain(key("a"), at(1))
	require.True(t, ok)
	require.Equal(t, ReasonPaused, e.Reason)
	require.Equal(t, "root.A", e.Channel)
	st, ok := f.Channel("root.A")
	require.True(t, ok)
	require.True(t, st.Stopped)
	require.False(t, st.Paused)
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 3}}), "the configuration does not end it")
	require.Empty(t, f.Next(at(2), 0))
	f.Pause("A", false)
	require.Equal(t, []Key{key("a"), key("b")}, f.Next(at(3), 0))
}

// TestPauseCallsBack: jobs that have passed the channel but wait further up do not start any more.
func TestPauseCallsBack(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:1,A:9")
	f.add("A", "a", "b", "c")
	require.Len(t, f.Next(at(1), 0), 1)
	f.Pause("root.A", true)
	f.state(Done, "a")
	require.Empty(t, f.Next(at(2), 0))
	f.Pause("A", false)
	require.Equal(t, []Key{key("b")}, f.Next(at(3), 0))
}

// TestPauseCallsBackFromEverywhere: jobs of one channel may wait on several levels above it.
func TestPauseCallsBackFromEverywhere(t *testing.T) {
	t.Parallel()
	for range 20 { // the order in which levels are visited is by chance
		f := newFixture(t, "root:9,A:2,A.B:5")
		f.add("A.B", "a", "b", "c")
		require.Len(t, f.Next(at(1), 1), 1)
		require.True(t, f.Pending(), "b waits in root, and c in A")
		f.Pause("A.B", true)
		require.False(t, f.Pending())
		checkInvariants(t, f.Manager)
	}
}

// TestPauseDisplaces: only what is paused has the jobs read anew that share a channel, and only where there
// are others.
func TestPauseDisplaces(t *testing.T) {
	t.Parallel()
	m := NewManager()
	m.names.each = 0
	crowd(m, "db", 2)
	m.Pause("root", true)
	m.Pause("root", false)
	require.Empty(t, m.Displaced())
	m.Pause("c1", true)
	require.Equal(t, []string{"db"}, m.Displaced())
	m.BeginSnapshot("db")
	m.EndSnapshot("db")
	m.Pause("c1", false)
	require.Empty(t, m.Displaced())
}

// TestPauseOfAChannelToCome: a channel need not exist yet.
func TestPauseOfAChannelToCome(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:9")
	f.Pause("new", true)
	f.add("new", "a")
	require.Empty(t, f.Next(at(1), 0))
	f.Pause("new", false)
	require.Len(t, f.Next(at(2), 0), 1)
}

func TestOldest(t *testing.T) {
	t.Parallel()
	m := NewManager()
	for i := range 50000 {
		m.Set(Job{Key: key(fmt.Sprintf("%d", i)), ID: int64(i), Priority: 10, Created: int64(i + 5)}, Pending)
	}
	m.Set(Job{Key: key("eta"), Channel: "A", ETA: 9, Created: 1}, Pending)
	m.Set(Job{Key: key("later"), Channel: "A", ETA: at(1).Add(time.Hour).UnixMicro(), Created: 1}, Pending)
	oldest := m.Oldest(at(1))
	require.Equal(t, time.UnixMicro(5).UTC(), oldest["root"])
	require.Equal(t, time.UnixMicro(9).UTC(), oldest["root.A"])
}

// TestCountsAddUp: whatever happens, the counts are those of the jobs.
func TestCountsAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewManager()
		require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 2}}))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			db := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "db")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				m.Next(at(1), 3)
			case 1:
				m.Suspend(db)
			case 2:
				m.Resume(db)
			case 3:
				m.RemoveAllBut(db, nil)
			case 4:
				m.Pause(rapid.SampledFrom([]string{"A", "root"}).Draw(t, "channel"), rapid.Bool().Draw(t, "yes"))
			default:
				m.Set(Job{
					Key:     Key{DB: db, UUID: fmt.Sprint(rapid.IntRange(0, 8).Draw(t, "uuid"))},
					Channel: rapid.SampledFrom([]string{"", "A", "root.A", "A.B"}).Draw(t, "of"),
				}, rapid.SampledFrom([]State{Pending, Enqueued, Started, Failed, Done}).Draw(t, "state"))
			}
			want := map[string]Count{}
			for j, s := range m.Jobs("") {
				name := Normalize(j.Channel)
				c := want[j.DB+name]
				c.DB, c.Channel = j.DB, name
				switch s {
				case Pending:
					c.Pending++
				case Enqueued:
					c.Enqueued++
				case Started:
					c.Started++
				case Failed:
					c.Failed++
				}
				want[j.DB+name] = c
			}
			got := map[string]Count{}
			for _, c := range m.Counts() {
				got[c.DB+c.Channel] = c
			}
			require.Equal(t, want, got)
		}
	})
}
