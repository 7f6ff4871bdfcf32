//go:build odoo

package odootest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
)

const (
	// hangs is how long a job hangs if nothing ends it, graceful how long it is only cancelled, each
	// second anew.
	hangs, graceful = 15, 4 * time.Second
	// why is what the row says.
	why = "The time limit of 1 s has passed, so the runner stopped this job."
)

// hang is a kind of job that does not come to an end.
type hang struct {
	name, method string
	// arguments come after key and seconds.
	arguments []any
	// busy is the state of the backend when it hangs.
	busy string
	// want is what the newest add-on makes of it.
	want ending
}

// ending is what became of a job.
type ending struct {
	cancelled, terminated driver.StopResult
	// byCancel is set if a cancellation ended it.
	byCancel       bool
	state, excName string
}

// testHanging stops jobs that hang, each in its own way, and writes down what becomes of them: the
// table of docs/policies-odoo.md.
func testHanging(t *testing.T, s *site) {
	b := &stopping{site: s, t: t}
	b.open()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	var commits bool
	call(t, s.url(""), s.db.name, "jobrunner.test", "allow_commit", &commits, []int{}, "hang_and_commit")
	require.Equal(t, s.series == 19, commits)

	for _, h := range hangsOf(silent.Addr().String()) {
		got := b.stopOne(h)
		if s.locks(t) {
			assert.Equal(t, h.want, got, h.name)
		} else if h.method != "kill" {
			cannot := driver.Unstoppable
			assert.Equal(t, ending{cannot, cannot, false, "done", ""}, got, h.name)
		}
	}
	_, err = s.db.pool.Exec(t.Context(), "DELETE FROM queue_job WHERE state = 'started'") // it would keep a slot from other tests
	require.NoError(t, err)
}

// hangsOf are the ways to hang, with what the newest add-on makes of each.
func hangsOf(silent string) []hang {
	// What ends the connection shows in the traceback; the savepoint around the job then fails, too, and
	// that is the exception that counts.
	const canceled, shutdown = "psycopg2.errors.QueryCanceled", "psycopg2.InterfaceError"
	signalled, not, cannot := driver.Signalled, driver.NotRunning, driver.Unstoppable
	return []hang{
		{"a long query", "run_query", nil, "active", ending{signalled, not, true, "failed", canceled}},
		{"a query in a savepoint", "hang_in_savepoint", nil, "active", ending{signalled, not, true, "failed", canceled}},
		{"queries whose errors it handles", "hang_on", nil, "active", ending{signalled, signalled, false, "failed", shutdown}},
		{"a loop in Python", "hang_in_python", nil, "idle in transaction", ending{signalled, signalled, false, "failed", shutdown}},
		{"an HTTP call", "hang_in_http", []any{"http://" + silent}, "idle in transaction",
			ending{signalled, signalled, false, "failed", shutdown}},
		{"time.sleep", "run", nil, "idle in transaction", ending{signalled, signalled, false, "failed", shutdown}},
		{"a query of a job that may commit", "hang_and_commit", nil, "active", ending{cannot, cannot, false, "done", ""}},
		{"nothing: its worker has died", "kill", nil, "", ending{not, not, false, "started", ""}},
	}
}

// stopping stops jobs by the driver's own session, without a runner.
type stopping struct {
	*site
	t       *testing.T
	d       *odoo.Driver
	session driver.Session
	stopper driver.Stopper
	up      driver.Upstream
}

func (b *stopping) open() {
	dsn := url.URL{
		Scheme: "postgres", User: url.UserPassword(odooRole, odooPassword), Host: fmt.Sprintf("127.0.0.1:%d", cluster.Port()),
		Path: "/postgres", RawQuery: "sslmode=disable",
	}
	cfg, err := pgx.ParseConfig(dsn.String())
	require.NoError(b.t, err)
	b.d = odoo.New(odoo.Options{})
	b.session, err = b.d.OpenSession(b.t.Context(), cfg, b.db.name)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { require.NoError(b.t, b.session.Close(context.Background())) })
	fp, err := b.session.Fingerprint(b.t.Context())
	require.NoError(b.t, err)
	require.Equal(b.t, driver.Healthy, fp.Health, fp.Description)
	b.stopper = b.session.(driver.Stopper)
	host := fmt.Sprintf("127.0.0.1:%d", b.port)
	b.up = driver.Upstream{Name: "odoo", Scheme: "http", Host: host, Transport: &http.Transport{DisableKeepAlives: true}}
	b.t.Logf("FACT odoo %d: | the job hangs in | to cancel | to terminate | lock row free | request ended | answer | "+
		"row | exc_name | the end of exc_info | its work | its worker |", b.series)
}

