package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// lookUp is a set of servers that is looked up by a function.
type lookUp func(context.Context) ([]driver.Upstream, error)

func (f lookUp) Upstreams(ctx context.Context) ([]driver.Upstream, error) { return f(ctx) }

// looked is a pool that looks its servers up so. It says what it logs.
func looked(f *lookUp) (*Pool, *observer.ObservedLogs) {
	core, logs := observer.New(zap.WarnLevel)
	well := checker{check: func(context.Context, string) error { return nil }}
	return New(func() Config {
		return Config{Logger: zap.New(core), Driver: well, Targets: *f}
	}, silence{}, func(_ string, f func()) {
		go func() {
			defer func() { _ = recover() }()
			f()
		}()
	}), logs
}

// within returns an error unless a context ends after d.
func within(ctx context.Context, d time.Duration) error {
	if at, ok := ctx.Deadline(); !ok || !at.Equal(time.Now().Add(d)) || ctx.Err() != nil {
		return errors.New("another deadline")
	}
	return nil
}

// Servers are looked up once at a time, within some time, and what is not found changes nothing.
func TestLookUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		answer := make(chan error)
		f := lookUp(func(ctx context.Context) ([]driver.Upstream, error) {
			asked++
			if err := within(ctx, targetsTimeout); err != nil {
				return nil, err
			}
			return named("a", "b"), <-answer
		})
		p, logs := looked(&f)
		p.Refresh(t.Context(), false)
		p.Refresh(t.Context(), false)
		synctest.Wait()
		require.Equal(t, 1, asked)
		answer <- nil
		synctest.Wait()
		require.Len(t, p.Status(), 2)
		require.True(t, p.Usable())

		p.Refresh(t.Context(), false)
		answer <- errors.New("no such host")
		synctest.Wait()
		require.Len(t, p.Status(), 2, "as before")
		require.Equal(t, 1, logs.FilterMessage("cannot find the upstreams").Len())
		f = func(context.Context) ([]driver.Upstream, error) { panic("on purpose") }
		p.Refresh(t.Context(), false)
		synctest.Wait()
		require.Equal(t, 2, logs.Len(), "nor does a panic keep the next look-up from being made")
		f = func(context.Context) ([]driver.Upstream, error) { return named("c"), nil }
		p.Refresh(t.Context(), false)
		synctest.Wait()
		require.Equal(t, "c", p.Status()[0].Name)
	})
}

// What was asked for another configuration, or by a runner that has ended, is not believed.
func TestLookUpOfThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, again := make(chan struct{}), make(chan struct{})
		f := lookUp(func(context.Context) ([]driver.Upstream, error) {
			<-old
			return named("old"), nil
		})
		p, _ := looked(&f)
		p.Refresh(t.Context(), false)
		synctest.Wait()
		f = func(context.Context) ([]driver.Upstream, error) {
			<-again
			return named("new"), nil
		}
		p.Reconfigured()
		p.Refresh(t.Context(), false)
		close(old)
		synctest.Wait()
		require.Empty(t, p.Status())
		close(again)
		synctest.Wait()
		require.Equal(t, "new", p.Status()[0].Name)

		ctx, cancel := context.WithCancel(t.Context())
		f = func(context.Context) ([]driver.Upstream, error) {
			cancel()
			return named("too late"), nil
		}
		p.Refresh(ctx, false)
		synctest.Wait()
		require.Equal(t, "new", p.Status()[0].Name)
	})
}

// What is no target, or unknown, is not checked again. A check has its time.
func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		p := testPool(func(ctx context.Context, name string) error {
			asked = append(asked, name)
			return within(ctx, checkTimeout)
		})
		p.set(named("a", "gone"))
		p.checked("a", nil)
		p.checked("gone", nil)
		p.Adopt(named("gone")[0])
		p.set(named("a"))
		for _, name := range []string{"unknown", "gone", "a"} {
			p.Recheck(t.Context(), name)
		}
		synctest.Wait()
		require.Equal(t, []string{"a"}, asked)
		require.True(t, p.Usable())
	})
}

// A server that is down is checked after pauses that grow to a second, and each is another one.
func TestPausesBetweenChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		p := testPool(func(context.Context, string) error {
			at = append(at, time.Since(began))
			return errors.New("connection refused")
		})
		p.set(named("a"))
		ctx, cancel := context.WithCancel(t.Context())
		p.check(ctx, false)
		<-time.After(time.Minute)
		cancel()
		synctest.Wait()
		require.InDelta(t, checkRetryFirst, at[1]-at[0], float64(checkRetryFirst)/4)
		require.InDelta(t, checkRetryLimit, at[len(at)-1]-at[len(at)-2], float64(checkRetryLimit)/4)
		require.InDelta(t, 60, len(at), 15)
		require.Equal(t, "connection refused", p.Status()[0].Reason)
	})
}

