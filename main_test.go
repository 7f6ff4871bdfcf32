package jobrunner

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

// record puts fake engines into the place of the real ones.
func record(t testing.TB) *fakerunner.Recorder {
	t.Helper()
	r := fakerunner.NewRecorder()
	original := newEngine
	newEngine = r.New
	t.Cleanup(func() { newEngine = original })
	return r
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
	require.Zero(t, supervisor.References(), "validating leaves nothing behind")
	require.Empty(t, rec.Take(), "validating starts nothing")
	require.Zero(t, rec.Configs(), "validating makes no engine")
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
	for name, m := range app.(*App).generation.Runners {
		seen[name] = m.Config
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
