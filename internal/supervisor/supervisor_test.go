package supervisor_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

func notExiting() bool { return false }

// TestNewEngineFailsOnActivation: the engine accepted its configuration when it
// was validated, and does not when it is put into force.
func TestNewEngineFailsOnActivation(t *testing.T) {
	rec := fakerunner.NewRecorder()
	sup := supervisor.New(notExiting)
	first, second := generation(rec, "one"), generation(rec, "another")
	sup.Push(first)
	rec.Set(func(r *fakerunner.Recorder) { r.PanicIn = "new" })
	sup.Push(second)
	sup.Withdraw(first)
	require.Equal(t, []string{"start 1: default"}, rec.Take(), "the old engine goes on")
	rec.Set(func(r *fakerunner.Recorder) { r.PanicIn = "" })
	sup.Withdraw(second)
	rec.Wait(1)
	require.Equal(t, []string{"stop 1 at once"}, rec.Take())
}

func generation(rec *fakerunner.Recorder, identity string) *supervisor.Generation {
	return &supervisor.Generation{
		Logger: zap.NewNop(),
		Runners: map[string]*supervisor.Member{"default": {
			Config:   runner.Config{Name: "default", Logger: zap.NewNop(), ShutdownTimeout: 3 * time.Second},
			New:      rec.New,
			Identity: identity,
		}},
	}
}

// TestGenerations: the oldest living generation is in force, whatever goes first.
func TestGenerations(t *testing.T) {
	rec := fakerunner.NewRecorder()
	sup := supervisor.New(notExiting)
	a, b, c := generation(rec, "x"), generation(rec, "x"), generation(rec, "x")
	sup.Push(a)
	sup.Push(b)
	sup.Push(c)
	require.Equal(t, []string{"start 1: default"}, rec.Take())
	sup.Withdraw(b)
	sup.Withdraw(b)
	require.Empty(t, rec.Take(), "one that never was in force goes unnoticed")
	sup.Withdraw(a)
	require.Equal(t, []string{"reconfigure 1: default"}, rec.Take())
	sup.Withdraw(a)
	require.Empty(t, rec.Take(), "once only")
	sup.Withdraw(c)
	rec.Wait(1)
	require.Equal(t, []string{"stop 1 at once"}, rec.Take())
	sup.Withdraw(generation(rec, "never pushed"))
	require.NoError(t, sup.Destruct())
	require.Empty(t, rec.Take())
}

// TestExit: when the process ends, open requests get the time they were promised
// and not more, all runners together.
func TestExit(t *testing.T) {
	for name, hang := range map[string]bool{"engines stop": false, "engines hang": true} {
		t.Run(name, func(t *testing.T) {
			rec := fakerunner.NewRecorder()
			synctest.Test(t, func(t *testing.T) {
				g := generation(rec, "x")
				g.Runners["second"] = &supervisor.Member{
					Config: runner.Config{Name: "second", Logger: zap.NewNop(), ShutdownTimeout: -1}, New: rec.New,
				}
				if hang {
					rec.Hold = make(chan struct{})
				}
				rec.Stops = make(chan struct{}, 2)
				sup := supervisor.New(func() bool { return true })
				sup.Push(g)
				begin := time.Now()
				sup.Withdraw(g)
				spent := time.Since(begin)
				synctest.Wait()
				require.ElementsMatch(t, []string{"start 1: default", "start 2: second", "stop 1 waiting", "stop 2 at once"}, rec.Take())
				if hang {
					require.Equal(t, 3*time.Second+supervisor.StopGrace, spent)
					close(rec.Hold)
				} else {
					require.Zero(t, spent)
				}
				rec.Wait(2)
			})
		})
	}
}

// TestChanged: what waits for the configuration in force to go hears of it, and of no other.
func TestChanged(t *testing.T) {
	rec := fakerunner.NewRecorder()
	sup := supervisor.New(notExiting)
	a, b := generation(rec, "x"), generation(rec, "x")
	sup.Push(a)
	first := sup.Changed()
	sup.Push(b)
	require.Equal(t, first, sup.Changed(), "b is not in force")
	sup.Withdraw(a)
	<-first
	second := sup.Changed()
	require.NotEqual(t, first, second)
	sup.Withdraw(b)
	<-second
	rec.Wait(1)
}

// TestRunnersDuringAReload: who asks does not wait for a configuration that takes long.
func TestRunnersDuringAReload(t *testing.T) {
	sup, err := supervisor.Acquire()
	require.NoError(t, err)
	defer func() { require.NoError(t, supervisor.Release()) }()
	defer supervisor.Lock(sup)()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Empty(t, supervisor.Runners(ctx), "it returns although the supervisor is busy")
}
