package upstream

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// A server that needs no check does not keep those after it from theirs, and a forgotten server
// has nothing to be checked for.
func TestEveryServerThatIsDownIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 3)
		p := testPool(func(_ context.Context, name string) error {
			asked <- name
			return nil
		})
		p.set(named("a", "b", "c"))
		require.False(t, p.states["a"].up)
		require.True(t, p.checked("a", nil))
		p.check(t.Context(), false)
		synctest.Wait()
		close(asked)
		got := map[string]int{}
		for name := range asked {
			got[name]++
		}
		require.Equal(t, map[string]int{"b": 1, "c": 1}, got)
		require.True(t, p.states["c"].up)
		require.True(t, p.checked("forgotten", nil))
		require.True(t, p.checked("forgotten", context.Canceled))
		require.False(t, p.checked("c", context.Canceled))
		require.False(t, p.states["c"].up)
	})
}

// A drained server that is still a target is shown once, and one that is gone only while drained.
func TestStatusShowsEachServerOnce(t *testing.T) {
	p := upPool(named("a", "b", "c")...)
	p.Drain([]Drain{{Upstream: "b"}, {Upstream: "c"}})
	p.Adopt(named("c")[0])
	p.set(named("a", "b"))
	var names []string
	for _, s := range p.Status() {
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"a", "b", "c"}, names)
}
