package jobrunner

import (
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

// TestTracingIsFoundOut: attempts are traced if requests are, or if the
// environment says where spans go.
func TestTracingIsFoundOut(t *testing.T) {
	for name, tc := range map[string]struct {
		routes string
		env    map[string]string
		want   bool
	}{
		"nobody wants it":       {routes: "reverse_proxy a:1"},
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
			rec := record(t)
			site := "http://odoo.example.com {\nbind unix/" + filepath.Join(t.TempDir(), "s") + "\n"
			raw, err := adapt(t, "{\n\tadmin off\n\tpersist_config off\n\tjobrunner {\n\t\tpostgres postgres://odoo@127.0.0.1/postgres\n\t}\n}\n"+site+tc.routes+"\n}")
			require.NoError(t, err)
			require.NoError(t, caddy.Load(raw, true))
			require.Equal(t, tc.want, rec.config("default").Tracing != nil)
			require.NoError(t, caddy.Stop())
			_, made := tracers.References(tracerKey{})
			require.False(t, made, "nothing is left of it")
		})
	}
}

// TestUnknownExporter is a mistake of the configuration.
func TestUnknownExporter(t *testing.T) {
	record(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "pigeon")
	err := caddy.Load(config(one("default", dsnA, 1), ""), true)
	require.ErrorContains(t, err, "OTEL_TRACES_EXPORTER")
	_, made := tracers.References(tracerKey{})
	require.False(t, made)
	require.NoError(t, caddy.Stop())
}
