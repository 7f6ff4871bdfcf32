package tracing

import (
	"errors"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
)

// TestTracingIsFoundOut: attempts are traced if requests are, or if the
// environment says where spans go.
func TestTracingIsFoundOut(t *testing.T) {
	for name, tc := range map[string]struct {
		routes string
		env    map[string]string
		want   bool
	}{
		"no request is traced":  {routes: "reverse_proxy a:1"},
		"not for us alone":      {routes: "reverse_proxy a:1", env: map[string]string{"OTEL_SERVICE_NAME": "shop"}},
		"a handler":             {routes: "tracing\nreverse_proxy a:1", want: true},
		"a handler deep inside": {routes: "handle /x {\nroute {\ntracing\n}\n}\nhandle {\nreverse_proxy a:1\n}", want: true},
		"an address":            {routes: "reverse_proxy a:1", env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, want: true},
		"an exporter":           {routes: "reverse_proxy a:1", env: map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, want: true},
		"no exporter":           {routes: "tracing\nreverse_proxy a:1", env: map[string]string{"OTEL_TRACES_EXPORTER": "none"}},
		"switched off":          {routes: "tracing\nreverse_proxy a:1", env: map[string]string{"OTEL_SDK_DISABLED": "true"}},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			got, err := acquire(t, "http://odoo.example.com {\n"+tc.routes+"\n}")
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

// TestUnknownExporter is a mistake of the configuration.
func TestUnknownExporter(t *testing.T) {
	t.Setenv("OTEL_TRACES_EXPORTER", "pigeon")
	_, err := acquire(t, "")
	require.ErrorContains(t, err, "OTEL_TRACES_EXPORTER")
}

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

func init() {
	caddy.RegisterModule(asker{})
}

// asker is an app that acquires the tracer when Caddy provisions it.
type asker struct{ release func() error }

// acquired is what the last asker got.
var acquired *runner.Tracing

func (asker) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "asker", New: func() caddy.Module { return new(asker) }}
}

func (a *asker) Provision(ctx caddy.Context) (err error) {
	acquired, a.release, err = Acquire(ctx)
	return err
}

func (*asker) Start() error     { return nil }
func (*asker) Stop() error      { return nil }
func (a *asker) Cleanup() error { return errors.Join(a.release(), a.release()) }

// acquire reports whether an app gets a tracer beside the sites of a Caddyfile.
func acquire(t *testing.T, sites string) (bool, error) {
	t.Helper()
	err := caddy.Validate(caddytest.Config(t, "{\n\tpersist_config off\n}\n"+sites, "asker", "{}"))
	_, left := tracers.References(tracerKey{})
	require.False(t, left, "nothing is left of it")
	return acquired != nil, err
}
