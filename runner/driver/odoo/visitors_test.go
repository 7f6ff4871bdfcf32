package odoo_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// cancellations is for `make cancellations`.
var cancellations = flag.Int("cancellations", 300, "how many attempts TestStopHitsNoVisitor cancels")

// Statements that a careful author might have written instead.
const (
	// pidSQL leaves out that the backend must run the transaction that holds the lock row: it takes
	// the backend that did a moment ago, as an inspection found.
	pidSQL = "SELECT pg_cancel_backend($1::int)"
	// unlockedSQL takes a uuid. It has the condition, and does not keep the transaction from ending
	// meanwhile.
	unlockedSQL = `SELECT pg_cancel_backend(h.pid) FROM queue_job j JOIN queue_job_lock l ON l.queue_job_id = j.id
		JOIN pg_locks h ON h.locktype = 'transactionid' AND h.granted AND h.mode = 'ExclusiveLock' AND h.transactionid = l.xmax
		WHERE j.uuid = $1 AND j.state = 'started'`
)

// backends is how many pooled connections there are.
const backends = 8

// pooled are backends that serve jobs and visitors by turns, as those of a connection pooler do.
type pooled struct {
	*harness
	attempts []driver.Task
	// signalled are the cancellations that PostgreSQL sent; jobs those of them that hit the statement
	// of a job, visitors those that hit one of a visitor's; ran counts the visitors' transactions.
	signalled, jobs, visitors, ran atomic.Int64
}

// newPool starts the backends; they end with ctx.
func newPool(ctx context.Context, t *testing.T) *pooled {
	p := &pooled{harness: newHarness(t, odoostub.QueueJobLock)}
	for i := range backends {
		p.attempts = append(p.attempts, p.attempt(fmt.Sprint(i)))
	}
	var conns [2 * backends]*pgx.Conn
	for i := range conns {
		conns[i] = p.connect()
	}
	var all sync.WaitGroup
	t.Cleanup(all.Wait) // before the connections are closed
	for i := range backends {
		conn, second := conns[2*i], conns[2*i+1]
		all.Go(func() {
			for ctx.Err() == nil {
				p.job(ctx, conn, second, fmt.Sprint(i))
				for range 2 {
					p.visitor(ctx, conn)
				}
			}
		})
	}
	return p
}

// job runs a job, as Odoo does: on a transaction that holds the lock row. If it fails, another
// connection writes that down before the transaction ends.
func (p *pooled) job(ctx context.Context, conn, second *pgx.Conn, uuid string) {
	for _, sql := range []string{
		"UPDATE queue_job SET state = 'started' WHERE uuid = '" + uuid + "'",
		"BEGIN",
		"SELECT FROM queue_job_lock WHERE queue_job_id IN (SELECT id FROM queue_job WHERE uuid = '" + uuid + "') FOR NO KEY UPDATE",
		fmt.Sprintf("SELECT pg_sleep(%f)", rand.Float64()*0.002),
		"UPDATE queue_job SET state = 'done' WHERE uuid = '" + uuid + "'",
		"COMMIT",
	} {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		switch {
		case err == nil || ctx.Err() != nil:
			continue
		case code(err) != "57014":
			p.t.Errorf("a job: %v", err)
		}
		p.jobs.Add(1)
		if _, err := second.Exec(ctx, "UPDATE queue_job SET state = 'failed' WHERE uuid = $1", uuid); err != nil && ctx.Err() == nil {
			p.t.Errorf("a failure: %v", err)
		}
		p.rollback(ctx, conn)
		return
	}
}

// visitor runs a transaction of a visitor on a backend.
func (p *pooled) visitor(ctx context.Context, conn *pgx.Conn) {
	_, err := conn.Exec(ctx, "BEGIN; SELECT pg_sleep(0.0005); SELECT count(*) FROM queue_job; COMMIT", pgx.QueryExecModeSimpleProtocol)
	p.ran.Add(1)
	switch {
	case err == nil || ctx.Err() != nil:
		return
	case code(err) != "57014":
		p.t.Errorf("a visitor: %v", err)
	}
	p.visitors.Add(1)
	p.rollback(ctx, conn)
}

// rollback ends what was cancelled. A statement that hits anybody hits this, too.
func (p *pooled) rollback(ctx context.Context, conn *pgx.Conn) {
	for ctx.Err() == nil {
		_, err := conn.Exec(ctx, "ROLLBACK")
		if err == nil || ctx.Err() != nil {
			return
		}
		if code(err) != "57014" {
			p.t.Errorf("the end of what was cancelled: %v", err)
			return
		}
	}
}

// cancel has an attempt after the other cancelled until so many signals were sent, or a visitor was
// hit and that is enough.
func (p *pooled) cancel(n int64, enough bool, one func(driver.Task) bool) {
	deadline := time.Now().Add(time.Minute + time.Duration(n)*100*time.Millisecond) // some take 10 ms
	for i := 0; p.signalled.Load() < n && !(enough && p.visitors.Load() > 0); i++ {
		require.True(p.t, time.Now().Before(deadline), "only %d", p.signalled.Load())
		if one(p.attempts[i%len(p.attempts)]) {
			p.signalled.Add(1)
		}
	}
}

// signal runs one of the other statements, and reports whether a signal was sent.
func (p *pooled) signal(ctx context.Context, conn *pgx.Conn, sql string, of any) (sent bool) {
	if err := conn.QueryRow(ctx, sql, of).Scan(&sent); err != nil {
		require.ErrorIs(p.t, err, pgx.ErrNoRows)
	}
	return sent
}

// report says what happened.
func (p *pooled) report(how string) {
	p.t.Logf("%s: %d cancellations, %d statements of jobs cancelled, %d of visitors, in %d transactions of visitors",
		how, p.signalled.Load(), p.jobs.Load(), p.visitors.Load(), p.ran.Load())
}

// TestStopHitsNoVisitor: among backends that serve visitors between two jobs, no cancellation of a job
// ever reaches a visitor. It does without the conditions, which is what makes this a test.
func TestStopHitsNoVisitor(t *testing.T) {
	for name, c := range map[string]struct {
		// sql is what is done instead of a Stop.
		sql string
		// hits is set if visitors must be hit, and chance if they may be.
		hits, chance bool
	}{
		"as it is": {}, "whoever held the lock": {sql: pidSQL, hits: true}, "without the row": {sql: unlockedSQL, chance: true},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, end := context.WithCancel(t.Context())
			p := newPool(ctx, t)
			t.Cleanup(end)
			s := p.session()
			naive := p.connect()
			n := int64(*cancellations)
			p.cancel(n, c.hits && n < 1000, func(task driver.Task) bool {
				switch c.sql {
				case "":
					list, err := s.(driver.Stopper).Stop(ctx, []driver.Task{task}, false)
					require.NoError(t, err)
					return list[0].Result == driver.Signalled
				case pidSQL:
					found, err := s.Inspect(ctx, []string{task.UUID})
					require.NoError(t, err)
					return found[0].PID != 0 && p.signal(ctx, naive, c.sql, found[0].PID)
				}
				return p.signal(ctx, naive, c.sql, task.UUID)
			})
			p.report(name)
			switch {
			case c.hits:
				require.Positive(t, p.visitors.Load(), "the test finds what it looks for")
			case !c.chance:
				require.Zero(t, p.visitors.Load(), "visitors were hit")
				require.Positive(t, p.jobs.Load(), "jobs were cancelled")
			}
		})
	}
}
