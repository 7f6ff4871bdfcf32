package odoo_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// release looks at all jobs that wait, or at the dependents of done ones, and returns those that were
// released.
func (h *harness) release(s driver.Session, done ...string) (uuids []string) {
	h.t.Helper()
	r := s.(driver.Releaser)
	ids, err := r.Dependents(h.deadline(), done)
	require.NoError(h.t, err)
	rows, err := r.Release(h.deadline(), ids, 0, nil)
	require.NoError(h.t, err)
	for _, row := range rows {
		uuids = append(uuids, row.UUID)
	}
	return uuids
}

// family inserts a done job and one that waits for it.
func (h *harness) family(parent, child string) {
	h.t.Helper()
	h.Insert(drivertest.Job{UUID: parent, State: "done"})
	h.Insert(drivertest.Job{UUID: child, State: "wait_dependencies", DependsOn: []string{parent}})
}

// Rows whose dependencies are none of the add-on's keep nobody else's job waiting, and are left alone.
func TestReleaseOfHostileRows(t *testing.T) {
	const waits = "wait_dependencies"
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	bad := map[string]string{
		"none": "", "no JSON": "depends on nothing", "open": `{"depends_on": ["`, "number": `{"depends_on": 7}`,
		"object": `{"depends_on": {"x": "good parent"}}`, "nulls": `{"depends_on": [null, 1, []]}`,
		"of nobody": `{"depends_on": ["nobody"]}`, "itself": `{"depends_on": ["itself"]}`,
		"other key": `{"reverse_depends_on": ["good parent"]}`,
		"deep":      strings.Repeat(`{"depends_on": [`, 10_000),
		"long":      `{"depends_on": ["good parent", "` + strings.Repeat("x", 2<<20) + `"]}`,
		"many":      `{"depends_on": ["good parent"` + strings.Repeat(`, "pending parent"`, 40_000) + `]}`,
	}
	for uuid, dependencies := range bad {
		h.Insert(drivertest.Job{UUID: uuid, State: waits})
		h.exec("UPDATE queue_job SET dependencies = $2 WHERE uuid = $1", uuid, dependencies)
	}
	h.Insert(drivertest.Job{UUID: "unknown", State: waits})
	h.exec("UPDATE queue_job SET dependencies = NULL WHERE uuid = 'unknown'")
	h.Insert(drivertest.Job{UUID: "pending parent", State: "pending"})
	h.family("good parent", "good child")
	// A circle of jobs waits for ever, as it does in Odoo.
	h.Insert(drivertest.Job{UUID: "circle 1", State: waits})
	h.Insert(drivertest.Job{UUID: "circle 2", State: waits, DependsOn: []string{"circle 1"}})
	h.depend("circle 1", "circle 2")
	began := time.Now()
	require.Equal(t, []string{"good child"}, h.release(s))
	require.Less(t, time.Since(began), 20*time.Second)
	for uuid := range bad {
		h.exec("UPDATE queue_job SET state = 'done' WHERE uuid = $1", uuid)
		require.Empty(t, h.release(s, uuid), uuid)
	}
}

// A parent is one of the same graph, whatever its uuid; of several rows of one uuid all count, and one
// without a state is not done.
func TestReleaseStaysInItsGraph(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	h.family("parent", "child")
	h.exec("UPDATE queue_job SET graph_uuid = 'other' WHERE uuid = 'parent'")
	require.Empty(t, h.release(s))
	require.Empty(t, h.release(s, "parent"))
	h.exec("UPDATE queue_job SET graph_uuid = NULL")
	require.Empty(t, h.release(s))
	require.Empty(t, h.release(s, "parent"))
	h.exec("UPDATE queue_job SET graph_uuid = 'g'")
	h.Insert(drivertest.Job{UUID: "parent", State: "pending"})
	h.depend("child", "parent") // which the second parent has forgotten
	require.Empty(t, h.release(s))
	require.Empty(t, h.release(s, "parent"))
	h.exec("UPDATE queue_job SET state = 'done' WHERE uuid = 'parent'")
	require.Equal(t, []string{"child"}, h.release(s, "parent"))
}

// Two workers finish siblings at the same moment, and the runner looks as well: the child is released
// once, after both are done, whoever does it.
func TestReleaseBesideWorkers(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	one, two := h.connect(), h.connect()
	odoos := func(tx pgx.Tx) int64 {
		t.Helper()
		tag, err := tx.Exec(t.Context(), `UPDATE queue_job c SET state = 'pending' WHERE state = 'wait_dependencies'
			AND NOT EXISTS (SELECT FROM queue_job p WHERE p.uuid IN ('a', 'b') AND p.state <> 'done')`)
		require.NoError(t, err)
		return tag.RowsAffected()
	}
	for range 20 {
		h.exec("DELETE FROM queue_job")
		h.Insert(drivertest.Job{UUID: "a", State: "started"})
		h.Insert(drivertest.Job{UUID: "b", State: "started"})
		h.Insert(drivertest.Job{UUID: "c", State: "wait_dependencies", DependsOn: []string{"a", "b"}})
		first, second := writes(t, one, "UPDATE queue_job SET state = 'done' WHERE uuid = 'a'"), writes(t, two, "UPDATE queue_job SET state = 'done' WHERE uuid = 'b'")
		require.Empty(t, h.release(s), "neither is done")
		require.NoError(t, first.Commit(t.Context()))
		require.Empty(t, h.release(s, "a"), "one is not done")
		require.NoError(t, second.Commit(t.Context()))

		// Odoo's own release is under way, and fails.
		tx, err := one.Begin(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, odoos(tx))
		require.Empty(t, h.release(s, "a", "b"), "the row is locked")
		require.NoError(t, tx.Rollback(t.Context()))
		require.Equal(t, []string{"c"}, h.release(s, "a", "b"))
		tx, err = two.Begin(t.Context())
		require.NoError(t, err)
		require.Zero(t, odoos(tx), "Odoo's next try finds nothing to do")
		require.NoError(t, tx.Commit(t.Context()))
		h.SetState("c", "done")
		require.Empty(t, h.release(s, "a", "b"), "nor is what is over")
	}
}

