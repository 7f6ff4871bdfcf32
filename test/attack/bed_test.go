//go:build attack

package attack

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// patience bounds every wait that is not a measurement, and every statement.
	patience = 2 * time.Minute
	// quiet is how long the load is measured before the attack, settle how long
	// after what the attacker does.
	quiet, settle = 5 * time.Second, 3 * time.Second
	// goodDB is the database of the tenant who only wants his jobs to run, evilDB
	// that of the attacker. Their roles have the same names.
	goodDB, evilDB = "good", "evil"
)

// bed is an installation that is attacked.
type bed struct {
	*testing.T
	*testbed.Bed
	attack attack
	nodes  []*testbed.Caddy
	load   *load
	floor  *floor
	// owners are the roles that databases belong to.
	owners map[string]string
	// rows counts what the attacker has seen or changed that is not his, notes say
	// more about what happened.
	rows  int
	notes []string
}

func newBed(t *testing.T, a attack) *bed {
	t.Helper()
	b := &bed{T: t, attack: a, Bed: testbed.On(pgtest.Own(t, pgtest.Options{})), owners: make(map[string]string)}
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	b.recommended()
	b.exec("postgres", "CREATE ROLE good LOGIN; CREATE ROLE evil LOGIN; CREATE ROLE visitor LOGIN")
	b.tenant(goodDB, "good")
	b.tenant(evilDB, "evil")
	_, err := b.AddServer(odoostub.Options{Name: "odoo", Workers: 30, Postgres: func(db string) *pgx.ConnConfig {
		cfg := b.Postgres.ConnConfig(db)
		cfg.User = b.owners[db]
		return cfg
	}})
	require.NoError(t, err)
	b.load = newLoad(b)
	t.Cleanup(b.load.stop)
	if a.floor {
		b.floor = newFloor(b)
		t.Cleanup(func() { b.floor.stop() })
	}
	return b
}

// tenant makes a database that belongs to a role.
func (b *bed) tenant(db, owner string) {
	b.Helper()
	b.owners[db] = owner
	_, err := b.AddDatabase(b.Context(), db, odoostub.QueueJobLock)
	require.NoError(b, err)
	b.exec(db, "ALTER DATABASE "+pgx.Identifier{db}.Sanitize()+" OWNER TO "+owner+`; GRANT CREATE ON SCHEMA public TO `+owner+`;
		DO $$ DECLARE t record; BEGIN
		FOR t IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP
			EXECUTE 'ALTER TABLE ' || t.name || ' OWNER TO `+owner+`';
		END LOOP; END $$;
		ALTER FUNCTION queue_job_notify() OWNER TO `+owner)
	b.recommendedIn(db)
}

// dsn is how the nodes reach PostgreSQL.
func (b *bed) dsn() string {
	dsn := b.Postgres.SocketDSN("jobrunner")
	if b.attack.tcp {
		dsn = b.Postgres.DSN("jobrunner")
	}
	u, err := url.Parse(dsn)
	require.NoError(b, err)
	u.User = url.User("jobrunner")
	return u.String()
}

// start starts a node. All have the same configuration.
func (b *bed) start() {
	b.Helper()
	databases := goodDB + " " + evilDB + "*"
	if b.attack.runner != nil { // for the database of the attacker
		databases = goodDB
	}
	runners := []testbed.Runner{{Postgres: b.dsn(), Databases: databases, Channels: "root:250", Options: "discover_interval 1s"}}
	if b.attack.runner != nil {
		runners = append(runners, b.attack.runner(b))
	}
	c, err := testbed.Start(b.Context(), testbed.Options{
		Config: testbed.Config{Runners: runners, Routes: "jobrunner_dashboard\nreverse_proxy " + b.Odoo[0].Addr()},
		Dir:    b.TempDir(), Log: filepath.Join(b.ArtifactDir(), fmt.Sprintf("caddy%d.log", len(b.nodes))),
	})
	require.NoError(b, err)
	b.Cleanup(c.Kill)
	b.nodes = append(b.nodes, c)
}

// caddy is the first node.
func (b *bed) caddy() *testbed.Caddy { return b.nodes[0] }

// states are those of the databases, as the first node sees them.
func (b *bed) states() map[string]string {
	b.Helper()
	states, err := b.caddy().Databases(b.Context())
	require.NoError(b, err)
	return states
}

// logged counts how often a text is in the first node's log.
func (b *bed) logged(text string) int { return strings.Count(b.caddy().Output(), text) }

// logSize is the size of the logs, in bytes.
func (b *bed) logSize() (size int64) {
	for _, n := range b.nodes {
		info, err := os.Stat(n.Log)
		require.NoError(b, err)
		size += info.Size()
	}
	return size
}

// note says something at the end of the line.
func (b *bed) note(format string, args ...any) {
	b.notes = append(b.notes, fmt.Sprintf(format, args...))
}

// wait lets time pass: an attack that lasts.
func (b *bed) wait(d time.Duration) {
	b.Helper()
	testbed.Wait(b, d)
}

// until waits for a condition on the world outside of this process.
func (b *bed) until(what string, condition func() bool) {
	b.Helper()
	if !testbed.Within(patience, condition) {
		b.Fatalf("not within %s: %s\n%s", patience, what, b.caddy().Tail())
	}
}

// memory is what a process holds, now and at most since the peak was forgotten.
func (b *bed) memory(c *testbed.Caddy) (now, peak uint64) {
	b.Helper()
	process, err := procfs.NewProc(c.PID())
	require.NoError(b, err)
	status, err := process.NewStatus()
	require.NoError(b, err)
	return status.VmRSS, status.VmHWM
}

// forgetPeak makes the peak that of now.
func (b *bed) forgetPeak(c *testbed.Caddy) {
	b.Helper()
	const resetPeak = "5"
	require.NoError(b, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.PID()), []byte(resetPeak), 0))
}

// evilJobs puts jobs into the attacker's database.
func (b *bed) evilJobs(n int) {
	b.Helper()
	_, err := odoostub.Enqueue(context.Background(), b.Pool(evilDB), make([]odoostub.JobSpec, n))
	require.NoError(b, err)
}

// reconnect ends the runner's session in a database.
func (b *bed) reconnect(db string) {
	b.Helper()
	ask[int](b, "postgres", `SELECT count(pg_terminate_backend(pid))::int FROM pg_stat_activity
		WHERE usename = 'jobrunner' AND datname = $1`, db)
}
