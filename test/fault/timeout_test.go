//go:build fault

package fault

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

// timeLimit is what the nodes of these faults have: jobs that hang are cancelled after 4 s, terminated 4 s
// later, and tried again.
const timeLimit = `policy root* {
	timeout 4s {
		warn 2s
		cancel
		grace 4s
		retry
	}
}
`

// timeoutFaults happen to jobs that hang, and that a policy ends.
var timeoutFaults = []fault{
	{
		name: "jobs hang in a query", bound: 40 * time.Second, prepare: limited,
		strike: func(tb *testBed) {
			hang(tb, time.Minute, false)
			tb.over()
			tb.until("they are cancelled", func() bool { return tb.nodes[0].logged("time limit cancelled") >= 2 })
		},
	},
	{
		name: "jobs hang and ignore that they are cancelled", bound: 40 * time.Second, prepare: limited,
		strike: func(tb *testBed) {
			hang(tb, 15*time.Second, true)
			tb.over()
			tb.until("they are terminated", func() bool { return tb.nodes[0].logged("time limit terminated") >= 2 })
			running, err := tb.total("SELECT count(*) FROM queue_job WHERE retry = 0 AND state = 'started' AND kwargs LIKE '%hang%'")
			require.NoError(tb, err)
			require.NotZero(tb, running, "they go on all the same")
		},
	},
	{
		name: "jobs hang and may not be signalled", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = timeLimit + "driver faulty {\nwithout signals\n}" },
		strike: func(tb *testBed) {
			hang(tb, 15*time.Second, true)
			tb.over()
			tb.until("they are stuck", func() bool { return tb.nodes[0].logged("time limit stuck") >= 2 })
		},
	},
	{
		name: "PostgreSQL restarted while jobs hang", bound: 60 * time.Second, cluster: &pgtest.Options{}, prepare: limited,
		strike: func(tb *testBed) {
			hang(tb, 20*time.Second, true)
			tb.until("they are cancelled", func() bool { return tb.nodes[0].logged("time limit cancelled") >= 2 })
			require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Fast))
		},
	},
	{
		name: "leader killed while jobs hang", bound: 60 * time.Second, nodes: 2, prepare: limited,
		strike: func(tb *testBed) {
			leader := tb.leader()
			hang(tb, 25*time.Second, true)
			tb.until("they are cancelled", func() bool { return leader.logged("time limit cancelled") >= 2 })
			leader.Kill()
			tb.over()
			tb.until("the other node goes on", func() bool {
				return tb.nodes[0].logged("time limit cancelled")+tb.nodes[1].logged("time limit cancelled") >= 4
			})
		},
	},
	{
		name: "time limits, database's clock 1 h ahead", bound: 40 * time.Second, clock: true, prepare: limited,
		strike: func(tb *testBed) { hang(tb, 15*time.Second, true); stepClock(tb, "+3600") },
	},
}

func limited(tb *testBed) { tb.more = timeLimit }

// hang commits jobs to each database that hang in their first attempts, and waits until they do. They
// leave slots to others.
func hang(tb *testBed, d time.Duration, idle bool) {
	for _, db := range tb.Databases() {
		jobs := []odoostub.JobSpec{{
			Priority: new(int32(0)), Behaviour: odoostub.Behaviour{HangTimes: 1, HangMS: d.Milliseconds(), HangIdle: idle},
		}}
		require.True(tb, tb.load.enqueue(db, jobs...))
		tb.until("it hangs", func() bool {
			n, err := tb.count(db, "SELECT count(*) FROM queue_job WHERE uuid = $1 AND state = 'started'", jobs[0].UUID)
			return err == nil && n == 1
		})
	}
}
