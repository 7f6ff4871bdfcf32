//go:build fault

package fault

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// guards are runners with a guard missing, and what the suite must notice then:
// a promise that cannot be broken proves nothing.
var guards = []struct {
	fault
	without string
	noticed func(report) int
	// give is how long the runner has to do it wrong.
	give time.Duration
}{
	{
		fault:   fault{name: "nobody elected: above capacity", nodes: 2, strike: burstOfSlowJobs},
		without: "election", noticed: func(r report) int { return r.above }, give: 5 * time.Second,
	},
	{
		fault:   fault{name: "nobody elected, unguarded claims: done twice", nodes: 2, strike: burstOfSlowJobs},
		without: "election claim", noticed: func(r report) int { return r.twice }, give: 5 * time.Second,
	},
	{
		fault: fault{
			name: "dead without evidence: overlapping executions", gen: odoostub.QueueJob12,
			prepare: func(tb *testBed) { tb.load.slow = 20 * time.Second }, strike: killDuringRequests,
		},
		without: "evidence", noticed: func(r report) int { return r.overlaps }, give: 18 * time.Second,
	},
	{
		fault:   fault{name: "no rescue: jobs left behind", strike: func(tb *testBed) { killWorkers(tb, 3) }},
		without: "rescue", noticed: func(r report) int { return r.left }, give: 25 * time.Second,
	},
	{
		fault:   fault{name: "no notifications: jobs lost", unserved: true, strike: func(tb *testBed) { tb.wait(2 * time.Second) }},
		without: "notifications", noticed: func(r report) int { return r.lost }, give: 5 * time.Second,
	},
}

// TestGuards takes guards away one by one, and requires the suite to notice.
func TestGuards(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			tb := newTestBed(t, g.fault)
			tb.more = "driver faulty {\nwithout " + g.without + "\n}"
			tb.begin()
			g.strike(tb)
			tb.wait(g.give)
			tb.load.stop()
			tb.within(5*time.Second, func() bool { return tb.unfinished() == 0 })
			r := report{name: g.name}
			tb.judge(&r)
			require.NotZero(t, g.noticed(r), "%s\n%s", r, tb.details())
		})
	}
}

// burstOfSlowJobs commits more jobs than there are places.
func burstOfSlowJobs(tb *testBed) {
	jobs := make([]odoostub.JobSpec, 40)
	for i := range jobs {
		jobs[i] = odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 300}}
	}
	for _, db := range tb.Databases() {
		require.True(tb, tb.load.enqueue(db, jobs...))
	}
}
