package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

const (
	// patience bounds every wait that is not a measurement.
	patience = 90 * time.Second
	// queryTimeout bounds a statement of the test itself.
	queryTimeout = 20 * time.Second
	// interval is the time between two looks at the world.
	interval = 50 * time.Millisecond
)

// tree are the channels of every plant, and capacities what they promise.
const tree = "root:8,mail:3,slow:2,one:1"

var capacities = map[string]int{"root": 8, "root.mail": 3, "root.slow": 2, "root.one": 1}

var plants atomic.Int64

// plant is an installation: PostgreSQL, Odoo servers, and Caddy nodes in front.
type plant struct {
	*testing.T
	fault fault
	// id begins the names of all that is the plant's own in a shared PostgreSQL.
	id       string
	pg       *pgtest.Cluster
	recorder *odoostub.Recorder
	odoo     []*odoostub.Server
	// fronts stand between Caddy and the Odoo servers, if the fault wants them.
	fronts []*faultproxy.Proxy
	nodes  []*node
	// more is put into the jobrunner blocks of all nodes.
	more string
	load *load
	// clock is the file that moves the clock of the fault's own PostgreSQL.
	clock string
	// dsn, if set, is how the nodes reach PostgreSQL.
	dsn string

	mu    sync.Mutex // guards the following
	dbs   []string
	pools map[string]*pgxpool.Pool

	// since is when the cause of the fault was over, hit what ran then.
	since time.Time
	hit   map[string][]attempt
}

// attempt is one attempt at one job.
type attempt struct {
	uuid     string
	enqueued time.Time
}

// newPlant makes what a fault needs, but starts no node.
func newPlant(t *testing.T, f fault) *plant {
	t.Helper()
	p := &plant{
		T: t, fault: f, id: "f" + strconv.FormatInt(plants.Add(1), 10),
		recorder: new(odoostub.Recorder), pools: make(map[string]*pgxpool.Pool),
	}
	switch {
	case f.clock:
		p.pg = p.ownClock()
	case f.cluster != nil:
		p.pg = pgtest.Own(t, *f.cluster)
	default:
		p.pg = pgtest.Shared(t)
	}
	for i := range max(f.databases, 2) {
		p.createDatabase(p.id + "_db" + strconv.Itoa(i+1))
	}
	for i := range 2 {
		p.addServer("odoo" + strconv.Itoa(i+1))
	}
	p.load = newLoad(p)
	t.Cleanup(p.load.stop)
	return p
}

// fakeTime is the library of the Debian package libfaketime.
const fakeTime = "/usr/lib/*/faketime/libfaketime.so.1"

// ownClock starts a PostgreSQL that takes its time from libfaketime.
func (p *plant) ownClock() *pgtest.Cluster {
	found, err := filepath.Glob(fakeTime)
	require.NoError(p, err)
	require.NotEmpty(p, found, "the Debian package libfaketime is needed")
	f, err := os.CreateTemp("", "jobrunner-clock")
	require.NoError(p, err)
	p.Cleanup(func() { require.NoError(p, os.Remove(f.Name())) })
	p.clock = f.Name()
	_, err = f.WriteString("+0\n")
	require.NoError(p, errors.Join(err, f.Chmod(0o644), f.Close())) // the server may run as another user
	return pgtest.Own(p.T, pgtest.Options{Environment: []string{
		"LD_PRELOAD=" + found[0], "FAKETIME_TIMESTAMP_FILE=" + p.clock, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
	}})
}

// createDatabase makes a database of Odoo with the add-on.
func (p *plant) createDatabase(name string) {
	p.Helper()
	require.NoError(p, p.pg.CreateDatabase(p.Context(), name, ""))
	p.Cleanup(func() {
		if p.pg.Running() {
			require.NoError(p, p.pg.DropDatabase(context.Background(), name))
		}
	})
	pool := p.adoptDatabase(name)
	require.NoError(p, odoostub.Install(p.Context(), pool, cmp.Or(p.fault.gen, odoostub.QueueJobLock)))
}

// adoptDatabase counts a database among those to serve.
func (p *plant) adoptDatabase(name string) *pgxpool.Pool {
	cfg, err := pgxpool.ParseConfig(p.pg.DSN(name))
	require.NoError(p, err)
	cfg.ConnConfig.RuntimeParams["application_name"] = p.id + "-test"
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	require.NoError(p, err)
	p.Cleanup(pool.Close)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pools[name] = pool
	p.dbs = append(p.dbs, name)
	return pool
}

