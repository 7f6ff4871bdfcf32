//go:build deploy

package jobrunner

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// runTool runs a program of the machine in a directory.
func runTool(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v:\n%s", args, out)
}

// TestPromtool checks the alert rules with Prometheus' own tool, and lets it play
// through what they are for.
func TestPromtool(t *testing.T) {
	dir := filepath.Join("deploy", "prometheus")
	runTool(t, dir, "promtool", "check", "rules", "--lint=all", "--lint-fatal", "jobrunner.rules.yaml")
	runTool(t, dir, "promtool", "check", "config", "prometheus.yaml")
	runTool(t, dir, "promtool", "test", "rules", "jobrunner.rules.test.yaml")
}

// TestSystemd lets systemd read the drop-in beside a unit like Caddy's own.
func TestSystemd(t *testing.T) {
	dropIn, err := os.ReadFile(filepath.Join("deploy", "systemd", "jobrunner.conf"))
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "caddy.service.d"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "caddy.service.d", "jobrunner.conf"), dropIn, 0o644))
	unit := "[Unit]\nDescription=Caddy\nAfter=network-online.target\n[Service]\nType=notify\nExecStart=/bin/true run\nTimeoutStopSec=5s\nPrivateTmp=true\nProtectSystem=full\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "caddy.service"), []byte(unit), 0o644))
	runTool(t, dir, "systemd-analyze", "verify", "--man=no", filepath.Join(dir, "caddy.service"))
}
