// Package caddytest keeps tests that load Caddy configurations apart from the machine they run on.
package caddytest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // sites are made of them
	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
)

// Main runs tests, to be called in TestMain. It keeps what Caddy writes out of the home directory,
// and the machine's variables for PostgreSQL and OpenTelemetry out of the tests.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jobrunner")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	caddy.ConfigAutosavePath = filepath.Join(dir, "autosave.json")
	caddy.DefaultStorage = &certmagic.FileStorage{Path: dir}
	if err := os.Setenv("XDG_DATA_HOME", dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
		}
	}
	return m.Run()
}

// Adapt turns a Caddyfile into JSON.
func Adapt(caddyfile string) ([]byte, error) {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return out, err
}

// Config adapts a Caddyfile and adds the JSON of an app to it.
func Config(t testing.TB, caddyfile, app, value string) *caddy.Config {
	t.Helper()
	raw, err := Adapt(caddyfile)
	require.NoError(t, err)
	var cfg *caddy.Config
	require.NoError(t, caddy.StrictUnmarshalJSON(raw, &cfg))
	if cfg.AppsRaw == nil {
		cfg.AppsRaw = make(caddy.ModuleMap)
	}
	cfg.AppsRaw[app] = []byte(value)
	return cfg
}
