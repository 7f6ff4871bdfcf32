package integration

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/caddyserver/certmagic"

	_ "github.com/caddy-jobrunner/caddy-jobrunner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func TestMain(m *testing.M) {
	if testbed.IsCaddy() {
		caddycmd.Main()
		return
	}
	os.Exit(run(m))
}

// run keeps what Caddy writes out of the home directory, and the machine's
// settings for PostgreSQL and OpenTelemetry out of the tests.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "jobrunner")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Those that run beside others wait for most of their time. -parallel says otherwise.
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	caddy.ConfigAutosavePath = filepath.Join(dir, "autosave.json")
	caddy.DefaultStorage = &certmagic.FileStorage{Path: dir}
	os.Setenv("XDG_DATA_HOME", dir)
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
		}
	}
	return pgtest.Main(m, leaks()...)
}
