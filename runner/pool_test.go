package runner

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

func testPool(check func(context.Context, string) error) *pool {
	cfg := Config{Logger: zap.NewNop(), Driver: checker{check: check}}
	return newPool(func() Config { return cfg }, func() {})
}

// upPool makes a pool whose upstreams are all up.
func upPool(ups ...driver.Upstream) *pool {
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
			got, ok := p.pick(nil)
			require.True(t, ok)
			require.Equal(t, c.want, got.Name)
			_, ok = p.pick([]string{"a", "b"})
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
			_, ok := p.pick(nil)
			require.True(t, ok)
		}
		least, most := jobs, 0
		for _, st := range p.status() {
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
		"unavailable": {driver.Result{Outcome: driver.Refused, Status: 503, Err: errors.New("status 503")}, false},
		"bad gateway": {driver.Result{Outcome: driver.Refused, Status: 502}, false},
		"redirect":    {driver.Result{Outcome: driver.Refused, Status: 303}, true},
		"login page":  {driver.Result{Outcome: driver.Refused, Status: 200}, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := upPool(named("a")...)
			up, _ := p.pick(nil)
			p.release(up.Name, c.result)
			require.Equal(t, c.up, p.usable())
			st := p.status()[0]
			require.Zero(t, st.InFlight)
			require.Equal(t, c.up, st.Reason == "")
		})
	}
}

func TestPoolKeepsCountsOverChanges(t *testing.T) {
	p := upPool(named("a", "b")...)
	_, _ = p.pick([]string{"b"})
	p.set(named("b"))
	require.Equal(t, []string{"b"}, p.order)
	up, _ := p.pick(nil)
	require.Equal(t, "b", up.Name)
	p.set(named("a", "b"))
	require.Equal(t, 1, p.status()[0].InFlight, "a request goes on")
	require.True(t, p.status()[0].Up)
	p.set(nil)
	p.release("a", driver.Result{})
	p.release("b", driver.Result{})
	require.Empty(t, p.states, "what nobody needs is forgotten")
	p.release("a", driver.Result{}) // nobody knows it any more
	p.adopt(driver.Upstream{Name: "c"})
	require.False(t, p.usable(), "an adopted request does not make a target")
	p.release("c", driver.Result{})
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
		spawn := func(_ string, f func()) { go f() }
		p.check(t.Context(), false, spawn)
		p.check(t.Context(), true, spawn) // one checker is enough
		<-time.After(time.Minute)
		synctest.Wait()
		require.Len(t, at, 8)
		require.True(t, p.usable())
		require.Less(t, at[7], 30*time.Second)
		p.check(t.Context(), false, spawn)
		synctest.Wait()
		require.Len(t, at, 8, "up is not checked, unless idle")
		p.check(t.Context(), true, spawn)
		synctest.Wait()
		require.Len(t, at, 9)
	})
}

func TestPoolCheckEndsWithItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(func(context.Context, string) error { return errors.New("connection refused") })
		p.set(named("a"))
		p.check(t.Context(), false, func(_ string, f func()) { go f() })
		synctest.Wait()
		p.set(nil)
		<-time.After(10 * time.Second)
		synctest.Wait()
		require.Empty(t, p.states)
	})
}

func TestMailbox(t *testing.T) {
	m := newMailbox()
	n := 0
	require.True(t, m.post(func() { n++ }))
	require.True(t, m.post(func() { n++ }))
	<-m.signal
	for _, f := range m.take() {
		f()
	}
	require.Equal(t, 2, n)
	require.Empty(t, m.take())
	require.True(t, m.post(func() { n++ }))
	m.close()
	m.close()
	require.False(t, m.post(func() { n++ }))
	require.Empty(t, m.take())
	require.Equal(t, 2, n)
	<-m.gone
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, limit: 5 * time.Second}
	for i := range 100 {
		want := 5 * time.Second
		if i < 6 {
			want = 100 * time.Millisecond << i
		}
		got := b.next()
		require.GreaterOrEqual(t, got, want*8/10)
		require.LessOrEqual(t, got, want*12/10)
	}
	b.reset()
	require.LessOrEqual(t, b.next(), 120*time.Millisecond)
}

func pgConfig(user string) *pgx.ConnConfig {
	return &pgx.ConnConfig{Config: pgconn.Config{User: user}}
}

func TestLeaderKey(t *testing.T) {
	base := Config{Name: "default", Postgres: pgConfig("odoo"), Databases: []string{"a", "b"}}
	same := Config{Name: "default", Postgres: pgConfig("odoo"), Databases: []string{"b", "a"}}
	require.Equal(t, leaderKey(base), leaderKey(same))
	require.GreaterOrEqual(t, leaderKey(base), int64(0))
	for _, other := range []Config{
		{Name: "mail", Postgres: base.Postgres, Databases: base.Databases},
		{Name: "default", Postgres: pgConfig("other"), Databases: base.Databases},
		{Name: "default", Postgres: base.Postgres},
	} {
		require.NotEqual(t, leaderKey(base), leaderKey(other))
	}
}

func TestStateNames(t *testing.T) {
	for s := DatabaseConnecting; s <= DatabaseYielding; s++ {
		require.NotEmpty(t, s.String())
	}
	require.Equal(t, "invalid", DatabaseState(99).String())
}
