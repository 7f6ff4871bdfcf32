package channels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCountsOfStates: each state is counted by itself, and what is not finished is all that waits or runs.
func TestCountsOfStates(t *testing.T) {
	t.Parallel()
	var c Count
	m := newFixture(t, "root:9").Manager
	for i, s := range []State{Pending, Enqueued, Started, Failed, Done} {
		c.Add(s, i+1)
	}
	require.Equal(t, Count{Pending: 1, Enqueued: 2, Started: 3, Failed: 4}, c)
	for i, s := range []State{Pending, Enqueued, Enqueued, Started, Started, Started, Failed} {
		m.Set(Job{Key: key(string(rune('a' + i))), Channel: []string{"a", "root.a"}[i%2]}, s)
	}
	require.Equal(t, 6, m.Unfinished("db"))
	require.Zero(t, m.Unfinished("unknown"))
	require.Equal(t, []Count{{DB: "db", Channel: "root.a", Pending: 1, Enqueued: 2, Started: 3, Failed: 1}}, m.Counts())
}

// TestGateOfAJob: a job has the gate of its channel, and there may be none, or no such job.
func TestGateOfAJob(t *testing.T) {
	t.Parallel()
	f := NewForest()
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 9}}))
	f.SetShares(shareList{{"root.export", "*", Share{Gate: "heavy"}}})
	for _, channel := range []string{"export", "mail"} {
		f.Set(Job{Key: key(channel), Channel: channel}, Pending)
	}
	require.Equal(t, "heavy", f.Gate(key("export")))
	require.Empty(t, f.Gate(key("mail")))
	require.Empty(t, f.Gate(key("unknown")))
	require.Empty(t, f.Gate(Key{DB: "another", UUID: "a"}))
	require.Empty(t, NewForest().Gate(key("a")))
}

// TestRemoveAllButOfAnUnknownDatabase: only the jobs of a database that exists can be removed.
func TestRemoveAllButOfAnUnknownDatabase(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 1}, "", "db")
	fill(f, "db", "", 3)
	require.Zero(t, f.RemoveAllBut("unknown", nil))
	require.Equal(t, 3, f.RemoveAllBut("db", nil))
	require.Zero(t, f.Unfinished("db"))
}
