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
		strike: func(p *plant) { require.NoError(p, p.pg.Restart(p.Context(), pgtest.Fast)) },
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
		strike: func(p *plant) {
			leader := p.leader()
			leader.kill()
			p.over()
		},
	},
	{
		name: "Odoo answers with a redirect", bound: 40 * time.Second,
		strike: func(p *plant) { misbehave(p, odoostub.Fault{Kind: odoostub.Redirect}) },
	},
	{
		name: "lock of one database held by somebody else", bound: 10 * time.Second, databases: 4,
		strike: holdForeignLock,
	},
}

// misbehave has all Odoo servers suffer a fault for a while.
func misbehave(p *plant, f odoostub.Fault) {
	p.faultAll(f)
	p.wait(5 * time.Second)
	p.faultAll(odoostub.Fault{})
}

// terminateIdle ends the sessions of the leader when there is nothing to do.
func terminateIdle(p *plant) {
	p.load.stop()
	p.until("all jobs are done", func() bool { return p.unfinished() == 0 })
	require.NotZero(p, p.terminate(p.nodes[0], "true"))
	p.over()
	p.load.start()
}

// killDuringRequests kills Caddy while jobs run, and starts it again.
func killDuringRequests(p *plant) {
	p.nodes[0].kill()
	p.over()
	p.nodes[0].start()
}

// holdForeignLock lets another program take upstream's lock of one database: the
// others are served all the same.
func holdForeignLock(p *plant) {
	dbs := p.databases()
	foreign := p.connect(dbs[0])
	p.until("somebody else has the lock", func() (got bool) {
		p.terminate(p.nodes[0], "datname = '"+dbs[0]+"'")
		err := foreign.QueryRow(p.Context(), "SELECT pg_try_advisory_lock(2293787760715711918)").Scan(&got)
		require.NoError(p, err)
		return got
	})

	// From here on the first one is not served, and all others are.
	claimed, err := p.count(dbs[0], "SELECT count(*) FROM queue_job WHERE state IN ('enqueued', 'started')")
	require.NoError(p, err)
	before := make(map[string]int)
	for _, db := range dbs {
		before[db] = p.done(db)
	}
	p.wait(2 * time.Second)
	for _, db := range dbs[1:] {
		p.until(db+" is served", func() bool { return p.done(db) >= before[db]+5 })
	}
	require.LessOrEqual(p, p.done(dbs[0]), before[dbs[0]]+claimed, "%s is not served", dbs[0])
	require.NotZero(p, p.nodes[0].logged("master election lost: could not acquire master runner lock on "+dbs[0]))
	require.NoError(p, foreign.Close(p.Context()))
}
