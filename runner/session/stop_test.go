package session

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// stopper is a session that can end attempts.
type stopper struct {
	faulty

	calls []string
}

func (d *stopper) Stop(_ context.Context, attempts []driver.Task, terminate bool) ([]driver.Stopped, error) {
	d.calls = append(d.calls, fmt.Sprintf("%d attempts, terminate=%t", len(attempts), terminate))
	return nil, d.errs["Stop"]
}

func (d *stopper) Account(_ context.Context, causes []driver.Cause) ([]driver.Row, error) {
	d.calls = append(d.calls, fmt.Sprintf("%d causes", len(causes)))
	return nil, d.errs["Account"]
}

func (d *stopper) FailStopped(_ context.Context, dead []driver.Liveness, why []string) ([]driver.Row, error) {
	d.calls = append(d.calls, fmt.Sprintf("%d dead because %q", len(dead), why))
	return nil, d.errs["FailStopped"]
}

func stopperOf(errs map[string]error) (*stopper, *clerk, *Session) {
	out := &clerk{}
	d := &stopper{}
	f, s := faultyOf(out, errs)
	d.faulty = *f
	s.conn = d
	s.heard, s.probed, s.resyncAt = time.Now(), time.Now(), time.Now().Add(time.Hour)
	return d, out, s
}

func attempt(uuid string) driver.Task { return driver.Task{Key: channels.Key{UUID: uuid}} }

// An attempt is ended once for all orders, and cancels go before terminations.
func TestStop(t *testing.T) {
	d, out, s := stopperOf(nil)
	require.True(t, s.Stop(attempt("a"), true))
	require.True(t, s.Stop(attempt("a"), false))
	require.False(t, s.Stop(attempt("a"), false))
	require.True(t, s.Stop(attempt("b"), false))
	s.Account(driver.Cause{}, driver.Cause{})
	s.FailStopped(driver.Liveness{}, "why")
	o := s.take()
	require.NoError(t, s.execute(t.Context(), &o))
	require.Equal(t, []string{"2 attempts, terminate=false", "1 attempts, terminate=true", `1 dead because ["why"]`, "2 causes"}, d.calls)
	require.Equal(t, []string{"stopped", "stopped", "rescued", "accounted"}, out.told)
	require.True(t, s.todo.empty())
}

// Where very many are to be ended, what has become of the first is told before the others.
func TestStopOfVeryMany(t *testing.T) {
	d, out, s := stopperOf(nil)
	for i := range 120 {
		s.Stop(attempt(fmt.Sprint(i)), false)
	}
	o := s.take()
	require.NoError(t, s.execute(t.Context(), &o))
	require.Equal(t, []string{"50 attempts, terminate=false", "50 attempts, terminate=false", "20 attempts, terminate=false"}, d.calls)
	require.Equal(t, []string{"stopped", "stopped", "stopped"}, out.told)
}

// No kind of order makes up for another one.
func TestStopOfOneEach(t *testing.T) {
	cancel, terminate := []driver.Task{{}}, []driver.Task{{}}
	causes, dead := []driver.Cause{{}}, condemned[driver.Liveness]{make([]driver.Liveness, 1), []string{"why"}}
	for _, order := range []orders{
		{cancels: cancel, terminates: terminate}, {cancels: cancel, causes: causes}, {terminates: terminate, failStopped: dead},
		{causes: causes, failStopped: dead},
	} {
		d, _, s := stopperOf(nil)
		require.NoError(t, s.execute(t.Context(), &order))
		require.Len(t, d.calls, 2)
	}
}

// What cannot be carried out is told, and ends the connection only if that is lost.
func TestStopThatFails(t *testing.T) {
	for method, order := range map[string]orders{
		"Stop": {cancels: []driver.Task{{}}}, "Account": {causes: []driver.Cause{{}}},
	} {
		for _, lost := range []error{driver.ErrLost, context.DeadlineExceeded} {
			_, out, s := stopperOf(map[string]error{method: fmt.Errorf("failed: %w", lost)})
			require.ErrorIs(t, s.execute(t.Context(), &order), lost)
			require.Empty(t, out.told)
		}
		_, out, s := stopperOf(map[string]error{method: errors.New("failed")})
		require.NoError(t, s.execute(t.Context(), &order))
		require.Len(t, out.told, 1)
	}
	_, out, s := stopperOf(map[string]error{"FailStopped": errors.New("failed")})
	s.FailStopped(driver.Liveness{}, "why")
	o := s.take()
	require.Error(t, s.execute(t.Context(), &o), "as any other change")
	require.Empty(t, out.told)
	_, s = faultyOf(&clerk{}, nil)
	require.NoError(t, s.execute(t.Context(), &orders{cancels: []driver.Task{{}}}), "a driver that cannot")
}
