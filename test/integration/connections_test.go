package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// crowd is how many databases there are.
const crowd = 45

// visits connects again and again as a role, as Odoo does, until stop is called, which returns how
// often it could, how often it was refused, and the most connections of the runner that there were.
func (tb *testBed) visits(role string) (stop func() (good, refused, most int)) {
	cfg := tb.Postgres.ConnConfig("postgres")
	cfg.User = role
	var good, refused, most int
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		// Between two, a server needs a moment to end what has been closed.
		pause := time.NewTicker(50 * time.Millisecond)
		defer pause.Stop()
		for ctx.Err() == nil {
			<-pause.C
			conn, err := pgx.ConnectConfig(ctx, cfg)
			if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "53300" {
				refused++
			}
			if err != nil {
				continue
			}
			var n int
			if conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'caddy-jobrunner%'").Scan(&n) == nil {
				good, most = good+1, max(most, n)
			}
			_ = conn.Close(context.WithoutCancel(ctx))
		}
	})
	end := func() {
		cancel()
		wg.Wait()
	}
	tb.Cleanup(end)
	return func() (int, int, int) {
		end()
		return good, refused, most
	}
}

// give commits so many jobs to every database, on a connection for each.
func (tb *testBed) give(n int) {
	tb.Helper()
	ctx, cancel := tb.patient()
	defer cancel()
	for _, db := range tb.dbs {
		conn, err := pgx.ConnectConfig(ctx, tb.Postgres.ConnConfig(db))
		require.NoError(tb, err)
		_, err = odoostub.Enqueue(ctx, conn, repeat(n, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 50}}))
		require.NoError(tb, err)
		require.NoError(tb, conn.Close(ctx))
	}
}

// crowded makes many databases, whose jobs a role may run.
func crowded(t *testing.T) *testBed {
	t.Helper()
	t.Parallel()
	pg := pgtest.Own(t, pgtest.Options{Settings: map[string]string{"max_connections": "40"}})
	tb := newTestBedOn(t, pg, odoostub.QueueJobLock, 1, 0)
	tb.addServer(odoostub.Options{Workers: 2, IdleTime: 50 * time.Millisecond})
	template := tb.dbs[0]
	for _, sql := range []string{
		"CREATE ROLE runner LOGIN", "CREATE ROLE bounded LOGIN CONNECTION LIMIT 10",
		"GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA public TO runner, bounded",
	} {
		require.NoError(t, pg.Exec(t.Context(), template, sql))
	}
	tb.Leave(template)
	tb.dbs = nil
	for i := range crowd {
		name := fmt.Sprintf("crowd%02d", i)
		require.NoError(t, pg.CreateDatabase(t.Context(), name, template))
		tb.dbs = append(tb.dbs, name)
	}
	tb.patterns, tb.tree = "crowd*", "root:2"
	return tb
}

// TestMoreDatabasesThanConnections: the jobs of all run, the runner keeps within its limit, Odoo can
// always connect, next to nothing is logged, and the doctor says that there are too few connections.
func TestMoreDatabasesThanConnections(t *testing.T) {
	tb := crowded(t)
	for role, most := range map[string]int{"runner": 27, "bounded": 7} {
		t.Run(role, func(t *testing.T) {
			tb := tb.beside()
			tb.T = t
			cfg := tb.Postgres.ConnConfig("postgres")
			tb.dsn = "host=" + cfg.Host + " port=" + itoa(cfg.Port) + " user=" + role + " dbname=postgres sslmode=disable"
			before := len(tb.Recorder.AllExecutions())
			executed := func() int { return len(tb.Recorder.AllExecutions()) - before }
			tb.give(2)
			caddy := tb.startProcess(t.TempDir())
			stop := tb.visits(role)
			tb.until("all jobs run", func() bool { return executed() == 2*crowd })
			tb.until("databases sleep", func() bool {
				dbs, err := caddy.Databases(t.Context())
				return err == nil && len(dbs) == crowd && strings.Contains(fmt.Sprint(dbs), "asleep")
			})
			tb.give(1) // on one connection after the other
			tb.until("the jobs of those that slept run, too", func() bool { return executed() == 3*crowd })

			var st api.Statuses
			require.NoError(t, caddy.Decode(t.Context(), "/jobrunner/status", &st))
			require.Len(t, st.Runners, 1)
			limit := st.Runners[0].Connections.Limit
			require.LessOrEqual(t, limit, most, "%+v", st.Runners[0].Connections)
			require.Greater(t, limit, most/2, "%+v", st.Runners[0].Connections)
			require.Equal(t, crowd, st.Runners[0].Expected)
			good, refused, highest := stop()
			require.Greater(t, good, 10)
			require.Zero(t, refused)
			require.LessOrEqual(t, highest, most)
			require.LessOrEqual(t, len(regexp.MustCompile(`"level":"(warn|error)"[^\n]*connection`).FindAllString(caddy.Output(), -1)), 1)
			require.Empty(t, tb.Recorder.Overlaps())
			found, _ := tb.doctor()
			require.Contains(t, fmt.Sprintf("%+v", found), "too_few_connections")
			require.NoError(t, caddy.Stop())
		})
	}
}

// TestInsertsAtTheEdgeOfSleep: databases fall asleep and are woken all the time, because there are
// twice as many as connections, and jobs are committed at any moment. None waits for longer than a
// minute and what it takes to connect.
func TestInsertsAtTheEdgeOfSleep(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 6, 1)
	tb.more = "connections 5"
	caddy := tb.startProcess(t.TempDir())
	tb.until("it runs", func() bool {
		ready, err := caddy.Ready(t.Context())
		return err == nil && ready
	})
	committed := map[string]time.Time{}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); testbed.Wait(t, time.Duration(random.IntN(300))*time.Millisecond) {
		for _, uuid := range tb.enqueue(tb.dbs[random.IntN(len(tb.dbs))], odoostub.JobSpec{}) {
			committed[uuid] = time.Now()
		}
	}
	require.Eventually(t, func() bool { return len(tb.Recorder.AllExecutions()) >= len(committed) }, 2*time.Minute, 50*time.Millisecond)
	worst := time.Duration(0)
	for _, x := range tb.Recorder.AllExecutions() {
		worst = max(worst, x.Start.Sub(committed[x.UUID]))
	}
	t.Logf("%d jobs, the longest waited %s", len(committed), worst)
	require.Less(t, worst, 75*time.Second)
	require.Empty(t, tb.Recorder.Overlaps())
	var dbs map[string]string
	tb.until("databases sleep", func() bool {
		var err error
		dbs, err = caddy.Databases(t.Context())
		return err == nil && strings.Contains(fmt.Sprint(dbs), "asleep")
	})
	require.Len(t, dbs, len(tb.dbs))
}
