//go:build fault

package fault

import (
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/stretchr/testify/require"
)

// sessionFaults happen to the sessions of a node, or to the pooler before them.
var sessionFaults = []fault{
	{
		name: "sessions terminated in the middle of a claim", bound: 30 * time.Second,
		strike: func(p *plant) {
			commit := claimBlocked(p)
			require.NotZero(p, p.terminate(p.nodes[0], "datname <> 'postgres'"))
			commit()
		},
	},
	{
		name: "sessions terminated between claim and HTTP", bound: 40 * time.Second,
		prepare: func(p *plant) { p.more = "driver faulty {\nbefore_run 300ms\n}" },
		strike: func(p *plant) {
			for range 10 {
				p.terminate(p.nodes[0], "true")
				p.wait(700 * time.Millisecond)
			}
		},
	},
	{
		name: "only the maintenance session terminated", bound: 15 * time.Second,
		strike: func(p *plant) { require.Equal(p, 1, p.terminate(p.nodes[0], "datname = 'postgres'")) },
	},
	{
		name: "LISTEN registrations lost", bound: 30 * time.Second,
		prepare: func(p *plant) {
			p.more = "driver faulty {\nflag " + deafFlag(p) + "\n}"
		},
		strike: func(p *plant) {
			require.NoError(p, os.WriteFile(deafFlag(p), nil, 0o600))
			// The fault lasts until the runner notices; that is part of its recovery.
			p.over()
			p.until("the sessions are connected anew", func() bool {
				return p.nodes[0].logged("database cannot be reached") >= 2
			})
			require.NoError(p, os.Remove(deafFlag(p)))
		},
	},
	bouncerKilled(),
	{
		name: "PgBouncer in transaction mode, refused", bound: 30 * time.Second, unserved: true,
		prepare: func(p *plant) { startBouncer(p, "transaction") },
		strike:  refusedBouncer,
	},
	{
		name: "PgBouncer in statement mode, refused", bound: 30 * time.Second, unserved: true,
		prepare: func(p *plant) { startBouncer(p, "statement") },
		strike:  refusedBouncer,
	},
}

func deafFlag(p *plant) string {
	return filepath.Join(os.TempDir(), p.id+"-"+strconv.Itoa(os.Getpid())+"-deaf")
}

// claimBlocked lets claims wait for a lock on the table, and returns when one
// does.
func claimBlocked(p *plant) (commit func()) {
	db := p.databases()[0]
	commit = p.hold(db, "LOCK TABLE queue_job IN SHARE ROW EXCLUSIVE MODE")
	p.until("a claim waits", func() bool {
		return p.ask(`SELECT count(*)::text FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'
			AND application_name = $2 AND query LIKE '%enqueued%'`, db, p.nodes[0].name) != "0"
	})
	return commit
}

// bouncerKilled has the pooler die through which the node is connected.
func bouncerKilled() fault {
	var b *bouncer
	return fault{
		name: "PgBouncer in session mode, killed", bound: 30 * time.Second,
		prepare: func(p *plant) { b = startBouncer(p, "session") },
		strike: func(p *plant) {
			b.kill()
			p.wait(2 * time.Second)
			b.start()
		},
	}
}

// refusedBouncer checks that nothing is done through a pooler that does not keep
// sessions, and that the log says what to do; then it goes around the pooler.
func refusedBouncer(p *plant) {
	n := p.nodes[0]
	p.until("the pooler is refused", func() bool { return n.logged("use session pooling, or connect to PostgreSQL directly") > 0 })
	p.wait(3 * time.Second)
	claimed, err := p.total("SELECT count(*) FROM queue_job WHERE state <> 'pending'")
	require.NoError(p, err)
	require.Zero(p, claimed, "nothing is claimed")
	p.dsn = ""
	n.reload()
}
