//go:build fault

package fault

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// grantFaults are about what happens to PostgreSQL, to connections and to Caddys.
var grantFaults = []grantFault{
	claimWithoutAnswer("answer of a claim lost", odoostub.QueueJobLock),
	claimWithoutAnswer("answer of a claim lost, without lock table", odoostub.QueueJob12),
	claimWithoutAnswer("answer of a claim lost, connector", odoostub.Connector9),
	restarted("PostgreSQL restarted", pgtest.Fast),
	restarted("PostgreSQL aborted and restarted", pgtest.Immediate),
	{
		name: "sessions terminated again and again", strike: func(b *grantBed) {
			b.during(func() {
				for range 5 {
					_ = b.try(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'caddy-jobrunner/%'`)
					b.wait(700 * time.Millisecond)
				}
			})
		},
	},
	{
		name: "pooler in transaction mode", unused: true, strike: streamPooled,
		prepare: func(b *grantBed) {
			bouncer, err := b.Postgres.StartBouncer(b.Context(), pgtest.BouncerOptions{Mode: "transaction"})
			require.NoError(b, err)
			b.Cleanup(bouncer.Kill)
			b.fault.options = "pooler \"" + b.Postgres.ProxyDSN(bouncer.Addr(), "postgres") + "\" {\npoll 1s\n}"
		},
	},
	{
		name: "capacity 1, 2, 1 under reload", capacities: map[string]int{"root": 2}, strike: func(b *grantBed) {
			reloadDuring(b, func(i int) (channels, databases, more string) { return []string{"root:1", "root:2"}[i%2], grantDB, "" })
		},
	},
	{
		name: "reloads without a change", strike: func(b *grantBed) {
			reloadDuring(b, func(i int) (channels, databases, more string) {
				return "root:1", grantDB, []string{"shutdown_timeout 2s", "shutdown_timeout 3s"}[i%2]
			})
		},
	},
	{
		name: "policy added and removed", strike: func(b *grantBed) {
			reloadDuring(b, func(i int) (channels, databases, more string) {
				return "root:1", grantDB, []string{"policy root {\nfair database\n}", ""}[i%2]
			})
		},
	},
	{
		name: "second database added and removed", prepare: func(b *grantBed) { b.addDatabase("other_db") }, strike: func(b *grantBed) {
			reloadDuring(b, func(i int) (channels, databases, more string) {
				return "root:1", []string{grantDB + " other_db", grantDB}[i%2], ""
			})
		},
	},
	{
		name: "paused and resumed", strike: func(b *grantBed) {
			b.during(func() {
				for range 10 {
					for _, path := range []string{"pause", "resume"} {
						status, text, err := b.nodes[0].Request(context.Background(), "POST", "/jobrunner/"+path, "application/json", `{"all": true}`)
						if err != nil || status != 200 {
							b.Errorf("%s: %d %s %v", path, status, text, err)
						}
						b.wait(100 * time.Millisecond)
					}
				}
			})
		},
	},
	{
		name: "Caddy stopped and started", strike: func(b *grantBed) {
			for range 3 {
				b.during(func() { _ = b.nodes[len(b.nodes)-1].Stop() })
				b.start()
			}
			b.stream(5)
		},
	},
	{
		name: "two nodes, leader killed", nodes: 2, strike: func(b *grantBed) {
			b.stream(5)
			b.during(func() {
				b.nodes[0].Kill()
				b.wait(time.Second)
			})
			require.True(b, b.serves(patience))
			b.stream(5)
		},
	},
	{
		name: "two nodes, leader paused and woken", nodes: 2, strike: func(b *grantBed) {
			b.stream(5)
			b.during(func() {
				_ = b.nodes[0].Signal(syscall.SIGSTOP)
				b.wait(25 * time.Second)
				_ = b.nodes[0].Signal(syscall.SIGCONT)
				b.wait(2 * time.Second)
			})
		},
	},
}

// streamPooled commits jobs as a database wants that is asked for them once in a second.
func streamPooled(b *grantBed) {
	for range 6 {
		b.commit()
		b.wait(500 * time.Millisecond)
	}
}

// reloadDuring loads one configuration after the other while jobs come.
func reloadDuring(b *grantBed, config func(i int) (channels, databases, more string)) {
	b.during(func() {
		for i := range 12 {
			if err := b.nodes[0].Load(context.Background(), b.config(config(i))); err != nil && errors.Is(err, testbed.ErrRefused) {
				b.Error(err)
			}
			b.wait(150 * time.Millisecond)
		}
	})
}

// restarted has PostgreSQL restarted under the stream.
func restarted(name string, mode pgtest.Mode) grantFault {
	return grantFault{name: name, strike: func(b *grantBed) {
		b.stream(3)
		b.mayFail = true
		b.during(func() {
			for range 2 {
				if err := b.Postgres.Restart(context.Background(), mode); err != nil {
					b.Error(err)
				}
				b.serves(20 * time.Second)
				b.wait(500 * time.Millisecond)
			}
		})
	}}
}

// claimWithoutAnswer has the connection end between the commit of a claim by a grant and its
// answer.
func claimWithoutAnswer(name string, gen odoostub.Generation) grantFault {
	var proxy *faultproxy.Proxy
	return grantFault{
		name: name, gen: gen, sql: onClaim("PERFORM pg_sleep(0.3);"),
		// Its claim is not known to be ours in the first minute of a lead: docs/reliability.md, "Where the
		// promise ends".
		undone: gen == odoostub.Connector9,
		prepare: func(b *grantBed) {
			var err error
			proxy, err = b.AddProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(b.Postgres.Port())))
			require.NoError(b, err)
			b.dsn = b.Postgres.ProxyDSN(proxy.Addr(), "postgres")
		},
		strike: func(b *grantBed) {
			b.stream(2)
			lost := 0
			for range 3 {
				require.True(b, b.serves(patience))
				uuid := b.commit()[0]
				if !testbed.Within(5*time.Second, func() bool {
					return b.count("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND application_name = 'caddy-jobrunner/session'") == 1
				}) {
					b.note("a claim was not seen")
					continue
				}
				proxy.Blackhole(faultproxy.ToClient)
				testbed.Within(5*time.Second, func() bool {
					return b.count("SELECT count(*) FROM queue_job WHERE uuid = $1 AND state = 'enqueued'", uuid) == 1
				})
				lost++
				b.exec("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'caddy-jobrunner/%'")
				proxy.Reset()
				require.NoError(b, proxy.Pass())
				b.wait(200 * time.Millisecond)
			}
			b.note("%d answers lost", lost)
			b.stream(2)
		},
	}
}
