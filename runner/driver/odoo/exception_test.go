package odoo_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestExceptionOfAFailedJob: a row tells with which exception its job failed, cut to a length, and in no
// other state; a snapshot, which may have a million rows, does not.
func TestExceptionOfAFailedJob(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("INSERT INTO queue_job (uuid, state, exc_name) VALUES ('a', 'failed', 'odoo.UserError'), ('b', 'pending', 'of before'), ('c', 'failed', NULL)")
	h.exec("INSERT INTO queue_job (uuid, state, exc_name) VALUES ('d', 'failed', repeat('x', 100000))")
	exceptions := func(rows []driver.Row) map[string]string {
		found := map[string]string{}
		for _, row := range rows {
			found[row.UUID] = row.Exception
		}
		return found
	}
	uuids := []string{"a", "b", "c", "d"}
	s := h.session()
	rows, err := s.Read(h.deadline(), uuids)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "odoo.UserError", "b": "", "c": "", "d": strings.Repeat("x", 256)}, exceptions(rows))
	rows = nil
	require.NoError(t, s.Snapshot(h.deadline(), func(row driver.Row) { rows = append(rows, row) }))
	require.Empty(t, exceptions(rows)["a"])

	h.exec("ALTER TABLE queue_job ALTER exc_name TYPE jsonb USING to_jsonb(exc_name)")
	rows, err = h.session().Read(h.deadline(), uuids)
	require.NoError(t, err, "a column of another type")
	require.Equal(t, `"odoo.UserError"`, exceptions(rows)["a"])
}

// TestNoExceptionColumn: the add-ons that have none run as ever.
func TestNoExceptionColumn(t *testing.T) {
	h := newHarness(t, odoostub.Connector9)
	h.exec("INSERT INTO queue_job (uuid, state) VALUES ('a', 'failed')")
	rows, err := h.session().Read(h.deadline(), []string{"a"})
	require.NoError(t, err)
	require.Len(t, rows, 1)
	require.Empty(t, rows[0].Exception)
}
