//go:build odoo

package odootest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
)

func TestOdoo14(t *testing.T) { testSeries(t, 14) }

func TestOdoo19(t *testing.T) { testSeries(t, 19) }

// site is an Odoo with one database that most tests share.
type site struct {
	*server
	db *database
	// options are further lines of the runner's block.
	options string
}

func testSeries(t *testing.T, series int) {
	b := openBed(t, series)
	shared := b.startServer(t, "odoo", serverOptions{})
	s := &site{server: shared, db: b.newDatabase(t, fmt.Sprintf("main%d", series), b.ready)}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *site)
	}{
		{"Single", testSingle},
		{"OwnRunnerIsOff", testOwnRunnerIsOff},
		{"Guard", testGuard},
		{"Channels", testChannels},
		{"Retryable", testRetryable},
		{"Failing", testFailing},
		{"Graph", testGraph},
		{"ETA", testETA},
		{"CancelAndRequeue", testCancelAndRequeue},
		{"Answers", testAnswers},
		{"Commit", testCommit},
		{"Evidence", testEvidence},
		{"Hanging", testHanging},
		{"TimeLimit", testTimeLimit},
		{"WorkerKilled", testWorkerKilled},
		{"Quarantine", testQuarantine},
		{"RestartUnderLoad", testRestartUnderLoad},
		{"KilledUnderLoad", testKilledUnderLoad},
		{"TerminatedUnderLoad", testTerminatedUnderLoad},
		{"BrokenConnection", testBrokenConnection},
		{"HostPerDatabase", testHostPerDatabase},
		{"DatabaseOption", testDatabaseOption},
		{"DatabaseCreatedWhileRunning", testDatabaseCreatedWhileRunning},
		{"AddOnInstalledLater", testAddOnInstalledLater},
		{"NeutralisedCopy", testNeutralisedCopy},
		{"NeutralisedWhileServed", testNeutralisedWhileServed},
		{"Upgrade", testUpgrade},
		{"OtherRunner", testOtherRunner},
		{"SideBySide", testSideBySide},
		{"Pooled", testPooled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

// caddy starts a Caddy for the shared database, and waits until it is served.
func (s *site) caddy(t *testing.T, channels string) *caddy {
	t.Helper()
	c := startCaddy(t, s.server, caddyOptions{Databases: s.db.name, Channels: channels, Options: s.options})
	c.waitReady(t, s.db.name)
	return c
}

// enqueue makes a job for each list of arguments of a method of the test add-on.
func enqueue(t *testing.T, base, db, method string, options map[string]any, arguments ...[]any) []string {
	t.Helper()
	var uuids []string
	call(t, base, db, "jobrunner.test", "enqueue", &uuids, []int{}, method, arguments, options)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(uuids))), len(arguments))
	return uuids
}

// press calls a method of queue.job, as a button of its list does.
func press(t *testing.T, base, db, button string, uuids ...string) {
	t.Helper()
	var n int
	call(t, base, db, "jobrunner.test", "call_jobs", &n, []int{}, uuids, button)
	require.Equal(t, len(uuids), n)
}

func testSingle(t *testing.T, s *site) {
	c := s.caddy(t, "root:2")
	uuids := enqueue(t, c.url(), s.db.name, "run", nil, []any{"single"})
	s.db.waitState(t, "done", uuids...)
	require.Len(t, s.db.executions(t, "single"), 1)
	require.Contains(t, c.log(), "asking Odoo to run job "+uuids[0]+" on db "+s.db.name)
}

// testOwnRunnerIsOff also reads what the installed release knows: docs/migration.md says it of these two.
func testOwnRunnerIsOff(t *testing.T, s *site) {
	sources, err := filepath.Glob(filepath.Join(s.root, "srv/addons/queue_job/jobrunner/*.py"))
	require.NoError(t, err)
	require.NotEmpty(t, sources)
	var text string
	for _, source := range sources {
		one, err := os.ReadFile(source)
		require.NoError(t, err)
		text += string(one)
	}
	require.Equal(t, s.series == 19, strings.Contains(text, "pg_try_advisory_lock"), "whether it takes a lock")
	require.Contains(t, text, `startswith("root:0")`)
	require.NotContains(t, text, "max_capacity")
	require.NotContains(t, text, "queue_job_channel", "channels in the database")

	s.caddy(t, "root:2")
	require.Equal(t, 1, s.db.count(t, "pg_stat_activity WHERE datname = current_database() AND application_name = 'caddy-jobrunner/session'"))
	require.Zero(t, s.db.count(t, `pg_stat_activity WHERE datname = current_database()
		AND application_name <> 'caddy-jobrunner/session' AND query ILIKE 'LISTEN queue_job%'`))
}

