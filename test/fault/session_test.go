//go:build fault

package fault

import (
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// sessionFaults happen to the sessions of a node, or to the pooler before them.
var sessionFaults = []fault{
	{
		name: "sessions terminated in the middle of a claim", bound: 30 * time.Second,
		strike: func(tb *testBed) {
			commit := claimBlocked(tb)
			require.NotZero(tb, tb.terminate(tb.nodes[0], "datname <> 'postgres'"))
			commit()
		},
	},
	{
		name: "sessions terminated between claim and HTTP", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = "driver faulty {\nbefore_run 300ms\n}" },
		strike: func(tb *testBed) {
			for range 10 {
				tb.terminate(tb.nodes[0], "true")
				tb.wait(700 * time.Millisecond)
			}
		},
	},
	{
		name: "only the maintenance session terminated", bound: 15 * time.Second,
		strike: func(tb *testBed) { require.Equal(tb, 1, tb.terminate(tb.nodes[0], "datname = 'postgres'")) },
	},
	{
		name: "LISTEN registrations lost", bound: 30 * time.Second,
		prepare: func(tb *testBed) {
			tb.more = "driver faulty {\nflag " + deafFlag(tb) + "\n}"
		},
		strike: func(tb *testBed) {
			require.NoError(tb, os.WriteFile(deafFlag(tb), nil, 0o600))
			// The fault lasts until the runner notices; that is part of its recovery.
			tb.over()
			tb.until("the sessions are connected anew", func() bool {
				return tb.nodes[0].logged("database cannot be reached") >= 2
			})
			require.NoError(tb, os.Remove(deafFlag(tb)))
		},
	},
	bouncerKilled(),
	{
		name: "PgBouncer in transaction mode, refused", bound: 30 * time.Second, unserved: true,
		prepare: func(tb *testBed) { behindBouncer(tb, "transaction") },
		strike:  refusedBouncer,
	},
	{
		name: "PgBouncer in statement mode, refused", bound: 30 * time.Second, unserved: true,
		prepare: func(tb *testBed) { behindBouncer(tb, "statement") },
		strike:  refusedBouncer,
	},
}

func deafFlag(tb *testBed) string {
	return filepath.Join(os.TempDir(), tb.ID+"-"+strconv.Itoa(os.Getpid())+"-deaf")
}

// claimBlocked lets claims wait for a lock on the table, and returns when one does. The lock is none
// that reads wait for. Jobs of the table wait for it too: where they have all the slots, there is no
// claim, so it is given back and taken again.
func claimBlocked(tb *testBed) (commit func()) {
	db := tb.Databases()[0]
	tb.until("a claim waits", func() bool {
		commit = tb.hold(db, "LOCK TABLE queue_job IN SHARE ROW EXCLUSIVE MODE")
		waits := testbed.Within(3*time.Second, func() bool {
			return tb.ask(`SELECT count(*)::text FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'
				AND application_name = $2`, db, tb.nodes[0].name) != "0"
		})
		if !waits {
			commit()
		}
		return waits
	})
	return commit
}

// bouncerKilled has the pooler die through which the node is connected.
func bouncerKilled() fault {
	var b *bouncer
	return fault{
		name: "PgBouncer in session mode, killed", bound: 30 * time.Second,
		prepare: func(tb *testBed) { b = behindBouncer(tb, "session") },
		strike: func(tb *testBed) {
			b.Kill()
			tb.wait(2 * time.Second)
			b.start()
		},
	}
}

// refusedBouncer checks that nothing is done through a pooler that does not keep
// sessions, and that the log says what to do; then it goes around the pooler.
func refusedBouncer(tb *testBed) {
	n := tb.nodes[0]
	tb.until("the pooler is refused", func() bool { return n.logged("use session pooling, or connect to PostgreSQL directly") > 0 })
	tb.wait(3 * time.Second)
	claimed, err := tb.total("SELECT count(*) FROM queue_job WHERE state <> 'pending'")
	require.NoError(tb, err)
	require.Zero(tb, claimed, "nothing is claimed")
	tb.dsn = ""
	n.reload()
}
