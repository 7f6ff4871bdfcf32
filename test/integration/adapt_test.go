package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddytest"
	"github.com/stretchr/testify/require"

	jobrunner "github.com/caddy-jobrunner/caddy-jobrunner"
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

// TestReadme: the Caddyfiles of the README are formatted and adapt, and its JSON
// is a configuration.
func TestReadme(t *testing.T) {
	content, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	seen := map[string]int{}
	for _, block := range regexp.MustCompile("(?ms)^ *```(caddyfile|json)\n(.*?)^ *```$").FindAllStringSubmatch(string(content), -1) {
		kind, text := block[1], regexp.MustCompile("(?m)^ +").ReplaceAllString(block[2], "")
		seen[kind]++
		if kind == "caddyfile" {
			require.Equal(t, string(caddyfile.Format([]byte(text))), text)
			_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "README"})
			require.NoError(t, err)
			continue
		}
		var cfg struct {
			Apps struct {
				Jobrunner jobrunner.App `json:"jobrunner"`
			} `json:"apps"`
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(&cfg))
	}
	require.Equal(t, map[string]int{"caddyfile": 5, "json": 1}, seen)
}

// TestExample: the example that comes with the project is formatted and adapts.
func TestExample(t *testing.T) {
	content, err := os.ReadFile("../../Caddyfile.example")
	require.NoError(t, err)
	require.Equal(t, string(caddyfile.Format(content)), string(content))
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(content, map[string]any{"filename": "Caddyfile.example"})
	require.NoError(t, err)
	require.Empty(t, warnings)
}
