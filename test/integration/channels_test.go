package integration

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// setChannels changes channels in a database as Odoo does.
func (p *plant) setChannels(db string, list ...odoostub.Channel) {
	ctx, cancel := p.patient()
	defer cancel()
	require.NoError(p, odoostub.SetChannels(ctx, p.pools[db], list...))
}

// runningIn counts the jobs of a database that execute right now.
func (p *plant) runningIn(db string) (n int) {
	for _, x := range p.recorder.AllExecutions() {
		if x.DB == db && x.End.IsZero() {
			n++
		}
	}
	return n
}

// untilPlaces waits until the databases run so many jobs, and no more start.
func (p *plant) untilPlaces(want ...int) {
	p.Helper()
	total := 0
	for _, n := range want {
		total += n
	}
	p.untilRunning(total)
	for i, n := range want {
		require.Equal(p, n, p.runningIn(p.dbs[i]), "running in database %d", i)
	}
}

// TestDatabaseChannels: each database has its own tree, all of them together a
// limit, and a change of the table counts for the next job.
func TestDatabaseChannels(t *testing.T) {
	p := newPlant(t, odoostub.Channels, 2, 2)
	p.own = "max_capacity 5"
	a, b := p.dbs[0], p.dbs[1]
	p.setChannels(a, odoostub.Channel{Name: "root", Capacity: new(2)}, odoostub.Channel{Name: "root.mail", Capacity: new(1)})
	mail := "root.mail"
	for _, db := range p.dbs {
		p.enqueue(db, repeat(6, odoostub.JobSpec{Channel: &mail, Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	}
	p.run()
	p.untilPlaces(1, 4) // root.mail of a; b has no limit but that of all

	// Odoo's form widens a channel: in force for the next job. All are full, so
	// only places of jobs that end go to others.
	p.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(2)})
	p.until("the change has been read", func() bool {
		_, body := p.request(http.MethodGet, "/jobrunner/channels", "")
		return strings.Contains(body, `"database":"`+a+`","channel":"root.mail","configured":true,"capacity":2,`)
	})
	status, body := p.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/database_channels/max_capacity", "6")
	require.Equal(t, http.StatusOK, status, body)
	p.untilPlaces(2, 4)

	status, body = p.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/database_channels/max_capacity", "-1")
	require.GreaterOrEqual(t, status, http.StatusBadRequest, body)
	require.Contains(t, body, "max_capacity must not be negative")

	p.own = "max_capacity 9\ndb_max_capacity " + b + ":4,*:3"
	p.load()
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 12})
	p.exactlyOnce(map[string]int{"root": 6, "root.mail": 6})

	// A mistake holds its own database back, and says so.
	p.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(2), Sequential: true})
	p.until("the mistake is reported", func() bool {
		var doc struct {
			Runners []struct {
				Ready    bool
				Warnings []string
			}
		}
		_, body := p.request(http.MethodGet, "/jobrunner/status", "")
		require.NoError(t, json.Unmarshal([]byte(body), &doc), body)
		return doc.Runners[0].Ready && len(doc.Runners[0].Warnings) == 1 &&
			doc.Runners[0].Warnings[0] == "database "+a+" runs no jobs: channel root.mail: a sequential channel must have a capacity of 1"
	})
	waits := p.enqueue(a, odoostub.JobSpec{})[0]
	p.enqueue(b, repeat(5, odoostub.JobSpec{})...)
	p.untilStates(map[string]int{"done": 17, "pending": 1})
	p.commands(0, "must have a capacity of 1", "why", a, waits)
	p.commands(0, a, "channels")
	p.setChannels(a, odoostub.Channel{Name: "root.mail", Capacity: new(1), Sequential: true})
	p.untilStates(map[string]int{"done": 18})
	require.Empty(t, p.recorder.Overlaps())
}

// TestDatabaseChannelsOfAnOlderAddOn: one database has to be upgraded, the other
// one runs.
func TestDatabaseChannelsOfAnOlderAddOn(t *testing.T) {
	p := newPlant(t, odoostub.Channels, 1, 1)
	name, pool := odoostub.NewDatabase(t, p.pg, odoostub.QueueJobLock)
	p.dbs, p.pools[name] = append(p.dbs, name), pool
	p.own = "max_capacity 4"
	for _, db := range p.dbs {
		p.enqueue(db, odoostub.JobSpec{})
	}
	p.run()
	p.untilStates(map[string]int{"done": 1, "pending": 1})
	p.until("the reason is told", func() bool {
		out, _ := p.command("databases")
		return strings.Contains(out, "unhealthy") && strings.Contains(out, "upgrade the add-on")
	})
	ctx, cancel := p.patient()
	defer cancel()
	require.NoError(t, odoostub.InstallAddon(ctx, pool, odoostub.Channels))
	p.setChannels(name)
	p.untilStates(map[string]int{"done": 2})
}

// TestChangeToDatabaseChannels goes from one tree to trees of their own and back
// while jobs run.
func TestChangeToDatabaseChannels(t *testing.T) {
	p := newPlant(t, odoostub.Channels, 2, 2)
	p.run()
	for _, db := range p.dbs {
		p.enqueue(db, repeat(60, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 20}})...)
	}
	held := p.enqueue(p.dbs[0], odoostub.JobSpec{Priority: new(int32(1)), Behaviour: odoostub.Behaviour{Gate: "end"}})
	for i := range 20 {
		p.own = []string{"max_capacity 4", ""}[i%2]
		p.load()
	}
	p.untilStates(map[string]int{"done": 120, "started": 1})
	require.Equal(t, 1, p.recorder.Requests(p.dbs[0], held[0]), "the open request is untouched")
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 121})
	p.exactlyOnce(map[string]int{"root": 4})
}
