package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// watchedOf gives a served database a watched task with a slot, found to be over some time before now, whose
// row says that it was claimed long ago.
func watchedOf(now time.Time, ago time.Duration, state channels.State) (*engine, *database, channels.Key, *task) {
	e, db := served()
	db.fingerprint.Locks = true
	t := &task{phase: phaseWatched, since: now.Add(-ago), over: now.Add(-ago)}
	key := e.holds("prod", "a", t)
	t.row = jobRow(key, state, 1)
	return e, db, key, t
}

func (e *engine) hasSlot(key channels.Key) bool {
	_, _, ok := e.tree.Lookup(key)
	return ok
}

// A slot is given to others after ten minutes, once, and not if it has been taken away already. When a task
// was found to be over stays.
func TestWhenATaskGivesWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		ago            time.Duration
		expired, freed bool
		gives          bool
	}{
		{ago: mysteryLimit, gives: true}, {ago: mysteryLimit - 1},
		{ago: mysteryLimit, expired: true}, {ago: mysteryLimit, freed: true},
	} {
		e, _, key, task := watchedOf(now, c.ago, channels.Started)
		task.expired, task.freed = c.expired, c.freed
		logs, over := e.logs(), task.over
		e.giveWay(key, task, now)
		require.Equal(t, c.gives, !e.hasSlot(key), c)
		require.Equal(t, c.gives, logs.FilterMessageSnippet("giving the slot").Len() == 1, c)
		require.Equal(t, c.gives || c.freed, task.freed, c)
		require.Equal(t, over, task.over, c)
	}
	e, _, key, task := watchedOf(now, 0, channels.Started)
	task.over = time.Time{}
	e.giveWay(key, task, now)
	require.Equal(t, now, task.over)
}

// What a row says after it has changed, or in a database that is only just served again, is no reason to keep
// a slot from a task.
func TestWhatARowSaysOfATaskThatGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		phase phase
		row   func(*driver.Row)
		known bool
		keeps bool
	}{
		"the same":                {phaseWatched, func(*driver.Row) {}, true, false},
		"the same, asked for":     {phaseAsked, func(*driver.Row) {}, true, false},
		"another state":           {phaseWatched, func(r *driver.Row) { r.State = channels.Started }, true, true},
		"another attempt":         {phaseWatched, func(r *driver.Row) { r.Enqueued = 2 }, true, true},
		"a state that is unknown": {phaseWatched, func(r *driver.Row) { r.State = channels.Unknown }, true, true},
		"the same, unknown":       {phaseAsked, func(r *driver.Row) { r.State = channels.Unknown }, true, true},
		"while all are read":      {phaseWatched, func(*driver.Row) {}, false, true},
	} {
		e, db, key, task := watchedOf(now, mysteryLimit, channels.Enqueued)
		task.freed, task.phase, task.asked = true, c.phase, 1
		e.tree.Remove(key)
		if !c.known {
			db.stage = stageLoading
		}
		row := jobRow(key, channels.Enqueued, 1)
		c.row(row)
		e.applyRow(row, 1, e.tree.Set)
		require.Same(t, task, e.tasks[key], name)
		require.Equal(t, phaseWatched, task.phase, name)
		require.Equal(t, c.keeps, e.hasSlot(key), name)
		require.Equal(t, !c.keeps, task.freed, name)
		require.Equal(t, c.keeps && c.known, task.over.IsZero(), name)
		if !c.keeps {
			require.Equal(t, now.Add(-mysteryLimit), task.since, "a limit of its own does not begin anew")
		}
	}
}

// A row that was first read after a request ended is news.
func TestTheFirstRowOfATask(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e, _, key, task := watchedOf(now, mysteryLimit, channels.Enqueued)
	task.row, task.freed = nil, true
	e.applyRow(jobRow(key, channels.Enqueued, 1), 1, e.tree.Set)
	require.True(t, e.hasSlot(key))
	require.Zero(t, task.over)
}

// A task whose row could not be read for long is inspected before it has its slot again.
func TestAnUnknownStateOfATaskThatWasHidden(t *testing.T) {
	t.Parallel()
	e, _, key, task := watchedOf(time.Now(), mysteryLimit, channels.Started)
	task.expired = true
	e.tree.Remove(key)
	e.applyRow(jobRow(key, channels.Unknown, 1), 1, e.tree.Set)
	require.True(t, task.expired)
	require.False(t, e.hasSlot(key))
}

