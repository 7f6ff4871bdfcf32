package odoo_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/drivertest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

const triggerJob = "aaaaaaaa-0000-4000-8000-00000000000a"

// announces requires that a session hears of an insert.
func (h *harness) announces(s driver.Session) {
	h.t.Helper()
	h.Insert(drivertest.Job{UUID: triggerJob, State: "pending"})
	n, err := s.Wait(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, []string{triggerJob}, n.Changed)
	h.Delete(triggerJob)
	n, err = s.Wait(h.deadline())
	require.NoError(h.t, err)
	require.Equal(h.t, []string{triggerJob}, n.Changed)
}

func TestTriggerIsCreated(t *testing.T) {
	for _, gen := range []odoostub.Generation{odoostub.Connector7, odoostub.Connector8, odoostub.Connector9, odoostub.QueueJob10} {
		t.Run(gen.String(), func(t *testing.T) {
			h := newHarness(t, gen)
			s := h.session()
			require.Zero(t, h.triggers(), "a fingerprint changes nothing")
			require.NoError(t, s.Listen(h.deadline()))
			require.Equal(t, 1, h.triggers())
			h.announces(s)

			fp := h.fingerprint()
			require.Equal(t, "ready", fp.Description)
			before := h.triggerOID()
			again := h.session()
			require.NoError(t, again.Listen(h.deadline()))
			require.Equal(t, before, h.triggerOID(), "left alone when it is there")

			require.NoError(t, odoostub.DropTrigger(t.Context(), h.admin))
			fp, err := s.Fingerprint(h.deadline())
			require.NoError(t, err)
			require.Equal(t, driver.Unhealthy, fp.Health, "a session that listens in vain must begin anew")
			require.Contains(t, fp.Description, "vanished")
		})
	}
}

func (h *harness) triggers() (n int) {
	h.t.Helper()
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), "SELECT count(*) FROM pg_trigger WHERE tgname = 'queue_job_notify'").Scan(&n))
	return n
}

func (h *harness) triggerOID() (oid uint32) {
	h.t.Helper()
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), "SELECT oid FROM pg_trigger WHERE tgname = 'queue_job_notify'").Scan(&oid))
	return oid
}

// In a database that came from connector, the trigger's function still announces on connector's
// channel.
func TestTriggerOfAnotherGeneration(t *testing.T) {
	h := newHarness(t, odoostub.QueueJob10)
	require.NoError(t, odoostub.InstallConnectorTrigger(t.Context(), h.admin))
	before := h.triggerOID()
	s := h.session()
	require.NoError(t, s.Listen(h.deadline()))
	require.Equal(t, before, h.triggerOID())
	h.announces(s)
}

// Where others write to the table all the time, the creation gives up soon, and the writers go on.
func TestTriggerDoesNotWaitLong(t *testing.T) {
	h := newHarness(t, odoostub.Connector9)
	s := h.session()
	writer := h.connect()
	_, err := writer.Exec(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = writer.Exec(t.Context(), "DELETE FROM queue_job WHERE uuid = 'x'")
	require.NoError(t, err)
	err = s.Listen(h.deadline())
	require.ErrorContains(t, err, "has been writing to queue_job")
	require.NotErrorIs(t, err, driver.ErrLost)
	require.Zero(t, h.triggers())
	_, err = writer.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	require.NoError(t, s.Listen(h.deadline()), "the next attempt succeeds")
	h.announces(s)
}

func TestTriggerNeedsTheOwner(t *testing.T) {
	h := newHarness(t, odoostub.Connector8)
	role := h.role("reader")
	h.exec("GRANT SELECT ON ir_module_module TO " + role)
	h.exec("GRANT SELECT, UPDATE ON queue_job TO " + role)
	cfg := h.Postgres()
	cfg.User = role
	open := func() (driver.Session, driver.Fingerprint) {
		s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close(t.Context()) })
		fp, err := s.Fingerprint(h.deadline())
		require.NoError(t, err)
		return s, fp
	}
	_, fp := open()
	require.Equal(t, driver.Unhealthy, fp.Health)
	require.Contains(t, fp.Description, "takes the owner of the table")

	// A member of the owner's role creates it for the owner.
	owner := h.role("owner")
	h.exec("ALTER TABLE queue_job OWNER TO " + owner)
	h.exec("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	h.exec("GRANT " + owner + " TO " + role)
	_, fp = open()
	require.Equal(t, driver.Unhealthy, fp.Health)
	require.Contains(t, fp.Description, "GRANT CREATE ON SCHEMA public")
	h.exec("GRANT CREATE ON SCHEMA public TO " + owner)
	s, fp := open()
	require.Equal(t, driver.Healthy, fp.Health, fp.Description)
	require.NoError(t, s.Listen(h.deadline()))
	var got string
	require.NoError(t, h.admin.QueryRow(t.Context(), "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'queue_job_notify'").Scan(&got))
	require.Equal(t, owner, got)
	h.announces(s)
	require.NoError(t, s.Close(h.deadline()))
}

// role creates a role that goes with the test.
func (h *harness) role(name string) string {
	h.t.Helper()
	role := name + "_" + h.db
	h.exec("CREATE ROLE " + role + " LOGIN")
	h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(h.t, h.pg.Exec(ctx, h.db, "REASSIGN OWNED BY "+role+" TO CURRENT_USER"))
		require.NoError(h.t, h.pg.Exec(ctx, h.db, "DROP OWNED BY "+role))
		require.NoError(h.t, h.pg.Exec(ctx, h.db, "DROP ROLE "+role))
	})
	return role
}

// What is committed while the trigger is replaced is announced by none.
func TestProbeFindsAnotherTrigger(t *testing.T) {
	for name, change := range map[string]string{
		"replaced": `DROP TRIGGER queue_job_notify ON queue_job; CREATE TRIGGER queue_job_notify AFTER INSERT OR UPDATE OR DELETE
			ON queue_job FOR EACH ROW EXECUTE PROCEDURE queue_job_notify()`,
		"removed":  "DROP TRIGGER queue_job_notify ON queue_job",
		"disabled": "ALTER TABLE queue_job DISABLE TRIGGER queue_job_notify",
	} {
		for _, gen := range []odoostub.Generation{odoostub.QueueJobLock, odoostub.QueueJob10, odoostub.Connector9} {
			t.Run(name+"/"+gen.String(), func(t *testing.T) {
				h := newHarness(t, gen)
				s := h.session()
				require.NoError(t, s.Listen(h.deadline()))
				require.NoError(t, s.Probe(h.deadline()))
				_, err := s.Fingerprint(h.deadline())
				require.NoError(t, err)
				require.NoError(t, s.Probe(h.deadline()))
				h.exec(change)
				require.ErrorIs(t, s.Probe(h.deadline()), driver.ErrLost)
				require.ErrorContains(t, s.Probe(h.deadline()), "trigger")
			})
		}
	}
}
