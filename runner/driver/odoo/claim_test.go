package odoo_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// A row that a trigger of others has put into another state in the claim is not claimed, however
// the claim's rows are read.
func TestClaimThatATriggerChanges(t *testing.T) {
	for name, alter := range map[string]string{
		"decoded": "SELECT", "scanned": "ALTER TABLE queue_job ALTER eta TYPE timestamptz",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, odoostub.QueueJobLock)
			h.exec(alter)
			h.exec(`CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.state := OLD.name; RETURN NEW; END $$`)
			h.exec(`CREATE TRIGGER meddle BEFORE UPDATE ON queue_job FOR EACH ROW EXECUTE PROCEDURE meddle()`)
			s := h.session()
			for _, state := range []string{"pending", "started", "done", "failed", "cancelled", "wait_dependencies", "unheard of", "", "enqueued"} {
				want := 0
				if state == "enqueued" {
					want = 1
				}
				for _, claim := range []func() ([]driver.Task, []driver.Row, error){
					func() ([]driver.Task, []driver.Row, error) {
						return s.Claim(h.deadline(), []string{"a"}, []string{"a"})
					},
					func() ([]driver.Task, []driver.Row, error) {
						return s.(driver.VacantClaimer).ClaimVacant(h.deadline(), "a")
					},
				} {
					h.exec("DELETE FROM queue_job")
					h.exec("INSERT INTO queue_job (uuid, name, state) VALUES ('a', $1, 'pending')", state)
					tasks, rows, err := claim()
					require.NoError(t, err)
					require.Len(t, tasks, want, state)
					require.Len(t, rows, 1)
					require.Equal(t, "pending", rows[0].RawState, "as before the claim")
					rows, err = s.Read(h.deadline(), []string{"a"})
					require.NoError(t, err)
					require.Equal(t, state, rows[0].RawState)
				}
			}
		})
	}
}
