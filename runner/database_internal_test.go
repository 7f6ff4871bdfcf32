package runner

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// TestRepairsAreBounded: what is remembered of a snapshot does not grow with the database.
func TestRepairsAreBounded(t *testing.T) {
	t.Parallel()
	var db database
	for i := range repairsLimit + 10 {
		db.repair(strconv.Itoa(i))
	}
	require.Len(t, db.repairs, repairsLimit)
}

// Only a change of stage begins a new one.
func TestWhenAStageBegan(t *testing.T) {
	t.Parallel()
	e, db := served()
	long := time.Now().Add(-time.Hour)
	db.entered = long
	e.databases.step(db, stepLoad, "")
	require.Equal(t, long, db.entered)
	e.databases.step(db, stepFail, "")
	require.WithinDuration(t, time.Now(), db.entered, time.Minute)
}

// How many databases are ready is said when none is on its way.
func TestReadyDatabasesAreCounted(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{
		"one": stageLoading, "two": stageServed, "held": stageServed, "lost": stageUnreachable, "next": stageConnecting,
		"asleep": stageAsleep,
	})
	core, logs := observer.New(zap.InfoLevel)
	e.with(func(cfg *Config) { cfg.Logger = zap.New(core) })
	e.databases.get("held").hold.until = time.Now().Add(time.Hour)
	for _, name := range []string{"two", "held"} {
		e.databases.derive(e.databases.get(name))
	}
	e.databases.ready(e.databases.get("one"))
	said := logs.FilterMessage("database connections ready")
	require.Zero(t, said.Len())
	e.databases.get("next").stage = stageLoading
	e.databases.ready(e.databases.get("next"))
	said = logs.FilterMessage("database connections ready")
	require.Equal(t, 1, said.Len())
	require.EqualValues(t, 4, said.All()[0].ContextMap()["databases"])
}

// What is counted of a database whose jobs have not been read is what memory does not hold of it.
func TestCountedJobs(t *testing.T) {
	t.Parallel()
	for s := stageConnecting; s <= stageYielding; s++ {
		require.Equal(t, s.mayTell(), (&database{stage: s}).unread())
		require.False(t, (&database{stage: s, read: true}).unread())
	}
	e := still(map[string]stage{"prod": stageLoading, "read": stageServed})
	e.databases.get("prod").count = &channels.Count{Pending: 50, Enqueued: 40, Started: 30, Failed: 20}
	counts := []channels.Count{
		{DB: "other", Channel: "root", Pending: 9, Enqueued: 9, Started: 9, Failed: 9},
		{DB: "prod", Channel: "root", Pending: 1, Enqueued: 2, Started: 3, Failed: 4},
		{DB: "prod", Channel: "root.a", Pending: 5, Enqueued: 6, Started: 7, Failed: 8},
	}
	all := e.databases.withCounted(counts)
	require.Equal(t, channels.Count{DB: "prod", Channel: "root", Pending: 44, Enqueued: 32, Started: 20, Failed: 8}, all[len(counts)])
	require.Len(t, all, len(counts)+1)
	list := e.databases.status(all)
	require.Len(t, list, 2)
	prod := list[0]
	require.Equal(t, []int{50, 40, 30, 20}, []int{prod.Pending, prod.Enqueued, prod.Started, prod.Failed})
	require.False(t, prod.JobsUnknown)
}

// A change of state is told unless it is no news: a database that fails as before once it has waited
// for a connection, and one that is ready after a sleep.
func TestWhichChangesOfStateAreNews(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		quiet, waited bool
		complaint     string
		state         DatabaseState
		told, logged  bool
		quietThen     bool
		waitedThen    bool
	}{
		"lost":                           {state: DatabaseUnreachable, told: true, logged: true},
		"lost as before":                 {state: DatabaseUnreachable, complaint: "why", told: true},
		"lost after waiting":             {state: DatabaseUnreachable, waited: true, told: true, logged: true},
		"lost as before, after waiting":  {state: DatabaseUnreachable, waited: true, complaint: "why"},
		"lost when woken":                {state: DatabaseUnreachable, quiet: true, told: true, logged: true},
		"held, as lost before":           {state: DatabaseHeld, waited: true, complaint: "why", told: true},
		"held, after a sleep":            {state: DatabaseHeld, quiet: true, told: true},
		"ready":                          {state: DatabaseReady, told: true, logged: true},
		"ready after a sleep":            {state: DatabaseReady, quiet: true, quietThen: true},
		"ready after waiting":            {state: DatabaseReady, waited: true, told: true, logged: true},
		"asleep":                         {state: DatabaseAsleep, quiet: true, quietThen: true},
		"waiting":                        {state: DatabaseWaiting, waitedThen: true},
		"connecting":                     {state: DatabaseConnecting},
		"connecting after waiting":       {state: DatabaseConnecting, waited: true, waitedThen: true},
		"connecting after a sleep":       {state: DatabaseConnecting, quiet: true, quietThen: true},
		"loading after waiting":          {state: DatabaseLoading, waited: true},
		"unhealthy after a sleep":        {state: DatabaseUnhealthy, quiet: true, told: true, logged: true},
		"stand-by, whatever was before":  {state: DatabaseStandby, waited: true, complaint: "why", told: true, logged: true},
		"neutralized, which is no event": {state: DatabaseNeutralized, quiet: true, quietThen: true, logged: true},
	} {
		e, told, logs := telling()
		db := e.databases.get("prod")
		db.quiet, db.waited, db.complaint = c.quiet, c.waited, c.complaint
		db.state, db.reason = c.state, "why"
		e.databases.announce(db)
		require.Equal(t, c.told, len(*told) == 1, name)
		require.Equal(t, c.logged, logs.Filter(func(l observer.LoggedEntry) bool { return l.Level >= zap.InfoLevel }).Len() == 1, name)
		require.Equal(t, c.quietThen, db.quiet, name)
		require.Equal(t, c.waitedThen, db.waited, name)
	}
}
