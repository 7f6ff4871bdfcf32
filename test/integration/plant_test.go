package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// patience bounds every wait. It is only reached when a test fails.
const patience = 60 * time.Second

// leaks are the goroutines that are not ours: the admin endpoint of a
// configuration that failed stays up in Caddy (caddy.md 4.1), and what keeps the
// lock of its storage's cleaning fresh looks only every 5 s whether it is over.
func leaks() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/caddyserver/caddy/v2.replaceLocalAdminServer.func2"),
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"),
	}
}

// plant is an installation: PostgreSQL, Odoo servers, and Caddy in front.
type plant struct {
	*testing.T
	pg       *pgtest.Cluster
	recorder *odoostub.Recorder
	gates    *odoostub.Gates
	odoo     []*odoostub.Server
	pools    map[string]*pgxpool.Pool
	dbs      []string

	// site and admin are the addresses that Caddy listens on.
	site, admin string
	// dsn is what the configuration says; the default is the cluster itself.
	dsn string
	// tree is the channel string, more is put into the jobrunner block, and
	// routes is what the site does.
	tree, more, routes string
	// own is the block of channels database, which takes the place of tree.
	own string
	// snippets stand before the site, for it to import or invoke.
	snippets string
	// patterns are the databases to serve. Default: all of dbs.
	patterns string
	// global stands among the global options.
	global string
	// without leaves the jobrunner block out.
	without bool
}

// newPlant makes an installation of so many databases and Odoo servers.
func newPlant(t *testing.T, gen odoostub.Generation, databases, servers int) *plant {
	t.Helper()
	p := &plant{
		T: t, pg: pgtest.Shared(t), recorder: new(odoostub.Recorder), gates: new(odoostub.Gates),
		pools: make(map[string]*pgxpool.Pool), tree: "root:4",
		site: freeAddress(t), admin: freeAddress(t),
	}
	for range databases {
		name, pool := odoostub.NewDatabase(t, p.pg, gen)
		p.dbs = append(p.dbs, name)
		p.pools[name] = pool
	}
	for i := range servers {
		p.addServer("odoo"+strconv.Itoa(i+1), 4)
	}
	p.dsn = p.pg.DSN("postgres")
	p.routes = "reverse_proxy {{range .odoo}}{{.Addr}} {{end}}"
	return p
}

func (p *plant) addServer(name string, workers int) *odoostub.Server {
	s := odoostub.Start(p.T, odoostub.Options{
		Name: name, Workers: workers, Postgres: p.pg.ConnConfig, Recorder: p.recorder, Gates: p.gates,
	})
	p.odoo = append(p.odoo, s)
	return s
}

// freeAddress returns an address that nobody listens on. Its port is below those
// that systems hand out, or a connection of somebody else could have it before
// Caddy does.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		if l, err := net.Listen("tcp", address); err == nil {
			require.NoError(t, l.Close())
			return address
		}
	}
	require.Fail(t, "no port is free")
	return ""
}

// caddyfile is the configuration as it stands now.
func (p *plant) caddyfile() string {
	tmpl := template.Must(template.New("").Parse(`{
	admin {{.admin}}
	persist_config off
	auto_https off
	grace_period 1s
	{{.global}}
	{{if not .without}}jobrunner {
		postgres {{.dsn}}
		databases {{or .patterns .dbs}}
		channels {{if .own}}database {
			{{.own}}
		}{{else}}{{.tree}}{{end}}
		discover_interval 500ms
		{{.more}}
	}{{end}}
}
` + p.snippets + `
http://{{.site}} {
	` + p.routes + `
}
`))
	var b bytes.Buffer
	require.NoError(p, tmpl.Execute(&b, map[string]any{
		"admin": p.admin, "site": p.site, "dsn": strconv.Quote(p.dsn), "dbs": strings.Join(p.dbs, " "), "patterns": p.patterns, "tree": strconv.Quote(p.tree), "own": p.own,
		"more": p.more, "global": p.global, "odoo": p.odoo, "without": p.without,
	}))
	return b.String()
}

