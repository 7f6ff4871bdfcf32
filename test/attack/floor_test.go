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
// has to do, in a database of his own. Like the good tenant, he commits one job after the other,
// however long those before have to wait; another connection is notified of each, and claims it by one
// update. Notifications of a whole cluster are written by one transaction at a time, and read by
// everyone.
type floor struct {
	b        *bed
	listener *pgx.Conn

	mu sync.Mutex // guards the following
	// committed is when each job was, once that was confirmed, and claimed when its claim was.
	committed, claimed map[string]time.Time
	since              time.Time
	end                func()
}

func newFloor(b *bed) *floor {
	b.Helper()
	_, err := b.AddDatabase(b.Context(), bareDB, odoostub.QueueJobLock)
	require.NoError(b, err)
	f := &floor{b: b, committed: make(map[string]time.Time), claimed: make(map[string]time.Time), end: func() {}}
	f.listener, err = pgx.ConnectConfig(b.Context(), b.Postgres.ConnConfig(bareDB))
	require.NoError(b, err)
	_, err = f.listener.Exec(b.Context(), "LISTEN queue_job")
	require.NoError(b, err)
	return f
}

func (f *floor) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	f.end = func() {
		cancel()
		both.Wait()
	}
	both.Go(func() {
		for ctx.Err() == nil {
			f.commit()
			f.b.wait(beat)
		}
	})
	both.Go(func() {
		defer f.listener.Close(context.Background()) //nolint:errcheck // the cluster ends with the test
		for f.claim(ctx) == nil {
		}
	})
}

// commit does what [load.commit] does.
func (f *floor) commit() {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	uuids, err := odoostub.Enqueue(ctx, f.b.Pool(bareDB), []odoostub.JobSpec{{}})
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.committed[uuids[0]] = time.Now()
}

// claim claims the next job that is told of.
func (f *floor) claim(ctx context.Context) error {
	n, err := f.listener.WaitForNotification(ctx)
	if err != nil {
		return err
	}
	tag, err := f.listener.Exec(ctx, `UPDATE queue_job SET state = 'enqueued', date_enqueued = now()
		WHERE uuid = $1 AND state = 'pending'`, n.Payload)
	if err != nil || tag.RowsAffected() == 0 {
		return err // of the claim itself, Odoo's trigger tells, too
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claimed[n.Payload] = time.Now()
	return nil
}

// forget begins the measurement anew.
func (f *floor) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.since = time.Now()
}

// stop ends the client and returns the 99th percentile of what he waited, from the commit to the claim.
func (f *floor) stop() time.Duration {
	f.end()
	f.end = func() {}
	f.mu.Lock()
	defer f.mu.Unlock()
	var waits []time.Duration
	for uuid, at := range f.committed {
		if at.Before(f.since) {
			continue
		}
		claimed, ok := f.claimed[uuid]
		if !ok {
			claimed = time.Now()
		}
		waits = append(waits, max(claimed.Sub(at), 0))
	}
	return testbed.Percentile(waits, 99)
}
