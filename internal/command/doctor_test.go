package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestDoctorTranscripts: what the doctor prints of real installations at the widths of terminals and in a
// pipe. TestDoctorTranscript in test/integration has made the installations.
func TestDoctorTranscripts(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "doctor.json"))
	require.NoError(t, err)
	var all []struct {
		Scene    string
		Settings []doctor.Setting
		Findings []doctor.Finding
		Said     string
		Status   int
	}
	require.NoError(t, json.Unmarshal(raw, &all))
	require.NotEmpty(t, all)
	for _, width := range []int{0, 60, 100, 160} {
		var out bytes.Buffer
		for _, x := range all {
			fmt.Fprintf(&out, "# %s\n$ caddy jobrunner doctor\n", x.Scene)
			if x.Said != "" {
				out.WriteString(x.Said)
			} else {
				p := newPrinter(&out)
				p.width = width
				status, err := report(p, x.Settings, x.Findings, false)
				require.NoError(t, err)
				require.Equal(t, x.Status, status)
			}
			fmt.Fprintf(&out, "exit status %d\n\n", x.Status)
		}
		compare(t, fmt.Sprintf("doctor-%d.txt", width), out.String())
	}
}

// TestAskRunning: the Caddy that runs is asked which databases another runner serves, at the address
// that is named or that of the configuration, and none if the configuration has no admin API.
func TestAskRunning(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/jobrunner/databases?runner=b&state=standby" {
			http.Error(w, `{"error": "there is no such runner"}`, http.StatusNotFound)
			return
		}
		_, _ = fmt.Fprint(w, `{"databases": [{"runner": "b", "database": "prod"}]}`)
	}))
	defer srv.Close()
	host := srv.Listener.Addr().String()
	for name, c := range map[string]struct {
		address, admin string
		want           []string
	}{
		"named":              {host, `{}`, []string{"prod"}},
		"of the config":      {"", `{"listen": "` + host + `"}`, []string{"prod"}},
		"named, not its own": {host, `{"disabled": true}`, []string{"prod"}},
		"none":               {"", `{"disabled": true, "listen": "` + host + `"}`, nil},
		"nobody answers":     {"127.0.0.1:1", `{}`, nil},
		"not the config's":   {"127.0.0.1:1", `{"listen": "` + host + `"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := &cobra.Command{Use: "jobrunner"}
			addCommands(cmd)
			require.NoError(t, cmd.PersistentFlags().Set("address", c.address))
			subjects := []doctor.Subject{{Config: runner.Config{Name: "a"}}, {Config: runner.Config{Name: "b"}}}
			fl := caddycmd.Flags{FlagSet: cmd.PersistentFlags()}
			require.NoError(t, askRunning(t.Context(), fl, []byte(`{"admin": `+c.admin+`}`), "caddy.json", subjects))
			require.Empty(t, subjects[0].Standby)
			require.Equal(t, c.want, subjects[1].Standby)
		})
	}
}
