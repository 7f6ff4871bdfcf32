package runner_test

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// key names a job.
func key(db, uuid string) channels.Key { return channels.Key{DB: db, UUID: uuid} }

// status asks a runner what it is doing.
func (b *bench) status(r *runner.Runner) runner.Status {
	st, err := r.Status(b.Context())
	require.NoError(b, err)
	return st
}

// state returns the state of a database, and false if it is not served.
func (b *bench) state(r *runner.Runner, db string) (runner.DatabaseState, bool) {
	for _, d := range b.status(r).Databases {
		if d.Name == db {
			return d.State, true
		}
	}
	return 0, false
}

// requireState requires that a database is served and in a state.
func (b *bench) requireState(r *runner.Runner, db string, want runner.DatabaseState) {
	b.Helper()
	got, ok := b.state(r, db)
	require.True(b, ok, "%s is not served", db)
	require.Equal(b, want.String(), got.String())
}

// requireIdle requires that a runner has no task left and no channel counts one.
func (b *bench) requireIdle(r *runner.Runner) {
	b.Helper()
	st := b.status(r)
	require.Zero(b, st.Claiming+st.Open+st.Watched, "tasks left: %+v", st)
	for _, c := range st.Channels {
		require.Zero(b, c.Running, "%s", c)
		require.Zero(b, c.Queued, "%s", c)
	}
	for _, up := range st.Upstreams {
		require.Zero(b, up.InFlight, "%s", up.Name)
	}
}

// requireRanOnce requires that jobs are done, each by one request.
func (b *bench) requireRanOnce(keys ...channels.Key) {
	b.Helper()
	for _, k := range keys {
		b.requireDone(k)
		require.Len(b, b.RunsOf(k), 1, "%s", k)
	}
}

func (b *bench) requireDone(keys ...channels.Key) {
	b.Helper()
	for _, k := range keys {
		row, ok := b.Row(k)
		require.True(b, ok, "%s is gone", k)
		require.Equal(b, channels.Done.String(), row.State.String(), "%s", k)
	}
}

// started returns how often a job was really started by a worker.
func (b *bench) started(k channels.Key) (n int) {
	for _, run := range b.RunsOf(k) {
		if !run.Started.IsZero() {
			n++
		}
	}
	return n
}

// connections returns how many connections to a database are open.
func (b *bench) connections(db string) int {
	return b.Calls(db, "OpenSession") - b.Calls(db, "Close")
}

// logged returns how many entries have this message.
func (b *bench) logged(message string) int { return b.logs.FilterMessage(message).Len() }

// one inserts a pending job.
func (b *bench) one(db, uuid string, change ...func(*mock.Job)) channels.Key {
	j := mock.NewJob(db, uuid)
	for _, c := range change {
		c(&j)
	}
	b.Insert(j)
	return j.Key
}

// repeat returns a plan many times.
func repeat(p mock.Plan, n int) []mock.Plan {
	plans := make([]mock.Plan, n)
	for i := range plans {
		plans[i] = p
	}
	return plans
}

// fakeDriver puts fakes around what another driver returns. Nil fields change
// nothing.
type fakeDriver struct {
	driver.Driver
	openCluster func() error
	cluster     func(driver.Cluster) driver.Cluster
	session     func(driver.Session) driver.Session
	run         func(driver.Task)
	check       func()
}

func (d *fakeDriver) OpenCluster(ctx context.Context, pg *pgx.ConnConfig) (driver.Cluster, error) {
	if d.openCluster != nil {
		if err := d.openCluster(); err != nil {
			return nil, err
		}
	}
	c, err := d.Driver.OpenCluster(ctx, pg)
	if err == nil && d.cluster != nil {
		c = d.cluster(c)
	}
	return c, err
}

func (d *fakeDriver) OpenSession(ctx context.Context, pg *pgx.ConnConfig, database string) (driver.Session, error) {
	s, err := d.Driver.OpenSession(ctx, pg, database)
	if err == nil && d.session != nil {
		s = d.session(s)
	}
	return s, err
}

