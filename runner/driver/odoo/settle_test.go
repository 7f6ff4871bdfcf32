package odoo_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// Who restores or loads a database is seen while statements follow each other, or a transaction is
// open. Idle sessions, as pools keep them, are no work.
func TestUnsettled(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	settler := h.session().(driver.Settler)
	unsettled := func() (who string, sure bool) {
		who, sure, err := settler.Unsettled(h.deadline())
		require.NoError(t, err)
		return who, sure
	}
	quiet := func() bool { who, _ := unsettled(); return who == "" }
	who, sure := unsettled()
	require.Contains(t, who, "odoo, process ", "the harness has just installed the add-on")
	require.False(t, sure)
	require.Eventually(t, quiet, 30*time.Second, 100*time.Millisecond)

	cfg := h.pg.ConnConfig(h.db)
	cfg.RuntimeParams["application_name"] = "psql"
	psql, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer psql.Close(t.Context())
	_, err = psql.Exec(t.Context(), "SELECT 1")
	require.NoError(t, err)
	who, sure = unsettled()
	require.Contains(t, who, "psql, process ")
	require.True(t, sure)
	require.Eventually(t, quiet, 30*time.Second, 100*time.Millisecond, "an operator who only looks")

	// Who may only connect must not keep the database from being served.
	cfg.User = h.role("visitor")
	visitor, err := pgx.ConnectConfig(t.Context(), cfg)
	require.NoError(t, err)
	defer visitor.Close(t.Context())
	_, err = visitor.Exec(t.Context(), "SELECT 1")
	require.NoError(t, err)
	who, _ = unsettled()
	require.NotContains(t, who, "psql")

	h.exec("BEGIN")
	h.exec("SELECT 1")
	for range 3 {
		require.False(t, quiet(), "a transaction is open")
		_, err = visitor.Exec(t.Context(), "SELECT pg_sleep(0.6)") // the time passes, nobody works
		require.NoError(t, err)
	}
	require.False(t, quiet(), "the transaction is still open")
	h.exec("COMMIT")
	require.Eventually(t, quiet, 30*time.Second, 100*time.Millisecond)
}

// A statement that runs is work as long as it does.
func TestUnsettledWhileAStatementRuns(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	s := h.session()
	for application, tool := range map[string]bool{"odoo": false, "pg_restore": true} {
		worker := h.connect()
		_, err := worker.Exec(t.Context(), "SELECT set_config('application_name', $1, false)", application)
		require.NoError(t, err)
		ended := h.run(worker, "SELECT pg_sleep(60)")
		who, sure, err := s.(driver.Settler).Unsettled(h.deadline())
		require.NoError(t, err)
		require.Equal(t, tool, sure)
		if tool { // it comes first
			require.Equal(t, fmt.Sprintf("pg_restore, process %d", worker.PgConn().PID()), who)
		}
		require.NotEmpty(t, who)
		h.exec("SELECT pg_cancel_backend($1)", worker.PgConn().PID())
		require.Error(t, <-ended)
	}
}
