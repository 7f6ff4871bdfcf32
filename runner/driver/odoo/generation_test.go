package odoo_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func (h *harness) fingerprint() driver.Fingerprint {
	h.t.Helper()
	s, err := h.Driver().OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(h.t, err)
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(h.t, err)
	require.NoError(h.t, s.Close(h.deadline()))
	return fp
}

func TestFingerprintOfGenerations(t *testing.T) {
	for gen, want := range map[odoostub.Generation]driver.Fingerprint{
		odoostub.QueueJob10: {
			Health: driver.Healthy, Generation: "queue_job", Version: "10.0.1.1.0", Unguarded: true,
			Description: "ready; the trigger queue_job_notify will be created, as this series expects of its runner",
		},
		odoostub.Connector7: {
			Health: driver.Healthy, Generation: "connector", Version: "7.0.2.2.0", Unguarded: true,
			Description: "ready; the trigger queue_job_notify will be created, as this series expects of its runner",
		},
		odoostub.Connector8: {
			Health: driver.Healthy, Generation: "connector", Version: "8.0.3.3.0", Unguarded: true,
			Description: "ready; the trigger queue_job_notify will be created, as this series expects of its runner",
		},
		odoostub.Connector9: {
			Health: driver.Healthy, Generation: "connector", Version: "9.0.1.0.2", Unguarded: true,
			Description: "ready; the trigger queue_job_notify will be created, as this series expects of its runner",
		},
		odoostub.QueueJob12: {
			Health: driver.Healthy, Generation: "queue_job", Version: "12.0.3.7.0", Description: "ready",
		},
		odoostub.QueueJobLock: {
			Health: driver.Healthy, Generation: "queue_job+lock", Version: "18.0.2.0.0", Description: "ready", Locks: true,
		},
		odoostub.Channels: {
			Health: driver.Healthy, Generation: "queue_job+lock", Version: "18.0.3.0.0", Description: "ready", Locks: true,
		},
	} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			require.Equal(t, want, h.fingerprint())
		})
	}
}

func TestFingerprintProblems(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  string
		health driver.Health
		words  string
	}{
		"no odoo":          {"DROP TABLE ir_module_module", driver.Undetected, "not an Odoo database"},
		"no row":           {"DELETE FROM ir_module_module", driver.Undetected, "not installed"},
		"uninstalled":      {"UPDATE ir_module_module SET state = 'uninstalled'", driver.Undetected, "not installed"},
		"to install":       {"UPDATE ir_module_module SET state = 'to install'", driver.Undetected, "not installed"},
		"null state":       {"UPDATE ir_module_module SET state = NULL", driver.Undetected, "not installed"},
		"to upgrade":       {"UPDATE ir_module_module SET state = 'to upgrade'", driver.Unhealthy, `state "to upgrade"`},
		"no table":         {"DROP TABLE queue_job CASCADE", driver.Unhealthy, "no table queue_job"},
		"no column":        {"ALTER TABLE queue_job DROP COLUMN date_enqueued", driver.Unhealthy, "lacks date_enqueued"},
		"no lock column":   {"ALTER TABLE queue_job DROP COLUMN exc_name", driver.Unhealthy, "lacks exc_name"},
		"no trigger":       {"DROP TRIGGER queue_job_notify ON queue_job", driver.Unhealthy, "queue_job_notify trigger is missing: install"},
		"disabled trigger": {"ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify", driver.Unhealthy, "ENABLE TRIGGER"},
		"replica trigger":  {"ALTER TABLE queue_job ENABLE REPLICA TRIGGER queue_job_notify", driver.Unhealthy, "switched off"},
		"partial trigger": {`DROP TRIGGER queue_job_notify ON queue_job;
			CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE queue_job_notify()`,
			driver.Unhealthy, "does not cover"},
		"no optional columns": {"ALTER TABLE queue_job DROP channel, DROP priority, DROP eta, DROP date_created", driver.Healthy, "ready"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			h.exec(test.spoil)
			fp := h.fingerprint()
			require.Equal(t, test.health, fp.Health, fp.Description)
			require.Contains(t, fp.Description, test.words)
		})
	}
}

// TestCountOfAnUnhealthyDatabase: what keeps a database from being served does not keep its jobs from
// being counted, if they can be read.
func TestCountOfAnUnhealthyDatabase(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	h.exec("DROP TRIGGER queue_job_notify ON queue_job")
	s, err := h.Driver().OpenSession(t.Context(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.WithoutCancel(t.Context()))) }()
	count := func() (channels.Count, error) {
		fp, err := s.Fingerprint(t.Context())
		require.NoError(t, err)
		require.Equal(t, driver.Unhealthy, fp.Health)
		return s.(driver.Counter).Count(t.Context())
	}
	found, err := count()
	require.NoError(t, err)
	require.Equal(t, channels.Count{DB: h.db, Pending: 1}, found)
	h.exec("CREATE DOMAIN theirs AS text; ALTER TABLE queue_job ALTER state TYPE theirs")
	_, err = count()
	require.ErrorContains(t, err, "no type of PostgreSQL's own")
	h.exec("ALTER TABLE queue_job DROP state")
	_, err = count()
	require.ErrorContains(t, err, "count the jobs")
}

