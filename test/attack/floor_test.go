//go:build attack

package attack

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// bareDB is a database that no runner serves.
const bareDB = "bare"

// floor is what PostgreSQL itself makes everybody wait: a client that does the least that a runner
// has to do, in a database of his own. He commits a job, is notified, and claims it by one update.
// Notifications of a whole cluster are written by one transaction at a time, and read by everyone.
type floor struct {
	b        *bed
	listener *pgx.Conn

	mu    sync.Mutex
	waits []time.Duration
	since time.Time
	end   func()
}

func newFloor(b *bed) *floor {
	b.Helper()
	_, err := b.AddDatabase(b.Context(), bareDB, odoostub.QueueJobLock)
	require.NoError(b, err)
	f := &floor{b: b, end: func() {}}
	f.listener, err = pgx.ConnectConfig(b.Context(), b.Postgres.ConnConfig(bareDB))
	require.NoError(b, err)
	_, err = f.listener.Exec(b.Context(), "LISTEN queue_job")
	require.NoError(b, err)
	return f
}

func (f *floor) start() {
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	f.end = func() {
		cancel()
		<-gone
	}
	go func() {
		defer close(gone)
		defer f.listener.Close(context.Background()) //nolint:errcheck // the cluster ends with the test
		for ctx.Err() == nil {
			if !f.job(ctx) {
				return
			}
			f.b.wait(beat)
		}
	}()
}

// job takes a job from its commit to the confirmed claim, and reports whether that was possible.
func (f *floor) job(ctx context.Context) bool {
	uuids, err := odoostub.Enqueue(ctx, f.b.Pool(bareDB), []odoostub.JobSpec{{}})
	if err != nil {
		return false
	}
	began := time.Now()
	for {
		n, err := f.listener.WaitForNotification(ctx)
		if err != nil {
			return false
		}
		if n.Payload == uuids[0] {
			break
		}
	}
	_, err = f.listener.Exec(ctx, `UPDATE queue_job SET state = 'enqueued', date_enqueued = now() WHERE uuid = $1`, uuids[0])
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !began.Before(f.since) {
		f.waits = append(f.waits, time.Since(began))
	}
	return true
}

// forget begins the measurement anew.
func (f *floor) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waits, f.since = nil, time.Now()
}

// stop ends the client and returns the 99th percentile of what he waited.
func (f *floor) stop() time.Duration {
	f.end()
	f.end = func() {}
	f.mu.Lock()
	defer f.mu.Unlock()
	return testbed.Percentile(f.waits, 99)
}
