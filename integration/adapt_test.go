package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddytest"
	"github.com/stretchr/testify/require"
)

// TestAdapt adapts the Caddyfiles of caddyfile_adapt. The format is Caddy's own:
// a Caddyfile, a line of dashes, and the expected JSON or a part of the expected
// error.
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("caddyfile_adapt/*.caddyfiletest")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			input, expected, found := strings.Cut(string(content), "----------\n")
			require.True(t, found, "no line of dashes")
			expected = strings.TrimSpace(expected)
			if strings.HasPrefix(expected, "{") {
				require.Equal(t, string(caddyfile.Format([]byte(input))), input, "the Caddyfile is not formatted")
				caddytest.AssertAdapt(t, input, "caddyfile", expected)
				return
			}
			_, _, err = caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
			require.ErrorContains(t, err, expected)
		})
	}
}

// TestExample: the example that comes with the project is formatted and adapts.
func TestExample(t *testing.T) {
	content, err := os.ReadFile("../Caddyfile.example")
	require.NoError(t, err)
	require.Equal(t, string(caddyfile.Format(content)), string(content))
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(content, map[string]any{"filename": "Caddyfile.example"})
	require.NoError(t, err)
	require.Empty(t, warnings)
}
