package integration

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// patience bounds every wait. It is only reached when a test fails.
const patience = 60 * time.Second

// none, as tree or patterns, leaves the option out.
const none = "-"

// leaks are the goroutines that are not ours: the admin endpoint of a
// configuration that failed stays up in Caddy, and what keeps the
// lock of its storage's cleaning fresh looks only every 5 s whether it is over.
func leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/caddyserver/caddy/v2.replaceLocalAdminServer.func2"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
	}
}

// testBed is an installation: PostgreSQL, Odoo servers, and the configuration of
// a Caddy before them.
type testBed struct {
	*testing.T
	*testbed.Bed
	// dbs are the databases that a test counts in.
	dbs []string

	// site and admin are the addresses that Caddy listens on.
	site, admin string
	// dsn is what the configuration says; the default is the cluster itself.
	dsn string
	// tree is the channel string, more is put into the jobrunner block, and
	// routes is what the site does.
	tree, more, routes string
	// own is the block of channels database, which takes the place of tree.
	own string
	// snippets stand before the site, for it to import or invoke. As in routes,
	// .Odoo are the servers.
	snippets string
	// runner is the name of the runner. Default: none.
	runner string
	// patterns are the databases to serve. Default: all of dbs.
	patterns string
	// global stands among the global options.
	global string
	// without leaves the jobrunner block out.
	without bool
}

// newTestBed makes an installation of so many databases and Odoo servers.
func newTestBed(t *testing.T, gen odoostub.Generation, databases, servers int) *testBed {
	t.Helper()
	return newTestBedOn(t, pgtest.Shared(t), gen, databases, servers)
}

// newTestBedOn makes one on a cluster of the test's own.
func newTestBedOn(t *testing.T, pg *pgtest.Cluster, gen odoostub.Generation, databases, servers int) *testBed {
	t.Helper()
	tb := &testBed{
		T: t, Bed: testbed.On(pg), tree: "root:4", site: freeAddress(t), admin: freeAddress(t),
		dsn: pg.DSN("postgres"), routes: "reverse_proxy {{range .Odoo}}{{.Addr}} {{end}}",
	}
	t.Cleanup(func() { require.NoError(t, tb.Close()) })
	for range databases {
		tb.addDatabase(gen)
	}
	for i := range servers {
		tb.addServer(odoostub.Options{Name: "odoo" + strconv.Itoa(i+1), Workers: 4})
	}
	return tb
}

// apart lets a test run beside others, on a cluster that no other test has, because two runners of one
// cluster would take the lead from each other. Its Caddys have to be processes: there is one
// configuration in this one.
func apart(t *testing.T) *pgtest.Cluster {
	t.Helper()
	t.Parallel()
	return pgtest.Own(t, pgtest.Options{})
}

func (tb *testBed) addDatabase(gen odoostub.Generation) (name string) {
	tb.Helper()
	name = fmt.Sprintf("%s_db%d", tb.ID, len(tb.dbs)+1)
	_, err := tb.AddDatabase(tb.Context(), name, gen)
	require.NoError(tb, err)
	tb.dbs = append(tb.dbs, name)
	return name
}

func (tb *testBed) addServer(o odoostub.Options) {
	tb.Helper()
	_, err := tb.AddServer(o)
	require.NoError(tb, err)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := testbed.FreeAddress()
	require.NoError(t, err)
	return address
}

// beside returns the same installation as seen from another node.
func (tb *testBed) beside() *testBed {
	other := *tb
	other.site, other.admin = freeAddress(tb.T), freeAddress(tb.T)
	return &other
}

// config is the configuration as it is now.
func (tb *testBed) config() testbed.Config {
	c := testbed.Config{
		Admin: tb.admin, Site: tb.site, Global: tb.global, Snippets: tb.filled(tb.snippets), Routes: tb.filled(tb.routes),
	}
	if tb.without {
		return c
	}
	r := testbed.Runner{
		Name: tb.runner, Postgres: tb.dsn, Databases: cmp.Or(tb.patterns, strings.Join(tb.dbs, " ")), Channels: tb.tree,
		Options: "discover_interval 500ms\n" + tb.more,
	}
	if tb.tree == none {
		r.Channels = ""
	}
	if tb.patterns == none {
		r.Databases = ""
	}
	if tb.own != "" {
		r.Channels = ""
		r.Options += "\nchannels database {\n" + tb.own + "\n}"
	}
	c.Runners = []testbed.Runner{r}
	return c
}

// filled puts the addresses of the servers into a text.
func (tb *testBed) filled(text string) string {
	var b strings.Builder
	require.NoError(tb, template.Must(template.New("").Parse(text)).Execute(&b, tb.Bed))
	return b.String()
}

// adapt returns the configuration as JSON.
func (tb *testBed) adapt() []byte {
	c := tb.config()
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(c.Caddyfile(), map[string]any{"filename": "Caddyfile"})
	require.NoError(tb, err)
	return out
}

