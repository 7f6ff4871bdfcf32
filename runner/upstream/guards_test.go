package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
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

// A server is leaving when it is drained, no target any more, or has been down for long enough.
func TestLeavingServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := upPool(named("up", "drained", "dropped", "down")...)
		p.Adopt(driver.Upstream{Name: "dropped"})
		p.set(named("up", "drained", "down", "unchecked"))
		p.Drain([]Drain{{Upstream: "drained"}})
		p.Suspect("down", context.Canceled)
		<-time.After(2*time.Second - 1)
		require.Empty(t, p.Leaving("down", 2*time.Second))
		p.Suspect("down", context.Canceled)
		<-time.After(1)
		for name, want := range map[string]string{
			"up": "", "unchecked": "", "drained": "the server was being drained", "down": "the server was down already",
			"dropped": "the server was no target any more", "unknown": "the server was no target any more",
		} {
			require.Equal(t, want, p.Leaving(name, 2*time.Second), name)
		}
	})
}

// All of them are gone only if there are several.
func TestAllServersGone(t *testing.T) {
	p := upPool(named("a", "b")...)
	require.False(t, p.Gone())
	p.Suspect("a", context.Canceled)
	require.False(t, p.Gone())
	p.Suspect("b", context.Canceled)
	require.True(t, p.Gone())
	p.set(named("b"))
	require.False(t, p.Gone(), "a server that is alone may have been killed by a job")
}

// Those that are up are checked again, all of them, and once.
func TestAllServersAreChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 9)
		p := testPool(func(_ context.Context, name string) error {
			asked <- name
			return nil
		})
		p.set(named("a", "b", "c"))
		p.checked("a", nil)
		p.checked("b", nil)
		p.RecheckAll(t.Context())
		p.RecheckAll(t.Context())
		synctest.Wait()
		close(asked)
		got := map[string]int{}
		for name := range asked {
			got[name]++
		}
		require.Equal(t, map[string]int{"a": 1, "b": 1}, got, "c is down, and is checked anyway")
	})
}
