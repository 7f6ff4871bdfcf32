//go:build odoo

package odootest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	compareRounds = 3
	compareStarts = 20
)

// What a measurement asks for: go test ... ./test/odoo -compare.jobs 1500 -compare.channels root:8
var (
	compareJobs     = flag.Int("compare.jobs", 500, "how many jobs each runner runs in a round")
	compareChannels = flag.String("compare.channels", "root:4", "the channels of both runners")
)

// figures are what one runner did in one round, or in all of them.
type figures struct {
	jobsPerSecond []float64
	cpu           []float64 // seconds for all jobs of a round
	firstStart    []float64 // milliseconds from commit to the job's first line
}

func (f figures) String() string {
	return fmt.Sprintf("%s jobs/s, %s CPU seconds of the runner for %d jobs, first start after commit %s ms",
		middle(f.jobsPerSecond), middle(f.cpu), *compareJobs, middle(f.firstStart))
}

// middle renders the median and the range.
func middle(list []float64) string {
	slices.Sort(list)
	return fmt.Sprintf("%.4g [%.4g-%.4g]", list[len(list)/2], list[0], list[len(list)-1])
}

// testSideBySide runs the same no-op jobs with this runner and with upstream's
// own, in turn, each with an Odoo of its own that has the same workers. It
// asserts that all jobs run; the figures are for the reader.
func testSideBySide(t *testing.T, s *site) {
	db := s.newDatabase(t, fmt.Sprintf("compare%d", s.series), s.ready)
	var samples [2]string // the rows that are copied come from Odoo itself
	t.Run("Samples", func(t *testing.T) {
		c := startCaddy(t, s.server, caddyOptions{Databases: db.name, Channels: "root:4"})
		samples[0] = enqueue(t, c.url(), db.name, "noop", nil, []any{})[0]
		samples[1] = enqueue(t, c.url(), db.name, "run", nil, []any{"first start"})[0]
		db.waitState(t, "done", samples[:]...)
	})
	s.stop(t)
	defer s.start(t)

	// The same options for both. Without db_name, Odoo 14 looks at each request
	// which databases there are, on a new connection.
	options := map[string]any{"db_name": db.name}
	var ours, theirs figures
	for range compareRounds {
		t.Run("Ours", func(t *testing.T) {
			odoo := s.startServer(t, "ours", serverOptions{options: options})
			c := startCaddy(t, odoo, caddyOptions{Databases: db.name, Channels: *compareChannels})
			c.waitReady(t, db.name)
			db.measure(t, &ours, samples, c.PID())
		})
		t.Run("Upstream", func(t *testing.T) {
			odoo := s.startServer(t, "upstream", serverOptions{ownRunner: *compareChannels, options: options})
			// What an idle runner of upstream's has asked last.
			idle := "pg_stat_activity WHERE datname = current_database() AND usename = '" + odooRole + "' AND query = 'SELECT 1'"
			if !poll(jobsTimeout, func() bool { return db.count(t, idle) == 1 }) {
				require.Fail(t, "upstream's runner does not start", lastLines(odoo.log()))
			}
			db.measure(t, &theirs, samples, db.clientProcess(t, idle))
		})
	}
	t.Logf("SIDE BY SIDE Odoo %d, this runner:       %s", s.series, ours)
	t.Logf("SIDE BY SIDE Odoo %d, upstream's runner: %s", s.series, theirs)
}

// measure takes one round of figures; pid is the runner's process.
func (d *database) measure(t *testing.T, f *figures, samples [2]string, pid int) {
	t.Helper()
	d.round(t, samples[0], 100) // every worker has loaded its registry then
	cpu := cpuSeconds(t, pid)
	took := d.round(t, samples[0], *compareJobs)
	f.cpu = append(f.cpu, cpuSeconds(t, pid)-cpu)
	f.jobsPerSecond = append(f.jobsPerSecond, float64(*compareJobs)/took.Seconds())
	for range compareStarts {
		before := len(d.executions(t, "first start"))
		d.copyJob(t, samples[1], 1)
		committed := time.Now()
		require.True(t, poll(jobsTimeout, func() bool { return len(d.executions(t, "first start")) > before }))
		all := d.executions(t, "first start")
		f.firstStart = append(f.firstStart, all[len(all)-1].Started*1e3-float64(committed.UnixMicro())/1e3)
	}
}

// round commits copies of a job and returns how long it took until all were done.
func (d *database) round(t *testing.T, uuid string, jobs int) time.Duration {
	t.Helper()
	d.copyJob(t, uuid, jobs)
	started := time.Now()
	require.True(t, poll(jobsTimeout, func() bool { return d.count(t, "queue_job WHERE state <> 'done'") == 0 }))
	return time.Since(started)
}

// copyJob inserts copies of a finished job as pending, in one transaction.
func (d *database) copyJob(t *testing.T, uuid string, jobs int) {
	t.Helper()
	set := map[string]string{
		"uuid": "gen_random_uuid()", "state": "'pending'", "date_created": "now() AT TIME ZONE 'UTC'", "retry": "0",
		"date_enqueued": "NULL", "date_started": "NULL", "date_done": "NULL", "worker_pid": "NULL", "exec_time": "NULL", "result": "NULL",
	}
	rows, err := d.pool.Query(t.Context(), "SELECT attname FROM pg_attribute WHERE attrelid = 'queue_job'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> 'id'")
	require.NoError(t, err)
	var columns, values []string
	for rows.Next() {
		var column string
		require.NoError(t, rows.Scan(&column))
		columns = append(columns, column)
		if value, ok := set[column]; ok {
			values = append(values, value)
		} else {
			values = append(values, column)
		}
	}
	require.NoError(t, rows.Err())
	_, err = d.pool.Exec(t.Context(), fmt.Sprintf("INSERT INTO queue_job (%s) SELECT %s FROM queue_job, generate_series(1, $2) WHERE uuid = $1",
		strings.Join(columns, ", "), strings.Join(values, ", ")), uuid, jobs)
	require.NoError(t, err)
}

// cpuSeconds is the processor time that a process has used, with its threads.
func cpuSeconds(t *testing.T, pid int) float64 {
	t.Helper()
	used, err := testbed.ProcessorTime(pid)
	require.NoError(t, err)
	return used.Seconds()
}

// clientProcess is the process of this machine at the other end of the one
// connection that matches: no name tells upstream's runner from the workers.
func (d *database) clientProcess(t *testing.T, where string) int {
	t.Helper()
	var port int
	require.NoError(t, d.pool.QueryRow(t.Context(), "SELECT client_port FROM "+where).Scan(&port))
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 10 || !strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
		require.NoError(t, err)
		for _, descriptor := range descriptors {
			if target, err := os.Readlink(descriptor); err == nil && target == "socket:["+fields[9]+"]" {
				pid, err := strconv.Atoi(strings.Split(descriptor, "/")[2])
				require.NoError(t, err)
				return pid
			}
		}
	}
	require.Fail(t, "nobody has the connection")
	return 0
}
