//go:build fault

package fault

import (
	"time"

	"github.com/stretchr/testify/require"
)

// pooledFaults happen while the nodes reach the databases through PgBouncer, by the option pooler.
var pooledFaults = []fault{
	pooledKilled("transaction"),
	pooledKilled("session"),
	{
		name: "PgBouncer as pooler, two nodes, leader killed", bound: 30 * time.Second, nodes: 2,
		prepare: func(tb *testBed) { pooled(tb, "transaction") },
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.Kill()
			tb.over()
		},
	},
	{
		name: "PgBouncer as pooler, Caddy killed during HTTP requests", bound: 40 * time.Second,
		prepare: func(tb *testBed) { pooled(tb, "transaction") },
		strike:  killDuringRequests,
	},
	{
		name: "PgBouncer as pooler, lock held by somebody else", bound: 15 * time.Second, databases: 4,
		prepare: func(tb *testBed) { pooled(tb, "transaction") },
		strike: func(tb *testBed) {
			holdForeignLock(tb)
			require.NotZero(tb, tb.nodes[0].logged("this one yields"))
		},
	},
	{
		name: "PgBouncer as pooler, backends terminated", bound: 20 * time.Second,
		prepare: func(tb *testBed) { pooled(tb, "transaction") },
		strike: func(tb *testBed) {
			for range 5 {
				tb.ask(`SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
					WHERE application_name = 'caddy-jobrunner/session' AND datname LIKE $1`, tb.ID+"_%")
				tb.wait(time.Second)
			}
		},
	},
}

// pooled starts a PgBouncer through which all nodes reach the databases.
func pooled(tb *testBed, mode string) *bouncer {
	b := startBouncer(tb, mode)
	tb.more = "pooler \"" + b.dsn + "\" {\npoll 1s\n}"
	return b
}

// pooledKilled has it die.
func pooledKilled(mode string) fault {
	var b *bouncer
	return fault{
		name: "PgBouncer as pooler, in " + mode + " mode, killed", bound: 30 * time.Second,
		prepare: func(tb *testBed) { b = pooled(tb, mode) },
		strike: func(tb *testBed) {
			b.Kill()
			tb.wait(2 * time.Second)
			b.start()
		},
	}
}
