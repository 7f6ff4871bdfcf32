package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// checker is a driver that only checks.
type checker struct {
	driver.Driver
	check func(ctx context.Context, name string) error
}

func (c checker) Check(ctx context.Context, up driver.Upstream) error { return c.check(ctx, up.Name) }

// silence observes nothing.
type silence struct{}

func (silence) Up(string)           {}
func (silence) Down(string, string) {}
func (silence) Listed()             {}

// tested is a pool with what tests need: its own lock around what wants one.
type tested struct{ *Pool }

func testPool(check func(context.Context, string) error) tested {
	cfg := Config{Logger: zap.NewNop(), Driver: checker{check: check}}
	return tested{New(func() Config { return cfg }, silence{}, func(_ string, f func()) { go f() })}
}

func (p tested) set(ups []driver.Upstream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Pool.set(ups)
}

func (p tested) check(ctx context.Context, idle bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Pool.check(ctx, idle)
}

// upPool makes a pool whose upstreams are all up.
func upPool(ups ...driver.Upstream) tested {
	p := testPool(nil)
	p.set(ups)
	for _, up := range ups {
		p.checked(up.Name, nil)
	}
	return p
}

func named(names ...string) (ups []driver.Upstream) {
	for _, name := range names {
		ups = append(ups, driver.Upstream{Name: name})
	}
	return ups
}

func TestPoolPicksTheBest(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	load := func(n int) func() int { return func() int { return n } }
	for name, c := range map[string]struct {
		ups  []driver.Upstream
		busy map[string]int
		want string
	}{
		"the one that the proxy believes healthy": {
			[]driver.Upstream{{Name: "a", Available: no}, {Name: "b", Available: yes}}, map[string]int{"b": 5}, "b",
		},
		"fewest of our own requests": {
			[]driver.Upstream{{Name: "a", Load: load(0)}, {Name: "b", Load: load(9)}}, map[string]int{"a": 1}, "b",
		},
		"least loaded by the proxy": {
			[]driver.Upstream{{Name: "a", Load: load(3)}, {Name: "b", Load: load(2)}}, nil, "b",
		},
		"an unhealthy one before none": {[]driver.Upstream{{Name: "a", Available: no}}, nil, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			p := upPool(c.ups...)
			for name, n := range c.busy {
				p.states[name].inFlight = n
			}
			got, ok := p.Pick(Class{}, "", nil)
			require.True(t, ok)
			require.Equal(t, c.want, got.Name)
			_, ok = p.Pick(Class{}, "", []string{"a", "b"})
			require.False(t, ok)
		})
	}
}

func TestPoolSpreadsEvenly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d", "e"}[:rapid.IntRange(1, 5).Draw(t, "upstreams")]
		p := upPool(named(names...)...)
		jobs := rapid.IntRange(0, 100).Draw(t, "jobs")
		for range jobs {
			_, ok := p.Pick(Class{}, "", nil)
			require.True(t, ok)
		}
		least, most := jobs, 0
		for _, st := range p.Status() {
			least, most = min(least, st.InFlight), max(most, st.InFlight)
		}
		require.LessOrEqual(t, most-least, 1)
	})
}

func TestPoolLearnsFromResults(t *testing.T) {
	for name, c := range map[string]struct {
		result driver.Result
		up     bool
	}{
		"answered":    {driver.Result{Outcome: driver.Answered, Status: 500}, true},
		"broken":      {driver.Result{Outcome: driver.Broken, Err: errors.New("EOF")}, true},
		"not sent":    {driver.Result{Outcome: driver.NotSent, Err: errors.New("connection refused")}, false},
		"unavailable": {driver.Result{Outcome: driver.Unavailable, Status: 503, Err: errors.New("status 503")}, false},
		"bad gateway": {driver.Result{Outcome: driver.Unavailable, Status: 502}, false},
		"redirect":    {driver.Result{Outcome: driver.Refused, Status: 303}, true},
		"login page":  {driver.Result{Outcome: driver.Refused, Status: 200}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := upPool(named("a")...)
			up, _ := p.Pick(Class{}, "", nil)
			p.Release(up.Name, c.result)
			require.Equal(t, c.up, p.Usable())
			st := p.Status()[0]
			require.Zero(t, st.InFlight)
			require.Equal(t, c.up, st.Reason == "")
		})
	}
}

func TestPoolKeepsCountsOverChanges(t *testing.T) {
	p := upPool(named("a", "b")...)
	_, _ = p.Pick(Class{}, "", []string{"b"})
	p.set(named("b"))
	require.Equal(t, []string{"b"}, p.order)
	up, _ := p.Pick(Class{}, "", nil)
	require.Equal(t, "b", up.Name)
	p.set(named("a", "b"))
	require.Equal(t, 1, p.Status()[0].InFlight, "a request goes on")
	require.True(t, p.Status()[0].Up)
	p.set(nil)
	p.Release("a", driver.Result{})
	p.Release("b", driver.Result{})
	require.Empty(t, p.states, "what nobody needs is forgotten")
	p.Release("a", driver.Result{}) // nobody knows it any more
	p.Adopt(driver.Upstream{Name: "c"})
	require.False(t, p.Usable(), "an adopted request does not make a target")
	p.Release("c", driver.Result{})
	require.Empty(t, p.states)
}

func TestPoolChecksUntilUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		p := testPool(func(ctx context.Context, _ string) error {
			at = append(at, time.Since(began))
			if _, ok := ctx.Deadline(); !ok {
				return errors.New("no deadline")
			}
			switch {
			case len(at) < 8:
				return errors.New("connection refused")
			case len(at) == 8:
				return driver.ErrNoAnswer // busy is not down
			}
			return nil
		})
		p.set(named("a"))
		p.check(t.Context(), false)
		p.check(t.Context(), true) // one checker is enough
		<-time.After(time.Minute)
		synctest.Wait()
		require.Len(t, at, 8)
		require.True(t, p.Usable())
		require.Less(t, at[7], 30*time.Second)
		p.check(t.Context(), false)
		synctest.Wait()
		require.Len(t, at, 8, "up is not checked, unless idle")
		p.check(t.Context(), true)
		synctest.Wait()
		require.Len(t, at, 9)
	})
}

func TestPoolCheckEndsWithItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(func(context.Context, string) error { return errors.New("connection refused") })
		p.set(named("a"))
		p.check(t.Context(), false)
		synctest.Wait()
		p.set(nil)
		<-time.After(10 * time.Second)
		synctest.Wait()
		require.Empty(t, p.states)
	})
}
