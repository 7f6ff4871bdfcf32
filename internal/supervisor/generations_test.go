package supervisor_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// with adds a runner to a generation.
func with(g *supervisor.Generation, name string, rec *fakerunner.Recorder) *supervisor.Generation {
	g.Runners[name] = &supervisor.Member{Config: runner.Config{Name: name, Logger: zap.NewNop()}, New: rec.New}
	return g
}

// What another generation does not have is stopped, what has another connection is made anew, and
// what refuses its new configuration goes on.
func TestAnotherGeneration(t *testing.T) {
	rec := fakerunner.NewRecorder()
	core, logs := observer.New(zap.WarnLevel)
	sup := supervisor.New(notExiting)
	a, b, c := with(generation(rec, "x"), "second", rec), generation(rec, "y"), generation(rec, "y")
	b.Logger, c.Logger = zap.New(core), zap.New(core)
	sup.Push(a)
	require.Equal(t, []string{"start 1: default", "start 2: second"}, rec.Take())
	sup.Push(b)
	sup.Withdraw(a)
	rec.Wait(2)
	require.ElementsMatch(t, []string{"stop 1 at once", "start 3: default", "stop 2 at once"}, rec.Take())
	require.Zero(t, logs.Len())

	rec.Set(func(r *fakerunner.Recorder) { r.FailReconfigure = errors.New("no") })
	sup.Push(c)
	sup.Withdraw(b)
	require.Empty(t, rec.Take())
	require.Equal(t, 1, logs.FilterMessage("the new configuration of a runner could not be put into force").Len())
	sup.Withdraw(c)
	rec.Wait(1)
	require.Equal(t, []string{"stop 3 at once"}, rec.Take())
	require.NoError(t, sup.Destruct())
	require.Empty(t, rec.Take(), "once")
}

// The time that a runner has at the end is that of the configuration in force.
func TestTimeAtTheEnd(t *testing.T) {
	for name, refused := range map[string]bool{"changed": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			rec := fakerunner.NewRecorder()
			synctest.Test(t, func(t *testing.T) {
				core, logs := observer.New(zap.WarnLevel)
				rec.Hold, rec.Stops = make(chan struct{}), make(chan struct{}, 1)
				a, b := generation(rec, "x"), generation(rec, "x")
				b.Logger = zap.New(core)
				b.Runners["default"].Config.ShutdownTimeout = time.Minute
				want := time.Minute
				if refused {
					rec.FailReconfigure, want = errors.New("no"), 3*time.Second
				}
				sup := supervisor.New(func() bool { return true })
				sup.Push(a)
				sup.Push(b)
				sup.Withdraw(a)
				began := time.Now()
				sup.Withdraw(b)
				require.Equal(t, want+supervisor.StopGrace, time.Since(began))
				require.Equal(t, 1, logs.FilterMessage("a runner did not stop in time").Len())
				close(rec.Hold)
				rec.Wait(1)
			})
		})
	}
}

// The last configuration to go takes with it what it has not withdrawn; and a panic in the end of a
// runner is no panic of the process.
func TestWhatIsLeftIsStopped(t *testing.T) {
	rec := fakerunner.NewRecorder()
	sup := supervisor.New(notExiting)
	sup.Push(generation(rec, "x"))
	rec.Set(func(r *fakerunner.Recorder) { r.PanicIn = "stop" })
	require.NoError(t, sup.Destruct())
	rec.Wait(1)
	require.Equal(t, []string{"start 1: default", "stop 1 at once"}, rec.Take())
}

// What is in force is that of the oldest generation, and there is none without a supervisor.
func TestCurrent(t *testing.T) {
	require.Nil(t, supervisor.Current())
	require.Nil(t, supervisor.Active())
	require.Nil(t, supervisor.Runners(t.Context()))
	sup, err := supervisor.Acquire()
	require.NoError(t, err)
	again, err := supervisor.Acquire()
	require.NoError(t, err)
	require.Same(t, sup, again)
	require.Same(t, sup, supervisor.Active())
	require.Equal(t, 2, supervisor.References())
	require.Nil(t, supervisor.Current())
	rec := fakerunner.NewRecorder()
	a, b := generation(rec, "x"), generation(rec, "x")
	sup.Push(a)
	sup.Push(b)
	require.Same(t, a, supervisor.Current())
	require.Empty(t, supervisor.Runners(t.Context()), "it cannot be operated")
	require.NotNil(t, rec.Config("default").Exchanges)
	require.NotNil(t, rec.Config("default").Elected)
	require.Nil(t, rec.Config("default").Handover, "there is no storage")
	sup.Withdraw(a)
	require.Same(t, b, supervisor.Current())
	require.NoError(t, supervisor.Release())
	require.Equal(t, 1, supervisor.References())
	require.Empty(t, rec.Stops)
	require.NoError(t, supervisor.Release())
	rec.Wait(1)
	require.Nil(t, supervisor.Active())
	require.Zero(t, supervisor.References())
}

// A runner that can be operated is found as long as it is at work, and does what is stored before it
// starts anything as the leader.
func TestOperatedRunner(t *testing.T) {
	sup, err := supervisor.Acquire()
	require.NoError(t, err)
	defer func() { require.NoError(t, supervisor.Release()) }()
	store := &certmagic.FileStorage{Path: t.TempDir()}
	engine := &fakerunner.Engine{}
	var cfg runner.Config
	one := func(fails runner.Health) *supervisor.Generation {
		return &supervisor.Generation{Logger: zap.NewNop(), Runners: map[string]*supervisor.Member{"default": {
			Config: runner.Config{Name: "default", Logger: zap.NewNop()}, Storage: store, FailsOn: fails,
			New: func(c runner.Config) (supervisor.Engine, error) { cfg = c; return engine, nil },
		}}}
	}
	a, b := one(0), one(runner.Degraded)
	sup.Push(a)
	r := supervisor.Runners(t.Context())["default"]
	require.NotNil(t, r)
	require.False(t, r.Fails(runner.Degraded))
	require.NotNil(t, cfg.Handover)
	require.NoError(t, store.Store(t.Context(), "jobrunner/default/controls.json", []byte(`{"drains": [{"upstream": "http://a"}]}`)))
	cfg.Elected(t.Context())
	require.Len(t, engine.Controls().Drains, 1)

	sup.Push(b)
	sup.Withdraw(a)
	require.Same(t, r, supervisor.Runners(t.Context())["default"])
	require.True(t, r.Fails(runner.Degraded), "the configuration in force")
	sup.Withdraw(b)
	require.Empty(t, supervisor.Runners(t.Context()))
	cfg.Elected(t.Context()) // it is not at work any more
}
