package integration

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func TestDiscovery(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	first := p.dbs[0]
	later := first + "_later"
	p.patterns = first + "*"
	p.run()
	ctx := t.Context()

	// A database that appears while running, and gets the add-on later still.
	require.NoError(t, p.pg.CreateDatabase(ctx, later, ""))
	t.Cleanup(func() { _ = p.pg.DropDatabase(t.Context(), later) })
	p.pools[later] = newPool(t, p.pg, later)
	require.NoError(t, odoostub.InstallBase(ctx, p.pools[later]))
	p.until("a database without the add-on keeps no connection", func() bool { return p.sessions(later) == 0 })
	require.NoError(t, odoostub.InstallAddon(ctx, p.pools[later], odoostub.QueueJobLock))
	p.enqueue(later, repeat(5, odoostub.JobSpec{})...)
	p.dbs = []string{later}
	p.untilStates(map[string]int{"done": 5})

	// Nobody who copies, renames or drops a served database finds us in the way.
	p.pools[later].Reset()
	p.odoo[0].Forget(later)
	p.until("it is served", func() bool { return p.sessions(later) == 1 })
	p.statement("CREATE DATABASE " + later + "_copy TEMPLATE " + later)
	p.statement("DROP DATABASE " + later + "_copy")
	p.until("it is served", func() bool { return p.sessions(later) == 1 })
	p.statement("ALTER DATABASE " + later + " RENAME TO " + later + "2")
	p.until("it is served under its new name", func() bool { return p.sessions(later+"2") == 1 })
	p.statement("DROP DATABASE " + later + "2")

	// The other one has been served all the while.
	p.dbs = []string{first}
	p.enqueue(first, repeat(5, odoostub.JobSpec{})...)
	p.untilStates(map[string]int{"done": 5})
	require.Empty(t, p.recorder.Overlaps())
}

// sessions counts the runner's connections to a database.
func (p *plant) sessions(db string) (n int) {
	conn, err := pgx.ConnectConfig(p.Context(), p.pg.ConnConfig("postgres"))
	require.NoError(p, err)
	defer conn.Close(p.Context())
	err = conn.QueryRow(p.Context(), `SELECT count(*) FROM pg_stat_activity
		WHERE datname = $1 AND application_name LIKE 'caddy-jobrunner%'`, db).Scan(&n)
	require.NoError(p, err)
	return n
}

// statement runs a statement in the maintenance database.
func (p *plant) statement(sql string) {
	require.NoError(p, p.pg.Exec(p.Context(), "postgres", sql), sql)
}