// adapt returns the configuration as JSON.
func (p *plant) adapt() []byte {
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(p.caddyfile()), map[string]any{"filename": "Caddyfile"})
	require.NoError(p, err)
	return out
}

// run loads the configuration into this process, and stops Caddy when the test
// ends.
func (p *plant) run() {
	p.load()
	p.Cleanup(func() { require.NoError(p, caddy.Stop()) })
}

func (p *plant) load() {
	require.NoError(p, caddy.Load(p.adapt(), true))
}

// writeConfig writes the Caddyfile for a Caddy in a process of its own.
func (p *plant) writeConfig() string {
	path := filepath.Join(p.TempDir(), "Caddyfile")
	require.NoError(p, os.WriteFile(path, []byte(p.caddyfile()), 0o600))
	return path
}

// enqueue commits jobs to a database.
func (p *plant) enqueue(db string, jobs ...odoostub.JobSpec) []string {
	ctx, cancel := p.patient()
	defer cancel()
	uuids, err := odoostub.Enqueue(ctx, p.pools[db], jobs)
	require.NoError(p, err)
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

func (p *plant) patient() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.Background(), patience, fmt.Errorf("not within %s", patience))
}

// states counts the jobs of all databases by state.
func (p *plant) states() map[string]int {
	ctx, cancel := p.patient()
	defer cancel()
	all := make(map[string]int)
	for _, db := range p.dbs {
		n, err := odoostub.CountStates(ctx, p.pools[db])
		require.NoError(p, err)
		for state, count := range n {
			all[state] += count
		}
	}
	return all
}

// until waits for a condition on the world outside of this process.
func (p *plant) until(what string, condition func() bool) {
	p.Helper()
	require.Eventually(p, condition, patience, 10*time.Millisecond, what)
}

// untilStates waits until the jobs are in these states and no others.
func (p *plant) untilStates(want map[string]int) {
	p.Helper()
	p.until(fmt.Sprintf("jobs in states %v", want), func() bool {
		got := p.states()
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
func (p *plant) running() (n int) {
	for _, x := range p.recorder.AllExecutions() {
		if x.End.IsZero() {
			n++
		}
	}
	return n
}

// untilRunning waits until so many jobs execute.
func (p *plant) untilRunning(n int) {
	p.Helper()
	ctx, cancel := p.patient()
	defer cancel()
	require.NoError(p, p.recorder.Await(ctx, func() bool { return p.running() == n }), "%d jobs running, want %d", p.running(), n)
}

// exactlyOnce requires that every job was asked for once, that none overlapped
// another run of itself, and that no channel was over its capacity.
func (p *plant) exactlyOnce(capacities map[string]int) {
	p.Helper()
	asked := make(map[string]int)
	for _, r := range p.recorder.AllRequests() {
		if strings.HasSuffix(r.Path, "/runjob") {
			asked[r.DB+"/"+r.UUID]++
		}
	}
	for job, n := range asked {
		require.Equal(p, 1, n, "requests for %s", job)
	}
	p.neverTwice(capacities)
}

// neverTwice requires that no job ran beside itself or was done twice, and that
// the capacities held. A job may have been asked for again after a Caddy died.
func (p *plant) neverTwice(capacities map[string]int) {
	p.Helper()
	require.Empty(p, p.recorder.Overlaps())
	require.Empty(p, p.recorder.Duplicates())
	require.Empty(p, p.recorder.Violations(capacities))
}

// request sends a request to Caddy's admin endpoint.
func (p *plant) request(method, path, body string) (int, string) {
	req, err := http.NewRequestWithContext(p.Context(), method, "http://"+p.admin+path, strings.NewReader(body))
	require.NoError(p, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(p, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(p, err)
	http.DefaultClient.CloseIdleConnections()
	return res.StatusCode, string(b)
}

// newPool connects to a database of a cluster that is the test's own.
func newPool(t *testing.T, c *pgtest.Cluster, db string) *pgxpool.Pool {
	cfg, err := pgxpool.ParseConfig(c.DSN(db))
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}
