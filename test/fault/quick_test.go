package fault

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// quickFaults are those that take little time and find most mistakes.
var quickFaults = []fault{
	{
		name: "PostgreSQL restarted, fast", bound: 40 * time.Second, cluster: &pgtest.Options{},
		strike: func(tb *testBed) { require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Fast)) },
	},
	{
		name: "sessions terminated while idle", bound: 15 * time.Second,
		strike: terminateIdle,
	},
	{
		name: "Caddy killed during HTTP requests", bound: 40 * time.Second,
		strike: killDuringRequests,
	},
	{
		name: "two nodes, leader killed", bound: 30 * time.Second, nodes: 2,
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.Kill()
			tb.over()
		},
	},
	{
		name: "Odoo answers with a redirect", bound: 40 * time.Second,
		strike: func(tb *testBed) { misbehave(tb, odoostub.Fault{Kind: odoostub.Redirect}) },
	},
	{
		name: "lock of one database held by somebody else", bound: 10 * time.Second, databases: 4,
		strike: holdForeignLock,
	},
}

// misbehave has all Odoo servers suffer a fault for a while.
func misbehave(tb *testBed, f odoostub.Fault) {
	tb.faultAll(f)
	tb.wait(5 * time.Second)
	tb.faultAll(odoostub.Fault{})
}

// terminateIdle ends the sessions of the leader when there is nothing to do.
func terminateIdle(tb *testBed) {
	tb.load.stop()
	tb.until("all jobs are done", func() bool { return tb.unfinished() == 0 })
	require.NotZero(tb, tb.terminate(tb.nodes[0], "true"))
	tb.over()
	tb.load.start()
}

// killDuringRequests kills Caddy while jobs run, and starts it again.
func killDuringRequests(tb *testBed) {
	tb.nodes[0].Kill()
	tb.over()
	tb.nodes[0].start()
}

// holdForeignLock lets another program take the lock of OCA's runner of one database: the
// others are served all the same.
func holdForeignLock(tb *testBed) {
	dbs := tb.Databases()
	foreign := tb.connect(dbs[0])
	tb.until("somebody else has the lock", func() (got bool) {
		tb.terminate(tb.nodes[0], "datname = '"+dbs[0]+"'")
		err := foreign.QueryRow(tb.Context(), "SELECT pg_try_advisory_lock(2293787760715711918)").Scan(&got)
		require.NoError(tb, err)
		return got
	})

	// From here on the first one is not served, and all others are.
	claimed, err := tb.count(dbs[0], "SELECT count(*) FROM queue_job WHERE state IN ('enqueued', 'started')")
	require.NoError(tb, err)
	before := make(map[string]int)
	for _, db := range dbs {
		before[db] = tb.done(db)
	}
	tb.wait(2 * time.Second)
	for _, db := range dbs[1:] {
		tb.until(db+" is served", func() bool { return tb.done(db) >= before[db]+5 })
	}
	require.LessOrEqual(tb, tb.done(dbs[0]), before[dbs[0]]+claimed, "%s is not served", dbs[0])
	require.NotZero(tb, tb.nodes[0].logged("master election lost: could not acquire master runner lock on "+dbs[0]))
	require.NoError(tb, foreign.Close(tb.Context()))
}
