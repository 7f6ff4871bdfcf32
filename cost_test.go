//go:build unix

package jobrunner

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/oneshot"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// stubVariable makes the test binary a stub of Odoo, on the cluster that it names: in another process,
// so that what the stub costs is not counted.
const stubVariable = "JOBRUNNER_TEST_STUB"

func init() {
	dsn := os.Getenv(stubVariable)
	if dsn == "" {
		return
	}
	if err := serveStub(dsn); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveStub writes its address to the standard output and ends with its standard input.
func serveStub(dsn string) error {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	s, err := odoostub.New(odoostub.Options{Workers: costCapacity, Backlog: 256, Postgres: func(database string) *pgx.ConnConfig {
		c := config.Copy()
		c.Database = database
		return c
	}})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, s.Addr()); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startStub starts the stub and returns its address.
func startStub(t *testing.T, pg *pgtest.Cluster) string {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), stubVariable+"="+pg.DSN("postgres")), os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	process, err := child.Start(cmd, syscall.SIGKILL)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		<-process.Done()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(address)
}

// What a job may cost, on average, while many wait: allocations of all goroutines, messages to
// PostgreSQL, each of which is one statement, and how often a thread goes to sleep. The faster the
// jobs, the more of them share a statement and a wake-up, so that the latter two depend on the machine:
// about 0.6 and 5 are usual on two cores. A statement more for each job exceeds the bound.
const (
	costCapacity    = 16
	costAllocations = 60
	costMessages    = 1.0
	costSwitches    = 20
)

// costs are sums over all jobs.
type costs struct{ allocations, bytes, messages, switches float64 }

// measure reads what has been used up to now.
func (c *counter) measure(t *testing.T) costs {
	t.Helper()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return costs{float64(m.Mallocs), float64(m.TotalAlloc), float64(c.messages.Load()), float64(u.Nvcsw)}
}

// counter counts what is written to PostgreSQL.
type counter struct{ messages atomic.Int64 }

type countedConn struct {
	net.Conn
	counter *counter
}

func (c countedConn) Write(p []byte) (int, error) {
	c.counter.messages.Add(1)
	return c.Conn.Write(p)
}

func (c *counter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return countedConn{conn, c}, err
}

// TestCostOfAJob counts, and measures no time: what a job takes of the runner from its row to its end,
// with PostgreSQL and a stub of Odoo in processes of their own. The rest of Caddy does not run.
func TestCostOfAJob(t *testing.T) {
	const warmUp, jobs = 500, 2_000
	pg := pgtest.Own(t, pgtest.Options{})
	db, pool := odoostub.NewDatabase(t, pg, odoostub.QueueJobLock)
	e := oneshot.Endpoint{Network: "tcp", Address: startStub(t, pg)}
	var c counter
	postgres := pg.ConnConfig("postgres")
	postgres.DialFunc = c.dial
	ended := make(chan runner.EventKind, jobs)
	r, err := runner.New(runner.Config{
		Name: "cost", Postgres: postgres, Driver: odoo.New(odoo.Options{}), Databases: []string{db},
		Targets:  fixed{{Name: e.Name(), Scheme: e.Scheme(), Host: e.Address, Transport: oneshot.New(e), Sender: oneshot.NewSender(e)}},
		Channels: []channels.Config{{Name: "root", Capacity: costCapacity}},
		Logger:   zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(io.Discard), zap.InfoLevel)),
		Events: func(ev runner.Event) {
			publish(ev)
			if ev.Kind.Final() {
				ended <- ev.Kind
			}
		},
	})
	require.NoError(t, err)
	r.Start()
	defer func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.NoError(t, r.Stop(ctx))
	}()
	run := func(n int) {
		_, err := pool.Exec(t.Context(), `INSERT INTO queue_job (uuid, state, channel, model_name, method_name, priority, date_created, retry, max_retries)
			SELECT gen_random_uuid(), 'pending', 'root.c' || i % 10, 'res.partner', 'write', 10, now() AT TIME ZONE 'UTC', 0, 5
			FROM generate_series(1, $1) AS i`, n)
		require.NoError(t, err)
		for range n {
			require.Equal(t, runner.EventJobDone, <-ended)
		}
	}
	run(warmUp)
	before := c.measure(t)
	run(jobs)
	after := c.measure(t)
	per := func(before, after float64) float64 { return (after - before) / jobs }
	allocations, messages, switches := per(before.allocations, after.allocations), per(before.messages, after.messages), per(before.switches, after.switches)
	t.Logf("a job: %.1f allocations, %.0f bytes, %.3f messages to PostgreSQL, %.2f voluntary switches",
		allocations, per(before.bytes, after.bytes), messages, switches)
	require.LessOrEqual(t, allocations, float64(costAllocations+costRace), "allocations")
	require.LessOrEqual(t, messages, float64(costBusy*costMessages), "messages to PostgreSQL")
	require.LessOrEqual(t, switches, float64(costBusy*costSwitches), "voluntary switches")
}

// fixed are servers that do not change.
type fixed []driver.Upstream

func (f fixed) Upstreams(context.Context) ([]driver.Upstream, error) { return f, nil }
