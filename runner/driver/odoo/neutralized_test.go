package odoo_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// fingerprintWith is what a driver with these options finds.
func (h *harness) fingerprintWith(o odoo.Options) driver.Fingerprint {
	h.t.Helper()
	s, err := odoo.New(o).OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	defer s.Close(h.t.Context())
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	return fp
}

func TestNeutralized(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			before := h.fingerprint()
			require.Equal(t, driver.Healthy, before.Health)

			require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
			fp := h.fingerprint()
			require.Equal(t, driver.Neutralized, fp.Health)
			require.Contains(t, fp.Description, "run_neutralized in driver odoo lets them run")
			require.Equal(t, before.Generation, fp.Generation)
			require.Equal(t, before.Version, fp.Version)
			fp = h.fingerprintWith(odoo.Options{RunNeutralized: true})
			require.Equal(t, driver.Healthy, fp.Health)
			require.Contains(t, fp.Description, "served because run_neutralized is set")

			// Odoo takes any value for a yes that is not empty.
			h.exec("UPDATE ir_config_parameter SET value = 'False' WHERE key = 'database.is_neutralized'")
			require.Equal(t, driver.Neutralized, h.fingerprint().Health)
			h.exec("UPDATE ir_config_parameter SET value = '' WHERE key = 'database.is_neutralized'")
			require.Equal(t, before, h.fingerprint())
			h.exec("DROP TABLE ir_config_parameter")
			require.Equal(t, before, h.fingerprint())
		})
	}
}

// A session goes by the driver in force, not by the one that opened it.
func TestNeutralizedFollowsTheDriver(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
	runs, leaves := odoo.New(odoo.Options{RunNeutralized: true}), odoo.New(odoo.Options{})
	s, err := runs.OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer s.Close(t.Context())
	for _, step := range []struct {
		driver driver.Driver
		want   driver.Health
	}{
		{runs, driver.Healthy},
		{leaves, driver.Neutralized},
		{struct{ driver.Driver }{runs}, driver.Neutralized}, // says nothing of it
		{runs, driver.Healthy},
	} {
		s.(driver.Follower).Follow(step.driver)
		fp, err := s.Fingerprint(h.deadline())
		require.NoError(t, err)
		require.Equal(t, step.want, fp.Health)
	}
}

// From the moment at which the mark is committed, nothing is claimed: a session that serves the
// database finds out by its next claim.
func TestNothingIsClaimedOnceNeutralized(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			h.Insert(drivertest.Job{UUID: "a", State: "pending"})
			h.Insert(drivertest.Job{UUID: "b", State: "pending"})
			s := h.serving(odoo.Options{})
			got, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
			require.NoError(t, err)
			require.Len(t, got, 1)

			require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
			_, _, err = s.Claim(h.deadline(), []string{"b"}, []string{"a"})
			require.ErrorIs(t, err, driver.ErrChanged)
			require.Equal(t, "pending", h.state("b"))
			require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)

			// With the option it goes on; a reload may take that away.
			s.(driver.Follower).Follow(odoo.New(odoo.Options{RunNeutralized: true}))
			require.NoError(t, s.Probe(h.deadline()))
			got, _, err = s.Claim(h.deadline(), []string{"b"}, nil)
			require.NoError(t, err)
			require.Len(t, got, 1)
			s.(driver.Follower).Follow(odoo.New(odoo.Options{}))
			require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
		})
	}
}

// Whether the database has changed is asked by a claim that gets nothing, so that one that gets something,
// or is tried before its turn, costs one statement.
func TestClaimsThatAskForChanges(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	s := h.session()
	h.exec("UPDATE ir_module_module SET latest_version = '99.0.1.0.0' WHERE name = 'queue_job'")
	tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	tasks, rows, err := s.(driver.VacantClaimer).ClaimVacant(h.deadline(), "a")
	require.NoError(t, err)
	require.Empty(t, tasks)
	require.Len(t, rows, 1)
	_, _, err = s.Claim(h.deadline(), []string{"a"}, nil)
	require.ErrorIs(t, err, driver.ErrChanged)
}

