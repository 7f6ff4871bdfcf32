//go:build fault

package fault

import (
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// quarantineFaults are jobs that do harm, and jobs to which others do.
var quarantineFaults = []fault{
	killer("a job kills its worker each time, quarantine", odoostub.QueueJobLock, ""),
	killer("the same without lock table, a limit of 5 s", odoostub.QueueJob12, "rescue_started_after 5s"),
	killer("the same on Odoo 10, a limit of 5 s", odoostub.QueueJob10, "rescue_started_after 5s"),
	{
		name: "a job's servers drained and killed, quarantine", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = "quarantine 2 in 1h" },
		strike:  drainAndKill,
	},
}

// killer is a fault of one job.
func killer(name string, gen odoostub.Generation, options string) fault {
	return fault{
		name: name, bound: 20 * time.Second, gen: gen,
		prepare: func(tb *testBed) { tb.more = "quarantine 3 in 1h\n" + options },
		strike:  killAgainAndAgain,
	}
}

// killAgainAndAgain has a job kill its worker each time, until it is failed.
func killAgainAndAgain(tb *testBed) {
	db := tb.Databases()[0]
	uuids, err := odoostub.Enqueue(tb.Context(), tb.Pool(db), []odoostub.JobSpec{{
		Priority: new(int32(0)), MaxRetries: new(int32(0)), Behaviour: odoostub.Behaviour{KillTimes: 1 << 30},
	}})
	require.NoError(tb, err)
	var state, info string
	tb.until("the job is failed", func() bool {
		row := tb.Pool(db).QueryRow(tb.Context(), "SELECT state, coalesce(exc_info, '') FROM queue_job WHERE uuid = $1", uuids[0])
		return row.Scan(&state, &info) == nil && state == "failed"
	})
	require.Contains(tb, info, "3 attempts of this job came to nothing within 1h")
	require.Equal(tb, 3, strings.Count(info, "its worker died"), info)
	require.Equal(tb, 3, tb.Recorder.Executions(db, uuids[0]))
	require.Equal(tb, 1, tb.nodes[0].logged("job quarantined: "))
}

// drainAndKill drains the server that runs a job and kills it, again and again. Nobody but its operator
// is to blame.
func drainAndKill(tb *testBed) {
	db := tb.Databases()[0]
	jobs := []odoostub.JobSpec{{
		Priority: new(int32(0)), MaxRetries: new(int32(0)), Behaviour: odoostub.Behaviour{SleepMS: 5000},
	}}
	tb.until("the job is committed", func() bool { return tb.load.enqueue(db, jobs...) })
	client, err := api.NewClient(tb.nodes[0].admin)
	require.NoError(tb, err)
	for i := range 3 {
		tb.until("the job runs", func() bool { return tb.Recorder.Executions(db, jobs[0].UUID) == i+1 })
		for _, s := range tb.Odoo {
			if s.Name() != tb.runsOn(db, jobs[0].UUID) {
				continue
			}
			order := api.DrainRequest{Upstream: "http://" + s.Addr()}
			_, err := client.Drain(tb.Context(), order)
			require.NoError(tb, err)
			s.KillBusy()
			tb.wait(time.Second) // until it is known
			_, err = client.Undrain(tb.Context(), order)
			require.NoError(tb, err)
		}
	}
	require.Zero(tb, tb.nodes[0].logged("job quarantined: "))
}

// runsOn names the server that began to run a job last.
func (tb *testBed) runsOn(db, uuid string) (server string) {
	for _, e := range tb.Recorder.AllExecutions() {
		if e.DB == db && e.UUID == uuid {
			server = e.Server
		}
	}
	return server
}
