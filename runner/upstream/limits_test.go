package upstream

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

func TestLimitsAreChecked(t *testing.T) {
	for _, ok := range []Limits{{}, {MaxJobs: 3}, {Workers: 8}, {Workers: 8, Reserve: 7}, {Workers: 8, MaxJobs: 6, Reserve: 2}} {
		require.NoError(t, ok.Validate(), "%+v", ok)
	}
	for _, bad := range []Limits{
		{Workers: -1}, {MaxJobs: -1}, {Workers: 2, Reserve: -1}, {Reserve: 1}, {MaxJobs: 1, Reserve: 1}, {Workers: 8, Reserve: 8},
		{Workers: 8, MaxJobs: 9}, {Workers: 8, MaxJobs: 7, Reserve: 2}, {Workers: 8, MaxJobs: math.MaxInt, Reserve: 1},
	} {
		require.Error(t, bad.Validate(), "%+v", bad)
	}
}

// A server has room exactly while its jobs are below max_jobs, and its jobs and visitors below workers
// without reserve, and says why when it has none.
func TestRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string, most int) int { return rapid.IntRange(0, most).Draw(t, name) }
		l := Limits{Workers: n("workers", 10), MaxJobs: n("max_jobs", 10), Reserve: n("reserve", 10)}
		jobs, visitors := n("jobs", 12), n("visitors", 12)
		if l.Validate() != nil {
			return
		}
		admitted := 0
		for ; admitted < 20; admitted++ {
			all := jobs + admitted
			if l.MaxJobs > 0 && all >= l.MaxJobs || l.Workers > 0 && visitors+all >= l.Workers-l.Reserve {
				break
			}
		}
		room := l.room(jobs, visitors)
		require.Equal(t, admitted, min(max(room, 0), 20))
		require.Equal(t, room <= 0, l.full(jobs, visitors) != "")
		if l.Most() > 0 && jobs == 0 && visitors == 0 {
			require.Equal(t, l.Most(), room)
		}
	})
}

func TestPoolRoom(t *testing.T) {
	visitors := map[string]int{}
	load := func(name string) driver.Upstream {
		return driver.Upstream{Name: name, Load: func() int { return visitors[name] }}
	}
	p := upPool(load("a"), load("b"), load("c"), load("d"))
	p.limits = Limits{Workers: 8, MaxJobs: 5, Reserve: 2}
	p.Drain([]Drain{{Upstream: "c"}})
	p.Suspect("d", errors.New("gone"))
	require.Equal(t, Room{Free: 10, Visited: true}, p.Room(""))
	visitors["a"], visitors["b"] = 6, 1
	require.Equal(t, Room{Free: 5, Reserved: 2, Visited: true}, p.Room(""))
	for range 5 {
		up, ok := p.Pick(Class{}, "a", nil)
		require.True(t, ok)
		require.Equal(t, "b", up.Name, "it has room")
	}
	require.Equal(t, Room{Reserved: 2, Jobs: 5, Visited: true}, p.Room(""))
	up, ok := p.Pick(Class{}, "", nil)
	require.True(t, ok, "what has been claimed goes where there are workers left")
	require.Equal(t, "a", up.Name)
	for range 4 {
		_, ok = p.Pick(Class{}, "", nil)
		require.True(t, ok)
	}
	_, ok = p.Pick(Class{}, "", nil)
	require.False(t, ok, "max_jobs is never exceeded")
}

// A server that asks to be left alone is not asked before, but for a limited time.
func TestRetryAfter(t *testing.T) {
	for name, c := range map[string]struct{ asks, waits time.Duration }{
		"not at all":    {0, 0},
		"a minute":      {time.Minute, time.Minute},
		"for ever":      {1000 * time.Hour, retryAfterLimit},
		"half a second": {500 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPool(func(context.Context, string) error { return nil })
				p.set(named("a"))
				p.checked("a", nil)
				began := time.Now()
				_, _ = p.Pick(Class{}, "", nil)
				p.Release("a", driver.Result{Outcome: driver.Unavailable, RetryAfter: c.asks, Err: errors.New("status 503")})
				st := p.Status()[0]
				require.False(t, st.Up)
				require.Equal(t, c.waits > 0, st.Until.Equal(began.Add(c.waits)))
				p.check(t.Context(), false)
				for !p.Usable() {
					<-time.After(10 * time.Millisecond)
				}
				require.InDelta(t, c.waits, time.Since(began), float64(checkRetryLimit))
				require.GreaterOrEqual(t, time.Since(began), c.waits)
				require.Zero(t, p.Status()[0].Until)
				synctest.Wait()
			})
		})
	}
}

// A server that takes no jobs keeps none of the others from being counted.
func TestRoomBehindAServerThatIsDown(t *testing.T) {
	p := upPool(named("a", "b", "c")...)
	p.limits = Limits{MaxJobs: 5}
	p.Suspect("a", errors.New("gone"))
	p.Drain([]Drain{{Upstream: "b"}})
	require.Equal(t, Room{Free: 5}, p.Room(""))
}

func TestMost(t *testing.T) {
	for want, l := range map[int]Limits{
		0: {}, 3: {MaxJobs: 3}, 8: {Workers: 8}, 6: {Workers: 8, Reserve: 2, MaxJobs: 7}, 5: {Workers: 8, Reserve: 2, MaxJobs: 5},
	} {
		require.Equal(t, want, l.Most())
	}
}

// A further answer that says nothing of it does not shorten the time that a server is left alone.
func TestRetryAfterIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(func(context.Context, string) error { return nil })
		p.set(named("a"))
		p.checked("a", nil)
		until := time.Now().Add(time.Minute)
		_, _ = p.Pick(Class{}, "", nil)
		_, _ = p.Pick(Class{}, "", nil)
		p.Release("a", driver.Result{Outcome: driver.Unavailable, RetryAfter: time.Minute, Err: errors.New("status 503")})
		timing.Sleep(t.Context(), time.Second)
		p.Release("a", driver.Result{Outcome: driver.NotSent, Err: errors.New("refused")})
		require.True(t, p.Status()[0].Until.Equal(until))
	})
}
