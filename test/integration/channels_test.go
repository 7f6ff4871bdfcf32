package integration

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// setChannels changes channels in a database as Odoo does.
func (tb *testBed) setChannels(db string, list ...odoostub.Channel) {
	ctx, cancel := tb.patient()
	defer cancel()
	require.NoError(tb, odoostub.SetChannels(ctx, tb.Pool(db), list...))
}

// runningIn counts the jobs of a database that execute right now.
func (tb *testBed) runningIn(db string) (n int) {
	for _, x := range tb.Recorder.AllExecutions() {
		if x.DB == db && x.End.IsZero() {
			n++
		}
	}
	return n
}

// untilSlots waits until the databases run so many jobs, and no more start.
func (tb *testBed) untilSlots(want ...int) {
	tb.Helper()
	total := 0
	for _, n := range want {
		total += n
	}
	tb.untilRunning(total)
	for i, n := range want {
		require.Equal(tb, n, tb.runningIn(tb.dbs[i]), "running in database %d", i)
	}
}

// TestDatabaseChannels: each database has its own tree, all of them together a
// limit, and a change of the table counts for the next job.
func TestDatabaseChannels(t *testing.T) {
	tb := newTestBed(t, odoostub.Channels, 2, 2)
	tb.own = "max_capacity 5"
	a, b := tb.dbs[0], tb.dbs[1]
	tb.setChannels(a, odoostub.Channel{Name: "root", Capacity: new(2)}, odoostub.Channel{Name: "root.mail", Capacity: new(1)})
	mail := "root.mail"
	for _, db := range tb.dbs {
		tb.enqueue(db, repeat(6, odoostub.JobSpec{Channel: &mail, Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	}
	tb.run()
	tb.untilSlots(1, 4) // root.mail of a; b has no limit but that of all

	// Odoo's form widens a channel: in force for the next job. All are full, so
	// only slots of jobs that end go to others.
	tb.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(2)})
	tb.until("the change has been read", func() bool {
		_, body := tb.request(http.MethodGet, "/jobrunner/channels", "")
		return strings.Contains(body, `"database":"`+a+`","channel":"root.mail","configured":true,"capacity":2,`)
	})
	status, body := tb.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/database_channels/max_capacity", "6")
	require.Equal(t, http.StatusOK, status, body)
	tb.untilSlots(2, 4)

	status, body = tb.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/database_channels/max_capacity", "-1")
	require.GreaterOrEqual(t, status, http.StatusBadRequest, body)
	require.Contains(t, body, "max_capacity must not be negative")

	tb.own = "max_capacity 9\ndb_max_capacity " + b + ":4,*:3"
	tb.load()
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 12})
	tb.exactlyOnce(map[string]int{"root": 6, "root.mail": 6})

	// A mistake holds its own database back, and says so.
	tb.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(2), Sequential: true})
	tb.until("the mistake is reported", func() bool {
		var doc struct {
			Runners []struct {
				Ready    bool
				State    string
				Warnings []string
			}
		}
		_, body := tb.request(http.MethodGet, "/jobrunner/status", "")
		require.NoError(t, json.Unmarshal([]byte(body), &doc), body)
		return doc.Runners[0].Ready && doc.Runners[0].State == "degraded" &&
			slices.Equal(doc.Runners[0].Warnings, []string{
				"1 of 2 databases served",
				"database " + a + " runs no jobs: channel root.mail: a sequential channel must have a capacity of 1",
			})
	})
	waits := tb.enqueue(a, odoostub.JobSpec{})[0]
	tb.enqueue(b, repeat(5, odoostub.JobSpec{})...)
	tb.untilStates(map[string]int{"done": 17, "pending": 1})
	tb.commands(0, "must have a capacity of 1", "why", a, waits)
	tb.commands(0, a, "channels")
	tb.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(1), Sequential: true})
	tb.untilStates(map[string]int{"done": 18})
	require.Empty(t, tb.Recorder.Overlaps())
}

// TestDatabaseChannelsOfAnOlderAddOn: one database has to be upgraded, the other
// one runs.
func TestDatabaseChannelsOfAnOlderAddOn(t *testing.T) {
	tb := newTestBed(t, odoostub.Channels, 1, 1)
	name := tb.addDatabase(odoostub.QueueJobLock)
	tb.own = "max_capacity 4"
	for _, db := range tb.dbs {
		tb.enqueue(db, odoostub.JobSpec{})
	}
	tb.run()
	tb.untilStates(map[string]int{"done": 1, "pending": 1})
	tb.until("the reason is told", func() bool {
		out, _ := tb.command("databases")
		return strings.Contains(out, "unhealthy") && strings.Contains(out, "upgrade the add-on")
	})
	ctx, cancel := tb.patient()
	defer cancel()
	require.NoError(t, odoostub.InstallAddon(ctx, tb.Pool(name), odoostub.Channels))
	tb.setChannels(name)
	tb.untilStates(map[string]int{"done": 2})
}

// TestChangeToDatabaseChannels goes from one tree to trees of their own and back
// while jobs run.
func TestChangeToDatabaseChannels(t *testing.T) {
	tb := newTestBed(t, odoostub.Channels, 2, 2)
	tb.run()
	for _, db := range tb.dbs {
		tb.enqueue(db, repeat(60, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 20}})...)
	}
	held := tb.enqueue(tb.dbs[0], odoostub.JobSpec{Priority: new(int32(1)), Behaviour: odoostub.Behaviour{Gate: "end"}})
	for i := range 20 {
		tb.own = []string{"max_capacity 4", ""}[i%2]
		tb.load()
	}
	tb.untilStates(map[string]int{"done": 120, "started": 1})
	require.Equal(t, 1, tb.Recorder.Requests(tb.dbs[0], held[0]), "the open request is untouched")
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 121})
	tb.exactlyOnce(map[string]int{"root": 4})
}
