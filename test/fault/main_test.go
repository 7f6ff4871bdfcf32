package fault

import (
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// beCaddy, in the environment, makes the test binary a Caddy, so that a fault
// can kill one.
const beCaddy = "JOBRUNNER_TEST_BE_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(beCaddy) != "" {
		go endWithParent()
		caddycmd.Main()
		return
	}
	// Faults wait more than they work, so more of them fit on the machine than it
	// has processors. The command line may say something else.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	// The machine's settings for PostgreSQL are not meant for the tests.
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
	os.Exit(pgtest.Main(m))
}

// endWithParent ends this Caddy when the test binary dies without cleaning up:
// its end closes the pipe that is our standard input.
func endWithParent() {
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(1)
}
