package channels

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestForgottenDatabaseLeavesTheFailedJobsOfOthers: in a sequential channel that databases share, what is
// forgotten with one, failed jobs that are most of them all included, are its own jobs only.
func TestForgottenDatabaseLeavesTheFailedJobsOfOthers(t *testing.T) {
	t.Parallel()
	for _, many := range []int{1, 50} {
		m := NewManager()
		require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 4}, {Name: "root.s", Capacity: 1, Sequential: true}}))
		for i := range many {
			m.Set(Job{Key: Key{DB: "gone", UUID: fmt.Sprint(i)}, Channel: "root.s"}, Failed)
		}
		failed := Job{Key: key("failed"), Channel: "root.s"}
		m.Set(failed, Failed)
		m.Set(Job{Key: key("waits"), Channel: "root.s", ID: 1}, Pending)
		require.Equal(t, many, m.RemoveDB("gone"))
		require.Empty(t, m.Next(at(1), 0), "of %d", many)
		require.Equal(t, []Count{{DB: "db", Channel: "root.s", Pending: 1, Failed: 1}}, m.Counts())
		m.Set(failed, Done)
		require.Equal(t, []Key{key("waits")}, m.Next(at(1), 0), "of %d", many)
	}
}
