package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func TestRunsJobs(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBed(t, gen, 2, 2)
			tb.tree = "root:6,mail:2,slow:1:sequential"
			mail, slow := "root.mail", "slow"
			for _, db := range tb.dbs {
				tb.enqueue(db, repeat(60, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 5}})...)
				tb.enqueue(db, repeat(20, odoostub.JobSpec{Channel: &mail, Behaviour: odoostub.Behaviour{SleepMS: 5}})...)
				tb.enqueue(db, repeat(10, odoostub.JobSpec{Channel: &slow})...)
			}
			tb.run()
			for _, db := range tb.dbs {
				tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "ValueError"}})
				tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "MissingError", FailStatus: http.StatusNotFound}})
			}
			tb.untilStates(map[string]int{"done": 180, "failed": 4})
			if gen == odoostub.Connector7 { // there are no channels in it
				tb.exactlyOnce(map[string]int{"root": 6})
			} else {
				tb.exactlyOnce(map[string]int{"root": 6, "root.mail": 2, "root.slow": 1})
			}
			for _, s := range tb.Odoo {
				require.NotZero(t, countServer(tb, s.Name()), s.Name())
			}
		})
	}
}

func countServer(tb *testBed, name string) (n int) {
	for _, x := range tb.Recorder.AllExecutions() {
		if x.Server == name {
			n++
		}
	}
	return n
}

func TestRetriesAndDependencies(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBed(t, gen, 1, 1)
			db := tb.dbs[0]
			tb.run()
			retried := tb.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{RetryTimes: 2, RetrySeconds: 0.2}})[0]
			if gen.Connector() || gen == odoostub.QueueJob10 { // no dependencies in them
				tb.untilStates(map[string]int{"done": 1})
			} else {
				parent, child := odoostub.NewUUID(), odoostub.NewUUID()
				tb.enqueue(db,
					odoostub.JobSpec{UUID: parent, Behaviour: odoostub.Behaviour{SleepMS: 50}},
					odoostub.JobSpec{UUID: child, DependsOn: []string{parent}})
				tb.untilStates(map[string]int{"done": 3})
				require.Equal(t, 1, tb.Recorder.Executions(db, child))
			}
			require.Equal(t, 3, tb.Recorder.Executions(db, retried))
			require.Empty(t, tb.Recorder.Overlaps())
		})
	}
}

func TestEtaIsKept(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	eta := time.Now().Add(1500 * time.Millisecond)
	uuid := tb.enqueue(tb.dbs[0], odoostub.JobSpec{ETA: eta})[0]
	tb.untilStates(map[string]int{"done": 1})
	at := tb.Recorder.FirstRequestAt(tb.dbs[0], uuid)
	require.False(t, at.Before(eta.Truncate(time.Microsecond)), "started %s early", eta.Sub(at))
}

func TestPostgresAbsentAtStart(t *testing.T) {
	tb := newTestBedOn(t, pgtest.Own(t, pgtest.Options{}), odoostub.QueueJobLock, 1, 1)
	db := tb.dbs[0]
	tb.enqueue(db, repeat(20, odoostub.JobSpec{})...)
	tb.Pool(db).Reset()
	tb.Odoo[0].Forget(db)
	require.NoError(t, tb.Postgres.Stop(t.Context(), pgtest.Fast))

	tb.run()
	res, err := testbed.Client.Get("http://" + tb.site + "/web/health")
	require.NoError(t, err, "Caddy serves its sites without PostgreSQL")
	require.NoError(t, res.Body.Close())
	testbed.Client.CloseIdleConnections()
	require.Equal(t, http.StatusOK, res.StatusCode)

	require.NoError(t, tb.Postgres.StartAgain(t.Context()))
	tb.untilStates(map[string]int{"done": 20})
	tb.exactlyOnce(map[string]int{"root": 4})
}

