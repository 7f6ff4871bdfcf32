//go:build fault

package fault

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// caddyFaults happen to the nodes.
var caddyFaults = []fault{
	{
		name: "Caddy killed before a claim", bound: 40 * time.Second,
		strike: func(tb *testBed) {
			for _, s := range tb.Odoo {
				s.Refuse()
			}
			tb.until("nothing is claimed any more", func() bool {
				n, err := tb.total("SELECT count(*) FROM queue_job WHERE state IN ('enqueued', 'started')")
				return err == nil && n == 0
			})
			tb.nodes[0].Kill()
			tb.over()
			for _, s := range tb.Odoo {
				require.NoError(tb, s.Accept())
			}
			tb.nodes[0].start()
		},
	},
	{
		name: "Caddy killed in the middle of a claim", bound: 40 * time.Second,
		strike: func(tb *testBed) {
			commit := claimBlocked(tb)
			tb.nodes[0].Kill()
			commit()
			tb.over()
			tb.nodes[0].start()
		},
	},
	{
		name: "Caddy killed between claim and HTTP", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = "driver faulty {\nbefore_run 100ms\n}" },
		strike:  killBeforeRequests,
	},
	{
		name: "Caddy killed between claim and HTTP, no lock table", bound: 40 * time.Second, gen: odoostub.QueueJob12,
		prepare: func(tb *testBed) { tb.more = "driver faulty {\nbefore_run 100ms\n}" },
		strike:  killBeforeRequests,
	},
	{
		name: "Caddy killed during HTTP, no lock table", bound: 40 * time.Second, gen: odoostub.QueueJob12,
		strike: killDuringRequests,
	},
	{
		name: "Caddy stopped and started in a burst", bound: 15 * time.Second,
		strike: func(tb *testBed) {
			burst(tb)
			require.NoError(tb, tb.nodes[0].Stop())
			tb.over()
			tb.nodes[0].start()
		},
	},
	{
		name: "two nodes, leader stopped cleanly", bound: 5 * time.Second, nodes: 2,
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.signal(syscall.SIGTERM)
			tb.until("the leader has given the lock back", func() bool { return tb.leader() != leader })
			tb.over()
			<-leader.Done()
		},
	},
	{
		name: "two nodes, leader's host vanished", bound: 30 * time.Second, nodes: 2, proxied: true,
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.proxy.Blackhole(faultproxy.Both)
			leader.signal(syscall.SIGSTOP)
			tb.over()
			tb.until("another node leads", func() bool { return tb.leader() != leader })
			leader.Kill()
		},
	},
	{
		name: "two nodes, leader's host paused and woken", bound: 30 * time.Second, nodes: 2, proxied: true,
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.proxy.Blackhole(faultproxy.Both)
			leader.signal(syscall.SIGSTOP)
			tb.over()
			tb.until("another node leads", func() bool { return tb.leader() != leader })
			// It wakes up believing that it leads; then its connections come back.
			leader.signal(syscall.SIGCONT)
			tb.wait(2 * time.Second)
			leader.proxy.Reset()
			require.NoError(tb, leader.proxy.Pass())
		},
	},
	{
		name: "two nodes, leader's process paused and woken", bound: 30 * time.Second, nodes: 2,
		strike: pauseProcess,
	},
	{
		name: "two nodes, leader frozen while it is notified", bound: 30 * time.Second, nodes: 2,
		strike: freezeNotified,
	},
	{
		name: "two nodes, leader's process paused for 10 s", bound: 10 * time.Second, nodes: 2,
		strike: pauseBriefly,
	},
	{
		name: "reload storm, 10 s", bound: 10 * time.Second,
		strike: reloadOften,
	},
	{
		name: "20 databases, 2 runners, 2 nodes: leader killed", bound: 30 * time.Second,
		nodes: 2, databases: 20, runners: twoRunners, alone: true,
		capacities: map[string]int{"root.a": 4, "root.b": 4},
		prepare:    func(tb *testBed) { tb.load.channel = runnerChannel },
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.Kill()
			tb.over()
		},
	},
	{
		name: "20 databases, 2 runners, 2 nodes: clean stop", bound: 5 * time.Second,
		nodes: 2, databases: 20, runners: twoRunners, alone: true,
		capacities: map[string]int{"root.a": 4, "root.b": 4},
		prepare:    func(tb *testBed) { tb.load.channel = runnerChannel },
		strike: func(tb *testBed) {
			leader := tb.leader()
			leader.signal(syscall.SIGTERM)
			tb.until("the leader has given its locks back", func() bool {
				return tb.ask(`SELECT count(*)::text FROM pg_locks JOIN pg_stat_activity a USING (pid)
					WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND a.application_name = $1`, leader.name) == "0"
			})
			tb.over()
			<-leader.Done()
		},
	},
	{
		name: "lock of one database of 20 held by somebody else", bound: 10 * time.Second,
		databases: 20, alone: true, strike: holdForeignLock,
	},
}

