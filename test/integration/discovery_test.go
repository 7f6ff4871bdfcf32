package integration

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func TestDiscovery(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 1)
	first := tb.dbs[0]
	later := first + "_later"
	tb.patterns = first + "*"
	tb.startProcess(t.TempDir())
	ctx := t.Context()

	// A database that appears while running, and gets the add-on later still.
	require.NoError(t, tb.Postgres.CreateDatabase(ctx, later, ""))
	_, err := tb.Adopt(later)
	require.NoError(t, err)
	require.NoError(t, odoostub.InstallBase(ctx, tb.Pool(later)))
	tb.until("a database without the add-on keeps no connection", func() bool { return tb.sessions(later) == 0 })
	require.NoError(t, odoostub.InstallAddon(ctx, tb.Pool(later), odoostub.QueueJobLock))
	tb.enqueue(later, repeat(5, odoostub.JobSpec{})...)
	tb.dbs = []string{later}
	tb.untilStates(map[string]int{"done": 5})

	// Nobody who copies, renames or drops a served database finds us in the way.
	tb.Pool(later).Reset()
	tb.Odoo[0].Forget(later)
	tb.until("it is served", func() bool { return tb.sessions(later) == 1 })
	tb.statement("CREATE DATABASE " + later + "_copy TEMPLATE " + later)
	tb.statement("DROP DATABASE " + later + "_copy")
	tb.until("it is served", func() bool { return tb.sessions(later) == 1 })
	tb.statement("ALTER DATABASE " + later + " RENAME TO " + later + "2")
	tb.until("it is served under its new name", func() bool { return tb.sessions(later+"2") == 1 })
	tb.statement("DROP DATABASE " + later + "2")

	// The other one has been served all the while.
	tb.dbs = []string{first}
	tb.enqueue(first, repeat(5, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 5})
	require.Empty(t, tb.Recorder.Overlaps())
}

// sessions counts the runner's connections to a database.
func (tb *testBed) sessions(db string) (n int) {
	conn, err := pgx.ConnectConfig(tb.Context(), tb.Postgres.ConnConfig("postgres"))
	require.NoError(tb, err)
	defer conn.Close(tb.Context())
	err = conn.QueryRow(tb.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = $1 AND application_name LIKE 'caddy-jobrunner%'`, db).Scan(&n)
	require.NoError(tb, err)
	return n
}

// statement runs a statement in the maintenance database.
func (tb *testBed) statement(sql string) {
	require.NoError(tb, tb.Postgres.Exec(tb.Context(), "postgres", sql), sql)
}