// A server that no longer is a target while it asks to be left alone is forgotten soon.
func TestLeftAloneAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool(func(context.Context, string) error { return nil })
		p.set(named("a"))
		p.checked("a", nil)
		_, _ = p.Pick(Class{}, "", nil)
		p.Release("a", driver.Result{Outcome: driver.Unavailable, RetryAfter: 10 * time.Minute, Err: errors.New("status 503")})
		p.check(t.Context(), false)
		<-time.After(time.Minute)
		st := p.Status()[0]
		require.Equal(t, "status 503, and it has asked to be left alone until "+st.Until.UTC().Format(time.RFC3339), st.Reason)
		p.set(nil)
		<-time.After(checkRetryLimit)
		synctest.Wait()
		require.Empty(t, p.states)
	})
}

// What is shown of a server is what is known of it.
func TestStatusOfAServer(t *testing.T) {
	p := upPool(driver.Upstream{Name: "a", Load: func() int { return 3 }}, driver.Upstream{Name: "b"})
	p.limits = Limits{Workers: 4, Reserve: 1}
	p.Suspect("b", nil)
	p.Drain([]Drain{{Upstream: "a", By: "Ada"}})
	require.Equal(t, []Status{
		{
			Name: "a", Up: true, Limits: p.limits, Visitors: 3, Counted: true, Drain: &Drain{Upstream: "a", By: "Ada"},
			Full: "0 jobs and 3 requests of visitors on 4 workers, of which 1 are reserved to visitors",
		},
		{Name: "b", Reason: "unknown error", Limits: p.limits},
	}, p.Status())
	p.Adopt(named("b")[0])
	p.set(named("a"))
	p.Drain([]Drain{{Upstream: "b"}})
	require.Len(t, p.Status(), 2)
	require.Equal(t, "not among the upstreams any more", p.Status()[1].Reason)
}

// Who is drained, and who is no more, is told once each.
func TestDrainsAreTold(t *testing.T) {
	p := upPool(named("a", "b")...)
	a, b := Drain{Upstream: "a"}, Drain{Upstream: "b"}
	drained, undrained := p.Drain([]Drain{a})
	require.Equal(t, []Drain{a}, drained)
	require.Empty(t, undrained)
	require.True(t, p.Usable())
	drained, undrained = p.Drain([]Drain{a, b})
	require.Equal(t, []Drain{b}, drained)
	require.Empty(t, undrained)
	require.False(t, p.Usable())
	drained, undrained = p.Drain(nil)
	require.Empty(t, drained)
	require.Len(t, undrained, 2)
}

// Why a server has no room is said in words that count.
func TestWhyAServerIsFull(t *testing.T) {
	for _, c := range []struct {
		l              Limits
		jobs, visitors int
		want           string
	}{
		{Limits{MaxJobs: 2}, 1, 9, ""},
		{Limits{MaxJobs: 2}, 2, 0, "2 of at most 2 jobs"},
		{Limits{Workers: 3}, 2, 0, ""},
		{Limits{Workers: 3}, 1, 2, "1 job and 2 requests of visitors on 3 workers"},
		{Limits{Workers: 3, MaxJobs: 3}, 2, 1, "2 jobs and 1 request of visitors on 3 workers"},
		{Limits{Workers: 4, Reserve: 2}, 0, 2, "0 jobs and 2 requests of visitors on 4 workers, of which 2 are reserved to visitors"},
	} {
		require.Equal(t, c.want, c.l.full(c.jobs, c.visitors))
	}
}

// Of servers that are alike in all that counts, the one is picked that is preferred, else they take turns.
func TestPoolPrefers(t *testing.T) {
	p := upPool(named("a", "b", "c")...)
	for _, name := range []string{"b", "c", "a", "c", "b", "a"} {
		up, ok := p.Pick(Class{}, name, nil)
		require.True(t, ok)
		require.Equal(t, name, up.Name)
	}
	up, ok := p.Pick(Class{}, "a", []string{"a", "b"})
	require.True(t, ok)
	require.Equal(t, "c", up.Name)
	up, ok = p.Pick(Class{}, "c", nil)
	require.True(t, ok)
	require.NotEqual(t, "c", up.Name, "it has more to do than the others")
}

// The servers bear what those can that take jobs.
func TestCapacityOfThePool(t *testing.T) {
	p := upPool(named("a", "b", "c", "d")...)
	p.limits = Limits{Workers: 8, Reserve: 2}
	require.Equal(t, 24, p.Capacity())
	p.Drain([]Drain{{Upstream: "b"}})
	p.Suspect("c", errors.New("gone"))
	require.Equal(t, 12, p.Capacity())
	p.limits = Limits{MaxJobs: 3}
	require.Equal(t, 6, p.Capacity())
	p.limits = Limits{Workers: 8, Reserve: 2, MaxJobs: 4}
	require.Equal(t, 8, p.Capacity())
	p.limits = Limits{}
	require.Zero(t, p.Capacity())
}