func TestAllOdooServersDown(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 2)
	for _, s := range tb.Odoo {
		s.Refuse()
	}
	tb.enqueue(tb.dbs[0], repeat(100, odoostub.JobSpec{})...)
	tb.startProcess(t.TempDir())
	// Long enough for some health checks and many turns of a hot loop.
	<-time.After(3 * time.Second)
	require.Equal(t, map[string]int{"pending": 100}, tb.states(), "nothing is claimed")
	require.Empty(t, tb.Recorder.AllRequests())
	require.NoError(t, tb.Odoo[1].Accept())
	tb.untilStates(map[string]int{"done": 100})
	tb.exactlyOnce(map[string]int{"root": 4})

	// Both go down with jobs waiting, and one comes back.
	tb.Odoo[1].Refuse()
	tb.enqueue(tb.dbs[0], repeat(50, odoostub.JobSpec{})...)
	tb.until("nothing is enqueued", func() bool { return tb.states()["enqueued"] == 0 })
	require.NoError(t, tb.Odoo[0].Accept())
	tb.untilStates(map[string]int{"done": 150})
	require.Empty(t, tb.Recorder.Overlaps())
}

// TestOdooServersCannotRunJobs counts what is asked of servers that answer, but
// do not run jobs: none is a reason for a hot loop.
func TestOdooServersCannotRunJobs(t *testing.T) {
	pg := apart(t)
	for name, c := range map[string]struct {
		fault odoostub.Fault
		runs  int // requests for jobs in the first three seconds, at most
	}{
		"proxies without a server":  {odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable, AllPaths: true}, 0},
		"servers without the route": {odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusNotFound}, 30},
		"a login page":              {odoostub.Fault{Kind: odoostub.LoginPage}, 30},
	} {
		t.Run(name, func(t *testing.T) {
			tb := newTestBedOn(t, pg, odoostub.QueueJobLock, 1, 2)
			for _, s := range tb.Odoo {
				s.SetFault(c.fault)
			}
			tb.enqueue(tb.dbs[0], repeat(100, odoostub.JobSpec{})...)
			tb.startProcess(t.TempDir())
			<-time.After(3 * time.Second)
			runs, checks := 0, 0
			for _, r := range tb.Recorder.AllRequests() {
				if strings.HasSuffix(r.Path, "/runjob") {
					runs++
				} else {
					checks++
				}
			}
			require.NotZero(t, checks, "the servers are looked at")
			require.LessOrEqual(t, checks, 20)
			require.LessOrEqual(t, runs, c.runs)
			require.Empty(t, tb.Recorder.AllExecutions())
			for _, s := range tb.Odoo {
				s.SetFault(odoostub.Fault{})
			}
			tb.untilStates(map[string]int{"done": 100})
			require.Empty(t, tb.Recorder.Overlaps())
			require.Len(t, tb.Recorder.AllExecutions(), 100)
		})
	}
}

func TestBadRows(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	db := tb.dbs[0]
	tb.run()
	empty, deep := "", "root.not.configured.at.all"
	tb.enqueue(db,
		odoostub.JobSpec{NullPriority: true},
		odoostub.JobSpec{Channel: &empty},
		odoostub.JobSpec{Channel: &deep},
		odoostub.JobSpec{UUID: "odd uuid / with ?&# and ünïcödé"},
		odoostub.JobSpec{UUID: "ABCDEF01-2345-6789-ABCD-EF0123456789"},
		odoostub.JobSpec{UUID: "far", ETA: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
		odoostub.JobSpec{UUID: "weird", State: "weird"},
		odoostub.JobSpec{UUID: "never", ETA: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
		odoostub.JobSpec{UUID: "stateless", ETA: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
	)
	exec := func(sql string) { require.NoError(t, tb.Postgres.Exec(t.Context(), db, sql)) }
	exec("NOTIFY queue_job, 'no uuid at all'")
	exec("NOTIFY queue_job")
	exec("UPDATE queue_job SET date_created = NULL WHERE uuid = 'far'")
	exec("UPDATE queue_job SET eta = 'infinity' WHERE uuid IN ('weird', 'never')")
	// An empty state counts as done, so the eta that has come changes nothing.
	exec("UPDATE queue_job SET state = '', eta = NULL WHERE uuid = 'stateless'")
	tb.enqueue(db, repeat(10, odoostub.JobSpec{})...)
	tb.until("all that can run have run", func() bool { return tb.states()["done"] >= 15 })
	states := tb.states()
	require.Equal(t, 1, states["weird"])
	require.Equal(t, 2, states["pending"], "the one of the year 9999 and the one of never")
	require.Equal(t, 1, states[""])
	require.Empty(t, tb.Recorder.Overlaps())
}