// testChannels runs 500 jobs, each of which may run once, and never more at the
// same time than their channel and root take.
func testChannels(t *testing.T, s *site) {
	c := s.caddy(t, "root:4,many:3,single:1")
	var all []string
	for _, channel := range []struct {
		name string
		jobs int
	}{{"root", 200}, {"root.many", 200}, {"root.single", 50}, {"root.unknown", 50}} {
		var arguments [][]any
		for i := range channel.jobs {
			arguments = append(arguments, []any{fmt.Sprintf("channels %s %d", channel.name, i)})
		}
		all = append(all, enqueue(t, c.url(), s.db.name, "run", map[string]any{"channel": channel.name}, arguments...)...)
	}
	s.db.waitState(t, "done", all...)
	require.Len(t, s.db.executions(t, "channels %"), 500)
	require.Equal(t, 500, s.db.count(t, "(SELECT DISTINCT key FROM jobrunner_test WHERE key LIKE 'channels %') k"))
	require.LessOrEqual(t, overlap(s.db.executions(t, "channels %")), 4)
	require.LessOrEqual(t, overlap(s.db.executions(t, "channels root.many %")), 3)
	require.Equal(t, 1, overlap(s.db.executions(t, "channels root.single %")))
}

func testRetryable(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	retried := enqueue(t, c.url(), s.db.name, "retry", nil, []any{"retried", 2, 1})
	exhausted := enqueue(t, c.url(), s.db.name, "retry", map[string]any{"max_retries": 2}, []any{"exhausted", 9, 1})
	conflicting := enqueue(t, c.url(), s.db.name, "conflict", nil, []any{"conflicting", 1})
	s.db.waitState(t, "done", retried...)
	s.db.waitState(t, "failed", exhausted...)
	s.db.waitState(t, "done", conflicting...)
	require.Len(t, s.db.executions(t, "retried"), 3)
	require.Len(t, s.db.executions(t, "exhausted"), 2)
	twice := s.db.executions(t, "conflicting")
	require.Len(t, twice, 2)
	require.Greater(t, twice[1].Started-twice[0].Started, 4.0, "PostgreSQL's conflicts are postponed by 5 s")
}

func testFailing(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	uuids := enqueue(t, c.url(), s.db.name, "fail", nil, []any{"failing value", "value"}, []any{"failing user", "user"})
	s.db.waitState(t, "failed", uuids...)
	for _, j := range s.db.jobs(t, uuids...) {
		require.NotNil(t, j.ExcName)
	}
	after := enqueue(t, c.url(), s.db.name, "run", nil, []any{"after the failing"})
	s.db.waitState(t, "done", after...)
	require.Len(t, s.db.executions(t, "failing %"), 2, "a failed job must not run again by itself")
}

func testGraph(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	var uuids []string
	call(t, c.url(), s.db.name, "jobrunner.test", "enqueue_graph", &uuids, []int{},
		[]any{"graph 1", 0.5}, []any{[]any{"graph 2", 0.2}, []any{"graph 2", 0.2}, []any{"graph 2", 0.2}}, []any{"graph 3", 0})
	s.db.waitState(t, "done", uuids...)
	steps := s.db.executions(t, "graph %")
	require.Len(t, steps, 5)
	require.Equal(t, []string{"graph 1", "graph 2", "graph 2", "graph 2", "graph 3"},
		[]string{steps[0].Key, steps[1].Key, steps[2].Key, steps[3].Key, steps[4].Key})
	require.LessOrEqual(t, steps[0].Ended, steps[1].Started)
	for _, step := range steps[1:4] {
		require.LessOrEqual(t, step.Ended, steps[4].Started)
	}
}

