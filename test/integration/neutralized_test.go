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
	p := newPlant(t, odoostub.QueueJobLock, 2, 1)
	production, duplicate := p.dbs[0], p.dbs[1]
	require.NoError(t, odoostub.Neutralize(t.Context(), p.pools[duplicate]))
	jobs := p.enqueue(duplicate, odoostub.JobSpec{})
	p.enqueue(production, odoostub.JobSpec{})
	p.run()
	p.untilReady()
	p.untilStates(map[string]int{"done": 1, "pending": 1})
	p.untilWhy(duplicate, jobs[0], "database_neutralized")
	_, text := p.why(duplicate, jobs[0])
	require.Contains(t, text, "run_neutralized in driver odoo lets them run")
	for _, db := range list(p.get("databases", http.StatusOK), "databases") {
		if db["database"] == duplicate {
			require.Equal(t, "neutralized", db["state"])
			require.Contains(t, db["detail"], "run_neutralized")
		} else {
			require.Equal(t, "ready", db["state"])
		}
	}
	status := list(p.get("status", http.StatusOK), "runners")[0]
	require.Equal(t, map[string]any{"neutralized": 1.0, "ready": 1.0}, status["databases"])
	p.commands(0, "neutralized", "databases")
	p.commands(0, "run_neutralized", "why", duplicate, jobs[0])
	require.Zero(t, p.recorder.Executions(duplicate, jobs[0]))

	p.more = "driver odoo {\nrun_neutralized\n}"
	p.load()
	p.untilStates(map[string]int{"done": 2})
	p.exactlyOnce(nil)

	// Once it is withdrawn, the copy's session ends at the next full read.
	p.more = ""
	p.load()
	p.post("resync", `{}`, http.StatusOK)
	p.until("neutralized", func() bool {
		return slices.ContainsFunc(list(p.get("databases", http.StatusOK), "databases"), func(db map[string]any) bool {
			return db["database"] == duplicate && db["state"] == "neutralized"
		})
	})
}
