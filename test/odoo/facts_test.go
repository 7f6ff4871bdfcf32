//go:build odoo

package odootest

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// testAnswers records with which HTTP status Odoo answers runjob. It asks itself:
// no runner runs.
func testAnswers(t *testing.T, s *site) {
	for _, kind := range []string{"user", "validation", "access", "access_denied", "missing", "redirect", "failed", "value"} {
		uuids := enqueue(t, s.url(""), s.db.name, "fail", nil, []any{"answer " + kind, kind})
		_, err := s.db.pool.Exec(t.Context(), `UPDATE queue_job SET state = 'enqueued',
			date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC') WHERE uuid = $1`, uuids[0])
		require.NoError(t, err)
		status, body := s.ask(t, s.db.name, uuids[0], nil)
		j := s.db.job(t, uuids[0])
		t.Logf("FACT odoo %d: job raises %s: %d, %d bytes, row %s, exc_name %s", s.series, kind, status, len(body), j.State, *j.ExcName)
		require.Equal(t, "failed", j.State)
		require.GreaterOrEqual(t, status, 400)
	}
	status, body := s.ask(t, s.db.name, "00000000-0000-0000-0000-000000000000", nil)
	t.Logf("FACT odoo %d: unknown uuid: %d %q", s.series, status, body)
	require.Equal(t, http.StatusOK, status)
	require.Empty(t, body)
	status, body = s.ask(t, "nosuchdatabase", "00000000-0000-0000-0000-000000000000", nil)
	t.Logf("FACT odoo %d: unknown database: %d %.200q", s.series, status, body)
	status, body = s.runjob(t, url.Values{"db": {s.db.name}}, http.Header{"X-Odoo-Database": {s.db.name}})
	t.Logf("FACT odoo %d: no uuid: %d %.200q", s.series, status, body)
	status, body = s.runjob(t, url.Values{"db": {s.db.name}, "job_uuid": {"x"}}, nil)
	t.Logf("FACT odoo %d: no X-Odoo-Database: %d %.200q", s.series, status, body)
	status, body = s.runjob(t, url.Values{"job_uuid": {"x"}}, http.Header{"X-Odoo-Database": {s.db.name}})
	t.Logf("FACT odoo %d: only X-Odoo-Database: %d %.200q", s.series, status, body)
}

// ask sends what our driver sends.
func (s *server) ask(t *testing.T, db, uuid string, header http.Header) (status int, body string) {
	t.Helper()
	all := http.Header{"X-Odoo-Database": {db}}
	maps.Copy(all, header)
	return s.runjob(t, url.Values{"db": {db}, "job_uuid": {uuid}}, all)
}

// testCommit shows what becomes of a job that commits.
func testCommit(t *testing.T, s *site) {
	c := s.caddy(t, "root:2")
	uuids := enqueue(t, c.url(), s.db.name, "commit", nil, []any{"commits"})
	if s.series < 16 {
		s.db.waitState(t, "done", uuids...)
		return
	}
	s.db.waitState(t, "failed", uuids...)
	require.Equal(t, "RuntimeError", *s.db.job(t, uuids[0]).ExcName)
}

// testEvidence looks at a running job from outside: whether the row's worker_pid
// leads to the backend that runs it.
func testEvidence(t *testing.T, s *site) {
	c := s.caddy(t, "root:2")
	uuids := enqueue(t, c.url(), s.db.name, "run_query", nil, []any{"evidence", 3})
	s.db.waitState(t, "started", uuids...)
	j := s.db.job(t, uuids[0])
	require.NotNil(t, j.WorkerPID)
	rows, err := s.db.pool.Query(t.Context(), `SELECT pid::int, application_name, state, left(query, 60) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	require.NoError(t, err)
	var running string
	for rows.Next() {
		var pid int
		var application, state, query string
		require.NoError(t, rows.Scan(&pid, &application, &state, &query))
		t.Logf("FACT odoo %d: backend %d %q %s %.60q", s.series, pid, application, state, query)
		if strings.Contains(query, "pg_sleep") {
			running = application
		}
	}
	require.NoError(t, rows.Err())
	t.Logf("FACT odoo %d: worker_pid %d, application_name of the backend %q", s.series, *j.WorkerPID, running)
	if s.locks(t) {
		held := s.db.count(t, `queue_job_lock l JOIN pg_locks h ON h.locktype = 'transactionid' AND h.granted
			AND h.mode = 'ExclusiveLock' AND h.transactionid = l.xmax JOIN queue_job j ON j.id = l.queue_job_id WHERE j.uuid = $1`, uuids[0])
		require.Equal(t, 1, held, "the lock row's holder can be seen")
	}
	s.db.waitState(t, "done", uuids...)
	e := s.db.executions(t, "evidence")[0]
	t.Logf("FACT odoo %d: the job ran in process %d on backend %d %q", s.series, e.WorkerPID, e.BackendPID, e.ApplicationName)
	require.Equal(t, *j.WorkerPID, e.WorkerPID)
}