func testETA(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	before := time.Now()
	uuids := enqueue(t, c.url(), s.db.name, "run", map[string]any{"eta": 4}, []any{"eta"})
	require.Equal(t, "pending", s.db.job(t, uuids[0]).State)
	s.db.waitState(t, "done", uuids...)
	started := s.db.executions(t, "eta")[0].Started - float64(before.UnixMicro())/1e6
	require.Greater(t, started, 3.0, "Odoo cuts etas to whole seconds")
	require.Less(t, started, 8.0)
}

func testCancelAndRequeue(t *testing.T, s *site) {
	c := s.caddy(t, "root:4,one:1")
	one := map[string]any{"channel": "root.one"}
	long := enqueue(t, c.url(), s.db.name, "run", one, []any{"long", 3})
	s.db.waitState(t, "started", long...)
	waiting := enqueue(t, c.url(), s.db.name, "run", one, []any{"cancelled"}, []any{"set done"}, []any{"goes on"})
	press(t, c.url(), s.db.name, "button_cancelled", waiting[0])
	press(t, c.url(), s.db.name, "button_done", waiting[1])
	s.db.waitState(t, "done", long[0], waiting[1], waiting[2])
	require.Equal(t, "cancelled", s.db.job(t, waiting[0]).State)
	require.Empty(t, s.db.executions(t, "cancelled"))
	require.Empty(t, s.db.executions(t, "set done"))

	press(t, c.url(), s.db.name, "requeue", waiting[0], long[0])
	s.db.waitState(t, "done", waiting[0], long[0])
	require.Len(t, s.db.executions(t, "cancelled"), 1)
	require.Len(t, s.db.executions(t, "long"), 2)
}

// testWorkerKilled has a job kill its own worker once. Where the add-on has a
// lock table, the job is found dead and runs again. Where it has none, nothing
// proves that it is dead: it stays started until somebody requeues it.
func testWorkerKilled(t *testing.T, s *site) {
	c := s.caddy(t, "root:2")
	uuids := enqueue(t, c.url(), s.db.name, "kill", nil, []any{"killed", 1})
	if s.locks(t) {
		s.db.waitState(t, "done", uuids...)
		require.Equal(t, 2, s.db.job(t, uuids[0]).Retry, "the death counts, and so does the start")
	} else {
		require.True(t, poll(jobsTimeout, func() bool { return len(s.db.executions(t, "killed")) == 1 }))
		others := enqueue(t, c.url(), s.db.name, "run", nil, []any{"beside the killed 1", 1}, []any{"beside the killed 2", 1})
		s.db.waitState(t, "done", others...)
		require.Equal(t, 1, overlap(s.db.executions(t, "beside the killed %")), "the killed job keeps its place")
		require.Equal(t, "started", s.db.job(t, uuids[0]).State)
		press(t, c.url(), s.db.name, "requeue", uuids[0])
		s.db.waitState(t, "done", uuids...)
	}
	require.Len(t, s.db.executions(t, "killed"), 2)
}

// locks reports whether the add-on has a lock table.
func (s *site) locks(t *testing.T) bool {
	t.Helper()
	return s.db.count(t, "pg_class WHERE relname = 'queue_job_lock'") == 1
}