// What a fingerprint depends on is looked at by each probe.
func TestProbeNoticesMarks(t *testing.T) {
	for name, sql := range map[string]string{
		"the add-on's version": "UPDATE ir_module_module SET latest_version = '99.0.1.0.0' WHERE name = 'queue_job'",
		"the add-on's state":   "UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'queue_job'",
		"the add-on's row":     "DELETE FROM ir_module_module WHERE name = 'queue_job'",
		"the lock table":       "DROP TABLE queue_job_lock",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			s := h.serving(odoo.Options{})
			require.NoError(t, s.Probe(h.deadline()))
			h.exec(sql)
			require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
		})
	}
	t.Run("a new lock table", func(t *testing.T) {
		h := newHarness(t, odoostub.QueueJob12)
		s := h.serving(odoo.Options{})
		require.NoError(t, s.Probe(h.deadline()))
		h.exec("CREATE TABLE queue_job_lock (id int, queue_job_id int)")
		require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
	})
}

// serving returns a session that has taken the lock and listens.
func (h *harness) serving(o odoo.Options) driver.Session {
	h.t.Helper()
	s, err := odoo.New(o).OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	h.t.Cleanup(func() { require.NoError(h.t, s.Close(context.Background())) })
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, driver.Healthy, fp.Health, fp.Description)
	lock, err := s.Lock(h.deadline())
	require.NoError(h.t, err)
	require.True(h.t, lock.Held)
	require.NoError(h.t, s.Listen(h.deadline()))
	return s
}

// state reads a job's.
func (h *harness) state(uuid string) (state string) {
	h.t.Helper()
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), "SELECT state FROM queue_job WHERE uuid = $1", uuid).Scan(&state))
	return state
}

// What hinders the service of a copy is of no interest as long as it is not to be served.
func TestNeutralizedAndUnhealthy(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
	require.NoError(t, odoostub.DropTrigger(t.Context(), h.admin))
	require.Equal(t, driver.Neutralized, h.fingerprint().Health)
	fp := h.fingerprintWith(odoo.Options{RunNeutralized: true})
	require.Equal(t, driver.Unhealthy, fp.Health)
	require.Contains(t, fp.Description, "trigger is missing")

	// Without the add-on there is nothing to run, copy or not.
	require.NoError(t, odoostub.UninstallAddon(t.Context(), h.admin))
	require.Equal(t, driver.Undetected, h.fingerprint().Health)
}

// The jobs of a copy can be listed and cancelled.
func TestOperationsInNeutralized(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer o.Close(t.Context())
	found, err := o.List(h.deadline(), driver.Filter{}, 0, 10)
	require.NoError(t, err)
	jobs := found.Jobs
	require.Len(t, jobs, 1)

	x, err := odoo.New(odoo.Options{}).Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	require.Equal(t, driver.Neutralized, x.Health)
}

// Until a session listens, its probe is about the connection alone.
func TestProbeBeforeListening(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	h.exec("UPDATE ir_module_module SET state = 'to upgrade' WHERE name = 'queue_job'")
	require.NoError(t, s.Probe(h.deadline()))
	require.NoError(t, s.Listen(h.deadline()))
	require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrChanged)
}

// The options that keep jobs from being claimed, and that let them be, hold apart from each other: in a
// copy for trials, and while modules are marked.
func TestClaimsByTheOptionsInForce(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	type options struct{ copies, gated bool }
	sessions := map[options]driver.Session{}
	for _, o := range []options{{}, {copies: true}, {gated: true}, {true, true}} {
		s, err := odoo.New(odoo.Options{RunNeutralized: o.copies}).OpenSession(h.deadline(), h.Postgres(), h.db)
		require.NoError(t, err)
		defer s.Close(t.Context())
		_, err = s.Fingerprint(h.deadline())
		require.NoError(t, err)
		s.(driver.Upgrader).GateUpgrades(o.gated)
		sessions[o] = s
	}
	claims := func(what string, want func(options) bool) {
		for o, s := range sessions {
			uuid := fmt.Sprintf("%s %t %t", what, o.copies, o.gated)
			h.Insert(drivertest.Job{UUID: uuid, State: "pending"})
			h.Insert(drivertest.Job{UUID: uuid + " too", State: "pending"})
			tasks, _, _ := s.Claim(h.deadline(), []string{uuid}, nil)
			require.Equal(t, want(o), len(tasks) == 1, uuid)
			tasks, _, err := s.(driver.VacantClaimer).ClaimVacant(h.deadline(), uuid+" too")
			require.NoError(t, err)
			require.Equal(t, want(o), len(tasks) == 1, uuid)
		}
	}
	claims("as it is", func(options) bool { return true })
	h.Mark("web")
	claims("marked", func(o options) bool { return !o.gated })
	require.NoError(t, odoostub.Neutralize(t.Context(), h.admin))
	claims("copied, marked", func(o options) bool { return o.copies && !o.gated })
	h.Mark()
	claims("copied", func(o options) bool { return o.copies })
}