// killBeforeRequests kills Caddy when it has claimed jobs and sent no request
// for some of them.
func killBeforeRequests(tb *testBed) {
	n := tb.nodes[0]
	n.more, tb.more = "driver faulty {\nbefore_run 1m\n}", ""
	n.reload()
	tb.until("jobs are claimed and not sent", func() bool {
		n, err := tb.total("SELECT count(*) FROM queue_job WHERE state = 'enqueued'")
		return err == nil && n >= 8
	})
	n.Kill()
	tb.over()
	n.more = ""
	n.start()
}

// reloadOften loads one configuration after the other for 10 s.
func reloadOften(tb *testBed) {
	n := tb.nodes[0]
	for deadline, i := time.Now().Add(10*time.Second), 0; time.Now().Before(deadline); i++ {
		n.more = fmt.Sprintf("shutdown_timeout %dms", 2000+i)
		n.reload()
	}
	require.Zero(tb, n.logged("panic"))
}

// burst commits many jobs at once.
func burst(tb *testBed) {
	for _, db := range tb.Databases() {
		require.True(tb, tb.load.enqueue(db, tb.load.mixed(db, 200)...))
	}
}

// pauseProcess stops the leader's process, while its kernel goes on answering
// for it. The server ends its sessions because they say nothing.
func pauseProcess(tb *testBed) {
	leader := tb.leader()
	leader.signal(syscall.SIGSTOP)
	tb.over()
	tb.until("another node leads", func() bool { return tb.leader() != leader })
	leader.signal(syscall.SIGCONT)
}

// freezeNotified stops the leader's process, and has so much sent to its sessions that their
// backends are blocked: they observe no limit of time any more.
func freezeNotified(tb *testBed) {
	leader := tb.leader()
	leader.signal(syscall.SIGSTOP)
	tb.over()
	tb.until("the leader's sessions are blocked", func() bool {
		// The kernel keeps some megabytes of a TCP connection, and less of a socket's.
		for _, db := range tb.Databases() {
			notify(tb, db, 10_000)
		}
		// PostgreSQL 9.6 does not tell.
		return tb.ask(`SELECT count(*)::text FROM pg_stat_activity WHERE application_name = $1 AND datname <> 'postgres'
			AND (wait_event = 'ClientWrite' OR current_setting('server_version_num')::int < 100000)`,
			leader.name) == strconv.Itoa(len(tb.Databases()))
	})
	// Should it wake up, it would give up what it has: that is no help here.
	tb.until("another node serves all databases", func() bool {
		return tb.ask(`SELECT count(DISTINCT database)::text FROM pg_locks JOIN pg_stat_activity a USING (pid)
			WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND a.application_name LIKE $1 AND a.application_name <> $2`,
			tb.ID+"-%", leader.name) == strconv.Itoa(len(tb.Databases())+1)
	})
	leader.signal(syscall.SIGCONT)
}

// pauseBriefly stops the leader's process for less than a frozen one: it goes on leading.
func pauseBriefly(tb *testBed) {
	leader := tb.leader()
	leader.signal(syscall.SIGSTOP)
	tb.wait(10 * time.Second)
	require.Same(tb, leader, tb.leader())
	leader.signal(syscall.SIGCONT)
	tb.over()
	tb.wait(5 * time.Second)
	require.Same(tb, leader, tb.leader())
	require.Zero(tb, leader.logged("database cannot be reached"))
}

// twoRunners shares the databases between two runners.
func twoRunners(tb *testBed) []testbed.Runner {
	var a, b []string
	for _, db := range tb.Databases() {
		if runnerChannel(db) == "root.a" {
			a = append(a, db)
		} else {
			b = append(b, db)
		}
	}
	return []testbed.Runner{
		{Name: "a", Databases: strings.Join(a, " "), Channels: "root:4,a:4,a.mail:3,a.slow:2,a.one:1"},
		{Name: "b", Databases: strings.Join(b, " "), Channels: "root:4,b:4,b.mail:3,b.slow:2,b.one:1"},
	}
}

// runnerChannel is the channel of a runner's databases.
func runnerChannel(db string) string {
	if strings.HasSuffix(db, "1") || strings.HasSuffix(db, "3") || strings.HasSuffix(db, "5") ||
		strings.HasSuffix(db, "7") || strings.HasSuffix(db, "9") {
		return "root.a"
	}
	return "root.b"
}