// watch is what is seen of a job that is being stopped.
type watch struct {
	task   driver.Task
	result chan driver.Result
	ended  *driver.Result
	from   time.Time
	// free and over are when the lock row was free and the request ended, since the first Stop.
	free, over time.Duration
}

// see looks once.
func (b *stopping) see(w *watch) bool {
	b.t.Helper()
	found, err := b.session.Inspect(b.t.Context(), []string{w.task.UUID})
	require.NoError(b.t, err)
	if w.free == 0 && found[0].PID == 0 {
		w.free = time.Since(w.from)
	}
	select {
	case result := <-w.result:
		w.ended, w.over = &result, time.Since(w.from)
	default:
	}
	return w.ended != nil
}

// stopOne has a job hang, and stops it as a time limit does: cancels it again and again through a time
// of grace, and then ends its connection.
func (b *stopping) stopOne(h hang) (got ending) {
	b.t.Helper()
	seconds := any(hangs)
	if h.method == "kill" {
		seconds = 1 // times
	}
	key := "hanging " + h.method
	uuid := enqueue(b.t, b.url(""), b.db.name, h.method, nil, append([]any{key, seconds}, h.arguments...))[0]
	tasks, _, err := b.session.Claim(b.t.Context(), []string{uuid}, nil)
	require.NoError(b.t, err)
	require.Len(b.t, tasks, 1)
	w := &watch{task: tasks[0], result: make(chan driver.Result, 1)}
	go func() { w.result <- b.d.Run(b.t.Context(), b.up, w.task) }()
	b.db.waitState(b.t, "started", uuid)
	worker := *b.db.job(b.t, uuid).WorkerPID
	b.waitHanging(h, uuid)

	w.from = time.Now()
	got.cancelled = b.stop(w, false)
	for !poll(time.Second, func() bool { return b.see(w) }) && time.Since(w.from) < graceful {
		b.stop(w, false)
	}
	got.byCancel = w.ended != nil && got.cancelled == driver.Signalled
	got.terminated = b.stop(w, true)
	require.True(b.t, poll((hangs+20)*time.Second, func() bool { return b.see(w) }), "%s: the request ends", h.name)
	b.tell(h, w, &got, worker)
	return got
}

// waitHanging waits until the job has come to where it hangs.
func (b *stopping) waitHanging(h hang, uuid string) {
	b.t.Helper()
	if h.busy == "" {
		require.True(b.t, poll(jobsTimeout, func() bool { return len(b.db.executions(b.t, "hanging "+h.method)) == 1 }))
		require.True(b.t, poll(jobsTimeout, func() bool { // its backend may take a moment to notice
			found, err := b.session.Inspect(b.t.Context(), []string{uuid})
			require.NoError(b.t, err)
			return found[0].PID == 0
		}))
		return
	}
	if h.busy != "active" && !b.locks(b.t) {
		return // the job runs without a transaction until it needs one
	}
	require.True(b.t, poll(jobsTimeout, func() bool {
		return b.db.count(b.t, `pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = $1
			AND state = $2 AND now() - state_change > interval '1 second' AND application_name NOT LIKE 'caddy-jobrunner/%'`, odooRole, h.busy) > 0
	}), "%s: %s", h.name, uuid)
}

func (b *stopping) stop(w *watch, terminate bool) driver.StopResult {
	b.t.Helper()
	list, err := b.stopper.Stop(b.t.Context(), []driver.Task{w.task}, terminate)
	require.NoError(b.t, err)
	return list[0].Result
}