func (d *fakeDriver) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	if d.run != nil {
		d.run(t)
	}
	return d.Driver.Run(ctx, up, t)
}

func (d *fakeDriver) Check(ctx context.Context, up driver.Upstream) error {
	if d.check != nil {
		d.check()
	}
	return d.Driver.Check(ctx, up)
}

// fakeSession changes single methods of a session.
type fakeSession struct {
	driver.Session
	read      func()
	unclaim   func([]driver.Task) []driver.Task
	wait      func(driver.Notifications) driver.Notifications
	toInspect func()
	inspect   func([]driver.Liveness)
}

func (s *fakeSession) Read(ctx context.Context, uuids []string) ([]driver.Row, error) {
	if s.read != nil {
		s.read()
	}
	return s.Session.Read(ctx, uuids)
}

func (s *fakeSession) Unclaim(ctx context.Context, tasks []driver.Task) ([]driver.Row, error) {
	if s.unclaim != nil {
		tasks = s.unclaim(tasks)
	}
	return s.Session.Unclaim(ctx, tasks)
}

func (s *fakeSession) Inspect(ctx context.Context, uuids []string) ([]driver.Liveness, error) {
	if s.toInspect != nil {
		s.toInspect()
	}
	found, err := s.Session.Inspect(ctx, uuids)
	if s.inspect != nil {
		s.inspect(found)
	}
	return found, err
}

func (s *fakeSession) Wait(ctx context.Context) (driver.Notifications, error) {
	n, err := s.Session.Wait(ctx)
	if s.wait != nil {
		n = s.wait(n)
	}
	return n, err
}

// fakeCluster changes single methods of a cluster.
type fakeCluster struct {
	driver.Cluster
	busy      func()
	databases func() error
	lead      func(*driver.Lock)
}

func (c *fakeCluster) Busy(ctx context.Context) ([]string, error) {
	if c.busy != nil {
		c.busy()
	}
	return c.Cluster.Busy(ctx)
}

func (c *fakeCluster) Databases(ctx context.Context, patterns []string) ([]driver.Database, error) {
	if c.databases != nil {
		if err := c.databases(); err != nil {
			return nil, err
		}
	}
	return c.Cluster.Databases(ctx, patterns)
}

func (c *fakeCluster) Lead(ctx context.Context, key int64) (driver.Lock, error) {
	l, err := c.Cluster.Lead(ctx, key)
	if c.lead != nil {
		c.lead(&l)
	}
	return l, err
}

// targetsFunc is a function as targets.
type targetsFunc func() ([]driver.Upstream, error)

func (f targetsFunc) Upstreams(context.Context) ([]driver.Upstream, error) { return f() }

// within requires that a moment lies between two pauses after another one.
func (b *bench) within(from, at time.Time, least, most time.Duration) {
	b.Helper()
	require.GreaterOrEqual(b, at.Sub(from), least)
	require.LessOrEqual(b, at.Sub(from), most)
}

// unavailable answers every request after a while in the place of the server, which goes on.
type unavailable struct {
	driver.Driver
	after time.Duration
}

func (d *unavailable) Run(ctx context.Context, up driver.Upstream, t driver.Task) driver.Result {
	ctx, cancel := context.WithTimeout(ctx, d.after)
	defer cancel()
	res := d.Driver.Run(ctx, up, t)
	if ctx.Err() != nil {
		res = driver.Result{Outcome: driver.Unavailable, Status: http.StatusGatewayTimeout, Err: ctx.Err()}
	}
	return res
}

// named is a session that names the function of a job by its uuid.
type named struct{ driver.Session }

func (s *named) Claim(ctx context.Context, uuids, others []string) ([]driver.Task, []driver.Row, error) {
	tasks, rows, err := s.Session.Claim(ctx, uuids, others)
	for i := range tasks {
		if at := strings.LastIndex(tasks[i].UUID, "."); at > 0 {
			tasks[i].Model, tasks[i].Method = tasks[i].UUID[:at], tasks[i].UUID[at+1:]
		}
	}
	return tasks, rows, err
}
