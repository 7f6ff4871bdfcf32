//go:build odoo

package odootest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// testQuarantine has a job kill its worker each time. Where nothing proves that it is dead, it takes a
// limit of the operator. When it has been failed, users see why, and can requeue it.
func testQuarantine(t *testing.T, s *site) {
	options := "quarantine 3 in 72h"
	if !s.locks(t) {
		options += "\nrescue_started_after 5s"
	}
	c := startCaddy(t, s.server, caddyOptions{Databases: s.db.name, Channels: "root:1", Options: options})
	c.waitReady(t, s.db.name)
	uuids := enqueue(t, c.url(), s.db.name, "kill", map[string]any{"max_retries": 0}, []any{"quarantined", 4})
	others := enqueue(t, c.url(), s.db.name, "run", nil, []any{"beside the quarantined"})
	s.db.waitState(t, "failed", uuids...)
	s.db.waitState(t, "done", others...)
	require.Len(t, s.db.executions(t, "quarantined"), 3)
	require.Equal(t, driver.QuarantineName, *s.db.job(t, uuids[0]).ExcName)
	var info, message string
	require.NoError(t, s.db.pool.QueryRow(t.Context(), "SELECT exc_info, exc_message FROM queue_job WHERE uuid = $1", uuids[0]).Scan(&info, &message))
	assert.Equal(t, "3 attempts of this job came to nothing within 72h, so it is not run again until it is requeued.", message)
	assert.Equal(t, 3, strings.Count(info, "its worker died"), info)
	t.Logf("FACT odoo %d: the row of the quarantined job says\n%s", s.series, info)

	// The button of Odoo resets the counter, and so it does ours: it kills one more, and then it does not.
	press(t, c.url(), s.db.name, "requeue", uuids[0])
	s.db.waitState(t, "done", uuids...)
	require.Len(t, s.db.executions(t, "quarantined"), 5)
}
