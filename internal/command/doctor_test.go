package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/doctor"
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
