package runner

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// claimed is the answer to a grant.
func claimed(key channels.Key, state channels.State) session.Vacant {
	return session.Vacant{
		Reading: session.Reading{Rows: []driver.Row{*jobRow(key, state, 0)}},
		Got:     []driver.Task{{Key: key, Enqueued: 5}},
	}
}

// noneOpen says that there is no open request.
func noneOpen(string) bool { return false }

// What was claimed by a grant takes a slot, and is sent or put back as any other claim.
func TestAnswerToAGrant(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  func(e *engine)
		want phase
	}{
		"no server": {func(*engine) {}, phaseUnclaiming},
		"the end":   {func(e *engine) { e.shutdown.begun = true }, phaseUnclaiming},
	} {
		e, db := served()
		e.granted = db
		c.set(e)
		key := channels.Key{DB: "prod", UUID: "a"}
		e.vacant(db, claimed(key, channels.Pending))
		require.Nil(t, e.granted, name)
		require.Equal(t, c.want, e.tasks[key].phase, name)
		require.True(t, e.tasks[key].ours, name)
		_, state, _ := e.tree.Lookup(key)
		require.Equal(t, channels.Enqueued, state, name)
	}
	e, db := served()
	key := channels.Key{DB: "prod", UUID: "a"}
	e.vacant(db, session.Vacant{Reading: session.Reading{Rows: []driver.Row{*jobRow(key, channels.Pending, 0)}}})
	require.Empty(t, e.tasks, "it was only read")
	_, state, _ := e.tree.Lookup(key)
	require.Equal(t, channels.Pending, state)

	e, db = served()
	renamed := claimed(key, channels.Pending)
	renamed.Got[0].UUID = "b"
	e.vacant(db, renamed)
	other := channels.Key{DB: "prod", UUID: "b"}
	require.Equal(t, phaseUnclaiming, e.tasks[other].phase, "it is another one, without a slot")
	require.Contains(t, e.delays, other, "nor is it claimed again at once")
	require.Nil(t, e.tasks[key])
	e.vacant(db, claimed(key, channels.Failed))
	require.Equal(t, phaseUnclaiming, e.tasks[key].phase, "it is not what was read")
	require.False(t, e.tasks[key].granted, "so it is no claim of the grant")
	_, state, _ = e.tree.Lookup(key)
	require.Equal(t, channels.Enqueued, state, "until it has been put back")

	e, db = served()
	was := &task{phase: phaseWatched, ours: true, attempt: driver.Task{Key: key, Enqueued: 5}}
	e.tasks[key] = was
	e.vacant(db, session.Vacant{Got: []driver.Task{{Key: key, Enqueued: 5}}})
	require.Same(t, was, e.tasks[key], "it has one already")
	e.vacant(db, session.Vacant{
		Reading: session.Reading{Rows: []driver.Row{*jobRow(other, channels.Pending, 0)}},
		Got:     []driver.Task{{Key: key, Enqueued: 5}, {Key: other, Enqueued: 5}},
	})
	require.Same(t, was, e.tasks[key])
	require.Contains(t, e.tasks, other)
	require.NotZero(t, db.useful, "it has the slot that was free")
}

// A grant that is not used is withdrawn before the loop does anything, and forgotten with its session.
func TestTheLoopWithdrawsTheGrant(t *testing.T) {
	t.Parallel()
	e, db := served()
	e.granted = db
	db.session.Grant(noneOpen)
	e.withdraw()
	require.Nil(t, e.granted)
	e.granted = db
	db.session.Grant(noneOpen)
	require.Zero(t, e.forgetGrant(e.databases.get("lost")))
	require.Same(t, db, e.granted)
	require.Zero(t, e.forgetGrant(db), "it was not used")
	require.Nil(t, e.granted)
	e.granted = db
	db.session = nil
	require.Zero(t, e.forgetGrant(db))
}

// A database that is held back, and a job that has come to harm before, are for the scheduler, whatever
// the tree says.
func TestWhatIsNeverGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, set := range map[string]func(e *engine, db *database){
			"":                 func(*engine, *database) {},
			"a suspected job":  func(e *engine, _ *database) { e.setbacks.of[channels.Key{DB: "prod", UUID: "b"}] = nil },
			"a held database":  func(_ *engine, db *database) { db.pause = &Pause{} },
			"not yet read":     func(_ *engine, db *database) { db.stage = stageLoading },
			"another database": func(e *engine, _ *database) { e.databases.byName["other"] = &database{} },
			"another grant":    func(e *engine, _ *database) { e.granted = &database{} },
		} {
			e := paired(t)
			cfg := e.config()
			cfg.Driver = able{can: driver.Capabilities{VacantClaims: true}}
			cfg.Exiting = func() bool { return false }
			e.config = func() Config { return cfg }
			e.leadership.leading, e.leadership.settled = true, true
			db := &database{Database: driver.Database{Name: "prod"}, stage: stageServed, session: session.New("prod", nil, nil)}
			e.databases.byName = map[string]*database{"prod": db}
			e.setbacks.of = make(map[channels.Key][]Setback)
			set(e, db)
			e.grant()
			require.Equal(t, name == "", e.granted == db, name)
		}
	})
}