// load enqueues jobs that take a while, and waits until some are done.
func (s *site) load(t *testing.T, c *caddy, key string) []string {
	t.Helper()
	const jobs, some = 120, 20
	var arguments [][]any
	for i := range jobs {
		arguments = append(arguments, []any{fmt.Sprintf("%s %d", key, i), 0.1})
	}
	uuids := enqueue(t, c.url(), s.db.name, "run", nil, arguments...)
	require.True(t, poll(jobsTimeout, func() bool {
		return s.db.count(t, "queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids) >= some
	}))
	return uuids
}

// askedAfterRestart bounds the time from Odoo's first answer to the request for a job. When that is
// done is up to the worker, which loads its registry first: for a second, or ten on a busy machine.
const askedAfterRestart = 2 * time.Second

// testRestartUnderLoad restarts Odoo as a deployment does. Requests wait in the backlog of the old
// server: there are twice as many slots as workers.
func testRestartUnderLoad(t *testing.T, s *site) {
	c := s.caddy(t, "root:8")
	uuids := s.load(t, c, "restarted")
	s.stop(t)
	before := s.db.count(t, "queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids)
	require.Less(t, before, len(uuids))
	asked := func() int { return strings.Count(c.log(), "asking Odoo to run job") }
	stopped := asked()
	s.start(t)
	answered := time.Now()
	require.True(t, poll(jobsTimeout, func() bool { return asked() > stopped }))
	require.Less(t, time.Since(answered), askedAfterRestart)
	require.NotContains(t, c.log(), "Re-queued dead job", "no slot is kept until a grace is over")
	require.True(t, poll(jobsTimeout, func() bool {
		return s.db.count(t, "queue_job WHERE uuid = ANY($1) AND state = 'done'", uuids) > before
	}))
	first := time.Since(answered)
	s.db.waitState(t, "done", uuids...)
	t.Logf("FACT odoo %d: %d jobs were left; the first was done %.1f s after the new Odoo answered, all after %.1f s",
		s.series, len(uuids)-before, first.Seconds(), time.Since(answered).Seconds())
	require.Len(t, s.db.executions(t, "restarted %"), len(uuids), "every job exactly once")
}

// testKilledUnderLoad has all of Odoo die at once.
func testKilledUnderLoad(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	uuids := s.load(t, c, "died")
	require.True(t, poll(jobsTimeout, func() bool { return len(s.started(t, uuids)) > 1 }))
	s.kill()
	left := s.started(t, uuids)
	s.start(t)
	if !s.locks(t) {
		// Nothing but their operator's word proves them dead.
		t.Logf("FACT odoo %d: %d jobs were left started", s.series, len(left))
		require.LessOrEqual(t, len(left), 4)
		press(t, c.url(), s.db.name, "requeue", left...)
	}
	s.db.waitState(t, "done", uuids...)
	require.Len(t, s.db.executions(t, "died %"), len(uuids), "every job's work is committed exactly once")
}

// testTerminatedUnderLoad sends SIGTERM to every process, as some service managers do. The main process
// waits for its workers then, but these end at once.
func testTerminatedUnderLoad(t *testing.T, s *site) {
	c := s.caddy(t, "root:4")
	uuids := s.load(t, c, "terminated")
	require.True(t, poll(jobsTimeout, func() bool { return len(s.started(t, uuids)) > 1 }))
	require.NoError(t, s.signalAll(syscall.SIGTERM))
	select {
	case <-s.ended:
	case <-time.After(serverTimeout):
		require.Fail(t, "Odoo does not stop", lastLines(s.log()))
	}
	left := s.started(t, uuids)
	s.start(t)
	t.Logf("FACT odoo %d: SIGTERM to every process left %d jobs started", s.series, len(left))
	if !s.locks(t) && len(left) > 0 {
		press(t, c.url(), s.db.name, "requeue", left...)
	}
	s.db.waitState(t, "done", uuids...)
	require.Len(t, s.db.executions(t, "terminated %"), len(uuids), "every job's work is committed exactly once")
}

// testBrokenConnection cuts the way between the runner and Odoo while a job runs. The job goes on: that
// the connection broke does not prove that its worker is gone.
func testBrokenConnection(t *testing.T, s *site) {
	way, err := faultproxy.New(fmt.Sprintf("127.0.0.1:%d", s.port))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, way.Close()) })
	c := startCaddy(t, s.server, caddyOptions{Databases: s.db.name, Channels: "root:1", Upstream: way.Addr()})
	c.waitReady(t, s.db.name)
	uuids := enqueue(t, s.url(""), s.db.name, "run", nil, []any{"cut off", 5})
	s.db.waitState(t, "started", uuids...)
	way.Reset()
	require.True(t, poll(readyTimeout, func() bool { return strings.Contains(c.log(), "job goes on although its request ended") }), lastLines(c.log()))
	require.Equal(t, "started", s.db.job(t, uuids[0]).State)
	s.db.waitState(t, "done", uuids...)
	require.Len(t, s.db.executions(t, "cut off"), 1)
}

// started returns those of the jobs that are in this state.
func (s *site) started(t *testing.T, uuids []string) []string {
	t.Helper()
	rows, err := s.db.pool.Query(t.Context(), "SELECT uuid FROM queue_job WHERE uuid = ANY($1) AND state = 'started'", uuids)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return list
}

// assertServed enqueues a job in a database and waits for it.
func assertServed(t *testing.T, base string, db *database, key string) {
	t.Helper()
	uuids := enqueue(t, base, db.name, "run", nil, []any{key})
	db.waitState(t, "done", uuids...)
	assert.Len(t, db.executions(t, key), 1)
}
