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
		reverse_proxy {{(index .odoo 0).Addr}}
	}
	handle {
		reverse_proxy {{(index .odoo 1).Addr}}
	}
}`

// TestSites runs jobs behind sites as people write them: the first server is
// Odoo's websocket process, which must never get a job.
func TestSites(t *testing.T) {
	const websocket, odoo = "{{(index .odoo 0).Addr}}", "{{(index .odoo 1).Addr}}"
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
					port {{slice (index .odoo 1).Addr 10}}
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
			p := newPlant(t, odoostub.QueueJobLock, 1, 2)
			p.routes, p.snippets = routes, snippets[name]
			p.run()
			p.enqueue(p.dbs[0], repeat(5, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 200}})...)
			p.untilStates(map[string]int{"done": 5})
			p.exactlyOnce(map[string]int{"root": 4})
			require.Zero(t, countServer(p, "odoo1"))
		})
	}
}

// TestChangedUpstreams: jobs go to the servers of the new configuration, and open
// requests to servers of the old one go on.
func TestChangedUpstreams(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 2)
	p.routes = "reverse_proxy {{(index .odoo 0).Addr}}"
	p.run()
	p.enqueue(p.dbs[0], repeat(4, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	p.untilRunning(4)
	p.routes = "reverse_proxy {{(index .odoo 1).Addr}}"
	p.tree = "root:8"
	p.load()
	p.enqueue(p.dbs[0], repeat(20, odoostub.JobSpec{})...)
	p.untilStates(map[string]int{"done": 20, "started": 4})
	p.load() // the generation that sent them is long gone
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 24})
	p.exactlyOnce(map[string]int{"root": 8})
	require.GreaterOrEqual(t, countServer(p, "odoo1"), 4)
	require.NotZero(t, countServer(p, "odoo2"))
}

func TestUnixUpstream(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 0)
	socket := filepath.Join(t.TempDir(), "odoo.sock")
	p.odoo = append(p.odoo, odoostub.Start(t, odoostub.Options{
		Name: "socket", Postgres: p.pg.ConnConfig, Recorder: p.recorder,
		Listen: func() (net.Listener, error) { return net.Listen("unix", socket) },
	}))
	p.routes = "reverse_proxy unix/" + socket
	p.run()
	p.enqueue(p.dbs[0], repeat(5, odoostub.JobSpec{})...)
	p.untilStates(map[string]int{"done": 5})
	p.exactlyOnce(map[string]int{"root": 4})
}

func TestExplicitUpstreamAndHost(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 2, 0)
	filter := func(host, db string) bool { return host == db+".example.com" }
	p.odoo = append(p.odoo, odoostub.Start(t, odoostub.Options{
		Name: "filtered", Postgres: p.pg.ConnConfig, Recorder: p.recorder, DBFilter: filter,
	}))
	p.routes = "respond 200"
	p.more = `upstream ` + p.odoo[0].URL() + `
		driver odoo {
			host {database}.example.com
			basic_auth jobrunner secret
		}`
	p.run()
	for _, db := range p.dbs {
		p.enqueue(db, repeat(5, odoostub.JobSpec{})...)
	}
	p.untilStates(map[string]int{"done": 10})
	for _, r := range p.recorder.AllRequests() {
		if r.UUID != "" {
			require.Equal(t, "Basic am9icnVubmVyOnNlY3JldA==", r.Header.Get("Authorization"))
			require.Equal(t, r.DB, r.DatabaseHeader())
		}
	}
}
