package odoo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// The model of docs/model.md takes these for granted.

// An inspection judges as the model's does.
func TestModelOfInspection(t *testing.T) {
	states := map[model.State]channels.State{
		model.Pending: channels.Pending, model.Enqueued: channels.Enqueued, model.Started: channels.Started, model.Done: channels.Done,
	}
	verdicts := map[model.Finding]driver.Verdict{model.Uncertain: driver.Uncertain, model.Alive: driver.Alive, model.Dead: driver.Dead}
	now := time.Unix(1_700_000_000, 0)
	for _, g := range []model.Generation{model.WithLocks, model.WithoutLocks, model.Unguarded} {
		for state, real := range states {
			for _, row := range []model.Row{{State: state}, {State: state, Attempt: 1}, {State: state, Attempt: 1, Old: true}} {
				for _, held := range []bool{false, true} {
					if held && !g.Locks {
						continue // nothing could hold it
					}
					e := evidence{row: driver.Row{State: real}, now: now, held: held}
					switch {
					case row.Old:
						e.row.Enqueued = now.Add(-Grace - 1).UnixMicro()
					case row.Attempt != 0:
						e.row.Enqueued = now.Add(-Grace).UnixMicro()
					}
					require.Equal(t, verdicts[model.Judge(g, row, held)], judge(e, g.Locks).Verdict, "%s: %+v, held %t", g.Name, row, held)
				}
			}
		}
	}
}

// The statements test what the model's do, at the level of the statement that writes.
func TestModelOfStatements(t *testing.T) {
	flat := func(sql string) string { return strings.Join(strings.Fields(sql), " ") }
	all := []string{
		"id", "uuid", "state", "date_enqueued", "retry", "max_retries", "exc_name", "exc_info", "worker_pid",
	}
	guarded := &generation{contract: queueJob, columns: all}
	locks := &generation{contract: queueJob, columns: all, locks: true}
	for _, g := range []*generation{guarded, locks} {
		s := g.statements()
		require.Contains(t, flat(s.claims[0]), "SET state = 'enqueued', date_enqueued = date_trunc('second', now() AT TIME ZONE 'UTC')"+
			" FROM durable WHERE (j.state = 'pending') IS TRUE AND")
		require.Contains(t, flat(s.unclaim), "ON j.uuid = t.uuid AND j.date_enqueued = t.enqueued WHERE j.state = 'enqueued'")
		require.Contains(t, flat(s.unclaim), "SET state = 'pending', date_enqueued = NULL FROM path, c WHERE j.id = c.id AND j.state = 'enqueued'")
		require.Contains(t, flat(s.rescue), "ON j.uuid = d.uuid AND j.state = d.state AND (j.date_enqueued = d.enqueued")
	}
	rescue := flat(locks.statements().rescue)
	_, top, ok := strings.Cut(rescue, "UPDATE \"public\".\"queue_job\" j SET state = CASE")
	require.True(t, ok, rescue)
	require.Contains(t, top, "FROM path, c WHERE j.id = c.id AND j.state IN ('enqueued', 'started')"+
		" AND (j.date_enqueued < now() AT TIME ZONE 'UTC' - interval '10 seconds'")
	require.Contains(t, top, "WHERE l.queue_job_id = j.id FOR NO KEY UPDATE SKIP LOCKED) OR NOT EXISTS")
	require.NotContains(t, top, "date_enqueued =", "an attempt that was rescued keeps its date")
	require.Contains(t, flat(guarded.statements().rescue), "FROM path, c WHERE j.id = c.id AND j.state = 'started' RETURNING")
}

// The generations are told apart as the model's are.
func TestModelOfGenerations(t *testing.T) {
	for _, c := range []struct {
		g    model.Generation
		real *generation
	}{
		{model.WithLocks, &generation{contract: queueJob, columns: []string{"exc_name", "worker_pid"}, locks: true}},
		{model.WithoutLocks, &generation{contract: queueJob, columns: []string{"exc_name", "worker_pid"}}},
		{model.Unguarded, &generation{contract: queueJob}},
		{model.Unguarded, &generation{contract: connector}},
	} {
		require.Equal(t, c.g.Locks, c.real.locks)
		require.Equal(t, c.g.Guarded, c.real.guarded())
	}
}
