package fakerunner

import (
	"context"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Operated is a runner that can be asked and operated.
type Operated interface {
	supervisor.Engine
	supervisor.Operations
	Control(ctx context.Context, c runner.Controls) error
}

// Engine is a runner that says what it was told. Tests embed it, and add what else they ask: the
// methods of Operations panic unless they are replaced.
type Engine struct {
	supervisor.Operations

	// Says is what Status returns, with the controls in force.
	Says runner.Status
	// Stuck lets it not answer.
	Stuck bool

	mu       sync.Mutex // guards the following
	controls runner.Controls
	asked    int
}

var _ Operated = (*Engine)(nil)

// Start implements [supervisor.Engine].
func (*Engine) Start() {}

// Reconfigure implements [supervisor.Engine].
func (*Engine) Reconfigure(runner.Config) error { return nil }

// Stop implements [supervisor.Engine].
func (*Engine) Stop(context.Context) error { return nil }

// Coming says that no job waits for its eta.
func (*Engine) Coming(context.Context, int) ([]channels.Coming, bool, error) { return nil, true, nil }

// Control remembers the controls.
func (e *Engine) Control(_ context.Context, c runner.Controls) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.controls = c
	return nil
}

// Controls returns what Control was told last.
func (e *Engine) Controls() runner.Controls {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.controls
}

// Asked is how often the status was asked for.
func (e *Engine) Asked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

// Status implements [supervisor.Operations].
func (e *Engine) Status(ctx context.Context) (runner.Status, error) {
	if e.Stuck {
		<-ctx.Done()
		return runner.Status{}, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	st := e.Says
	if len(e.controls.Pauses)+len(e.controls.Drains) > 0 {
		st.Controls = e.controls
	}
	return st, nil
}

// Status uses every field that the surfaces read.
func Status(now time.Time) runner.Status {
	return runner.Status{
		Leader: true, LeaderKnown: true, Claiming: 1, Open: 2, Watched: 3,
		Databases: []runner.DatabaseStatus{
			{Name: "prod", State: runner.DatabaseReady, Connected: now.Add(-time.Hour), Heard: now, Synced: now.Add(-time.Minute)},
			{Name: "lost", State: runner.DatabaseUnreachable},
			{Name: "empty", State: runner.DatabaseUndetected},
		},
		Channels: []runner.ChannelStatus{
			{Status: channels.Status{FullName: "root", Configured: true, Capacity: 4, Running: 3}},
			{Status: channels.Status{FullName: "root.one", Configured: true, Capacity: 1, Sequential: true, Failed: 1, Queued: 7}, Oldest: now.Add(-time.Hour)},
			{Status: channels.Status{FullName: "root.free", Stopped: true}},
		},
		Upstreams: []runner.UpstreamStatus{{Name: "http://a:1", Up: true, InFlight: 2}, {Name: "http://b:1", Drain: &runner.Drain{}}},
		Counts:    []channels.Count{{DB: "prod", Channel: "root.one", Pending: 7, Enqueued: 1, Started: 2, Failed: 1}},
		Controls:  runner.Controls{Pauses: []runner.Pause{{Channel: "root.free"}, {Database: "prod"}}},
	}
}

// Run puts an engine to work under the supervisor of the process, as the only runner of a
// configuration, until the test ends.
func Run(t testing.TB, name string, e Operated, log *zap.Logger) *supervisor.Runner {
	t.Helper()
	return RunWith(t, name, e, log, nil)
}

// RunWith is [Run] with a history.
func RunWith(t testing.TB, name string, e Operated, log *zap.Logger, h *history.Options) *supervisor.Runner {
	t.Helper()
	return RunConfig(t, runner.Config{Name: name, Logger: log}, e, h)
}

// RunConfig is [RunWith] of a runner with a configuration of its own.
func RunConfig(t testing.TB, cfg runner.Config, e Operated, h *history.Options) *supervisor.Runner {
	t.Helper()
	sup, err := supervisor.Acquire()
	require.NoError(t, err)
	g := &supervisor.Generation{Logger: cfg.Logger, Runners: map[string]*supervisor.Member{cfg.Name: {
		Config:  cfg,
		New:     func(runner.Config) (supervisor.Engine, error) { return e, nil },
		Storage: new(Memory),
		History: h,
	}}}
	sup.Push(g)
	r := sup.Runners()[cfg.Name]
	remembered := r.History()
	t.Cleanup(func() {
		sup.Withdraw(g)
		if remembered != nil {
			remembered.Wait() // its directory may be one of the test
		}
		require.NoError(t, supervisor.Release())
	})
	return r
}

// Memory is a storage with one document.
type Memory struct {
	certmagic.Storage

	mu  sync.Mutex // guards the following
	doc []byte
}

// Load implements [certmagic.Storage].
func (m *Memory) Load(context.Context, string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doc == nil {
		return nil, fs.ErrNotExist
	}
	return m.doc, nil
}

// Store implements [certmagic.Storage].
func (m *Memory) Store(_ context.Context, _ string, doc []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doc = doc
	return nil
}
