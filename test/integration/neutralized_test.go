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

// A database turns into a copy while it is served: what has been claimed ends, and from the commit of
// the mark on nothing else is claimed.
func TestNeutralizedWhileServed(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	db := tb.dbs[0]
	tb.tree = "root:2"
	tb.run()
	tb.untilReady()
	uuids := tb.enqueue(db, repeat(60, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 100}})...)
	tb.until("some are done", func() bool { return tb.states()["done"] >= 5 })
	require.NoError(t, odoostub.Neutralize(t.Context(), tb.Pool(db)))
	// A claim that began before may be on its way. The lock waits for it.
	_, err := tb.Pool(db).Exec(t.Context(), "DO $$ BEGIN LOCK TABLE queue_job IN EXCLUSIVE MODE; END $$")
	require.NoError(t, err)
	claimed := len(uuids) - tb.states()["pending"]
	require.Less(t, claimed, len(uuids))
	tb.until("the running ones have ended, and the mark is noticed", func() bool {
		databases := list(tb.get("databases", http.StatusOK), "databases")
		return tb.running() == 0 && databases[0]["state"] == "neutralized"
	})
	tb.untilStates(map[string]int{"done": claimed, "pending": len(uuids) - claimed})
	tb.neverTwice(nil)
}

// A copy of a database with pending jobs appears, and is neutralized only when Odoo has loaded it, in
// one transaction. Until then nothing tells it from any other one.
func TestNeutralizedAfterTheCopy(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 2, 1)
	served, original := tb.dbs[0], tb.dbs[1]
	duplicate := served + "_copy"
	tb.enqueue(original, repeat(5, odoostub.JobSpec{})...)
	tb.Pool(original).Reset()
	tb.patterns = served + "*"
	tb.startProcess(t.TempDir())
	tb.untilReady()

	require.NoError(t, tb.Postgres.CreateDatabase(t.Context(), duplicate, original))
	_, err := tb.Adopt(duplicate)
	require.NoError(t, err)
	tb.dbs = []string{duplicate}
	tx, err := tb.Pool(duplicate).Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "SELECT pg_sleep(4)") // the registry
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO ir_config_parameter (key, value) VALUES ('database.is_neutralized', 'true')")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, map[string]int{"pending": 5}, tb.states())
	tb.until("it is found", func() bool {
		return slices.ContainsFunc(list(tb.get("databases", http.StatusOK), "databases"), func(db map[string]any) bool {
			return db["database"] == duplicate && db["state"] == "neutralized"
		})
	})
	require.Equal(t, map[string]int{"pending": 5}, tb.states())

	// Another one is not neutralized, and served in the end.
	tb.Pool(duplicate).Reset()
	tb.statement("CREATE DATABASE " + duplicate + "2 TEMPLATE " + original)
	_, err = tb.Adopt(duplicate + "2")
	require.NoError(t, err)
	tb.dbs = []string{duplicate + "2"}
	tb.untilStates(map[string]int{"done": 5})
}