// tell lets the row say why, and prints a line of the table.
func (b *stopping) tell(h hang, w *watch, got *ending, worker int) {
	b.t.Helper()
	rows, err := b.stopper.Account(b.t.Context(), []driver.Cause{{Attempt: w.task, Text: why}})
	require.NoError(b.t, err)
	j := b.db.job(b.t, w.task.UUID)
	got.state = j.State
	if j.ExcName != nil {
		got.excName = *j.ExcName
	}
	var info string
	require.NoError(b.t, b.db.pool.QueryRow(b.t.Context(), "SELECT coalesce(exc_info, '') FROM queue_job WHERE uuid = $1", w.task.UUID).Scan(&info))
	require.Equal(b.t, j.State == "failed", len(rows) == 1)
	require.Equal(b.t, j.State == "failed", strings.HasSuffix(info, "\n\n"+why), info)
	info = strings.TrimSpace(strings.TrimSuffix(info, why))
	info = info[strings.LastIndex(info, "\n")+1:]
	done := len(b.db.executions(b.t, "hanging "+h.method))
	work := "undone"
	if got.state == "done" {
		work = "done"
	}
	if h.method != "kill" {
		require.Equal(b.t, got.state == "done", done == 1, "%s: all or nothing", h.name)
	}
	var alive bool
	call(b.t, b.url(""), b.db.name, "jobrunner.test", "alive", &alive, []int{}, worker)
	next := "serves on"
	if !alive {
		next = "is gone"
	}
	answer := fmt.Sprint(w.ended.Status)
	if w.ended.Status == 0 {
		answer = "none"
	}
	b.t.Logf("FACT odoo %d: | %s | %s | %s | %.1f s | %.1f s | %s | %s | %s | %s | %s | %s |", b.series, h.name, got.cancelled, got.terminated,
		w.free.Seconds(), w.over.Seconds(), answer, got.state, got.excName, info, work, next)
}

// testTimeLimit has a policy stop the same jobs, through Caddy, with one slot for all: another job waits
// for it, and gets it only when the one that hung has come to its end, whatever became of its lock.
func testTimeLimit(t *testing.T, s *site) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	c := startCaddy(t, s.server, caddyOptions{
		Databases: s.db.name, Channels: "root:1", Options: "policy root* {\ntimeout 2s {\ncancel\ngrace 4s\n}\n}",
	})
	c.waitReady(t, s.db.name)
	call(t, s.url(""), s.db.name, "jobrunner.test", "allow_commit", nil, []int{}, "hang_and_commit")
	t.Logf("FACT odoo %d: | the job hangs in | row | exc_name | the end of exc_info | the next job began |", s.series)
	for _, h := range hangsOf(silent.Addr().String()) {
		if h.method == "kill" {
			continue // testWorkerKilled
		}
		key := "limited " + h.method
		uuid := enqueue(t, c.url(), s.db.name, h.method, nil, append([]any{key, hangs}, h.arguments...))[0]
		s.db.waitState(t, "started", uuid)
		began := time.Now()
		next := enqueue(t, c.url(), s.db.name, "run", nil, []any{"after " + key})[0]
		s.db.waitState(t, "done", next)
		after := s.db.executions(t, "after "+key)[0].Started - float64(began.UnixMicro())/1e6
		j := s.db.job(t, uuid)
		var info string
		require.NoError(t, s.db.pool.QueryRow(t.Context(), "SELECT coalesce(exc_info, '') FROM queue_job WHERE uuid = $1", uuid).Scan(&info))
		name := ""
		if j.ExcName != nil {
			name = *j.ExcName
		}
		t.Logf("FACT odoo %d: | %s | %s | %s | %s | after %.1f s |", s.series, h.name, j.State, name, info[strings.LastIndex(info, "\n")+1:], after)
		if !s.locks(t) || !h.want.byCancel {
			assert.GreaterOrEqual(t, after, float64(hangs)-1, "%s: its worker was busy until then", h.name)
		}
		if !s.locks(t) {
			assert.Equal(t, "done", j.State, h.name)
			continue
		}
		assert.Equal(t, h.want.state, j.State, h.name)
		assert.Equal(t, h.want.excName, name, h.name)
		assert.Equal(t, j.State == "failed", strings.Contains(info, "policy root*"), info)
		if h.want.byCancel {
			assert.Less(t, after, float64(hangs)-2, h.name)
		}
	}
}