func (p *plant) pool(db string) *pgxpool.Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pools[db]
}

func (p *plant) databases() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.dbs)
}

func (p *plant) addServer(name string) {
	s := odoostub.Start(p.T, odoostub.Options{Name: p.id + "-" + name, Workers: 6, Postgres: p.pg.ConnConfig, Recorder: p.recorder})
	p.odoo = append(p.odoo, s)
	if p.fault.fronted {
		front, err := faultproxy.New(s.Addr())
		require.NoError(p, err)
		p.Cleanup(func() { require.NoError(p, front.Close()) })
		p.fronts = append(p.fronts, front)
	}
}

// upstreams are the addresses that Caddy proxies to.
func (p *plant) upstreams() (addrs []string) {
	for i, s := range p.odoo {
		if p.fault.fronted {
			addrs = append(addrs, p.fronts[i].Addr())
		} else {
			addrs = append(addrs, s.Addr())
		}
	}
	return addrs
}

// runners are the blocks of the nodes' configuration.
func (p *plant) runners() []runner {
	if p.fault.runners != nil {
		return p.fault.runners(p)
	}
	return []runner{{Name: "default", Databases: p.id + "_*", Tree: strconv.Quote(tree)}}
}

// wait lets time pass: a fault that lasts.
func (p *plant) wait(d time.Duration) {
	p.Helper()
	select {
	case <-time.After(d):
	case <-p.Context().Done():
		p.FailNow()
	}
}

// until waits for a condition on the world outside of this process.
func (p *plant) until(what string, condition func() bool) {
	p.Helper()
	if !p.within(patience, condition) {
		p.Fatalf("not within %s: %s", patience, what)
	}
}

// within waits for a condition and reports whether it came true in time.
func (p *plant) within(d time.Duration, condition func() bool) bool {
	deadline := time.Now().Add(d)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

// count runs a statement that returns one number.
func (p *plant) count(db, sql string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	pool := p.pool(db)
	if pool == nil {
		return 0, fmt.Errorf("database %s is not served", db)
	}
	return n, pool.QueryRow(ctx, sql, args...).Scan(&n)
}

// done counts the jobs of a database that are done.
func (p *plant) done(db string) int {
	p.Helper()
	n, err := p.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(p, err)
	return n
}

// total is count over all databases.
func (p *plant) total(sql string, args ...any) (sum int, err error) {
	for _, db := range p.databases() {
		n, err := p.count(db, sql, args...)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// ask runs a statement in the maintenance database that returns one text.
func (p *plant) ask(sql string, args ...any) (text string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, p.pg.ConnConfig("postgres"))
	require.NoError(p, err)
	defer conn.Close(ctx)
	require.NoError(p, conn.QueryRow(ctx, sql, args...).Scan(&text), sql)
	return text
}

// leader returns the node that leads the runner of a plant with one.
func (p *plant) leader() *node {
	p.Helper()
	var found *node
	p.until("some node leads", func() bool {
		name := p.ask(`SELECT coalesce(max(a.application_name), '') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.locktype = 'advisory' AND l.granted AND a.datname = 'postgres' AND a.application_name LIKE $1`, p.id+"-%")
		for _, n := range p.nodes {
			if n.name == name {
				found = n
			}
		}
		return found != nil
	})
	return found
}

// terminate ends sessions of a node as an administrator does, and returns how
// many these were.
func (p *plant) terminate(n *node, condition string) int {
	p.Helper()
	count, err := strconv.Atoi(p.ask(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
		WHERE application_name = $1 AND (`+condition+`)`, n.name))
	require.NoError(p, err)
	return count
}

// connect opens a connection to a database, which is closed when the test ends.
func (p *plant) connect(db string) *pgx.Conn {
	p.Helper()
	conn, err := pgx.ConnectConfig(p.Context(), p.pg.ConnConfig(db))
	require.NoError(p, err)
	p.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may be gone
	return conn
}

// faultAll lets all Odoo servers misbehave.
func (p *plant) faultAll(f odoostub.Fault) {
	for _, s := range p.odoo {
		s.SetFault(f)
	}
}

// states describes the jobs of all databases, for messages.
func (p *plant) states() string {
	var b strings.Builder
	for _, db := range p.databases() {
		n, err := odoostub.CountStates(context.Background(), p.pool(db))
		fmt.Fprintf(&b, "%s: %v %v; ", db, n, err)
	}
	return b.String()
}
