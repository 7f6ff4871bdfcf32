package integration

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestNeutralized has a copy of production, with production's jobs, beside it.
func TestNeutralized(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 1)
	production, duplicate := tb.dbs[0], tb.dbs[1]
	require.NoError(t, odoostub.Neutralize(t.Context(), tb.Pool(duplicate)))
	jobs := tb.enqueue(duplicate, odoostub.JobSpec{})
	tb.enqueue(production, odoostub.JobSpec{})
	tb.run()
	tb.untilReady()
	tb.untilStates(map[string]int{"done": 1, "pending": 1})
	tb.untilWhy(duplicate, jobs[0], "database_neutralized")
	_, text := tb.why(duplicate, jobs[0])
	require.Contains(t, text, "run_neutralized in driver odoo lets them run")
	for _, db := range list(tb.get("databases", http.StatusOK), "databases") {
		if db["database"] == duplicate {
			require.Equal(t, "neutralized", db["state"])
			require.Contains(t, db["detail"], "run_neutralized")
		} else {
			require.Equal(t, "ready", db["state"])
		}
	}
	status := list(tb.get("status", http.StatusOK), "runners")[0]
	require.Equal(t, map[string]any{"neutralized": 1.0, "ready": 1.0}, status["databases"])
	tb.commands(0, "neutralized", "databases")
	tb.commands(0, "run_neutralized", "why", duplicate, jobs[0])
	require.Zero(t, tb.Recorder.Executions(duplicate, jobs[0]))

	tb.more = "driver odoo {\nrun_neutralized\n}"
	tb.load()
	tb.untilStates(map[string]int{"done": 2})
	tb.exactlyOnce(nil)

	// Once it is withdrawn, the copy's session ends at the next full read.
	tb.more = ""
	tb.load()
	tb.post("resync", `{}`, http.StatusOK)
	tb.until("neutralized", func() bool {
		return slices.ContainsFunc(list(tb.get("databases", http.StatusOK), "databases"), func(db map[string]any) bool {
			return db["database"] == duplicate && db["state"] == "neutralized"
		})
	})
}
