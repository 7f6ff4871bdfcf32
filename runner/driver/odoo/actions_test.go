package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// change does a batch of an action.
func (h *harness) change(o driver.Operations, a driver.Action, f driver.Filter) driver.Changed {
	h.t.Helper()
	out, err := o.Change(h.deadline(), driver.Change{Action: a, By: "me", Until: time.Unix(1_800_000_000, 7)}, f, 0, 100, false)
	require.NoError(h.t, err)
	return out
}

// A change goes through the jobs in batches, from one id to the next, and leaves out what is locked; a dry
// run finds the same and changes nothing.
func TestChangeInBatches(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	for _, uuid := range []string{"a", "b", "c", "d", "e"} {
		h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
	}
	h.Insert(drivertest.Job{UUID: "f", State: "started"})
	o := h.openOperations()
	tx := writes(t, h.connect(), "SELECT FROM queue_job WHERE uuid = 'b' FOR UPDATE")
	defer tx.Rollback(context.Background())
	cancel := driver.Change{Action: driver.Cancel, By: "me"}
	for _, c := range []struct {
		dry     bool
		batches [][]string
	}{
		{true, [][]string{{"a", "b"}, {"c", "d"}, {"e"}}},
		{false, [][]string{{"a", "c"}, {"d", "e"}, nil}},
	} {
		var after int64
		for _, want := range c.batches {
			out, err := o.Change(h.deadline(), cancel, driver.Filter{}, after, 2, c.dry)
			require.NoError(t, err)
			require.Equal(t, want, out.UUIDs)
			require.Equal(t, len(want) == 2, out.More)
			require.Equal(t, len(want) > 0, out.Last > after)
			after = out.Last
		}
		require.Equal(t, c.dry, h.state("a") == "pending")
	}
	require.Equal(t, "pending", h.state("b"))
	require.Equal(t, "started", h.state("f"))
	out := h.change(o, driver.Requeue, driver.Filter{States: []channels.State{channels.Started}})
	require.Equal(t, driver.Changed{}, out, "that is the application's")
}

// Each action leaves the row as Odoo itself would (docs/contract.md 1.5).
func TestWhatActionsWrite(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	o := h.openOperations()
	for name, c := range map[string]struct {
		state  string
		action driver.Action
		want   string
	}{
		"requeue":  {"failed", driver.Requeue, "pending 0 f f f f f old old -"},
		"cancel":   {"failed", driver.Cancel, "cancelled 3 t t t t t old old Cancelled by me"},
		"set done": {"failed", driver.SetDone, "done 3 t t t f t - - Manually set to done by me"},
		"postpone": {"pending", driver.Postpone, "pending 3 t t t f t old old -"},
	} {
		h.exec("DELETE FROM queue_job")
		h.exec(`INSERT INTO queue_job (uuid, state, retry, date_enqueued, date_started, date_done, worker_pid, exc_name, exc_info, eta)
			VALUES ('a', $1, 3, now(), now(), '2001-01-01', 7, 'old', 'old', '2001-01-01')`, c.state)
		require.Equal(t, []string{"a"}, h.change(o, c.action, driver.Filter{}).UUIDs)
		var got string
		require.NoError(t, h.admin.QueryRow(h.deadline(), `SELECT concat_ws(' ', state, retry, date_enqueued IS NOT NULL,
			date_started IS NOT NULL, date_done IS NOT NULL, date_cancelled IS NOT NULL, worker_pid IS NOT NULL,
			coalesce(exc_name, '-'), coalesce(exc_info, '-'), coalesce(result, '-')) FROM queue_job`).Scan(&got))
		require.Equal(t, c.want, got, name)
		var eta time.Time
		require.NoError(t, h.admin.QueryRow(h.deadline(), "SELECT eta FROM queue_job").Scan(&eta))
		require.Equal(t, c.action == driver.Postpone, eta.Equal(time.Unix(1_800_000_000, 0)), eta)
	}
}

// What depends on a job follows it when it is done or cancelled, and not otherwise: through the whole graph
// when it is cancelled, and only where no other parent is missing.
func TestWhatFollowsAnAction(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	o := h.openOperations()
	const waits = "wait_dependencies"
	for name, c := range map[string]struct {
		action   driver.Action
		followed int
		want     map[string]string
	}{
		"set done": {driver.SetDone, 1, map[string]string{"a": "done", "b": "pending", "c": waits, "d": waits}},
		"cancel":   {driver.Cancel, 3, map[string]string{"a": "cancelled", "b": "cancelled", "c": "cancelled", "d": waits, "e": "cancelled"}},
		"postpone": {driver.Postpone, 0, map[string]string{"a": "pending", "b": waits, "released": waits}},
	} {
		h.exec("DELETE FROM queue_job")
		h.Insert(drivertest.Job{UUID: "a", State: "pending"})
		h.Insert(drivertest.Job{UUID: "other", State: "started"})
		h.Insert(drivertest.Job{UUID: "b", State: waits, DependsOn: []string{"a"}})
		h.Insert(drivertest.Job{UUID: "c", State: waits, DependsOn: []string{"b"}})
		h.Insert(drivertest.Job{UUID: "d", State: waits, DependsOn: []string{"a", "other"}})
		h.Insert(drivertest.Job{UUID: "e", State: waits, DependsOn: []string{"c", "b"}})
		if c.action == driver.Postpone { // the others would release it, too
			h.Insert(drivertest.Job{UUID: "finished", State: "done"})
			h.Insert(drivertest.Job{UUID: "released", State: waits, DependsOn: []string{"finished"}})
		}
		out := h.change(o, c.action, driver.Filter{UUIDs: []string{"a"}})
		require.Equal(t, []string{"a"}, out.UUIDs, name)
		require.Equal(t, c.followed, out.Followed, name)
		for uuid, want := range c.want {
			require.Equal(t, want, h.state(uuid), "%s: %s", name, uuid)
		}
	}
}

// A job that is requeued waits as long as a parent of its own is not done.
func TestRequeueOfDependents(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "done", State: "done"})
	h.Insert(drivertest.Job{UUID: "late", State: "failed"})
	h.Insert(drivertest.Job{UUID: "released", State: "failed", DependsOn: []string{"done"}})
	h.Insert(drivertest.Job{UUID: "waiting", State: "failed", DependsOn: []string{"done", "late"}})
	h.change(h.openOperations(), driver.Requeue, driver.Filter{UUIDs: []string{"released", "waiting"}})
	require.Equal(t, "pending", h.state("released"))
	require.Equal(t, "wait_dependencies", h.state("waiting"))
}

// Operations are refused through a pooler in transaction mode, and leave nothing behind there.
func TestOperationsThroughAPooler(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	cfg := h.through(h.Postgres())
	_, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), cfg, h.db)
	require.ErrorIs(t, err, postgres.ErrTransactionPooling)
	other, err := pgx.ConnectConfig(h.deadline(), cfg)
	require.NoError(t, err)
	defer other.Close(context.Background())
	for range 2 { // each of the two backends
		var scans string
		require.NoError(t, other.QueryRow(h.deadline(), "SELECT current_setting('enable_seqscan')", pgx.QueryExecModeExec).Scan(&scans))
		require.Equal(t, "on", scans)
	}
}
