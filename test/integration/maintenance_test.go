package integration

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestMaintenanceDatabase: a role that may not enter the database postgres has its maintenance
// connection in the first database that is served.
func TestMaintenanceDatabase(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 1)
	pg := tb.Postgres
	role := tb.ID + "_role"
	require.NoError(t, pg.Exec(t.Context(), "postgres", "CREATE ROLE "+role+" LOGIN"))
	require.NoError(t, pg.Exec(t.Context(), tb.dbs[0], "GRANT ALL ON ALL TABLES IN SCHEMA public TO "+role))
	require.NoError(t, pg.Exec(t.Context(), "postgres", "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC"))
	t.Cleanup(func() {
		require.NoError(t, pg.Exec(context.Background(), "postgres", "GRANT CONNECT ON DATABASE postgres TO PUBLIC"))
	})
	cfg := pg.ConnConfig("")
	tb.dsn = fmt.Sprintf("host=%s port=%d user=%s sslmode=disable", cfg.Host, cfg.Port, role)
	found, status := tb.doctor()
	require.Zero(t, status, "%+v", found)
	require.Equal(t, "postgres", found[0].Code)
	require.Equal(t, "database", found[1].Code)

	tb.dsn += " dbname=postgres"
	found, _ = tb.doctor()
	require.Equal(t, "postgres_unreachable", found[0].Code, "it is named")
}
