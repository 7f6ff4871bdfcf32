package fault

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// fault is one row of the suite's table.
type fault struct {
	name string
	// bound is how long the recovery may take.
	bound time.Duration
	// strike brings the fault about, and ends it. Where the clock of the recovery
	// starts earlier than at its end, it calls over.
	strike func(*testBed)

	// prepare changes the test bed before the nodes are started.
	prepare func(*testBed)
	// gen is what the databases speak. Default: with the lock table.
	gen odoostub.Generation
	// databases is the number of databases, nodes that of Caddys.
	// Defaults: 2 and 1.
	databases, nodes int
	// cluster is a PostgreSQL of the fault's own. Default: the shared one.
	cluster *pgtest.Options
	// clock gives that PostgreSQL a clock that can be stepped.
	clock bool
	// proxied puts a fault proxy between each node and PostgreSQL, fronted one
	// between the nodes and each Odoo server.
	proxied, fronted bool
	// runners and capacities replace the one runner and its channels.
	runners    func(*testBed) []testbed.Runner
	capacities map[string]int
	// unserved does not wait for jobs to be run before the fault.
	unserved bool
	// alone lets no other fault happen at the same time, because the machine is busy.
	alone bool
}

// afterwards is how long the users work on after the recovery.
const afterwards = time.Second

// run has a fault happen under load and reports what became of the jobs.
func (f fault) run(t *testing.T) (*testBed, report) {
	tb := newTestBed(t, f)
	tb.begin()
	f.strike(tb)
	if tb.since.IsZero() {
		tb.over()
	}
	r := report{name: f.name, bound: f.bound}
	tb.measure(&r)
	tb.wait(afterwards)
	tb.load.stop()
	testbed.Within(patience, func() bool { return tb.unfinished() == 0 })
	tb.judge(&r)
	return tb, r
}

// begin starts the nodes and the load.
func (tb *testBed) begin() {
	if tb.fault.prepare != nil {
		tb.fault.prepare(tb)
	}
	for range max(tb.fault.nodes, 1) {
		tb.addNode()
	}
	for _, n := range tb.nodes {
		n.start()
	}
	tb.load.start()
	if !tb.fault.unserved {
		tb.untilBusy()
	}
}

// untilBusy waits until jobs have been run in every database and others are
// under way, so that the fault hits some.
func (tb *testBed) untilBusy() {
	tb.until("jobs are run", func() bool {
		for _, db := range tb.Databases() {
			if n, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'"); err != nil || n < 10 {
				return false
			}
		}
		n, err := tb.total("SELECT count(*) FROM queue_job WHERE state = 'started'")
		return err == nil && n >= 2
	})
}

// testFaults runs faults, several at a time, and prints one line each.
func testFaults(t *testing.T, faults []fault) {
	fmt.Fprintf(os.Stdout, "over %s, PostgreSQL %s\n%s\n", *transport, serverVersion(t), header)
	for _, f := range faults {
		t.Run(strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
			if !f.alone {
				t.Parallel()
			}
			tb, r := f.run(t)
			fmt.Fprintln(os.Stdout, r)
			if broken := r.broken(); len(broken) > 0 {
				t.Errorf("%s: %s\n%s", f.name, strings.Join(broken, ", "), tb.details())
			}
		})
	}
}

// serverVersion is that of the shared PostgreSQL.
func serverVersion(t *testing.T) (version string) {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pgtest.Shared(t).ConnConfig("postgres"))
	require.NoError(t, err)
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT current_setting('server_version')").Scan(&version))
	require.NoError(t, conn.Close(t.Context()))
	return version
}

// TestQuickFaults is the part of the suite that `make test` has time for.
func TestQuickFaults(t *testing.T) { testFaults(t, quickFaults) }
