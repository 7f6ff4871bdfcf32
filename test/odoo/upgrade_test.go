//go:build odoo

package odootest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// upgradeNotice is how long after the first mark a job may begin that was claimed before it.
const upgradeNotice = 300 * time.Millisecond

// testUpgrade upgrades modules while 200 jobs wait, twice: the add-on with what depends on it, and one
// module alone, whose mark nobody ever sees. None starts meanwhile, and all run after it.
func testUpgrade(t *testing.T, s *site) {
	const jobs = 200
	db := s.newDatabase(t, fmt.Sprintf("upgrade%d", s.series), s.ready)
	c := startCaddy(t, s.server, caddyOptions{Databases: db.name, Channels: "root:3", Options: "upgrade_gate"})
	c.waitReady(t, db.name)
	var arguments [][]any
	for i := range jobs {
		arguments = append(arguments, []any{fmt.Sprintf("upgrade %d", i), 0.3})
	}
	uuids := enqueue(t, c.url(), db.name, "run", nil, arguments...)
	for i, module := range []string{"queue_job", "jobrunner_test"} {
		last := enqueue(t, c.url(), db.name, "run", map[string]any{"priority": 1}, []any{fmt.Sprintf("before %s", module), 6})
		db.waitState(t, "started", last...)
		before := len(db.executions(t, "upgrade %"))
		require.True(t, poll(jobsTimeout, func() bool { return len(db.executions(t, "upgrade %")) >= before+3 }))
		u := db.watchUpgrade(t)
		s.odoo(t, "--config", s.config(t, fmt.Sprintf("upgrade%d", i), nil), "--database", db.name, "--update", module, "--stop-after-init")
		u.stop()
		require.False(t, u.begin.IsZero())
		early := 0
		for _, e := range db.executions(t, "upgrade %") {
			started := time.UnixMicro(int64(e.Started * 1e6))
			if started.After(u.begin) && started.Before(u.end) {
				early++
				require.Less(t, started.Sub(u.begin), upgradeNotice, "job %s", e.Key)
			}
		}
		waiting := db.count(t, "queue_job WHERE state = 'pending'")
		t.Logf("FACT odoo %d: -u %s took %.1f s, marks could be seen for %.1f s of it; %d jobs that had been claimed before began, %d waited at its end",
			s.series, module, u.end.Sub(u.begin).Seconds(), u.marked.Seconds(), early, waiting)
		require.Greater(t, waiting, 50)
		db.waitState(t, "done", last...)
		t.Logf("FACT odoo %d: the job that ran when -u %s began: %s", s.series, module, db.job(t, last[0]).State)
	}
	require.Contains(t, c.log(), "database is being upgraded, its jobs wait: ")
	db.waitState(t, "done", uuids...)
	require.Len(t, db.executions(t, "upgrade %"), jobs, "every job exactly once")
}

// upgradeWatch is what is seen of an upgrade from outside.
type upgradeWatch struct {
	// begin is when a module was marked first, seen or not, and end when the last transaction of those
	// who had done that ended.
	begin, end time.Time
	// marked is how long marks could be seen.
	marked time.Duration

	stop func()
}

const upgradeWatchSQL = `SELECT EXISTS (SELECT FROM ir_module_module WHERE state LIKE 'to %'),
	coalesce((SELECT array_agg(pid) FROM pg_locks WHERE relation = 'ir_module_module'::regclass AND pid <> pg_backend_pid()
		AND mode IN ('RowExclusiveLock', 'ExclusiveLock')), '{}'),
	EXISTS (SELECT FROM pg_locks WHERE locktype = 'virtualxid' AND pid = ANY($1))`

// watchUpgrade looks every few milliseconds.
func (d *database) watchUpgrade(t *testing.T) *upgradeWatch {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), cluster.DSN(d.name))
	require.NoError(t, err)
	u := &upgradeWatch{}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	u.stop = func() {
		cancel()
		<-gone
	}
	go func() {
		defer close(gone)
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		pids := []int32{}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for before := time.Now(); ctx.Err() == nil; <-tick.C {
			var marked, busy bool
			var writers []int32
			if conn.QueryRow(ctx, upgradeWatchSQL, pids).Scan(&marked, &writers, &busy) != nil {
				return
			}
			for _, pid := range writers {
				if !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
			now := time.Now()
			if marked || len(writers) > 0 || busy {
				u.end = before // that it had not ended when this was asked is certain
				if u.begin.IsZero() {
					u.begin = now
				}
			}
			if marked {
				u.marked += now.Sub(before)
			}
			before = now
		}
	}()
	return u
}