func TestFingerprintOfPrivileges(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	role := "limited_" + h.db
	h.exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() {
		require.NoError(t, h.pg.Exec(context.Background(), h.db, "DROP OWNED BY "+role))
		require.NoError(t, h.pg.Exec(context.Background(), h.db, "DROP ROLE "+role))
	})
	open := func() driver.Fingerprint {
		cfg := h.Postgres()
		cfg.User = role
		s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
		require.NoError(t, err)
		fp, err := s.Fingerprint(h.deadline())
		require.NoError(t, err)
		require.NoError(t, s.Close(h.deadline()))
		return fp
	}
	for _, step := range []struct{ words, cure string }{
		{"ir_module_module", "GRANT SELECT ON ir_module_module TO "},
		{"may not read queue_job (", "GRANT SELECT ON queue_job TO "},
		{"may not write queue_job (state, date_enqueued", "GRANT UPDATE (state, date_enqueued, retry, exc_name, exc_info) ON queue_job TO "},
		{"queue_job_lock", "GRANT SELECT, UPDATE ON queue_job_lock TO "},
	} {
		fp := open()
		require.Equal(t, driver.Unhealthy, fp.Health, step.words)
		require.Contains(t, fp.Description, step.words)
		require.Contains(t, fp.Description, "GRANT")
		h.exec(step.cure + role)
	}
	fp := open()
	require.Equal(t, driver.Healthy, fp.Health)
	require.Len(t, fp.Warnings, 1)
	require.Contains(t, fp.Warnings[0], "GRANT SELECT (key, value)")
	h.exec("GRANT SELECT (key, value) ON ir_config_parameter TO " + role)
	require.Empty(t, open().Warnings)

	// What the fingerprint allows must work.
	cfg := h.Postgres()
	cfg.User = role
	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	defer s.Close(t.Context())
	_, err = s.Fingerprint(h.deadline())
	require.NoError(t, err)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	tasks, _, err := s.Claim(h.deadline(), []string{"a"}, nil)
	require.NoError(t, err)
	require.Len(t, tasks, 1)
	h.exec("UPDATE queue_job SET date_enqueued = date_enqueued - interval '1 minute'")
	found, err := s.Inspect(h.deadline(), []string{"a"})
	require.NoError(t, err)
	rows, err := s.Rescue(h.deadline(), found)
	require.NoError(t, err)
	require.Len(t, rows, 1)
}

func TestFingerprintBehindPoolers(t *testing.T) {
	for mode, want := range map[drivertest.PoolMode]driver.Health{
		drivertest.PoolSession:     driver.Healthy,
		drivertest.PoolTransaction: driver.Unhealthy,
		drivertest.PoolRoundRobin:  driver.Unhealthy,
	} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			cfg := drivertest.NewPooler(t, h.pg.ConnConfig(h.db), mode)
			s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
			require.NoError(t, err)
			defer s.Close(t.Context())
			fp, err := s.Fingerprint(h.deadline())
			require.NoError(t, err)
			require.Equal(t, want, fp.Health, fp.Description)
			require.Contains(t, fp.Description, "pool")
		})
	}
}

func TestFingerprintFollowsAnUpgrade(t *testing.T) {
	h := newHarness(t, odoostub.QueueJob12)
	s, err := h.Driver().OpenSession(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer s.Close(t.Context())
	_, _, err = s.Claim(h.deadline(), []string{"a"}, nil)
	require.ErrorContains(t, err, "fingerprint")
	fp, err := s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.False(t, fp.Locks)
	h.Insert(drivertest.Job{UUID: "a", State: "pending"})
	_, err = s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	_, err = s.Rescue(h.deadline(), []driver.Liveness{{}})
	require.ErrorContains(t, err, "lock table")

	require.NoError(t, odoostub.InstallAddon(t.Context(), h.admin, odoostub.Channels))
	fp, err = s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.True(t, fp.Locks)
	rows, err := s.Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, rows, 1)

	require.NoError(t, odoostub.UninstallAddon(t.Context(), h.admin))
	fp, err = s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.Equal(t, driver.Undetected, fp.Health)
	_, _, err = s.Claim(h.deadline(), []string{"a"}, nil)
	require.ErrorContains(t, err, "fingerprint")
}

// Without a lock table nothing is ever found dead.
func TestInspectWithoutLockTable(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		if !gen.Locks() {
			t.Run(gen.String(), func(t *testing.T) { testInspectWithoutLockTable(t, gen) })
		}
	}
}

func testInspectWithoutLockTable(t *testing.T, gen odoostub.Generation) {
	h := newHarness(t, gen)
	if gen == odoostub.Connector7 {
		h.exec("ALTER TABLE queue_job ADD COLUMN channel varchar") // as in its later releases
	}
	s := h.session()
	for i, state := range []string{"enqueued", "started", "pending", "done"} {
		uuid := fmt.Sprint(i)
		h.Insert(drivertest.Job{UUID: uuid, State: state})
		h.exec("UPDATE queue_job SET date_enqueued = now() AT TIME ZONE 'UTC' - interval '1 day' WHERE uuid = $1", uuid)
		found, err := s.Inspect(h.deadline(), []string{uuid})
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.Equal(t, driver.Uncertain, found[0].Verdict)
		require.Equal(t, channels.ParseState(state), found[0].Row.State)
		require.Equal(t, state == "enqueued" || state == "started", found[0].Age > odoo.Grace, state)
	}
}
