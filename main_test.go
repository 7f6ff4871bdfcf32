package jobrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
)

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

// recorder makes fake engines and writes down what happens to them.
type recorder struct {
	mu      sync.Mutex
	events  []string
	configs map[string]runner.Config // the last one seen, by runner
	started int

	failReconfigure error
	panicIn         string        // the method that panics
	hold            chan struct{} // Stop returns when it is closed
	stops           chan struct{} // gets one element for each Stop that returned
}

// record puts fake engines into the place of the real ones.
func record(t testing.TB) *recorder {
	t.Helper()
	r := &recorder{configs: make(map[string]runner.Config), stops: make(chan struct{}, 1000)}
	original := newEngine
	newEngine = r.new
	t.Cleanup(func() { newEngine = original })
	return r
}

func (r *recorder) new(cfg runner.Config) (engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configs[cfg.Name] = cfg
	if r.panicIn == "new" {
		panic("new")
	}
	return &fakeEngine{rec: r, cfg: cfg}, nil
}

// take returns the events since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *recorder) set(f func(*recorder)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// panics panics if it has been told to in this method.
func (r *recorder) panics(method string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.panicIn == method {
		panic(method)
	}
}

// config returns the last configuration of a runner.
func (r *recorder) config(name string) runner.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.configs[name]
}

// fakeEngine writes down what happens to it.
type fakeEngine struct {
	rec *recorder
	cfg runner.Config
	id  int
}

// describe shows what the tests change of a configuration.
func describe(cfg runner.Config) string {
	s := cfg.Name
	for _, c := range cfg.Channels {
		s += fmt.Sprintf(" %s:%d", c.Name, c.Capacity)
	}
	return s
}

func (e *fakeEngine) Start() {
	e.rec.set(func(r *recorder) {
		r.started++
		e.id = r.started
	})
	e.rec.add("start %d: %s", e.id, describe(e.cfg))
	e.rec.panics("start")
}

func (e *fakeEngine) Reconfigure(cfg runner.Config) error {
	e.rec.panics("reconfigure")
	var err error
	e.rec.set(func(r *recorder) {
		if err = r.failReconfigure; err == nil {
			r.configs[cfg.Name] = cfg
		}
	})
	if err == nil {
		e.rec.add("reconfigure %d: %s", e.id, describe(cfg))
	}
	return err
}

func (e *fakeEngine) Stop(ctx context.Context) error {
	how := "at once"
	if ctx.Err() == nil {
		how = "waiting"
	}
	e.rec.add("stop %d %s", e.id, how)
	if e.rec.hold != nil {
		<-e.rec.hold
	}
	e.rec.stops <- struct{}{}
	e.rec.panics("stop")
	return nil
}

// adapt turns a Caddyfile into JSON.
func adapt(t *testing.T, caddyfile string) ([]byte, error) {
	t.Helper()
	return caddytest.Adapt(caddyfile)
}

// validate adapts, provisions and validates a Caddyfile, and returns what the runners
// would get.
func validate(t *testing.T, caddyfile string) (map[string]runner.Config, error) {
	t.Helper()
	raw, err := adapt(t, caddyfile)
	require.NoError(t, err)
	return validateJSON(t, raw)
}

func validateJSON(t *testing.T, raw []byte) (map[string]runner.Config, error) {
	t.Helper()
	rec := record(t)
	var cfg *caddy.Config
	require.NoError(t, json.Unmarshal(raw, &cfg))
	if cfg.AppsRaw["jobrunner"] != nil {
		cfg.AppsRaw["spy"] = json.RawMessage("{}")
	}
	seen = nil
	err := caddy.Validate(cfg)
	_, left := supervisors.References(supervisorKey{})
	require.False(t, left, "validating leaves nothing behind")
	require.Empty(t, rec.take(), "validating starts nothing")
	require.Empty(t, rec.configs, "validating makes no engine")
	return seen, err
}

func init() {
	caddy.RegisterModule(spy{})
}

// spy is an app that looks at what the jobrunner app has made of its configuration.
type spy struct{}

// seen is what the last spy saw, by runner.
var seen map[string]runner.Config

func (spy) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "spy", New: func() caddy.Module { return new(spy) }}
}

func (*spy) Provision(ctx caddy.Context) error {
	app, err := ctx.App("jobrunner")
	if err != nil {
		return err
	}
	seen = make(map[string]runner.Config)
	for name, m := range app.(*App).generation.runners {
		seen[name] = m.config
	}
	return nil
}

func (*spy) Start() error { return nil }
func (*spy) Stop() error  { return nil }

// upstreamNames returns the names of a runner's upstreams, sorted.
func upstreamNames(t *testing.T, cfg runner.Config) []string {
	t.Helper()
	ups, err := cfg.Targets.Upstreams(t.Context())
	require.NoError(t, err)
	var names []string
	for _, up := range ups {
		names = append(names, up.Name)
	}
	slices.Sort(names)
	return names
}

var errFake = errors.New("fake failure")
