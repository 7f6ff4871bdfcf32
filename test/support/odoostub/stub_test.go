package odoostub

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// patience bounds whatever a test waits for.
const patience = 20 * time.Second

// bench is a database and a server on it.
type bench struct {
	*testing.T
	db     string
	pool   *pgxpool.Pool
	server *Server
	client *http.Client
	path   string // of the request that runs a job
}

func setup(t *testing.T, gen Generation, opts Options) *bench {
	t.Helper()
	c := pgtest.Shared(t)
	name, pool := NewDatabase(t, c, gen)
	opts.Postgres = c.ConnConfig
	transport := &http.Transport{DisableKeepAlives: true}
	client := &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	b := &bench{T: t, db: name, pool: pool, server: Start(t, opts), client: client, path: runjobPath}
	if gen.Connector() {
		b.path = connectorPath
		jar, err := cookiejar.New(nil)
		require.NoError(t, err)
		client.Jar = jar
		b.get("/web/login?db=" + name)
	}
	return b
}

func forAll(t *testing.T, test func(*testing.T, Generation), gens ...Generation) {
	if len(gens) == 0 {
		gens = Generations()
	}
	for _, gen := range gens {
		t.Run(gen.String(), func(t *testing.T) {
			t.Parallel()
			test(t, gen)
		})
	}
}

func (b *bench) context() context.Context {
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	b.Cleanup(cancel)
	return ctx
}

func (b *bench) exec(sql string, args ...any) {
	b.Helper()
	_, err := b.pool.Exec(b.context(), sql, args...)
	require.NoError(b, err)
}

// enqueue makes jobs and claims those that are pending.
func (b *bench) enqueue(jobs ...JobSpec) []string {
	b.Helper()
	uuids, err := Enqueue(b.context(), b.pool, jobs)
	require.NoError(b, err)
	b.claim()
	return uuids
}

func (b *bench) claim() {
	b.Helper()
	b.exec(`UPDATE queue_job SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC') WHERE state = 'pending'`)
}

// state returns what stands in a row, and whether the lock row is there and free.
func (b *bench) state(uuid string) (state string, retry int) {
	b.Helper()
	require.NoError(b, b.pool.QueryRow(b.context(), "SELECT state, retry FROM queue_job WHERE uuid = $1", uuid).Scan(&state, &retry))
	return state, retry
}

// freeLocks returns the number of lock rows that nobody holds.
func (b *bench) freeLocks() int {
	b.Helper()
	tag, err := b.pool.Exec(b.context(), "SELECT id FROM queue_job_lock FOR NO KEY UPDATE SKIP LOCKED")
	require.NoError(b, err)
	return int(tag.RowsAffected())
}

func (b *bench) request(path string, change func(*http.Request)) (int, string, error) {
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, b.server.URL()+path, nil)
	if err != nil {
		return 0, "", err
	}
	if change != nil {
		change(req)
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (b *bench) runjob(uuid string) (int, string, error) {
	return b.request(b.path+"?"+url.Values{"db": {b.db}, "job_uuid": {uuid}}.Encode(), nil)
}

func (b *bench) get(path string) (int, string) {
	b.Helper()
	status, body, err := b.request(path, nil)
	require.NoError(b, err)
	return status, body
}

// run runs a job and requires a status.
func (b *bench) run(uuid string, status int) {
	b.Helper()
	got, body, err := b.runjob(uuid)
	require.NoError(b, err)
	require.Equal(b, status, got, body)
	if status == http.StatusOK {
		require.Empty(b, body)
	}
}

// start runs a job in the background until it has begun; the result tells how
// that ended.
func (b *bench) start(uuid string) <-chan error {
	b.Helper()
	result := make(chan error, 1)
	go func() {
		_, _, err := b.runjob(uuid)
		result <- err
	}()
	require.NoError(b, b.server.Recorder().Await(b.context(), func() bool { return b.server.Recorder().Executions(b.db, uuid) > 0 }))
	return result
}

func TestRun(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{Name: "one"})
		uuid := b.enqueue(JobSpec{Channel: new("root.mail")})[0]
		b.run(uuid, http.StatusOK)
		state, retry := b.state(uuid)
		require.Equal(t, "done", state)
		require.Equal(t, 1, retry)
		b.run(uuid, http.StatusOK)
		b.run(NewUUID(), http.StatusOK)

		r := b.server.Recorder()
		require.Equal(t, 2, r.Requests(b.db, uuid))
		require.Equal(t, 1, r.Executions(b.db, uuid))
		e := r.AllExecutions()[0]
		channel := "root.mail"
		if gen == Connector7 { // there are no channels in it
			channel = ""
		}
		require.Equal(t, []any{"one", channel, Done}, []any{e.Server, e.Channel, e.Outcome})
		require.WithinRange(t, e.Start, r.FirstRequestAt(b.db, uuid), e.End)
		left, err := Leftovers(b.context(), b.pool)
		require.NoError(t, err)
		require.Empty(t, left)
	})
}

