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
	require.EqualValues(t, 3, said.All()[0].ContextMap()["databases"])
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
