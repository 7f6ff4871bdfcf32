//go:build fault

package fault

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// grantDB is the database whose jobs come one by one. Where there is another one, nothing is
// granted.
const grantDB = "grant_db"

// grantBed is an installation whose jobs come one by one, so that a grant claims them
// (runner/vacant.go), while something is wrong with their database. Its PostgreSQL logs every
// statement.
type grantBed struct {
	*testing.T
	*testbed.Bed
	fault grantFault
	// dsn is how the nodes reach PostgreSQL.
	dsn   string
	nodes []*testbed.Caddy
	// uuids are the jobs of the stream.
	uuids []string
	// mayFail lets commits of the stream fail.
	mayFail bool
	// notes say more about what happened.
	notes []string
}

func newGrantBed(t *testing.T, f grantFault) *grantBed {
	t.Helper()
	settings := map[string]string{"log_statement": "all"}
	b := &grantBed{T: t, fault: f, Bed: testbed.On(pgtest.Own(t, pgtest.Options{Settings: settings}))}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	b.addDatabase(grantDB)
	_, err := b.AddServer(odoostub.Options{Name: "odoo", Workers: 8})
	require.NoError(t, err)
	b.dsn = b.Postgres.DSN("postgres")
	if f.sql != "" {
		b.exec(f.sql)
	}
	if f.prepare != nil {
		f.prepare(b)
	}
	for range max(f.nodes, 1) {
		b.start()
	}
	return b
}

func (b *grantBed) addDatabase(name string) {
	b.Helper()
	_, err := b.AddDatabase(b.Context(), name, cmp.Or(b.fault.gen, odoostub.QueueJobLock))
	require.NoError(b, err)
}

// config is that of every node, with other channels and more options in its block.
func (b *grantBed) config(channels, databases, more string) testbed.Config {
	return testbed.Config{
		Runners: []testbed.Runner{{
			Postgres: b.dsn, Databases: databases, Channels: channels,
			Options: "discover_interval 500ms\n" + b.fault.options + "\n" + more,
		}},
		Routes: "reverse_proxy " + b.Odoo[0].Addr(),
	}
}

// start starts a node.
func (b *grantBed) start() *testbed.Caddy {
	b.Helper()
	c, err := testbed.Start(b.Context(), testbed.Options{
		Config: b.config(b.fault.channels, grantDB, ""), Dir: b.TempDir(),
		Log: filepath.Join(b.ArtifactDir(), fmt.Sprintf("caddy%d.log", len(b.nodes))),
	})
	require.NoError(b, err)
	b.Cleanup(c.Kill)
	b.nodes = append(b.nodes, c)
	return c
}

// wait lets time pass.
func (b *grantBed) wait(d time.Duration) { testbed.Wait(b, d) }

// exec runs SQL in the database.
func (b *grantBed) exec(sql string, args ...any) {
	b.Helper()
	require.NoError(b, b.try(sql, args...), sql)
}

func (b *grantBed) try(sql string, args ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	_, err := b.Pool(grantDB).Exec(ctx, sql, args...)
	return err
}

// count runs a statement that returns one number. It is -1 while PostgreSQL is away.
func (b *grantBed) count(sql string, args ...any) int {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	n := -1
	if err := b.Pool(grantDB).QueryRow(ctx, sql, args...).Scan(&n); err != nil {
		require.True(b, b.mayFail, "%s: %s", sql, err)
	}
	return n
}

// serves waits until some node serves the database, and reports whether one does.
func (b *grantBed) serves(limit time.Duration) bool {
	return testbed.Within(limit, func() bool {
		for _, n := range b.nodes {
			if states, err := n.Databases(b.Context()); err == nil && states[grantDB] == "ready" {
				return true
			}
		}
		return false
	})
}

// commit commits jobs in one transaction; without any, one that does nothing.
func (b *grantBed) commit(jobs ...odoostub.JobSpec) (uuids []string) {
	b.Helper()
	if len(jobs) == 0 {
		jobs = []odoostub.JobSpec{{}}
	}
	for i := range jobs {
		jobs[i].UUID = cmp.Or(jobs[i].UUID, odoostub.NewUUID())
		uuids = append(uuids, jobs[i].UUID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	if _, err := odoostub.Enqueue(ctx, b.Pool(grantDB), jobs); err != nil {
		require.True(b, b.mayFail, err)
		return nil
	}
	b.uuids = append(b.uuids, uuids...)
	return uuids
}

// ended reports whether jobs have ended.
func (b *grantBed) ended(uuids ...string) bool {
	return b.count(`SELECT count(*) FROM queue_job
		WHERE uuid = ANY($1) AND state IN ('done', 'failed', 'cancelled')`, uuids) >= len(uuids)
}

// stream commits jobs one by one; each is given some time to be done.
func (b *grantBed) stream(n int, jobs ...odoostub.JobSpec) {
	b.Helper()
	const each = 300 * time.Millisecond
	for range n {
		uuids := b.commit(jobs...)
		testbed.Within(each, func() bool { return b.ended(uuids...) })
	}
}

// during streams jobs while something happens.
func (b *grantBed) during(happens func()) {
	b.Helper()
	over := make(chan struct{})
	go func() {
		defer close(over)
		happens()
	}()
	for running := true; running; {
		select {
		case <-over:
			running = false
		default:
			b.stream(1, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 5}})
		}
	}
	b.stream(5)
}

// statements are those of the nodes, as PostgreSQL has logged them.
type statements struct {
	// granted are the claims by a grant, all the others as well.
	granted, all int
	// busiest is the most of any second.
	busiest int
}

func (b *grantBed) statements() (c statements) {
	b.Helper()
	text, err := os.ReadFile(b.Postgres.LogFile())
	require.NoError(b, err)
	seconds := map[string]int{}
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte("o.id <> queue_job.id")) {
			c.granted++
		}
		if bytes.Contains(line, []byte("caddy-jobrunner/")) && bytes.Contains(line, []byte("LOG:  ")) {
			c.all++
			second, _, _ := strings.Cut(string(line), ".")
			seconds[second]++
			c.busiest = max(c.busiest, seconds[second])
		}
	}
	return c
}

// lines is the most that the nodes have logged in any second.
func (b *grantBed) lines() (busiest int) {
	for _, n := range b.nodes {
		seconds := map[string]int{}
		for line := range strings.Lines(n.Output()) {
			if _, at, found := strings.Cut(line, `"ts":`); found {
				second, _, _ := strings.Cut(at, ".")
				seconds[second]++
				busiest = max(busiest, seconds[second])
			}
		}
	}
	return busiest
}

// idle is the share of a processor that the nodes need when nothing is to be done.
func (b *grantBed) idle() (share float64) {
	b.Helper()
	const measured = 2 * time.Second
	used := func() (sum time.Duration) {
		for _, n := range b.nodes {
			if n.Running() {
				d, err := testbed.ProcessorTime(n.PID())
				require.NoError(b, err)
				sum += d
			}
		}
		return sum
	}
	before := used()
	b.wait(measured)
	return float64(used()-before) / float64(measured)
}

func (b *grantBed) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}
