package odoo_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// Who restores a database is seen while statements follow each other, and who loads a registry
// because the transaction takes long. Idle sessions, as pools keep them, are no work.
func TestUnsettled(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	settler := h.session().(driver.Settler)
	unsettled := func() (who string, sure bool) {
		who, sure, err := settler.Unsettled(h.deadline())
		require.NoError(t, err)
		return who, sure
	}
	who, _ := unsettled()
	require.Empty(t, who, "the harness's own connection is idle")

	cfg := h.pg.ConnConfig(h.db)
	cfg.RuntimeParams["application_name"] = "psql"
	psql, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer psql.Close(t.Context())
	_, err = psql.Exec(t.Context(), "SELECT 1")
	require.NoError(t, err)
	who, sure := unsettled()
	require.Contains(t, who, "psql, process ")
	require.True(t, sure)
	h.exec("SELECT pg_sleep(1.1)") // an operator who only looks
	who, _ = unsettled()
	require.Empty(t, who)

	h.exec("BEGIN")
	h.exec("SELECT pg_sleep(1.1)")
	who, sure = unsettled()
	require.Contains(t, who, "odoo, process ")
	require.False(t, sure)
	h.exec("COMMIT")
	who, _ = unsettled()
	require.Empty(t, who)
}
