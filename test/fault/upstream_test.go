//go:build fault

package fault

import (
	"net/http"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// upstreamFaults happen to the Odoo servers, or on the way to them.
var upstreamFaults = []fault{
	{
		name: "Odoo refuses connections", bound: 20 * time.Second,
		strike: func(tb *testBed) {
			for _, s := range tb.Odoo {
				s.Refuse()
			}
			tb.wait(5 * time.Second)
			for _, s := range tb.Odoo {
				require.NoError(tb, s.Accept())
			}
		},
	},
	{
		name: "one of two Odoo servers stopped", bound: 20 * time.Second,
		strike: func(tb *testBed) {
			tb.Odoo[0].Refuse()
			tb.over()
		},
	},
	{
		name: "one of two Odoo servers killed", bound: 40 * time.Second,
		strike: func(tb *testBed) {
			tb.Odoo[0].Crash()
			tb.over()
		},
	},
	misbehaviour("Odoo resets before it reads", odoostub.Fault{Kind: odoostub.ResetBeforeRead}),
	misbehaviour("Odoo resets after it has read", odoostub.Fault{Kind: odoostub.ResetAfterRead}),
	misbehaviour("Odoo hangs", odoostub.Fault{Kind: odoostub.Hang}),
	misbehaviour("Odoo answers 502", odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusBadGateway}),
	misbehaviour("Odoo answers 503", odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable}),
	misbehaviour("Odoo answers 504", odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusGatewayTimeout}),
	misbehaviour("Odoo answers 404", odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusNotFound}),
	misbehaviour("Odoo answers 200 with a login page", odoostub.Fault{Kind: odoostub.LoginPage}),
	misbehaviour("Odoo answers 200 and does nothing", odoostub.Fault{Kind: odoostub.Ignore}),
	misbehaviour("Odoo answers byte by byte", odoostub.Fault{Kind: odoostub.SlowAnswer, Pace: 20 * time.Millisecond}),
	{
		name: "proxy cuts idle requests while the jobs live", bound: 40 * time.Second, fronted: true,
		prepare: func(tb *testBed) { tb.load.slow = 3 * time.Second },
		strike:  cutIdle,
	},
	{
		name: "proxy cuts idle requests, no lock table", bound: 40 * time.Second, fronted: true, gen: odoostub.QueueJob12,
		prepare: func(tb *testBed) { tb.load.slow = 3 * time.Second },
		strike:  cutIdle,
	},
	{
		name: "workers killed", bound: 40 * time.Second,
		strike: func(tb *testBed) {
			killWorkers(tb, 20)
		},
	},
	{
		name: "workers killed, no lock table, operator requeues", bound: 40 * time.Second, gen: odoostub.QueueJob12,
		strike: operatorRequeues,
	},
	{
		name: "workers killed, no lock table, a limit of 5 s", bound: 20 * time.Second, gen: odoostub.QueueJob12,
		prepare: func(tb *testBed) { tb.more = "rescue_started_after 5s" },
		strike:  func(tb *testBed) { killWorkers(tb, 5) },
	},
}

// heldJobs are those that have been started long ago and that nobody runs.
const heldJobs = "state = 'started' AND date_started < now() AT TIME ZONE 'UTC' - interval '20 s'"

// misbehaviour is a fault of all Odoo servers for a while.
func misbehaviour(name string, f odoostub.Fault) fault {
	return fault{name: name, bound: 40 * time.Second, strike: func(tb *testBed) { misbehave(tb, f) }}
}

// cutIdle has a proxy reset every request that takes longer than half a second:
// the jobs go on.
func cutIdle(tb *testBed) {
	for _, front := range tb.fronts {
		front.CutIdle(500 * time.Millisecond)
	}
	tb.wait(10 * time.Second)
	for _, front := range tb.fronts {
		front.CutIdle(0)
	}
}

// operatorRequeues kills workers where nothing proves them dead: the jobs are
// held until somebody decides.
func operatorRequeues(tb *testBed) {
	killWorkers(tb, 3)
	// Longer than any guess would take.
	tb.wait(25 * time.Second)
	held, err := tb.total("SELECT count(*) FROM queue_job WHERE " + heldJobs)
	require.NoError(tb, err)
	require.NotZero(tb, held, "jobs are held")
	tb.over()
	for _, db := range tb.Databases() {
		tb.exec(db, "UPDATE queue_job SET state = 'pending', date_enqueued = NULL, date_started = NULL WHERE "+heldJobs)
	}
}