// Inspections that do not agree give a task its slot back.
func TestInspectionsOfATaskThatGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		verdict  driver.Verdict
		enqueued int64
		keeps    bool
	}{
		"dead again":            {driver.Dead, 1, false},
		"alive":                 {driver.Alive, 1, true},
		"uncertain":             {driver.Uncertain, 1, true},
		"dead, another attempt": {driver.Dead, 2, true},
	} {
		for _, freed := range []bool{true, false} {
			e, db, key, task := watchedOf(now, time.Minute, channels.Started)
			task.freed = freed
			if freed {
				e.tree.Remove(key)
			}
			task.deadSince, task.deadAt = task.over, lookedAt{channels.Started, 1}
			e.inspected(db, []driver.Liveness{{Row: *jobRow(key, channels.Started, c.enqueued), Verdict: c.verdict}})
			require.Equal(t, c.keeps || !freed, e.hasSlot(key), name)
			require.Equal(t, freed && !c.keeps, task.freed, name)
			require.Equal(t, c.keeps, task.over.IsZero(), name)
		}
	}
}

// A task that is found dead for the second time, when it is known again, is no reason to keep others of its
// database waiting, should its row be locked.
func TestInspectionsOfATaskThatWasHidden(t *testing.T) {
	t.Parallel()
	e, db, key, task := watchedOf(time.Now(), time.Minute, channels.Started)
	task.expired, db.hidden = true, true
	e.tree.Remove(key)
	task.deadSince, task.deadAt = task.over, lookedAt{channels.Started, 1}
	e.inspected(db, []driver.Liveness{{Row: *jobRow(key, channels.Started, 1), Verdict: driver.Dead}})
	require.True(t, e.hasSlot(key))
	require.False(t, task.expired)
	require.False(t, db.hidden)
}

// Where no lock rows prove anything, the operator's limit does, and may be raised.
func TestALimitThatIsRaised(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, locks := range []bool{true, false} {
		for _, freed := range []bool{true, false} {
			e, db, key, task := watchedOf(now, mysteryLimit, channels.Started)
			db.fingerprint.Locks, task.freed = locks, freed
			if freed {
				e.tree.Remove(key)
			}
			require.False(t, e.decide(db, key, task, now))
			require.Equal(t, !freed || !locks, e.hasSlot(key))
			require.Equal(t, freed && locks, task.freed, "an inspection decides")
		}
	}
	e, db, key, task := watchedOf(now, 0, channels.Started)
	db.fingerprint.Locks, task.row = false, nil
	require.False(t, e.decide(db, key, task, now), "not read since")
	require.True(t, e.hasSlot(key))
}

// A database whose jobs have given way may leave its connection to others.
func TestLeavingAConnectionWithATaskThatGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, freed := range []bool{true, false} {
		e, db, _, task := watchedOf(now, mysteryLimit, channels.Started)
		task.freed, db.leaving = freed, now.Add(time.Minute)
		e.databases.served[db] = struct{}{}
		e.take(now, 1)
		require.Equal(t, freed, db.left)
	}
}

// A database sleeps only when nothing is left to be done about its jobs, whether they have slots or not.
func TestWhoIsEngaged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		task    task
		engaged bool
	}{
		{task{phase: phaseParked}, true}, {task{phase: phaseAsked, expired: true}, true}, {task{phase: phaseWatched, freed: true}, true},
		{task{phase: phaseWatched}, false}, // its slot shows that
	} {
		e := still(nil)
		e.holds("prod", "a", &c.task)
		require.Equal(t, c.engaged, e.engaged()["prod"], phaseNames[c.task.phase])
	}
}

// The tree does not tell that a snapshot has not found a job which gave way: it is read.
func TestASnapshotAfterATaskGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct{ freed, other bool }{{true, false}, {false, false}, {true, true}} {
		e, db, key, task := watchedOf(now, mysteryLimit, channels.Started)
		if task.freed = c.freed; c.other {
			delete(e.tasks, key)
			e.tasks[channels.Key{DB: "lost", UUID: "a"}] = task
		}
		e.snapshotBegin(db)
		e.snapshotRows(db, []driver.Row{*jobRow(key, channels.Started, 1)})
		e.snapshotEnd(db, nil, driver.Keys{})
		require.Equal(t, c.freed && !c.other, task.phase == phaseAsked, c)
	}
}

// When a database is lost, it is not known any more what its jobs do that gave way. When they were found to be
// over is.
func TestLosingADatabaseWhoseTaskGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, freed := range []bool{true, false} {
		e, db, key, task := watchedOf(now, time.Minute, channels.Started)
		task.freed = freed
		e.databases.step(db, stepFail, "")
		e.lose(db)
		require.Equal(t, freed, task.expired)
		require.Equal(t, freed, task.phase == phaseParked)
		require.False(t, task.freed)
		require.NotZero(t, task.over)
		require.Same(t, task, e.tasks[key])
	}
}
