package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

func TestRunsJobs(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			p := newPlant(t, gen, 2, 2)
			p.tree = "root:6,mail:2,slow:1:sequential"
			mail, slow := "root.mail", "slow"
			for _, db := range p.dbs {
				p.enqueue(db, repeat(60, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 5}})...)
				p.enqueue(db, repeat(20, odoostub.JobSpec{Channel: &mail, Behaviour: odoostub.Behaviour{SleepMS: 5}})...)
				p.enqueue(db, repeat(10, odoostub.JobSpec{Channel: &slow})...)
			}
			p.run()
			for _, db := range p.dbs {
				p.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "ValueError"}})
				p.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Fail: "MissingError", FailStatus: http.StatusNotFound}})
			}
			p.untilStates(map[string]int{"done": 180, "failed": 4})
			if gen == odoostub.Connector7 { // there are no channels in it
				p.exactlyOnce(map[string]int{"root": 6})
			} else {
				p.exactlyOnce(map[string]int{"root": 6, "root.mail": 2, "root.slow": 1})
			}
			for _, s := range p.odoo {
				require.NotZero(t, countServer(p, s.Name()), s.Name())
			}
		})
	}
}

func countServer(p *plant, name string) (n int) {
	for _, x := range p.recorder.AllExecutions() {
		if x.Server == name {
			n++
		}
	}
	return n
}

func TestRetriesAndDependencies(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			p := newPlant(t, gen, 1, 1)
			db := p.dbs[0]
			p.run()
			retried := p.enqueue(db, odoostub.JobSpec{Behaviour: odoostub.Behaviour{RetryTimes: 2, RetrySeconds: 0.2}})[0]
			if gen.Connector() || gen == odoostub.QueueJob10 { // no dependencies in them
				p.untilStates(map[string]int{"done": 1})
			} else {
				parent, child := odoostub.NewUUID(), odoostub.NewUUID()
				p.enqueue(db,
					odoostub.JobSpec{UUID: parent, Behaviour: odoostub.Behaviour{SleepMS: 50}},
					odoostub.JobSpec{UUID: child, DependsOn: []string{parent}})
				p.untilStates(map[string]int{"done": 3})
				require.Equal(t, 1, p.recorder.Executions(db, child))
			}
			require.Equal(t, 3, p.recorder.Executions(db, retried))
			require.Empty(t, p.recorder.Overlaps())
		})
	}
}

func TestEtaIsKept(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.run()
	eta := time.Now().Add(1500 * time.Millisecond)
	uuid := p.enqueue(p.dbs[0], odoostub.JobSpec{ETA: eta})[0]
	p.untilStates(map[string]int{"done": 1})
	at := p.recorder.FirstRequestAt(p.dbs[0], uuid)
	require.False(t, at.Before(eta.Truncate(time.Microsecond)), "started %s early", eta.Sub(at))
}

func TestPostgresAbsentAtStart(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 0, 1)
	p.pg = pgtest.Own(t, pgtest.Options{})
	p.dsn = p.pg.DSN("postgres")
	p.odoo = nil
	p.addServer("late", 4)
	require.NoError(t, p.pg.CreateDatabase(t.Context(), "prod", ""))
	p.dbs = []string{"prod"}
	p.pools["prod"] = newPool(t, p.pg, "prod")
	require.NoError(t, odoostub.Install(t.Context(), p.pools["prod"], odoostub.QueueJobLock))
	p.enqueue("prod", repeat(20, odoostub.JobSpec{})...)
	p.pools["prod"].Reset()
	p.odoo[0].Forget("prod")
	require.NoError(t, p.pg.Stop(t.Context(), pgtest.Fast))

	p.run()
	res, err := http.Get("http://" + p.site + "/web/health")
	require.NoError(t, err, "Caddy serves its sites without PostgreSQL")
	require.NoError(t, res.Body.Close())
	http.DefaultClient.CloseIdleConnections()
	require.Equal(t, http.StatusOK, res.StatusCode)

	require.NoError(t, p.pg.StartAgain(t.Context()))
	p.untilStates(map[string]int{"done": 20})
	p.exactlyOnce(map[string]int{"root": 4})
}

