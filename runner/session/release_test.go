package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// releaser is a session in which many jobs wait for others.
type releaser struct {
	faulty

	waiting, listed int
	// takes is how long a job takes that is looked at, and looked are how many were at a time. One with a
	// number in endless takes too long.
	takes   time.Duration
	looked  []int
	endless map[int64]bool
	// rows are those of the jobs that are released.
	rows []driver.Row
}

func (d *releaser) Dependents(context.Context, []string) ([]int64, error) {
	d.listed++
	ids := make([]int64, d.waiting)
	for i := range ids {
		ids[i] = int64(i)
	}
	return ids, d.errs["Dependents"]
}

func (d *releaser) Release(_ context.Context, ids []int64, _ time.Duration, _ []string) ([]driver.Row, error) {
	d.looked = append(d.looked, len(ids))
	<-time.After(time.Duration(len(ids)) * d.takes)
	if slices.ContainsFunc(ids, func(id int64) bool { return d.endless[id] }) {
		return nil, fmt.Errorf("stopped: %w", driver.ErrTooLong)
	}
	return d.rows, d.errs["Release"]
}

func releaserOf(waiting int, errs map[string]error) (*releaser, *Session) {
	f, s := faultyOf(&clerk{}, errs)
	d := &releaser{faulty: *f, waiting: waiting}
	s.conn = d
	return d, s
}

// However often all are to be looked at that wait, they are listed once at a time.
func TestReleaseOfVeryMany(t *testing.T) {
	d, s := releaserOf(1000, nil)
	for range 5 {
		require.NoError(t, s.release(t.Context(), []release{{}}))
	}
	require.Equal(t, 1, d.listed)
	require.Len(t, s.dependents, 1)
	require.NoError(t, s.release(t.Context(), []release{{done: []string{"a"}}}))
	require.Len(t, s.dependents, 2, "those of a worker that died are looked at all the same")
	for len(s.dependents) > 0 {
		require.NoError(t, s.release(t.Context(), nil))
	}
	require.Equal(t, []int{1, 2, 4, 8, 16, 32, 64, 100}, d.looked[:8])
	require.NoError(t, s.release(t.Context(), []release{{}}))
	require.Equal(t, 3, d.listed)
}

// Jobs that take long to look at keep other orders waiting for a moment only.
func TestReleaseOfLongLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, s := releaserOf(200, nil)
		d.takes = time.Second
		require.NoError(t, s.release(t.Context(), []release{{}}))
		for len(s.dependents) > 0 {
			require.NoError(t, s.release(t.Context(), nil))
		}
		require.Len(t, d.looked, 200)

		d, s = releaserOf(8, nil)
		d.takes = releaseShort
		require.NoError(t, s.release(t.Context(), []release{{}}))
		for len(s.dependents) > 0 {
			require.NoError(t, s.release(t.Context(), nil))
		}
		require.Equal(t, []int{1, 2, 1, 2, 1, 1}, d.looked, "as many at a time as take just not too long")
	})
}

// What is released is told, and nothing else.
func TestReleasedIsTold(t *testing.T) {
	d, s := releaserOf(1, map[string]error{})
	out := &clerk{}
	s.out = out
	for range 2 {
		require.NoError(t, s.release(t.Context(), []release{{}}))
		require.Empty(t, out.told)
		d.rows, d.errs["Release"] = rowsOf(channels.Pending, "a"), errors.New("failed")
	}
	delete(d.errs, "Release")
	require.NoError(t, s.release(t.Context(), []release{{}}))
	require.Equal(t, []string{"1 released"}, out.told)
}

// Where nothing waits, nothing is looked at.
func TestReleaseOfNothing(t *testing.T) {
	d, s := releaserOf(0, nil)
	require.NoError(t, s.release(t.Context(), []release{{}}))
	require.Empty(t, s.dependents)
	require.Empty(t, d.looked)
}

// What cannot be released costs no connection, and keeps the others from nothing.
func TestReleaseThatFails(t *testing.T) {
	refused := errors.New("a trigger of the table's raises an exception")
	for method, looked := range map[string][]int{"Dependents": nil, "Release": {1, 2, 4, 3}} {
		core, logs := observer.New(zap.ErrorLevel)
		d, s := releaserOf(10, map[string]error{method: refused})
		s.config = func() Config { return Config{Logger: zap.New(core)} }
		require.NoError(t, s.release(t.Context(), []release{{}}))
		for len(s.dependents) > 0 {
			require.NoError(t, s.release(t.Context(), nil))
		}
		require.Equal(t, looked, d.looked)
		require.Equal(t, 1, logs.Len(), "it is said once for all of an order")
		d.errs[method] = driver.ErrLost
		require.ErrorIs(t, s.release(t.Context(), []release{{}}), driver.ErrLost)
	}
}

// After the orders about jobs, what was ordered is released, and what is still to be looked at.
func TestReleasesFollowOrders(t *testing.T) {
	_, s := releaserOf(10, map[string]error{"Dependents": driver.ErrLost})
	require.ErrorIs(t, s.finish(t.Context(), &orders{releases: []release{{}}}), driver.ErrLost)
	d, s := releaserOf(10, map[string]error{})
	require.NoError(t, s.release(t.Context(), []release{{}}))
	require.NotEmpty(t, s.dependents)
	d.errs["Release"] = driver.ErrLost
	require.ErrorIs(t, s.finish(t.Context(), &orders{}), driver.ErrLost)
}

// Jobs that take too long are told of, and left alone; all others are looked at.
func TestReleaseThatTakesTooLong(t *testing.T) {
	d, s := releaserOf(20, nil)
	core, logs := observer.New(zap.WarnLevel)
	config := s.config
	s.config = func() Config {
		c := config()
		c.Logger = zap.New(core)
		return c
	}
	d.endless = map[int64]bool{5: true, 19: true}
	require.NoError(t, s.release(t.Context(), []release{{}}))
	for len(s.dependents) > 0 {
		require.NoError(t, s.release(t.Context(), nil))
	}
	require.Equal(t, []int{1, 2, 4, 2, 4, 2, 1, 1, 2, 4, 7, 3, 4, 2, 2, 1, 1}, d.looked)
	require.Equal(t, map[int64]bool{5: true, 19: true}, s.tooLong)
	require.Equal(t, 2, logs.FilterMessageSnippet("takes too long").Len())

	d.looked = nil
	require.NoError(t, s.release(t.Context(), []release{{}}))
	for len(s.dependents) > 0 {
		require.NoError(t, s.release(t.Context(), nil))
	}
	require.Equal(t, []int{1, 2, 4, 8, 3}, d.looked, "they are not looked at again")
}

// How many are remembered is bounded: the rest is looked at each time, and not told of.
func TestReleaseRemembersSoMany(t *testing.T) {
	d, s := releaserOf(tooLongLimit+2, nil)
	d.endless = map[int64]bool{}
	for i := range d.waiting {
		d.endless[int64(i)] = true
	}
	require.NoError(t, s.release(t.Context(), []release{{}}))
	for len(s.dependents) > 0 {
		require.NoError(t, s.release(t.Context(), nil))
	}
	require.Len(t, s.tooLong, tooLongLimit)
}
