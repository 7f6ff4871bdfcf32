//go:build fault

package fault

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// guards are runners with a guard missing, and what the suite must notice then:
// a promise that cannot be broken proves nothing.
var guards = []struct {
	fault
	without string
	noticed func(report) int
	// give is how long the runner has to do it wrong.
	give time.Duration
	// final is set where only the end shows it. What else is counted stays, so that it is enough to
	// see it once; on a busy machine it takes some time, or another try.
	final bool
}{
	{
		fault:   fault{name: "nobody elected: above capacity", nodes: 2, strike: burstOfSlowJobs},
		without: "election", noticed: func(r report) int { return r.above }, give: 10 * time.Second,
	},
	{
		fault:   fault{name: "nobody elected, unguarded claims: done twice", nodes: 2, strike: burstOfSlowJobs},
		without: "election claim", noticed: func(r report) int { return r.twice }, give: 10 * time.Second,
	},
	{
		fault: fault{
			name: "dead without evidence: overlapping executions", gen: odoostub.QueueJob12,
			prepare: func(tb *testBed) { tb.load.slow = 40 * time.Second }, strike: killDuringSlowJobs,
		},
		without: "evidence", noticed: func(r report) int { return r.overlaps }, give: 35 * time.Second,
	},
	{
		fault:   fault{name: "no rescue: jobs left behind", strike: func(tb *testBed) { killWorkers(tb, 3) }},
		without: "rescue", noticed: func(r report) int { return r.left }, give: 25 * time.Second, final: true,
	},
	{
		fault:   fault{name: "no notifications: jobs lost", unserved: true, strike: func(tb *testBed) { tb.wait(2 * time.Second) }},
		without: "notifications", noticed: func(r report) int { return r.lost }, give: 5 * time.Second, final: true,
	},
}

// guardTries is how often the same is tried.
const guardTries = 3

// TestGuards takes guards away one by one, and requires the suite to notice.
func TestGuards(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			tb := newTestBed(t, g.fault)
			tb.more = "driver faulty {\nwithout " + g.without + "\n}"
			tb.begin()
			var r report
			noticed := func() bool {
				r = report{name: g.name}
				tb.judge(&r)
				return g.noticed(r) != 0
			}
			if g.final {
				g.strike(tb)
				tb.wait(g.give)
				tb.load.stop()
				testbed.Within(5*time.Second, func() bool { return tb.unfinished() == 0 })
				require.True(t, noticed(), "%s\n%s", r, tb.details())
				return
			}
			for try := 0; try < guardTries && !noticed(); try++ {
				g.strike(tb)
				testbed.Within(g.give, noticed)
			}
			require.True(t, noticed(), "%s\n%s", r, tb.details())
		})
	}
}

// killDuringSlowJobs kills Caddy while jobs run that take long enough to be found when it is back, twice
// and some seconds apart, to be put back, and to begin again.
func killDuringSlowJobs(tb *testBed) {
	tb.until("slow jobs have just begun", func() bool {
		n, err := tb.total(`SELECT count(*) FROM queue_job WHERE state = 'started' AND channel = 'root.slow'
			AND date_started > now() AT TIME ZONE 'UTC' - interval '5 s'`)
		return err == nil && n > 0
	})
	killDuringRequests(tb)
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
