package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
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

// TestDocuments: the Caddyfiles of the documents are formatted and adapt, and their JSON is a
// configuration.
func TestDocuments(t *testing.T) {
	registerExec()
	documents, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	seen := map[string]int{}
	for _, document := range append(documents, "../../README.md", "../../SECURITY.md", "../../xcaddy.md") {
		name := strings.TrimSuffix(filepath.Base(document), ".md")
		if name == "drivers" {
			continue // its driver is an example, which test/docs has
		}
		content, err := os.ReadFile(document)
		require.NoError(t, err)
		for _, block := range regexp.MustCompile("(?ms)^ *```(caddyfile|json)\n(.*?)^ *```$").FindAllStringSubmatch(string(content), -1) {
			kind, text := block[1], regexp.MustCompile("(?m)^ +").ReplaceAllString(block[2], "")
			if kind == "json" && !strings.Contains(text, `"apps"`) {
				continue // a part of one; test/docs reads those of the reference
			}
			seen[name+" "+kind]++
			t.Run(fmt.Sprintf("%s-%d", name, seen[name+" "+kind]), func(t *testing.T) {
				checkBlock(t, kind, text)
			})
		}
	}
	for name, least := range map[string]int{
		"README caddyfile": 1, "operations caddyfile": 4, "reference caddyfile": 2, "reference json": 1, "install caddyfile": 2, "migration caddyfile": 1,
	} {
		require.GreaterOrEqual(t, seen[name], least, name)
	}
}

// execHandler takes the place of the handler of events that docs/operations.md names, which is no module of
// this build.
type execHandler struct{}

var registerExec = sync.OnceFunc(func() { caddy.RegisterModule(execHandler{}) })

// CaddyModule implements [caddy.Module].
func (execHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.exec", New: func() caddy.Module { return new(execHandler) }}
}

// UnmarshalCaddyfile takes a command and its arguments.
func (*execHandler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if len(d.RemainingArgs()) == 0 {
			return d.ArgErr()
		}
	}
	return nil
}

// checkBlock checks a block of a document.
func checkBlock(t *testing.T, kind, text string) {
	t.Helper()
	if kind == "caddyfile" {
		require.Equal(t, string(caddyfile.Format([]byte(text))), text)
		_, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		require.NoError(t, err)
		return
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

// TestExample: the example that comes with the project is formatted and adapts.
func TestExample(t *testing.T) {
	content, err := os.ReadFile("../../Caddyfile.example")
	require.NoError(t, err)
	require.Equal(t, string(caddyfile.Format(content)), string(content))
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(content, map[string]any{"filename": "Caddyfile.example"})
	require.NoError(t, err)
	require.Empty(t, warnings)
}
