package fault

import (
	"flag"
	"os"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// transport is how the nodes reach PostgreSQL: by TCP, or by a Unix socket, as Odoo
// does unless it is told otherwise.
var transport = flag.String("transport", "tcp", "how the nodes reach PostgreSQL: tcp or unix")

func TestMain(m *testing.M) {
	if testbed.IsCaddy() {
		caddycmd.Main()
		return
	}
	// Faults wait more than they work, so more of them fit on the machine than it
	// has processors. The command line may say something else.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	flag.Parse()
	if *transport != "tcp" && *transport != "unix" {
		panic("no such transport: " + *transport)
	}
	// The machine's settings for PostgreSQL are not meant for the tests.
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
	os.Exit(pgtest.Main(m))
}