// A large table does not make it slow: neither many jobs that are done, nor a large graph.
func TestReleaseIsBounded(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify")
	h.exec(`INSERT INTO queue_job (uuid, state, graph_uuid, dependencies)
		SELECT 'd' || i, 'done', 'g', '{"depends_on": [], "reverse_depends_on": []}' FROM generate_series(1, 100000) AS i`)
	h.exec(`INSERT INTO queue_job (uuid, state, graph_uuid, dependencies)
		SELECT 'w' || i, 'wait_dependencies', 'g', '{"depends_on": ["d1", "p"], "reverse_depends_on": []}' FROM generate_series(1, 2000) AS i`)
	h.exec("ALTER TABLE queue_job ENABLE TRIGGER queue_job_notify")
	s := h.session() // nothing has analyzed the table
	h.Insert(drivertest.Job{UUID: "p", State: "pending"})
	r := s.(driver.Releaser)
	ids, err := r.Dependents(h.deadline(), nil)
	require.NoError(t, err)
	require.Len(t, ids, 2000)
	began := time.Now()
	for range 10 {
		rows, err := r.Release(h.deadline(), ids[:100], time.Minute, nil)
		require.NoError(t, err)
		require.Empty(t, rows)
		found, err := r.Dependents(h.deadline(), []string{"d1", "d2"})
		require.NoError(t, err)
		require.Empty(t, found)
	}
	require.Less(t, time.Since(began), 5*time.Second)
}

// Where there are no graphs, nothing is asked.
func TestReleaseWithoutGraphs(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			s := h.session()
			require.Empty(t, h.release(s))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := s.(driver.Releaser).Dependents(ctx, nil)
			without := gen < odoostub.QueueJob12 || gen.Connector()
			require.Equal(t, without, err == nil, fmt.Sprint(err))
			_, err = s.(driver.Releaser).Release(ctx, nil, 0, nil)
			require.NoError(t, err, "of no job, either")
			_, err = s.(driver.Releaser).Release(ctx, []int64{1}, 0, nil)
			require.Equal(t, without, err == nil, fmt.Sprint(err))
		})
	}
}

// Each look at jobs that wait is bounded by the server, before the engine gives it up after 30 s, and a
// single job may take longer than several.
func TestReleaseLimits(t *testing.T) {
	require.Positive(t, odoo.ReleaseLimit)
	require.Less(t, odoo.ReleaseLimit, odoo.ReleaseLimitOfOne)
	require.Less(t, odoo.ReleaseLimitOfOne, odoo.WaitingLimit)
	require.Less(t, odoo.WaitingLimit, 30*time.Second)
	h := newHarness(t, odoostub.QueueJobLock)
	require.Empty(t, h.release(h.session()), "nothing waits")
}

// The released row comes back as it is, and tells listeners.
func TestReleaseReturnsRows(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	h.family("parent", "child")
	r := s.(driver.Releaser)
	ids, err := r.Dependents(h.deadline(), []string{"parent"})
	require.NoError(t, err)
	rows, err := r.Release(h.deadline(), ids, 0, nil)
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Equal(t, channels.Pending, rows[0].State)
	require.Equal(t, channels.Key{DB: h.db, UUID: "child"}, rows[0].Key)
}

// A job that takes too long to release is told apart from the others, and harms neither them nor the
// session.
func TestReleaseOfSlowJobs(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec(`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_sleep(CASE WHEN NEW.uuid LIKE 'endless%' THEN 600 ELSE 1.3 END); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE UPDATE ON queue_job FOR EACH ROW WHEN (NEW.state = 'pending') EXECUTE PROCEDURE slow()`)
	h.family("a", "child of a")
	h.family("b", "child of b")
	h.family("c", "endless")
	s := h.session()
	r := s.(driver.Releaser)
	ids, err := r.Dependents(h.deadline(), nil)
	require.NoError(t, err)
	require.Len(t, ids, 3)
	_, err = r.Release(h.deadline(), ids, 0, nil)
	require.ErrorIs(t, err, driver.ErrTooLong)
	var released []string
	for _, id := range ids {
		rows, err := r.Release(h.deadline(), []int64{id}, 0, nil)
		if err != nil {
			require.ErrorIs(t, err, driver.ErrTooLong)
			continue
		}
		for _, row := range rows {
			released = append(released, row.UUID)
		}
	}
	require.ElementsMatch(t, []string{"child of a", "child of b"}, released, "a single one may take longer")
	require.NoError(t, s.Probe(h.deadline()))
}
