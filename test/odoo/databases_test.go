//go:build odoo

package odootest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// testHostPerDatabase has two databases, of which Odoo serves the one that the
// first label of the host names.
func testHostPerDatabase(t *testing.T, s *site) {
	one := s.newDatabase(t, fmt.Sprintf("hostone%d", s.series), s.ready)
	two := s.newDatabase(t, fmt.Sprintf("hosttwo%d", s.series), s.ready)
	odoo := s.startServer(t, "dbfilter", serverOptions{options: map[string]any{"dbfilter": "^%d$", "workers": 2}})
	c := startCaddy(t, odoo, caddyOptions{Databases: "hostone* hosttwo*", Channels: "root:2", Host: "{database}.odoo.test"})
	c.waitReady(t, one.name, two.name)
	// The service of /jsonrpc takes the database from the request, whatever the host.
	assertServed(t, odoo.url(""), one, "first")
	assertServed(t, odoo.url(""), two, "second")
	require.Empty(t, one.executions(t, "second"))
	require.Empty(t, two.executions(t, "first"))

	// What the host template is for: Odoo 19 refuses a database that the filter
	// hides from the host, older series let the parameter of the request win.
	status, _ := odoo.ask(t, two.name, "x", http.Header{"Host": {one.name + ".odoo.test"}})
	t.Logf("FACT odoo %d: dbfilter hides the database from the host: %d", s.series, status)
	require.Equal(t, s.series < 16, status == http.StatusOK)
	status, _ = odoo.ask(t, two.name, "x", http.Header{"Host": {two.name + ".odoo.test"}})
	require.Equal(t, http.StatusOK, status)
}

// testDatabaseOption looks what db_name changes: it names the databases of a
// server, of which there is one here.
func testDatabaseOption(t *testing.T, s *site) {
	odoo := s.startServer(t, "db_name", serverOptions{options: map[string]any{"db_name": s.db.name, "workers": 2}})
	status, _ := odoo.ask(t, "nosuchdatabase", "x", nil)
	t.Logf("FACT odoo %d: db_name is set, unknown database: %d", s.series, status)
	status, _ = odoo.ask(t, s.ready, "x", nil)
	t.Logf("FACT odoo %d: db_name is set, a database that it does not name: %d", s.series, status)
	status, _ = odoo.ask(t, s.db.name, "x", nil)
	require.Equal(t, http.StatusOK, status)
	c := startCaddy(t, odoo, caddyOptions{Databases: s.db.name, Channels: "root:2"})
	c.waitReady(t, s.db.name)
	assertServed(t, c.url(), s.db, "with db_name")
	e := s.db.executions(t, "with db_name")[0]
	t.Logf("FACT odoo %d: db_name is set, the job ran in process %d on a backend called %q", s.series, e.WorkerPID, e.ApplicationName)
}

func testDatabaseCreatedWhileRunning(t *testing.T, s *site) {
	first := s.newDatabase(t, fmt.Sprintf("created%da", s.series), s.ready)
	c := startCaddy(t, s.server, caddyOptions{Databases: fmt.Sprintf("created%d*", s.series), Channels: "root:2"})
	c.waitReady(t, first.name)
	second := s.newDatabase(t, fmt.Sprintf("created%db", s.series), s.ready)
	c.waitReady(t, second.name)
	assertServed(t, c.url(), second, "in the new database")
	require.NoError(t, cluster.DropDatabase(t.Context(), second.name))
	assertServed(t, c.url(), first, "after the other was dropped")
}

