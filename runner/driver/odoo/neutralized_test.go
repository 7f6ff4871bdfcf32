package odoo_test

import (
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
	jobs, err := o.List(h.deadline(), driver.Filter{}, 0, 10)
	require.NoError(t, err)
	require.Len(t, jobs, 1)

	x, err := odoo.New(odoo.Options{}).Examine(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	require.Equal(t, driver.Neutralized, x.Health)
}
