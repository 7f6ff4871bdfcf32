package odoo_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// A job is found by the first letters of its uuid in a table of any size: by the index on uuid, in a
// database that Odoo has made, whose collation is C. The plan is that of the statement that was sent.
func TestPrefixUsesTheIndex(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	h.exec("ALTER TABLE queue_job DISABLE TRIGGER USER")
	h.exec(`INSERT INTO queue_job (uuid, state) SELECT md5(i::text)::uuid::text, CASE WHEN i % 1000 = 0 THEN 'failed' ELSE 'done' END
		FROM generate_series(1, 50000) i`)
	h.exec("ANALYZE queue_job")
	o, err := odoo.New(odoo.Options{}).OpenOperations(h.deadline(), h.Postgres(), h.db)
	require.NoError(t, err)
	defer o.Close(context.Background())

	const letters = "c4ca" // those of the first row
	for _, f := range []driver.Filter{{Prefix: letters}, {Prefix: letters, States: []channels.State{channels.Done, channels.Failed}}} {
		list, err := o.List(h.deadline(), f, 0, 10)
		require.NoError(t, err)
		require.NotEmpty(t, list)
		require.Contains(t, list[len(list)-1].UUID, letters)
		parameters := []string{"'" + letters + "%'", "9223372036854775807", "10"}
		if len(f.States) > 0 {
			parameters = append([]string{parameters[0], "'{done,failed}'"}, parameters[1:]...)
		}
		plan := h.explainOperation(parameters...)
		require.Contains(t, plan, "Scan using queue_job_uuid_index", plan)
		require.NotContains(t, plan, "Seq Scan", plan)
	}
}

// explainOperation returns the plan of the last statement of the connection for operations.
func (h *harness) explainOperation(parameters ...string) string {
	h.t.Helper()
	var sql string
	require.NoError(h.t, h.admin.QueryRow(h.t.Context(), `SELECT query FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'caddy-jobrunner/operations'`).Scan(&sql))
	h.exec("PREPARE asked AS " + sql)
	defer h.exec("DEALLOCATE asked")
	rows, err := h.admin.Query(h.t.Context(), fmt.Sprintf("EXPLAIN EXECUTE asked(%s)", strings.Join(parameters, ", ")), pgx.QueryExecModeSimpleProtocol)
	require.NoError(h.t, err)
	plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(h.t, err)
	return strings.Join(plan, "\n")
}
