package supervisor_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// TestHistoryOverReloads: a runner has one history, whatever configurations come and go, also over a change of
// PostgreSQL; one that does not want any has none; and what is known is written when the last one ends.
func TestHistoryOverReloads(t *testing.T) {
	rec := fakerunner.NewRecorder()
	sup := supervisor.New(func() bool { return true })
	dir := t.TempDir()
	remembering := func(identity string) *supervisor.Generation {
		g := generation(rec, identity)
		g.Runners["default"].History = &history.Options{Dir: dir, Logger: zap.NewNop()}
		return g
	}
	end := func() {
		history.Observe(runner.Event{Kind: runner.EventJobDone, Runner: "default", Time: time.Now(), Database: "prod", Channel: "root"})
	}
	replace := func(old, next *supervisor.Generation) *supervisor.Generation {
		sup.Push(next)
		sup.Withdraw(old)
		end()
		return next
	}
	g := remembering("x")
	sup.Push(g)
	end()
	g = replace(g, remembering("x"))
	g = replace(g, remembering("another PostgreSQL"))
	rec.Set(func(r *fakerunner.Recorder) { r.FailReconfigure = errors.New("no") })
	g = replace(g, remembering("another PostgreSQL"))
	rec.Set(func(r *fakerunner.Recorder) { r.FailReconfigure = nil })
	g = replace(g, remembering("another PostgreSQL"))
	sup.Withdraw(g)
	require.FileExists(t, filepath.Join(dir, "default", "history.db"), "an exit waits for it")

	g = generation(rec, "x")
	sup.Push(g)
	end()
	sup.Withdraw(g)
	l := history.Start("default", history.Options{Dir: dir, Logger: zap.NewNop()})
	defer func() { l.Stop(); l.Wait() }()
	r, err := l.Query(t.Context(), history.Query{})
	require.NoError(t, err)
	require.EqualValues(t, 5, r.Total.Attempts())
}

// TestHistoryIsSwitchedOff: a reload ends a history, and the next one begins it again.
func TestHistoryIsSwitchedOff(t *testing.T) {
	sup, err := supervisor.Acquire()
	require.NoError(t, err)
	defer func() { require.NoError(t, supervisor.Release()) }()
	dir := t.TempDir()
	push := func(o *history.Options) *supervisor.Generation {
		e := new(fakerunner.Engine)
		g := &supervisor.Generation{Logger: zap.NewNop(), Runners: map[string]*supervisor.Member{"default": {
			Config: runner.Config{Name: "default", Logger: zap.NewNop()}, New: func(runner.Config) (supervisor.Engine, error) { return e, nil },
			Storage: new(fakerunner.Memory), History: o,
		}}}
		sup.Push(g)
		return g
	}
	on := push(&history.Options{Dir: dir, Logger: zap.NewNop()})
	require.NotNil(t, sup.Runners()["default"].History())
	off := push(nil)
	sup.Withdraw(on)
	require.Nil(t, sup.Runners()["default"].History())
	on = push(&history.Options{Dir: dir, Logger: zap.NewNop()})
	sup.Withdraw(off)
	require.NotNil(t, sup.Runners()["default"].History())
	sup.Withdraw(on)
	_, err = os.Stat(filepath.Join(dir, "default"))
	require.ErrorIs(t, err, os.ErrNotExist, "nothing has ended, so that there is nothing to keep")
}
