// Package drivertest is the conformance suite of the task driver model: what every implementation
// of [driver.Driver] has to do, as tests. It also has a connection pooler for tests.
package drivertest

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Job is a job to insert.
type Job struct {
	UUID       string
	State      string
	Channel    string
	Priority   int32
	Created    time.Time
	ETA        time.Time // zero for none
	Enqueued   time.Time // zero for none
	Retry      int32
	MaxRetries int32
	// LockRow inserts a lock row that is not held.
	LockRow bool
	// DependsOn are the uuids of jobs that must be done first, and Done is when it was done itself; zero
	// for not known.
	DependsOn []string
	Done      time.Time
}

// Behaviour is how an upstream of a harness behaves.
type Behaviour uint8

const (
	// Works runs tasks, in no time.
	Works Behaviour = iota
	// Unavailable answers with status 503.
	Unavailable
	// Closed refuses connections.
	Closed
	// Cuts breaks the connection after having read the request.
	Cuts
)

// Harness is an application with one database, made for one test. Its methods fail the test when
// something goes wrong. Jobs have lock rows, unless only [RunWithoutLocks] is run.
type Harness interface {
	// Driver returns the driver under test.
	Driver() driver.Driver
	// Postgres returns the configuration of connections.
	Postgres() *pgx.ConnConfig
	// Database returns the name of the application's database.
	Database() string
	// Foreign returns the name of a database without the application.
	Foreign() string
	// Insert commits a job.
	Insert(j Job)
	// SetState commits a change of a job's state from outside.
	SetState(uuid, state string)
	// SetChannels commits the channels that are configured in the database, and announces it. The
	// list has root in it.
	SetChannels(cfgs []channels.Config)
	// Mark commits marks for an upgrade on modules of the application; without any, it removes them.
	Mark(modules ...string)
	// Change begins to change the application in a way that a claim cannot see, until end is called.
	Change() (end func())
	// Delete deletes a job.
	Delete(uuid string)
	// Notify sends a notification from outside.
	Notify(payload string)
	// HoldLock makes a worker hold the lock row of a job and returns its backend's process id;
	// FreeLock ends that.
	HoldLock(uuid string) uint32
	FreeLock(uuid string)
	// Cause returns what the application shows its users of why a job failed.
	Cause(uuid string) string
	// Terminate ends all sessions in the database.
	Terminate()
	// Upstream returns a server for tasks.
	Upstream(b Behaviour) driver.Upstream
}

// timeout bounds what a test waits for.
const timeout = 30 * time.Second

// bench is a harness with what the tests have in common.
type bench struct {
	Harness
	t   *testing.T
	ctx context.Context
	// locks is set when jobs have lock rows.
	locks bool
	// pooler is the way of the sessions if they are those of a [driver.PoolDriver].
	pooler *pgx.ConnConfig
}

func newBench(t *testing.T, fresh func(*testing.T) Harness) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return &bench{Harness: fresh(t), t: t, ctx: ctx}
}

// open opens a session that ends with the test.
func (b *bench) open() driver.Session {
	b.t.Helper()
	s, err := b.session()
	require.NoError(b.t, err)
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		_ = s.Close(ctx) // it may be lost, or closed already
	})
	return s
}

func (b *bench) session() (driver.Session, error) {
	if b.pooler == nil {
		return b.Driver().OpenSession(b.ctx, b.Postgres(), b.Database())
	}
	d, ok := driver.AsPoolDriver(b.Driver())
	require.True(b.t, ok)
	return d.OpenPooled(b.ctx, b.pooler, b.Database())
}

// ready opens a session that has the lock and listens.
func (b *bench) ready() driver.Session {
	b.t.Helper()
	s := b.open()
	fp, err := s.Fingerprint(b.ctx)
	require.NoError(b.t, err)
	require.Equal(b.t, driver.Healthy, fp.Health, fp.Description)
	lock, err := s.Lock(b.ctx)
	require.NoError(b.t, err)
	require.True(b.t, lock.Held, lock.Holder)
	require.NoError(b.t, s.Listen(b.ctx))
	return s
}

// row reads one job that must exist.
func (b *bench) row(s driver.Session, uuid string) driver.Row {
	b.t.Helper()
	rows, err := s.Read(b.ctx, []string{uuid})
	require.NoError(b.t, err)
	require.Len(b.t, rows, 1)
	return rows[0]
}

// claim claims one job that must be pending.
func (b *bench) claim(s driver.Session, uuid string) driver.Task {
	b.t.Helper()
	tasks, _, err := s.Claim(b.ctx, []string{uuid}, nil)
	require.NoError(b.t, err)
	require.Len(b.t, tasks, 1)
	require.Equal(b.t, channels.Key{DB: b.Database(), UUID: uuid}, tasks[0].Key)
	return tasks[0]
}

// inspect inspects one job.
func (b *bench) inspect(s driver.Session, uuid string) driver.Liveness {
	b.t.Helper()
	found, err := s.Inspect(b.ctx, []string{uuid})
	require.NoError(b.t, err)
	require.Len(b.t, found, 1)
	require.Equal(b.t, channels.Key{DB: b.Database(), UUID: uuid}, found[0].Row.Key)
	return found[0]
}

// wait returns the notifications up to and including one that is wanted.
func (b *bench) wait(s driver.Session, enough func(driver.Notifications) bool) driver.Notifications {
	b.t.Helper()
	var all driver.Notifications
	for !enough(all) {
		n, err := s.Wait(b.ctx)
		require.NoError(b.t, err)
		require.NoError(b.t, b.ctx.Err(), "waiting for more than %+v", all)
		all.Changed = append(all.Changed, n.Changed...)
		all.Echoes = append(all.Echoes, n.Echoes...)
		all.Reload = all.Reload || n.Reload
	}
	return all
}

// uuids of the suite's jobs.
const (
	jobA    = "aaaaaaaa-0000-4000-8000-000000000001"
	jobB    = "bbbbbbbb-0000-4000-8000-000000000002"
	jobC    = "cccccccc-0000-4000-8000-000000000003"
	nothing = "dddddddd-0000-4000-8000-000000000004"
)

// ago is a moment on a whole second in the past.
func ago(d time.Duration) time.Time { return time.Now().Add(-d).Truncate(time.Second) }
