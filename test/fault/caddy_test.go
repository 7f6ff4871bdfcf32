//go:build fault

package fault

import (
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// caddyFaults happen to the nodes.
var caddyFaults = []fault{
	{
		name: "Caddy killed before a claim", bound: 40 * time.Second,
		strike: func(p *plant) {
			for _, s := range p.odoo {
				s.Refuse()
			}
			p.until("nothing is claimed any more", func() bool {
				n, err := p.total("SELECT count(*) FROM queue_job WHERE state IN ('enqueued', 'started')")
				return err == nil && n == 0
			})
			p.nodes[0].kill()
			p.over()
			for _, s := range p.odoo {
				require.NoError(p, s.Accept())
			}
			p.nodes[0].start()
		},
	},
	{
		name: "Caddy killed in the middle of a claim", bound: 40 * time.Second,
		strike: func(p *plant) {
			commit := claimBlocked(p)
			p.nodes[0].kill()
			commit()
			p.over()
			p.nodes[0].start()
		},
	},
	{
		name: "Caddy killed between claim and HTTP", bound: 40 * time.Second,
		prepare: func(p *plant) { p.more = "driver faulty {\nbefore_run 100ms\n}" },
		strike:  killBeforeRequests,
	},
	{
		name: "Caddy killed between claim and HTTP, no lock table", bound: 40 * time.Second, gen: odoostub.QueueJob12,
		prepare: func(p *plant) { p.more = "driver faulty {\nbefore_run 100ms\n}" },
		strike:  killBeforeRequests,
	},
	{
		name: "Caddy killed during HTTP, no lock table", bound: 40 * time.Second, gen: odoostub.QueueJob12,
		strike: killDuringRequests,
	},
	{
		name: "Caddy stopped and started in a burst", bound: 15 * time.Second,
		strike: func(p *plant) {
			burst(p)
			p.nodes[0].interrupt()
			p.over()
			p.nodes[0].start()
		},
	},
	{
		name: "two nodes, leader stopped cleanly", bound: 5 * time.Second, nodes: 2,
		strike: func(p *plant) {
			leader := p.leader()
			leader.signal(syscall.SIGTERM)
			p.until("the leader has given the lock back", func() bool { return p.leader() != leader })
			p.over()
			<-leader.ended
		},
	},
	{
		name: "two nodes, leader's host vanished", bound: 30 * time.Second, nodes: 2, proxied: true,
		strike: func(p *plant) {
			leader := p.leader()
			leader.proxy.Blackhole(faultproxy.Both)
			leader.signal(syscall.SIGSTOP)
			p.over()
			p.until("another node leads", func() bool { return p.leader() != leader })
			leader.kill()
		},
	},
	{
		name: "two nodes, leader's host paused and woken", bound: 30 * time.Second, nodes: 2, proxied: true,
		strike: func(p *plant) {
			leader := p.leader()
			leader.proxy.Blackhole(faultproxy.Both)
			leader.signal(syscall.SIGSTOP)
			p.over()
			p.until("another node leads", func() bool { return p.leader() != leader })
			// It wakes up believing that it leads; then its connections come back.
			leader.signal(syscall.SIGCONT)
			p.wait(2 * time.Second)
			leader.proxy.Reset()
			require.NoError(p, leader.proxy.Pass())
		},
	},
	{
		name: "two nodes, leader's process paused and woken", bound: 30 * time.Second, nodes: 2,
		strike: pauseProcess,
	},
	{
		name: "reload storm, 10 s", bound: 10 * time.Second,
		strike: reloadOften,
	},
	{
		name: "20 databases, 2 runners, 2 nodes: leader killed", bound: 30 * time.Second,
		nodes: 2, databases: 20, runners: twoRunners, alone: true,
		capacities: map[string]int{"root.a": 4, "root.b": 4},
		prepare:    func(p *plant) { p.load.channel = runnerChannel },
		strike: func(p *plant) {
			leader := p.leader()
			leader.kill()
			p.over()
		},
	},
	{
		name: "20 databases, 2 runners, 2 nodes: clean stop", bound: 5 * time.Second,
		nodes: 2, databases: 20, runners: twoRunners, alone: true,
		capacities: map[string]int{"root.a": 4, "root.b": 4},
		prepare:    func(p *plant) { p.load.channel = runnerChannel },
		strike: func(p *plant) {
			leader := p.leader()
			leader.signal(syscall.SIGTERM)
			p.until("the leader has given its locks back", func() bool {
				return p.ask(`SELECT count(*)::text FROM pg_locks JOIN pg_stat_activity a USING (pid)
					WHERE locktype = 'advisory' AND granted AND a.application_name = $1`, leader.name) == "0"
			})
			p.over()
			<-leader.ended
		},
	},
	{
		name: "lock of one database of 20 held by somebody else", bound: 10 * time.Second,
		databases: 20, alone: true, strike: holdForeignLock,
	},
}

// killBeforeRequests kills Caddy when it has claimed jobs and sent no request
// for some of them.
func killBeforeRequests(p *plant) {
	n := p.nodes[0]
	n.more, p.more = "driver faulty {\nbefore_run 1m\n}", ""
	n.reload()
	p.until("jobs are claimed and not sent", func() bool {
		n, err := p.total("SELECT count(*) FROM queue_job WHERE state = 'enqueued'")
		return err == nil && n >= 8
	})
	n.kill()
	p.over()
	n.more = ""
	n.start()
}

// reloadOften loads one configuration after the other for 10 s.
func reloadOften(p *plant) {
	n := p.nodes[0]
	for deadline, i := time.Now().Add(10*time.Second), 0; time.Now().Before(deadline); i++ {
		n.more = fmt.Sprintf("shutdown_timeout %dms", 2000+i)
		n.reload()
	}
	require.Zero(p, n.logged("panic"))
}

// burst commits many jobs at once.
func burst(p *plant) {
	for _, db := range p.databases() {
		require.True(p, p.load.enqueue(db, p.load.mixed(db, 200)...))
	}
}

// pauseProcess stops the leader's process, while its kernel goes on answering
// for it. The server ends its sessions because they say nothing.
func pauseProcess(p *plant) {
	leader := p.leader()
	leader.signal(syscall.SIGSTOP)
	p.over()
	p.until("another node leads", func() bool { return p.leader() != leader })
	leader.signal(syscall.SIGCONT)
}

// twoRunners shares the databases between two runners.
func twoRunners(p *plant) []runner {
	var a, b []string
	for i, db := range p.databases() {
		if i%2 == 0 {
			a = append(a, db)
		} else {
			b = append(b, db)
		}
	}
	return []runner{
		{Name: "a", Databases: strings.Join(a, " "), Tree: `"root:4,a:4,a.mail:3,a.slow:2,a.one:1"`},
		{Name: "b", Databases: strings.Join(b, " "), Tree: `"root:4,b:4,b.mail:3,b.slow:2,b.one:1"`},
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