func testAddOnInstalledLater(t *testing.T, s *site) {
	db := s.newDatabase(t, fmt.Sprintf("later%d", s.series), s.plain)
	c := startCaddy(t, s.server, caddyOptions{Databases: db.name, Channels: "root:2"})
	var ids []int
	call(t, s.url(""), db.name, "ir.module.module", "search", &ids, []any{[]any{"name", "=", "jobrunner_test"}})
	require.Len(t, ids, 1)
	call(t, s.url(""), db.name, "ir.module.module", "button_immediate_install", nil, ids)
	c.waitReady(t, db.name)
	// On a busy machine, one of Odoo's workers may have loaded the database in the middle of that, and
	// says that there is no such model until it is told of another change. The others know it.
	var answer struct{ Result []string }
	require.True(t, poll(jobsTimeout, func() bool {
		status, text := ask(t, c.url(), db.name, "jobrunner.test", "enqueue", []int{}, "run", [][]any{{"after the installation"}}, nil)
		return status == http.StatusOK && json.Unmarshal(text, &answer) == nil && len(answer.Result) == 1
	}))
	db.waitState(t, "done", answer.Result...)
	require.Len(t, db.executions(t, "after the installation"), 1)
}

// testNeutralisedCopy copies a database with a pending job. In the copy it only
// runs when that is wanted; before 16.0, Odoo has no such copies.
func testNeutralisedCopy(t *testing.T, s *site) {
	original := s.newDatabase(t, fmt.Sprintf("original%d", s.series), s.ready)
	uuids := enqueue(t, s.url(""), original.name, "run", nil, []any{"in both"})
	require.NoError(t, cluster.TerminateBackends(t.Context(), original.name))
	original.pool.Reset()
	duplicate := s.newDatabase(t, fmt.Sprintf("copy%d", s.series), original.name)
	neutralised := s.series >= 16
	if neutralised {
		s.odoo(t, "neutralize", "--config", s.config(t, "neutralize", nil), "--database", duplicate.name)
	}
	t.Logf("the job of the copy is %s", duplicate.job(t, uuids[0]).State)
	c := startCaddy(t, s.server, caddyOptions{Databases: original.name + " " + duplicate.name, Channels: "root:2"})
	if neutralised {
		c.waitReady(t, original.name)
		original.waitState(t, "done", uuids...)
		if !poll(jobsTimeout, func() bool { return strings.Contains(c.log(), "run_neutralized in driver odoo lets them run") }) {
			require.Fail(t, "the copy is not recognized", lastLines(c.log()))
		}
		require.Equal(t, "pending", duplicate.job(t, uuids[0]).State)
		require.Empty(t, duplicate.executions(t, "in both"))
		c.stop(t)
		c = startCaddy(t, s.server, caddyOptions{Databases: duplicate.name, Channels: "root:2", Neutralized: true})
	}
	c.waitReady(t, duplicate.name)
	original.waitState(t, "done", uuids...)
	duplicate.waitState(t, "done", uuids...)
}