// run loads the configuration into this process, and stops Caddy when the test
// ends.
func (tb *testBed) run() {
	tb.load()
	tb.Cleanup(func() { require.NoError(tb, caddy.Stop()) })
}

func (tb *testBed) load() {
	require.NoError(tb, caddy.Load(tb.adapt(), true))
}

// startProcess starts a Caddy with the present configuration in a process of its
// own: this test binary, see TestMain. home is the folder of its storage.
func (tb *testBed) startProcess(home string) *testbed.Caddy {
	tb.Helper()
	c, err := testbed.Start(tb.Context(), testbed.Options{Config: tb.config(), Dir: tb.TempDir(), Home: home})
	require.NoError(tb, err)
	tb.Cleanup(func() {
		c.Kill()
		assert.NotContains(tb, c.Output(), "WARNING: DATA RACE")
		if tb.Failed() {
			tb.Log(c.Tail())
		}
	})
	return c
}

// writeConfig writes the Caddyfile for a command of Caddy's.
func (tb *testBed) writeConfig() string {
	path := filepath.Join(tb.TempDir(), "Caddyfile")
	c := tb.config()
	require.NoError(tb, os.WriteFile(path, c.Caddyfile(), 0o600))
	return path
}

// enqueue commits jobs to a database.
func (tb *testBed) enqueue(db string, jobs ...odoostub.JobSpec) []string {
	ctx, cancel := tb.patient()
	defer cancel()
	uuids, err := odoostub.Enqueue(ctx, tb.Pool(db), jobs)
	require.NoError(tb, err)
	return uuids
}

// repeat returns n jobs of a kind.
func repeat(n int, spec odoostub.JobSpec) []odoostub.JobSpec {
	jobs := make([]odoostub.JobSpec, n)
	for i := range jobs {
		jobs[i] = spec
	}
	return jobs
}

func (tb *testBed) patient() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), patience, fmt.Errorf("not within %s", patience))
}

// states counts the jobs of all databases by state.
func (tb *testBed) states() map[string]int {
	ctx, cancel := tb.patient()
	defer cancel()
	all := make(map[string]int)
	for _, db := range tb.dbs {
		n, err := odoostub.CountStates(ctx, tb.Pool(db))
		require.NoError(tb, err)
		for state, count := range n {
			all[state] += count
		}
	}
	return all
}

// until waits for a condition on the world outside of this process.
func (tb *testBed) until(what string, condition func() bool) {
	tb.Helper()
	require.Eventually(tb, condition, patience, 10*time.Millisecond, what)
}

// untilStates waits until the jobs are in these states and no others.
func (tb *testBed) untilStates(want map[string]int) {
	tb.Helper()
	tb.until(fmt.Sprintf("jobs in states %v", want), func() bool {
		got := tb.states()
		if len(got) != len(want) {
			return false
		}
		for state, n := range want {
			if got[state] != n {
				return false
			}
		}
		return true
	})
}

// running counts the jobs that execute right now.
func (tb *testBed) running() (n int) {
	for _, x := range tb.Recorder.AllExecutions() {
		if x.End.IsZero() {
			n++
		}
	}
	return n
}

// untilRunning waits until so many jobs execute.
func (tb *testBed) untilRunning(n int) {
	tb.Helper()
	ctx, cancel := tb.patient()
	defer cancel()
	require.NoError(tb, tb.Recorder.Await(ctx, func() bool { return tb.running() == n }), "%d jobs running, want %d", tb.running(), n)
}

// exactlyOnce requires that every job was asked for once, that none overlapped
// another run of itself, and that no channel was over its capacity.
func (tb *testBed) exactlyOnce(capacities map[string]int) {
	tb.Helper()
	asked := make(map[string]int)
	for _, r := range tb.Recorder.AllRequests() {
		if strings.HasSuffix(r.Path, "/runjob") {
			asked[r.DB+"/"+r.UUID]++
		}
	}
	for job, n := range asked {
		require.Equal(tb, 1, n, "requests for %s", job)
	}
	tb.neverTwice(capacities)
}

// neverTwice requires that no job ran beside itself or was done twice, and that
// the capacities held. A job may have been asked for again after a Caddy died.
func (tb *testBed) neverTwice(capacities map[string]int) {
	tb.Helper()
	require.Empty(tb, tb.Recorder.Overlaps())
	require.Empty(tb, tb.Recorder.Duplicates())
	require.Empty(tb, tb.Recorder.Violations(capacities))
}

// request sends a request to Caddy's admin endpoint.
func (tb *testBed) request(method, path, body string) (int, string) {
	defer testbed.Client.CloseIdleConnections()
	status, text, err := testbed.Admin(tb.admin).Request(tb.Context(), method, path, "application/json", body)
	require.NoError(tb, err)
	return status, text
}
