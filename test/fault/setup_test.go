package fault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// patience bounds every wait that is not a measurement.
	patience = 90 * time.Second
	// queryTimeout bounds a statement of the test itself.
	queryTimeout = 20 * time.Second
)

// tree are the channels of every test bed, and capacities what they promise.
const tree = "root:8,mail:3,slow:2,one:1"

var capacities = map[string]int{"root": 8, "root.mail": 3, "root.slow": 2, "root.one": 1}

// testBed is an installation in which a fault happens: PostgreSQL, Odoo servers,
// and Caddy nodes before them.
type testBed struct {
	*testing.T
	*testbed.Bed
	fault fault
	// fronts are proxies between Caddy and the Odoo servers, if the fault wants them.
	fronts []*faultproxy.Proxy
	nodes  []*node
	// more is put into the jobrunner blocks of all nodes.
	more string
	load *load
	// clock is the file that moves the clock of the fault's own PostgreSQL.
	clock string
	// dsn, if set, is how the nodes reach PostgreSQL.
	dsn string

	// since is when the cause of the fault was over, hit what ran then.
	since time.Time
	hit   map[string][]attempt
}

// attempt is one attempt at one job.
type attempt struct {
	uuid     string
	enqueued time.Time
}

// newTestBed makes what a fault needs, but starts no node.
func newTestBed(t *testing.T, f fault) *testBed {
	t.Helper()
	tb := &testBed{T: t, fault: f}
	switch {
	case f.clock:
		tb.Bed = testbed.On(tb.ownClock())
	case f.cluster != nil:
		tb.Bed = testbed.On(pgtest.Own(t, *f.cluster))
	default:
		tb.Bed = testbed.On(pgtest.Shared(t))
	}
	t.Cleanup(func() { require.NoError(t, tb.Close()) })
	for i := range max(f.databases, 2) {
		tb.createDatabase(tb.ID + "_db" + strconv.Itoa(i+1))
	}
	for i := range 2 {
		s, err := tb.AddServer(odoostub.Options{Name: fmt.Sprintf("%s-odoo%d", tb.ID, i+1), Workers: 6})
		require.NoError(t, err)
		if f.fronted {
			front, err := tb.AddProxy(s.Addr())
			require.NoError(t, err)
			tb.fronts = append(tb.fronts, front)
		}
	}
	tb.load = newLoad(tb)
	t.Cleanup(tb.load.stop)
	return tb
}

// fakeTime is the library of the Debian package libfaketime.
const fakeTime = "/usr/lib/*/faketime/libfaketime.so.1"

// ownClock starts a PostgreSQL that takes its time from libfaketime.
func (tb *testBed) ownClock() *pgtest.Cluster {
	found, err := filepath.Glob(fakeTime)
	require.NoError(tb, err)
	require.NotEmpty(tb, found, "the Debian package libfaketime is needed")
	f, err := os.CreateTemp("", "jobrunner-clock")
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, os.Remove(f.Name())) })
	tb.clock = f.Name()
	_, err = f.WriteString("+0\n")
	require.NoError(tb, errors.Join(err, f.Chmod(0o644), f.Close())) // the server may run as another user
	return pgtest.Own(tb.T, pgtest.Options{Environment: []string{
		"LD_PRELOAD=" + found[0], "FAKETIME_TIMESTAMP_FILE=" + tb.clock, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1",
	}})
}

// createDatabase makes a database of Odoo with the add-on.
func (tb *testBed) createDatabase(name string) {
	tb.Helper()
	_, err := tb.AddDatabase(tb.Context(), name, cmp.Or(tb.fault.gen, odoostub.QueueJobLock))
	require.NoError(tb, err)
}

// upstreams are the addresses that Caddy proxies to.
func (tb *testBed) upstreams() (addrs string) {
	for i, s := range tb.Odoo {
		if tb.fault.fronted {
			addrs += " " + tb.fronts[i].Addr()
		} else {
			addrs += " " + s.Addr()
		}
	}
	return addrs
}

// runners are the blocks of the nodes' configuration.
func (tb *testBed) runners() []testbed.Runner {
	if tb.fault.runners != nil {
		return tb.fault.runners(tb)
	}
	return []testbed.Runner{{Databases: tb.ID + "_*", Channels: tree}}
}

// wait lets time pass: a fault that lasts.
func (tb *testBed) wait(d time.Duration) {
	tb.Helper()
	testbed.Wait(tb, d)
}

// until waits for a condition on the world outside of this process.
func (tb *testBed) until(what string, condition func() bool) {
	tb.Helper()
	if !testbed.Within(patience, condition) {
		tb.Fatalf("not within %s: %s", patience, what)
	}
}

// count runs a statement that returns one number.
func (tb *testBed) count(db, sql string, args ...any) (n int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	pool := tb.Pool(db)
	if pool == nil {
		return 0, fmt.Errorf("database %s is not served", db)
	}
	return n, pool.QueryRow(ctx, sql, args...).Scan(&n)
}

// done counts the jobs of a database that are done.
func (tb *testBed) done(db string) int {
	tb.Helper()
	n, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE state = 'done'")
	require.NoError(tb, err)
	return n
}

// total is count over all databases.
func (tb *testBed) total(sql string, args ...any) (sum int, err error) {
	for _, db := range tb.Databases() {
		n, err := tb.count(db, sql, args...)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// ask runs a statement in the maintenance database that returns one text.
func (tb *testBed) ask(sql string, args ...any) (text string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, tb.Postgres.ConnConfig("postgres"))
	require.NoError(tb, err)
	defer conn.Close(ctx)
	require.NoError(tb, conn.QueryRow(ctx, sql, args...).Scan(&text), sql)
	return text
}

// leader returns the node that leads the runner, where there is one.
func (tb *testBed) leader() *node {
	tb.Helper()
	var found *node
	tb.until("some node leads", func() bool {
		name := tb.ask(`SELECT coalesce(max(a.application_name), '') FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND a.datname = 'postgres' AND a.application_name LIKE $1`, tb.ID+"-%")
		for _, n := range tb.nodes {
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
func (tb *testBed) terminate(n *node, condition string) int {
	tb.Helper()
	count, err := strconv.Atoi(tb.ask(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
		WHERE application_name = $1 AND (`+condition+`)`, n.name))
	require.NoError(tb, err)
	return count
}

// connect opens a connection to a database, which is closed when the test ends.
func (tb *testBed) connect(db string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.ConnectConfig(tb.Context(), tb.Postgres.ConnConfig(db))
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = conn.Close(context.Background()) }) // it may be gone
	return conn
}

// faultAll lets all Odoo servers misbehave.
func (tb *testBed) faultAll(f odoostub.Fault) {
	for _, s := range tb.Odoo {
		s.SetFault(f)
	}
}

// states describes the jobs of all databases, for messages.
func (tb *testBed) states() string {
	var b strings.Builder
	for _, db := range tb.Databases() {
		n, err := odoostub.CountStates(context.Background(), tb.Pool(db))
		fmt.Fprintf(&b, "%s: %v %v; ", db, n, err)
	}
	return b.String()
}