// testNeutralisedWhileServed neutralizes a served database, and has Odoo duplicate and restore one with
// pending jobs, each time with the option that neutralizes the copy at the end.
func testNeutralisedWhileServed(t *testing.T, s *site) {
	if s.series < 16 {
		t.Log("this series has no such copies")
		return
	}
	const jobs = 400
	original := s.newDatabase(t, fmt.Sprintf("trial%d", s.series), s.ready)
	var arguments [][]any
	for i := range jobs {
		arguments = append(arguments, []any{fmt.Sprintf("trial %d", i), 0.3})
	}
	uuids := enqueue(t, s.url(""), original.name, "run", nil, arguments...)
	c := startCaddy(t, s.server, caddyOptions{Databases: original.name + "_* " + s.db.name, Channels: "root:2"})
	c.waitReady(t, s.db.name)
	config := s.config(t, "copies", nil)

	dump := s.run + "/trial.zip"
	s.odoo(t, "db", "--config", config, "dump", original.name, dump)
	for name, how := range map[string][]string{
		original.name + "_restored":   {"load", "--neutralize", original.name + "_restored", dump},
		original.name + "_duplicated": {"duplicate", "--neutralize", original.name, original.name + "_duplicated"},
	} {
		original.pool.Reset()
		s.odoo(t, append([]string{"db", "--config", config}, how...)...)
		t.Cleanup(func() { require.NoError(t, cluster.DropDatabase(context.Background(), name)) })
		duplicate := openDatabase(t, name)
		require.True(t, poll(readyTimeout, func() bool {
			return strings.Contains(c.log(), "run_neutralized in driver odoo lets them run") && strings.Contains(c.log(), name)
		}), lastLines(c.log()))
		require.Equal(t, jobs, duplicate.count(t, "queue_job WHERE state = 'pending'"), how[0])
		require.Empty(t, duplicate.executions(t, "trial %"), how[0])
	}
	c.stop(t)

	c = startCaddy(t, s.server, caddyOptions{Databases: original.name, Channels: "root:2"})
	c.waitReady(t, original.name)
	require.True(t, poll(jobsTimeout, func() bool { return len(original.executions(t, "trial %")) > 1 }))
	seen := make(chan int, 1)
	go func() { seen <- original.pendingWhenMarked(t.Context()) }()
	s.odoo(t, "neutralize", "--config", config, "--database", original.name)
	left := <-seen
	t.Logf("FACT odoo %d: %d of %d jobs were pending when the mark was seen", s.series, left, jobs)
	require.Positive(t, left)
	original.waitState(t, "done", original.withState(t, uuids, "enqueued", "started", "done")...)
	require.True(t, poll(readyTimeout, func() bool { return strings.Contains(c.log(), "run_neutralized in driver odoo lets them run") }))
	require.Equal(t, left, original.count(t, "queue_job WHERE state = 'pending'"))
}

// pendingWhenMarked waits until the database is neutralized, and counts its pending jobs; -1 if that
// failed.
func (d *database) pendingWhenMarked(ctx context.Context) (left int) {
	const sql = "SELECT count(*) FROM queue_job, ir_config_parameter WHERE state = 'pending' AND key = 'database.is_neutralized'"
	for left == 0 {
		if err := d.pool.QueryRow(ctx, sql).Scan(&left); err != nil {
			return -1
		}
	}
	return left
}

// withState returns those of the jobs that have one of the states.
func (d *database) withState(t *testing.T, uuids []string, states ...string) []string {
	t.Helper()
	rows, err := d.pool.Query(t.Context(), "SELECT uuid FROM queue_job WHERE uuid = ANY($1) AND state = ANY($2)", uuids, states)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return list
}

// testOtherRunner has upstream's runner at work in the same database. Newer
// add-ons have a lock for the one that works; older ones have none, and only
// Odoo's check of the state keeps a job from running twice.
func testOtherRunner(t *testing.T, s *site) {
	const jobs = 400
	db := s.newDatabase(t, fmt.Sprintf("shared%d", s.series), s.ready)
	other := s.startServer(t, "other", serverOptions{ownRunner: "root:2", options: map[string]any{"db_name": db.name}})
	if !poll(jobsTimeout, func() bool { return strings.Contains(other.log(), "database connections ready") }) {
		require.Fail(t, "upstream's runner does not start", lastLines(other.log()))
	}
	c := startCaddy(t, s.server, caddyOptions{Databases: db.name, Channels: "root:2"})
	var arguments [][]any
	for i := range jobs {
		arguments = append(arguments, []any{fmt.Sprintf("shared %d", i)})
	}
	uuids := enqueue(t, c.url(), db.name, "run", nil, arguments...)
	db.waitState(t, "done", uuids...)
	require.Len(t, db.executions(t, "shared %"), jobs, "every job exactly once")
	ours := strings.Count(c.log(), "asking Odoo to run job")
	t.Logf("FACT odoo %d: of %d jobs beside upstream's runner, this one dispatched %d", s.series, jobs, ours)
	if s.locks(t) {
		require.Zero(t, ours, "upstream's runner has the lock")
		other.stop(t)
		c.waitReady(t, db.name)
		assertServed(t, c.url(), db, "after upstream's runner has gone")
	}
}
