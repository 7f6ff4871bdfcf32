package integration

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// odooSnippet is what a snippet or a named route of the site contains.
const odooSnippet = `{
	handle /websocket* {
		reverse_proxy {{(index .Odoo 0).Addr}}
	}
	handle {
		reverse_proxy {{(index .Odoo 1).Addr}}
	}
}`

// TestSites runs jobs behind sites as people write them: the first server is
// Odoo's websocket process, which must never get a job.
func TestSites(t *testing.T) {
	const websocket, odoo = "{{(index .Odoo 0).Addr}}", "{{(index .Odoo 1).Addr}}"
	snippets := map[string]string{
		"imported snippet": "(odoo) " + odooSnippet,
		"named route":      "&(odoo) " + odooSnippet,
	}
	sites := map[string]string{
		"imported snippet": "import odoo",
		"named route":      "invoke odoo",
		"dynamic upstreams": `reverse_proxy /websocket ` + websocket + `
			reverse_proxy {
				dynamic a {
					name localhost
					port {{slice (index .Odoo 1).Addr 10}}
					versions ipv4
				}
			}`,
		"two proxies": `reverse_proxy /websocket ` + websocket + `
			reverse_proxy ` + odoo,
		"handle blocks": `handle /websocket* {
				reverse_proxy ` + websocket + `
			}
			handle {
				reverse_proxy ` + odoo + `
			}`,
		"closed to the public": `@runjob path /queue_job/*
			handle @runjob {
				respond 404
			}
			handle /websocket {
				reverse_proxy ` + websocket + `
			}
			handle {
				reverse_proxy ` + odoo + `
			}`,
		"respond beside": `respond /queue_job/* 404
			reverse_proxy /websocket ` + websocket + `
			reverse_proxy ` + odoo,
		"retries and timeouts": `reverse_proxy /websocket ` + websocket + `
			reverse_proxy ` + odoo + ` {
				lb_retries 3
				lb_try_duration 5s
				transport http {
					read_timeout 50ms
					response_header_timeout 50ms
				}
			}`,
	}
	for name, routes := range sites {
		t.Run(name, func(t *testing.T) {
			tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
			tb.routes, tb.snippets = routes, snippets[name]
			tb.run()
			tb.enqueue(tb.dbs[0], repeat(5, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 200}})...)
			tb.untilStates(map[string]int{"done": 5})
			tb.exactlyOnce(map[string]int{"root": 4})
			require.Zero(t, countServer(tb, "odoo1"))
		})
	}
}

// TestChangedUpstreams: jobs go to the servers of the new configuration, and open
// requests to servers of the old one go on.
func TestChangedUpstreams(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.routes = "reverse_proxy {{(index .Odoo 0).Addr}}"
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(4, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	tb.untilRunning(4)
	tb.routes = "reverse_proxy {{(index .Odoo 1).Addr}}"
	tb.tree = "root:8"
	tb.load()
	tb.enqueue(tb.dbs[0], repeat(20, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 20, "started": 4})
	tb.load() // the generation that sent them is long gone
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 24})
	tb.exactlyOnce(map[string]int{"root": 8})
	require.GreaterOrEqual(t, countServer(tb, "odoo1"), 4)
	require.NotZero(t, countServer(tb, "odoo2"))
}

func TestUnixUpstream(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 0)
	socket := filepath.Join(t.TempDir(), "odoo.sock")
	tb.addServer(odoostub.Options{
		Name: "socket", Listen: func() (net.Listener, error) { return net.Listen("unix", socket) },
	})
	tb.routes = "reverse_proxy unix/" + socket
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(5, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 5})
	tb.exactlyOnce(map[string]int{"root": 4})
}

func TestExplicitUpstreamAndHost(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 0)
	filter := func(host, db string) bool { return host == db+".example.com" }
	tb.addServer(odoostub.Options{Name: "filtered", DBFilter: filter})
	tb.routes = "respond 200"
	tb.more = `upstream ` + tb.Odoo[0].URL() + `
		driver odoo {
			host {database}.example.com
			basic_auth jobrunner secret
		}`
	tb.run()
	for _, db := range tb.dbs {
		tb.enqueue(db, repeat(5, odoostub.JobSpec{})...)
	}
	tb.untilStates(map[string]int{"done": 10})
	for _, r := range tb.Recorder.AllRequests() {
		if r.UUID != "" {
			require.Equal(t, "Basic am9icnVubmVyOnNlY3JldA==", r.Header.Get("Authorization"))
			require.Equal(t, r.DB, r.DatabaseHeader())
		}
	}
}
