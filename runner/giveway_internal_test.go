package runner

import (
	"strings"
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
	db.fingerprint.Locks, db.entered = true, now.Add(-servedLeast)
	t := &task{phase: phaseWatched, since: now.Add(-ago), over: now.Add(-ago)}
	key := e.holds("prod", "a", t)
	t.row = jobRow(key, state, 1)
	return e, db, key, t
}

func (e *engine) hasSlot(key channels.Key) bool {
	_, state, _ := e.tree.Lookup(key)
	return state.Running()
}

// free has a task give way.
func (e *engine) free(key channels.Key, t *task) {
	t.freed = true
	e.shelve(key)
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
		e, db, key, task := watchedOf(now, c.ago, channels.Started)
		task.expired, task.freed = c.expired, c.freed
		logs, over := e.logs(), task.over
		e.giveWay(db, key, task, now)
		require.Equal(t, c.gives, !e.hasSlot(key), c)
		require.Equal(t, c.gives, logs.FilterMessageSnippet("giving the slot").Len() == 1, c)
		require.Equal(t, c.gives || c.freed, task.freed, c)
		require.Equal(t, over, task.over, c)
	}
	e, db, key, task := watchedOf(now, mysteryLimit, channels.Started)
	db.entered = now.Add(1 - servedLeast)
	e.giveWay(db, key, task, now)
	require.True(t, e.hasSlot(key), "nothing was tried since the database is back")
	e, db, key, task = watchedOf(now, 0, channels.Started)
	task.over = time.Time{}
	e.giveWay(db, key, task, now)
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
		task.phase, task.asked = c.phase, 1
		e.free(key, task)
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
	task.row = nil
	e.free(key, task)
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
			if freed {
				e.free(key, task)
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
			if db.fingerprint.Locks = locks; freed {
				e.free(key, task)
			}
			require.False(t, e.decide(db, key, task, now))
			require.Equal(t, !freed || !locks, e.hasSlot(key))
			require.Equal(t, freed && locks, task.freed, "an inspection decides")
			require.Equal(t, !locks, task.over.IsZero(), "the next time, it has as long again")
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

// Why says that a row cannot be changed when that has been tried for more than a moment, and when the slot
// goes to others.
func TestWhyARowCannotBeChanged(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for ago, says := range map[time.Duration]bool{2 * scanInterval: true, 2*scanInterval - 1: false} {
		e, _, key, task := watchedOf(now, ago, channels.Started)
		w := Why{Key: key}
		w.task(e, task, now)
		require.Equal(t, says, strings.Contains(w.Text, "; at 2023-11-14T22:23:10Z, others get its slot"), w.Text)
	}
	e, _, key, task := watchedOf(now, 0, channels.Started)
	task.over = time.Time{}
	w := Why{Key: key}
	w.task(e, task, now)
	require.NotContains(t, w.Text, "cannot be changed")
}

// A snapshot that does not contain a job which gave way has its row read, and such a job is known by its
// channel.
func TestASnapshotAfterATaskGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, contained := range []bool{true, false} {
		e, db, key, task := watchedOf(now, mysteryLimit, channels.Started)
		task.row.Channel = "root.reports"
		e.tree.Set(task.row.Job, channels.Started)
		e.giveWay(db, key, task, now)
		require.Equal(t, "root.reports", e.notes.channelOf(key))
		e.snapshotBegin(db)
		if contained {
			e.snapshotRows(db, []driver.Row{*task.row})
		}
		e.snapshotEnd(db, nil, driver.Keys{})
		require.Equal(t, !contained, task.phase == phaseAsked)
		require.True(t, task.freed)
	}
}

// What gave way is not hidden by a lock: it was known to be over before.
func TestATableThatIsLockedAfterATaskGaveWay(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, p := range []phase{phaseAsked, phaseWatched} {
		e, db, key, task := watchedOf(now, mysteryLimit, channels.Started)
		task.phase, task.ours, task.result, db.lockedSince = p, true, &driver.Result{Outcome: driver.Answered}, now.Add(-mysteryLimit)
		e.free(key, task)
		e.unreadable(db, now)
		require.False(t, task.expired)
		require.False(t, db.hidden)
		require.True(t, task.freed)
	}
}

// A task that lost its slot while its row could not be read, and is over by the operator's limit, is read
// before it is rescued: its row may have changed.
func TestALimitPassesWhileARowIsHidden(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, expired := range []bool{true, false} {
		e, db, key, task := watchedOf(now, 0, channels.Started)
		cfg := e.config()
		cfg.RescueStartedAfter = time.Hour
		e.config = func() Config { return cfg }
		db.fingerprint.Locks, task.expired, task.since = false, expired, now.Add(-time.Hour)
		require.True(t, e.decide(db, key, task, now))
		require.Equal(t, expired, task.phase == phaseAsked)
	}
}

// What is left of a database in which nothing may run any more ends after a while, also if it has no slot.
func TestParkedTasksOfARetiredDatabase(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for s := stageConnecting; s <= stageYielding; s++ {
		for _, ago := range []time.Duration{mysteryLimit, mysteryLimit - 1} {
			e, db, key, task := watchedOf(now, time.Minute, channels.Started)
			db.stage, db.entered, task.phase = s, now.Add(-ago), phaseParked
			e.scan(now)
			ends := ago == mysteryLimit && (s == stageUndetected || s == stageNeutralized)
			require.Equal(t, ends, e.tasks[key] == nil, "%d %s", s, ago)
			require.Equal(t, ends, task.unserved)
		}
	}
	e, _, _, task := watchedOf(now, time.Minute, channels.Started)
	e.forsake(channels.Key{DB: "gone", UUID: "a"}, task, now)
	require.NotNil(t, task.row)
}
