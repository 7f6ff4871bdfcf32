package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestComing: jobs that wait for an eta are counted by the minute of it, in the order of the names, unless
// they are too many.
func TestComing(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		f := NewForest()
		if own {
			f = newForest(t, Capacities{Max: 1}, "", "a", "b", "shut")
		}
		now := at(30)
		etas := []time.Time{
			now, now.Add(time.Microsecond), now.Add(time.Minute - time.Microsecond), now.Add(time.Minute),
			now.Add(119 * time.Second), now.Add(1000 * time.Hour),
		}
		for i, eta := range etas {
			f.Set(Job{Key: Key{DB: "b", UUID: fmt.Sprint(i)}, Channel: "mail", ETA: eta.UnixMicro()}, Pending)
		}
		f.Set(Job{Key: Key{DB: "a", UUID: "x"}, ETA: etas[3].UnixMicro()}, Pending)
		f.Set(Job{Key: Key{DB: "a", UUID: "now"}}, Pending)
		f.Set(Job{Key: Key{DB: "shut", UUID: "x"}, ETA: etas[3].UnixMicro()}, Pending)
		f.Suspend("shut")
		list, all := f.Coming(now, 8)
		require.True(t, all)
		require.Equal(t, []Coming{
			{"a", "root", 1, 1}, {"b", "root.mail", 0, 2}, {"b", "root.mail", 1, 2}, {"b", "root.mail", 60_000, 1},
		}, list)
		list, all = f.Coming(now, 7)
		require.False(t, all)
		require.Empty(t, list)
	}
}