func TestAllOdooServersDown(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 2)
	for _, s := range p.odoo {
		s.Refuse()
	}
	p.enqueue(p.dbs[0], repeat(100, odoostub.JobSpec{})...)
	p.run()
	// Long enough for some health checks and many turns of a hot loop.
	<-time.After(3 * time.Second)
	require.Equal(t, map[string]int{"pending": 100}, p.states(), "nothing is claimed")
	require.Empty(t, p.recorder.AllRequests())
	require.NoError(t, p.odoo[1].Accept())
	p.untilStates(map[string]int{"done": 100})
	p.exactlyOnce(map[string]int{"root": 4})

	// Both go down with jobs waiting, and one comes back.
	p.odoo[1].Refuse()
	p.enqueue(p.dbs[0], repeat(50, odoostub.JobSpec{})...)
	p.until("nothing is enqueued", func() bool { return p.states()["enqueued"] == 0 })
	require.NoError(t, p.odoo[0].Accept())
	p.untilStates(map[string]int{"done": 150})
	require.Empty(t, p.recorder.Overlaps())
}

// TestOdooServersCannotRunJobs counts what is asked of servers that answer, but
// do not run jobs: none is a reason for a hot loop.
func TestOdooServersCannotRunJobs(t *testing.T) {
	for name, c := range map[string]struct {
		fault odoostub.Fault
		runs  int // requests for jobs in the first three seconds, at most
	}{
		"proxies without a server":  {odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable, AllPaths: true}, 0},
		"servers without the route": {odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusNotFound}, 30},
		"a login page":              {odoostub.Fault{Kind: odoostub.LoginPage}, 30},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlant(t, odoostub.QueueJobLock, 1, 2)
			for _, s := range p.odoo {
				s.SetFault(c.fault)
			}
			p.enqueue(p.dbs[0], repeat(100, odoostub.JobSpec{})...)
			p.run()
			<-time.After(3 * time.Second)
			runs, checks := 0, 0
			for _, r := range p.recorder.AllRequests() {
				if strings.HasSuffix(r.Path, "/runjob") {
					runs++
				} else {
					checks++
				}
			}
			require.NotZero(t, checks, "the servers are looked at")
			require.LessOrEqual(t, checks, 20)
			require.LessOrEqual(t, runs, c.runs)
			require.Empty(t, p.recorder.AllExecutions())
			for _, s := range p.odoo {
				s.SetFault(odoostub.Fault{})
			}
			p.untilStates(map[string]int{"done": 100})
			require.Empty(t, p.recorder.Overlaps())
			require.Len(t, p.recorder.AllExecutions(), 100)
		})
	}
}

func TestBadRows(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	db := p.dbs[0]
	p.run()
	empty, deep := "", "root.not.configured.at.all"
	p.enqueue(db,
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
	exec := func(sql string) { require.NoError(t, p.pg.Exec(t.Context(), db, sql)) }
	exec("NOTIFY queue_job, 'no uuid at all'")
	exec("NOTIFY queue_job")
	exec("UPDATE queue_job SET date_created = NULL WHERE uuid = 'far'")
	exec("UPDATE queue_job SET eta = 'infinity' WHERE uuid IN ('weird', 'never')")
	// An empty state counts as done, so the eta that has come changes nothing.
	exec("UPDATE queue_job SET state = '', eta = NULL WHERE uuid = 'stateless'")
	p.enqueue(db, repeat(10, odoostub.JobSpec{})...)
	p.until("all that can run have run", func() bool { return p.states()["done"] >= 15 })
	states := p.states()
	require.Equal(t, 1, states["weird"])
	require.Equal(t, 2, states["pending"], "the one of the year 9999 and the one of never")
	require.Equal(t, 1, states[""])
	require.Empty(t, p.recorder.Overlaps())
}
