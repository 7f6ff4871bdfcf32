//go:build odoo

package odootest

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

const (
	// jobsTimeout bounds the wait for jobs. Two cores run Odoo, PostgreSQL and Caddy.
	jobsTimeout = 2 * time.Minute
)

// database is one of Odoo's databases, seen from outside.
type database struct {
	name string
	pool *pgxpool.Pool
}

// newDatabase copies a database for Odoo's role and opens it.
func (b *bed) newDatabase(t *testing.T, name, template string) *database {
	t.Helper()
	b.createDatabase(t, name, template)
	return openDatabase(t, name)
}

func openDatabase(t *testing.T, name string) *database {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), cluster.DSN(name))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return &database{name: name, pool: pool}
}

// job is what the tests look at in a row of queue_job.
type job struct {
	UUID        string
	State       string
	Retry       int
	ExcName     *string
	WorkerPID   *int
	DateStarted *time.Time
	DateDone    *time.Time
	Result      *string
}

// jobs returns the jobs in the order of uuids.
func (d *database) jobs(t *testing.T, uuids ...string) []job {
	t.Helper()
	rows, err := d.pool.Query(t.Context(), `SELECT uuid, state, retry, exc_name, worker_pid, date_started, date_done, result
		FROM queue_job WHERE uuid = ANY($1)`, uuids)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[job])
	require.NoError(t, err)
	require.Len(t, list, len(uuids))
	slices.SortFunc(list, func(a, b job) int { return slices.Index(uuids, a.UUID) - slices.Index(uuids, b.UUID) })
	return list
}

func (d *database) job(t *testing.T, uuid string) job { t.Helper(); return d.jobs(t, uuid)[0] }

// count counts rows.
func (d *database) count(t *testing.T, sql string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, d.pool.QueryRow(t.Context(), "SELECT count(*) FROM "+sql, args...).Scan(&n))
	return n
}

// waitState waits until all jobs have a state.
func (d *database) waitState(t *testing.T, state string, uuids ...string) {
	t.Helper()
	sql := "queue_job WHERE uuid = ANY($1) AND state = $2"
	if !poll(jobsTimeout, func() bool { return d.count(t, sql, uuids, state) == len(uuids) }) {
		states := map[string]int{}
		for _, j := range d.jobs(t, uuids...) {
			states[j.State]++
		}
		require.Fail(t, "the jobs are not "+state, "%v", states)
	}
}

// poll asks until the answer is yes, or the time is over.
func poll(limit time.Duration, holds func() bool) bool {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-tick.C {
		if holds() {
			return true
		}
	}
	return holds()
}

// execution is a row that a job of the test add-on has written.
type execution struct {
	Key             string
	Started, Ended  float64 // seconds since 1970
	WorkerPID       int
	BackendPID      int
	ApplicationName string
}

// executions returns those of a key (LIKE), in order.
func (d *database) executions(t *testing.T, like string) []execution {
	t.Helper()
	rows, err := d.pool.Query(t.Context(), `SELECT key, started, ended, worker_pid, backend_pid, application_name
		FROM jobrunner_test WHERE key LIKE $1 ORDER BY started, id`, like)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[execution])
	require.NoError(t, err)
	return list
}

// overlap returns how many executions ran at the same time at most.
func overlap(list []execution) int {
	most := 0
	for _, a := range list {
		n := 0
		for _, b := range list {
			if b.Started <= a.Started && a.Started < b.Ended {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}
