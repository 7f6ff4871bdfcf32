package upstream

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Servers of a pool are given its jobs only, within the limits of the pool or else of all servers, and
// others take their place only with fallback and while none of the pool is healthy.
func TestClasses(t *testing.T) {
	p := upPool(driver.Upstream{Name: "rest"}, driver.Upstream{Name: "h1", Pool: "heavy"}, driver.Upstream{Name: "h2", Pool: "heavy"}, driver.Upstream{Name: "n", Pool: "night"})
	p.limits, p.pools = Limits{MaxJobs: 4}, map[string]Limits{"heavy": {MaxJobs: 1}}
	heavy, fallback := Class{Pool: "heavy"}, Class{Pool: "heavy", Fallback: true}
	require.Equal(t, 4+1+1+4, p.Capacity())
	require.Equal(t, 4, p.Room("").Free)
	require.Equal(t, 2, p.Room("heavy").Free)
	require.Equal(t, 4, p.Room("night").Free)
	require.Equal(t, "heavy", p.Serving(fallback))
	for range 2 {
		up, ok := p.Pick(heavy, "", nil)
		require.True(t, ok)
		require.Equal(t, "heavy", up.Pool)
	}
	_, ok := p.Pick(fallback, "", nil)
	require.False(t, ok, "that the pool is full is no reason")
	st := p.Status()
	require.Equal(t, []string{"", "heavy"}, []string{st[0].Pool, st[1].Pool})
	require.Equal(t, "1 of at most 1 jobs", st[1].Full)
	require.Empty(t, st[0].Full)

	p.Suspect("h1", errors.New("gone"))
	require.Equal(t, "heavy", p.Serving(fallback))
	p.Drain([]Drain{{Upstream: "h2"}})
	require.Equal(t, "heavy", p.Serving(heavy))
	require.Empty(t, p.Serving(fallback))
	require.Empty(t, p.Serving(Class{}))
	_, ok = p.Pick(heavy, "", nil)
	require.False(t, ok)
	up, ok := p.Pick(fallback, "", nil)
	require.True(t, ok)
	require.Equal(t, "rest", up.Name)
	require.Equal(t, 4+4, p.Capacity())

	names := map[string]bool{Class{}.String(): true, heavy.String(): true, fallback.String(): true}
	require.Len(t, names, 3)
}
