package integration

import (
	"net/http"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// upstreamDoc is the one server, as the admin API shows it.
func (tb *testBed) upstreamDoc() map[string]any {
	tb.Helper()
	list := tb.get("upstreams", http.StatusOK)["upstreams"].([]any)
	require.Len(tb, list, 1)
	return list[0].(map[string]any)
}

// TestVisitors: jobs wait while visitors of the site have all workers but those that are reserved. Jobs
// are no visitors.
func TestVisitors(t *testing.T) {
	for name, upstream := range map[string]string{
		"server of the site":    "",
		"server by its address": "upstream http://{{(index .Odoo 0).Addr}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
			tb.more = tb.filled(upstream) + "server {\n\tworkers 3\n\treserve 1\n}\n"
			tb.run()
			tb.untilReady()
			tb.Odoo[0].SetFault(odoostub.Fault{Kind: odoostub.Hang, AllPaths: true})
			var visits sync.WaitGroup
			for range 2 {
				visits.Go(func() {
					if res, err := http.Get("http://" + tb.site + "/web"); err == nil {
						_ = res.Body.Close()
					}
				})
			}
			tb.until("two visitors", func() bool { return tb.upstreamDoc()["visitors"] == 2. })
			uuid := tb.enqueue(tb.dbs[0], odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})[0]
			tb.untilWhy(tb.dbs[0], uuid, "no_server")
			tb.untilStates(map[string]int{"pending": 1})
			require.Contains(t, tb.upstreamDoc()["full"], "0 jobs and 2 requests of visitors on 3 workers")
			tb.commands(0, "VISITORS", "upstreams")

			tb.Odoo[0].SetFault(odoostub.Fault{})
			visits.Wait()
			tb.untilRunning(1)
			doc := tb.upstreamDoc()
			require.Equal(t, []any{0., 1.}, []any{doc["visitors"], doc["in_flight"]}, "a job is no visitor")
			tb.more = "server {\n\tmax_jobs 1\n}\n"
			tb.load()
			second := tb.enqueue(tb.dbs[0], odoostub.JobSpec{})[0]
			tb.untilWhy(tb.dbs[0], second, "no_server")
			tb.Gates.Open("end")
			tb.untilStates(map[string]int{"done": 2})
			tb.exactlyOnce(map[string]int{"root": 4})
		})
	}
}

// TestVisitorsOfDynamicUpstreams: what cannot be counted is no limit.
func TestVisitorsOfDynamicUpstreams(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.routes = "reverse_proxy {\n\tdynamic a {\n\t\tname localhost\n\t\tport {{slice (index .Odoo 0).Addr 10}}\n\t\tversions ipv4\n\t}\n}"
	tb.more = "server {\n\tworkers 3\n}\n"
	err := caddy.Load(tb.adapt(), true)
	require.ErrorContains(t, err, "server: workers: the requests of visitors cannot be counted where upstreams are dynamic; use max_jobs alone")
}

// TestPools: a server of the site that belongs to a pool runs the jobs of the pool and no others, and a
// job that has no room there is in nobody's way.
func TestPools(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.tree = "root:9,root.export:2"
	tb.more = tb.filled("pool heavy {{(index .Odoo 1).Addr}} {\n\tmax_jobs 1\n}\n") + "policy root.export {\n\tpool heavy\n}\n"
	tb.run()
	tb.untilReady()
	held := odoostub.Behaviour{Gate: "end"}
	exports := tb.enqueue(tb.dbs[0], odoostub.JobSpec{Channel: new("root.export"), Behaviour: held}, odoostub.JobSpec{Channel: new("root.export"), Behaviour: held})
	tb.untilRunning(1)
	tb.untilWhy(tb.dbs[0], exports[1], "no_server")
	tb.enqueue(tb.dbs[0], odoostub.JobSpec{Behaviour: held}, odoostub.JobSpec{Behaviour: held})
	tb.untilRunning(3)
	for _, u := range tb.get("upstreams", http.StatusOK)["upstreams"].([]any) {
		doc := u.(map[string]any)
		if doc["pool"] == "heavy" {
			require.Equal(t, 1., doc["in_flight"])
			require.Equal(t, "1 of at most 1 jobs", doc["full"])
		} else {
			require.Equal(t, 2., doc["in_flight"])
		}
	}
	tb.commands(0, "POOL", "upstreams")
	tb.more = ""
	tb.load()
	tb.untilRunning(4)
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 4})
	tb.exactlyOnce(map[string]int{"root": 4, "root.export": 2})
}