// A second request for a running job is answered at once and runs nothing.
func TestRequestedTwice(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		uuid := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}})[0]
		first := b.start(uuid)
		b.run(uuid, http.StatusOK)
		state, _ := b.state(uuid)
		require.Equal(t, "started", state)
		b.server.Gates().Open("go")
		require.NoError(t, <-first)
		require.Equal(t, 1, b.server.Recorder().Executions(b.db, uuid))
		require.Empty(t, b.server.Recorder().Overlaps())
	})
}

// An execution has ended before its outcome is visible: whoever sees the one may begin the next, and
// these two do not overlap.
func TestExecutionEndsBeforeItsOutcome(t *testing.T) {
	t.Parallel()
	for name, behaviour := range map[string]Behaviour{
		"done": {Gate: "go"}, "retried": {Gate: "go", RetryTimes: 1}, "failed": {Gate: "go", Fail: "ValueError", FailStatus: http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, QueueJobLock, Options{})
			uuid := b.enqueue(JobSpec{Behaviour: behaviour})[0]
			first := b.start(uuid)
			tx, err := b.pool.Begin(b.context())
			require.NoError(t, err)
			_, err = tx.Exec(b.context(), "SELECT FROM queue_job FOR UPDATE")
			require.NoError(t, err)
			b.server.Gates().Open("go")
			require.Eventually(t, func() (waits bool) {
				err := b.pool.QueryRow(b.context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event_type = 'Lock')`).Scan(&waits)
				return err == nil && waits
			}, patience, 10*time.Millisecond)
			hidden := time.Now()
			require.NoError(t, tx.Commit(b.context()))
			require.NoError(t, <-first)
			all := b.server.Recorder().AllExecutions()
			require.Len(t, all, 1)
			require.Equal(t, Outcome(name), all[0].Outcome)
			require.False(t, all[0].End.After(hidden), "ended %s after its outcome was still hidden", all[0].End.Sub(hidden))
		})
	}
}

// The lock row is held while the job runs, and not after that.
func TestLockRow(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		uuid := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}})[0]
		first := b.start(uuid)
		require.Zero(t, b.freeLocks())
		// A runner that takes the job for dead makes it run a second time, but
		// the lock row still keeps the copies apart.
		b.exec("UPDATE queue_job SET state = 'enqueued'")
		b.run(uuid, http.StatusOK)
		b.server.Gates().Open("go")
		require.NoError(t, <-first)
		require.Equal(t, 1, b.freeLocks())
		require.Equal(t, 1, b.server.Recorder().Executions(b.db, uuid))
		state, _ := b.state(uuid)
		require.Equal(t, "pending", state, "what happened to the row meanwhile postpones the job")
	}, QueueJobLock, Channels)
}

func TestRetry(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		jobs := b.enqueue(
			JobSpec{Behaviour: Behaviour{RetryTimes: 1}},
			JobSpec{Behaviour: Behaviour{RetryTimes: 9, RetrySeconds: 60}},
			JobSpec{MaxRetries: new(int32(1)), Behaviour: Behaviour{RetryTimes: 9}},
			JobSpec{MaxRetries: new(int32(0)), Retry: 7, Behaviour: Behaviour{RetryTimes: 9}},
		)
		b.run(jobs[0], http.StatusOK)
		b.run(jobs[1], http.StatusOK)
		b.run(jobs[2], http.StatusInternalServerError)
		b.run(jobs[3], http.StatusOK)
		for i, want := range []string{"pending", "pending", "failed", "pending"} {
			state, _ := b.state(jobs[i])
			require.Equal(t, want, state, i)
		}
		var cleared bool
		var wait float64
		require.NoError(t, b.pool.QueryRow(b.context(), `SELECT date_enqueued IS NULL AND date_started IS NULL,
			extract(epoch FROM eta - (now() AT TIME ZONE 'UTC')) FROM queue_job WHERE uuid = $1`, jobs[1]).Scan(&cleared, &wait))
		require.True(t, cleared)
		require.InDelta(t, 60, wait, patience.Seconds())
		left, err := Leftovers(b.context(), b.pool)
		require.NoError(t, err)
		require.Len(t, left, 2, "the one with a future eta is none")

		b.claim()
		b.run(jobs[0], http.StatusOK)
		state, retry := b.state(jobs[0])
		require.Equal(t, "done", state)
		require.Equal(t, 2, retry)
	})
}

func TestFailure(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		jobs := b.enqueue(
			JobSpec{Behaviour: Behaviour{Fail: "ValueError"}},
			JobSpec{Behaviour: Behaviour{Fail: "AccessError", FailStatus: http.StatusForbidden}},
			JobSpec{},
		)
		column := "kwargs"
		if gen.Connector() {
			column = "func"
		}
		b.exec("UPDATE queue_job SET "+column+" = 'no json' WHERE uuid = $1", jobs[2])
		b.run(jobs[0], http.StatusInternalServerError)
		b.run(jobs[1], http.StatusForbidden)
		b.run(jobs[2], http.StatusInternalServerError)
		counts, err := CountStates(b.context(), b.pool)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"failed": 3}, counts)
		require.Equal(t, map[Outcome]int{Failed: 3}, b.server.Recorder().CountOutcomes())
		if gen > QueueJob10 && !gen.Connector() {
			var exception string
			require.NoError(t, b.pool.QueryRow(b.context(), "SELECT exc_name FROM queue_job WHERE uuid = $1", jobs[1]).Scan(&exception))
			require.Equal(t, "AccessError", exception)
		}
	})
}

func TestDependencies(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		x, y, z := NewUUID(), NewUUID(), NewUUID()
		b.enqueue(JobSpec{UUID: x}, JobSpec{UUID: y}, JobSpec{UUID: z, DependsOn: []string{x, y}})
		for _, step := range []struct{ run, waits string }{{x, "wait_dependencies"}, {y, "pending"}} {
			b.run(step.run, http.StatusOK)
			state, _ := b.state(z)
			require.Equal(t, step.waits, state)
		}
		b.claim()
		b.run(z, http.StatusOK)
		state, _ := b.state(z)
		require.Equal(t, "done", state)
	}, QueueJob12, QueueJobLock)
}

// A worker that is killed when its job is done leaves those waiting that waited for it.
func TestKilledAfterDone(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		x, y, z := NewUUID(), NewUUID(), NewUUID()
		b.enqueue(JobSpec{UUID: x, Behaviour: Behaviour{KillAfterDone: true}}, JobSpec{UUID: y, DependsOn: []string{x}}, JobSpec{UUID: z})
		_, _, err := b.runjob(x)
		require.Error(t, err)
		b.run(z, http.StatusOK)
		for uuid, want := range map[string]string{x: "done", y: "wait_dependencies", z: "done"} {
			state, _ := b.state(uuid)
			require.Equal(t, want, state)
		}
		require.Equal(t, map[Outcome]int{Done: 2}, b.server.Recorder().CountOutcomes())
		require.Zero(t, b.server.Recorder().Releases(b.db, y))
	}, QueueJob12, QueueJobLock)
}

// A killed worker answers nothing, leaves the row started and its lock row free,
// and another worker takes its place.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{Workers: 1})
		jobs := b.enqueue(
			JobSpec{Behaviour: Behaviour{KillTimes: 1}},
			JobSpec{},
			JobSpec{Behaviour: Behaviour{Hang: true}},
			JobSpec{},
		)
		_, _, err := b.runjob(jobs[0])
		require.Error(t, err)
		b.server.NextFaults(1, Fault{Kind: KillWorker, After: time.Millisecond})
		_, _, err = b.runjob(jobs[1])
		require.Error(t, err)
		hanging := b.start(jobs[2])
		require.Equal(t, 1, b.server.KillBusy())
		require.Error(t, <-hanging)
		b.run(jobs[3], http.StatusOK)
		for i, want := range []string{"started", "started", "started", "done"} {
			state, _ := b.state(jobs[i])
			require.Equal(t, want, state, i)
		}
		require.Equal(t, map[Outcome]int{Killed: 3, Done: 1}, b.server.Recorder().CountOutcomes())
		if gen.Locks() {
			require.Eventually(t, func() bool { return b.freeLocks() == 4 }, patience, 10*time.Millisecond)
		}
		left, err := Leftovers(b.context(), b.pool)
		require.NoError(t, err)
		require.Len(t, left, 3)

		b.exec("UPDATE queue_job SET state = 'enqueued', retry = 1 WHERE uuid = $1", jobs[0])
		b.run(jobs[0], http.StatusOK)
		require.NoError(t, b.server.WaitIdle(b.context()))
	})
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{})
	uuid := b.enqueue(JobSpec{})[0]
	for _, c := range []struct {
		fault  Fault
		status int
		body   string
	}{
		{Fault{Kind: Answer, Status: 502}, 502, "Bad Gateway"},
		{Fault{Kind: Answer, Status: 503}, 503, ""},
		{Fault{Kind: Answer, Status: 504}, 504, ""},
		{Fault{Kind: Answer, Status: 404, Delay: time.Millisecond}, 404, ""},
		{Fault{Kind: Redirect}, 302, ""},
		{Fault{Kind: LoginPage}, 200, "oe_login_form"},
		{Fault{Kind: Ignore}, 200, ""},
	} {
		b.server.NextFaults(1, c.fault)
		status, body, err := b.runjob(uuid)
		require.NoError(t, err)
		require.Equal(t, c.status, status)
		require.Contains(t, body, c.body)
	}
	state, _ := b.state(uuid)
	require.Equal(t, "enqueued", state)

	for _, kind := range []FaultKind{ResetBeforeRead, ResetAfterRead} {
		b.server.NextFaults(1, Fault{Kind: kind})
		_, _, err := b.runjob(uuid)
		require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF), "%v", err)
	}
	b.server.SetFault(Fault{Kind: SlowAnswer, Pace: 50 * time.Microsecond})
	status, _ := b.get("/web/health")
	require.Equal(t, http.StatusOK, status)
	b.run(uuid, http.StatusOK)
	state, _ = b.state(uuid)
	require.Equal(t, "done", state)

	b.server.SetFault(Fault{Kind: Answer, Status: 503, AllPaths: true})
	status, _ = b.get("/web/health")
	require.Equal(t, 503, status)
	b.server.SetFault(Fault{})
	for path, want := range map[string]int{
		"/web/health": 200, "/web/login?db=x": 303, "/web/login": 200, "/queue_job/session": 200, "/": 404,
		runjobPath + "?db=no_such_database&job_uuid=x": 404, runjobPath + "?db=postgres&job_uuid=x": 404,
	} {
		status, _ := b.get(path)
		require.Equal(t, want, status, path)
	}
}

func TestHangAndBacklog(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJob12, Options{Workers: 1, Backlog: 3})
	uuid := b.enqueue(JobSpec{})[0]
	b.server.SetFault(Fault{Kind: Hang})
	results := make(chan error, 3)
	for range 3 {
		go func() { _, _, err := b.runjob(uuid); results <- err }()
	}
	require.NoError(t, b.server.Await(b.context(), func() bool { return b.server.Busy() == 1 }))
	require.Eventually(t, func() bool { return b.server.Backlog() == 2 }, patience, time.Millisecond)
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	require.ErrorIs(t, b.server.WaitIdle(ctx), context.Canceled)
	require.NoError(t, b.server.Recorder().Await(b.context(), func() bool { return b.server.Recorder().Requests(b.db, uuid) == 1 }))
	b.server.SetFault(Fault{})
	failed := 0
	for range 3 {
		if <-results != nil {
			failed++
		}
	}
	require.Equal(t, 1, failed, "only the one that hung")
	require.Equal(t, 1, b.server.Recorder().Executions(b.db, uuid))
	require.NoError(t, b.server.WaitIdle(b.context()))
}

func TestRefuseAndCrash(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{})
	jobs := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}}, JobSpec{Behaviour: Behaviour{Hang: true}}, JobSpec{})
	first := b.start(jobs[0])
	b.server.Refuse()
	b.server.Refuse()
	_, _, err := b.runjob(jobs[2])
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	b.server.Gates().Open("go")
	require.NoError(t, <-first, "what runs goes on")
	addr := b.server.Addr()
	require.NoError(t, b.server.Accept())
	require.Equal(t, addr, b.server.Addr())

	second := b.start(jobs[1])
	b.server.Crash()
	require.Error(t, <-second)
	require.NoError(t, b.server.Accept())
	b.run(jobs[2], http.StatusOK)
}

// As prefork Odoo, the stub does not notice that the client has gone.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{})
	uuid := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}})[0]
	c, err := net.Dial("tcp", b.server.Addr())
	require.NoError(t, err)
	_, err = io.WriteString(c, "GET "+runjobPath+"?db="+b.db+"&job_uuid="+uuid+" HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	r := b.server.Recorder()
	require.NoError(t, r.Await(b.context(), func() bool { return r.Executions(b.db, uuid) == 1 }))
	require.NoError(t, c.Close())
	b.server.Gates().Open("go")
	require.NoError(t, b.server.WaitIdle(b.context()))
	state, _ := b.state(uuid)
	require.Equal(t, "done", state)
}

func TestDBFilter(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{DBFilter: func(host, db string) bool { return host == db+".example.com" }})
	uuid := b.enqueue(JobSpec{})[0]
	path := runjobPath + "?db=" + b.db + "&job_uuid=" + uuid
	for _, c := range []struct {
		host, header string
		status       int
		state        string
	}{
		{"", "", 404, "enqueued"},
		{b.db + ".example.com", "", 404, "enqueued"},
		{"other.example.com", b.db, 404, "enqueued"},
		{b.db + ".example.com:8069", b.db, 200, "done"},
	} {
		status, _, err := b.request(path, func(q *http.Request) {
			q.Host = c.host
			q.Header.Set(databaseHeader, c.header)
		})
		require.NoError(t, err)
		require.Equal(t, c.status, status)
		state, _ := b.state(uuid)
		require.Equal(t, c.state, state)
	}
	all := b.server.Recorder().AllRequests()
	require.Equal(t, []string{b.db, b.db + ".example.com:8069", uuid}, []string{all[3].DatabaseHeader(), all[3].Host, all[3].UUID})
}

// Listeners of other kinds, reopened after a refusal.
func TestListeners(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "odoo.sock")
	b := setup(t, QueueJob10, Options{Listen: func() (net.Listener, error) { return net.Listen("unix", socket) }})
	b.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.server.Addr())
	}}
	health := func() (int, error) {
		req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "http://odoo/web/health", nil)
		req.RequestURI = ""
		resp, err := b.client.Do(req)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	status, err := health()
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	b.server.Refuse()
	_, err = health()
	require.Error(t, err)
	require.NoError(t, b.server.Accept())
	b.server.NextFaults(1, Fault{Kind: ResetBeforeRead})
	_, err = health()
	require.Error(t, err)
	require.NoError(t, b.server.Close())
	require.ErrorIs(t, b.server.Accept(), errClosed)
}

// Many workers and requests at once: each job runs once, and the recorder's
// numbers add up.
func TestCrowd(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		const n = 40
		recorder, gates := &Recorder{}, &Gates{}
		b := setup(t, gen, Options{Workers: 4, Recorder: recorder, Gates: gates})
		other := Start(t, Options{Postgres: pgtest.Shared(t).ConnConfig, Workers: 2, Recorder: recorder, Gates: gates})
		uuids := b.enqueue(make([]JobSpec, n)...)
		requests := make(chan error)
		for i, uuid := range uuids {
			url := b.server.URL()
			if i%2 == 1 {
				url = other.URL()
			}
			go func() {
				resp, err := b.client.Get(url + runjobPath + "?db=" + b.db + "&job_uuid=" + uuid)
				if err == nil {
					err = resp.Body.Close()
				}
				requests <- err
			}()
		}
		for range uuids {
			require.NoError(t, <-requests)
		}
		counts, err := CountStates(b.context(), b.pool)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"done": n}, counts)
		require.Equal(t, map[Outcome]int{Done: n}, recorder.CountOutcomes())
		require.Len(t, recorder.AllRequests(), n)
		require.LessOrEqual(t, recorder.MaxConcurrent("root"), 6)
		require.Empty(t, recorder.Overlaps())
		require.Empty(t, recorder.Duplicates())
	}, QueueJob10, QueueJob12, QueueJobLock, Channels)
}

// A runner that writes to the row of a running job costs it its result.
func TestInterference(t *testing.T) {
	t.Parallel()
	forAll(t, func(t *testing.T, gen Generation) {
		b := setup(t, gen, Options{})
		uuid := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}})[0]
		first := b.start(uuid)
		b.exec("UPDATE queue_job SET state = 'pending' WHERE uuid = $1", uuid)
		b.server.Gates().Open("go")
		require.NoError(t, <-first)
		state, retry := b.state(uuid)
		require.Equal(t, "pending", state)
		require.Equal(t, 1, retry)
		require.Equal(t, map[Outcome]int{Retried: 1}, b.server.Recorder().CountOutcomes())
	})
}

// When PostgreSQL cuts the session, Odoo can only answer 500.
func TestDatabaseOutage(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{})
	jobs := b.enqueue(JobSpec{Behaviour: Behaviour{Gate: "go"}}, JobSpec{})
	result := make(chan int, 1)
	go func() { status, _, _ := b.runjob(jobs[0]); result <- status }()
	r := b.server.Recorder()
	require.NoError(t, r.Await(b.context(), func() bool { return r.Executions(b.db, jobs[0]) == 1 }))
	require.NoError(t, pgtest.Shared(t).TerminateBackends(b.context(), b.db))
	b.server.Gates().Open("go")
	require.Equal(t, http.StatusInternalServerError, <-result)
	require.Equal(t, map[Outcome]int{Lost: 1}, r.CountOutcomes())
	// As real pools do, this one may find another dead session first.
	require.Eventually(t, func() bool { _, err := b.pool.Exec(b.context(), "SELECT 1"); return err == nil }, patience, time.Millisecond)
	b.server.Forget(b.db)
	b.run(jobs[1], http.StatusOK)
	state, _ := b.state(jobs[0])
	require.Equal(t, "started", state)
}

func TestSchema(t *testing.T) {
	t.Parallel()
	c := pgtest.Shared(t)
	conn, err := pgx.ConnectConfig(t.Context(), c.ConnConfig(c.NewDatabase(t)))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	one := func(sql string) (s string) {
		t.Helper()
		require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&s))
		return s
	}
	const (
		module  = "SELECT concat_ws(' ', state, latest_version) FROM ir_module_module WHERE name = 'queue_job'"
		trigger = "SELECT count(*)::text FROM information_schema.triggers WHERE event_object_table = 'queue_job' AND trigger_name = 'queue_job_notify'"
		columns = `SELECT concat_ws(',', count(*) FILTER (WHERE column_name = 'exc_name'), count(*) FILTER (WHERE column_name = 'queue_job_id'),
			count(*) FILTER (WHERE column_name IN ('capacity', 'sequential', 'throttle', 'paused', 'capacity_default', 'sequential_default')))
			FROM information_schema.columns WHERE table_name LIKE 'queue_job%'`
	)
	require.NoError(t, InstallBase(t.Context(), conn))
	require.Equal(t, "uninstalled", one(module))
	// Each one upgrades the one before, and what was there stays.
	for i, want := range []struct{ module, trigger, columns string }{
		{"installed 10.0.1.1.0", "0", "0,0,0"},
		{"installed 12.0.3.7.0", "3", "1,0,0"},
		{"installed 18.0.2.0.0", "3", "1,1,0"},
		{"installed 18.0.3.0.0", "3", "1,1,6"},
	} {
		require.NoError(t, InstallAddon(t.Context(), conn, QueueJob10+Generation(i)))
		require.Equal(t, want.module, one(module))
		require.Equal(t, want.trigger, one(trigger))
		require.Equal(t, want.columns, one(columns))
		_, err := Enqueue(t.Context(), conn, []JobSpec{{State: "done", NullPriority: true, ETA: epoch}})
		require.NoError(t, err)
	}
	require.Equal(t, "4", one("SELECT count(*)::text FROM queue_job WHERE priority IS NULL"))
	require.NoError(t, DropTrigger(t.Context(), conn))
	require.Equal(t, "0", one(trigger))
	require.NoError(t, InstallTrigger(t.Context(), conn))
	require.NoError(t, SetAddonState(t.Context(), conn, "to upgrade"))
	require.Equal(t, "to upgrade 18.0.3.0.0", one(module))
	require.NoError(t, UninstallAddon(t.Context(), conn))
	require.Equal(t, "uninstalled", one(module))
}

// The trigger announces what docs/contract.md 1.1 says.
func TestTrigger(t *testing.T) {
	t.Parallel()
	b := setup(t, QueueJobLock, Options{})
	conn, err := pgx.ConnectConfig(t.Context(), pgtest.Shared(t).ConnConfig(b.db))
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(t.Context(), "LISTEN queue_job")
	require.NoError(t, err)
	uuid := b.enqueue(JobSpec{UUID: "x"}, JobSpec{UUID: "y", State: "done"})[0]
	b.run(uuid, http.StatusOK)
	b.exec("DELETE FROM queue_job WHERE uuid = 'x'")
	b.exec("UPDATE queue_job SET state = 'cancelled' WHERE uuid = 'y'")
	b.exec("DELETE FROM queue_job WHERE uuid = 'y'")
	var got []string
	for range 7 {
		n, err := conn.WaitForNotification(b.context())
		require.NoError(t, err)
		got = append(got, n.Payload)
	}
	require.Equal(t, []string{"x", "y", "x", "x", "x", "y", "y"}, got)
}

// A server of connector 8.0 and 9.0 wants a session that is bound to the database.
func TestBoundSessions(t *testing.T) {
	t.Parallel()
	for gen, want := range map[Generation]struct{ login, without int }{
		Connector7: {http.StatusNotFound, http.StatusOK},
		Connector8: {http.StatusFound, http.StatusNotFound},
		Connector9: {http.StatusFound, http.StatusNotFound},
	} {
		b := setup(t, gen, Options{})
		b.server.ForgetSessions()
		uuid := b.enqueue(JobSpec{})[0]
		status, _, err := b.runjob(uuid)
		require.NoError(t, err)
		require.Equal(t, want.without, status)
		status, _ = b.get("/web/login?db=" + b.db)
		require.Equal(t, want.login, status)
		b.run(uuid, http.StatusOK)
	}
}
