package runner

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// served is an engine that serves prod, and knows of another database that it does not.
func served() (*engine, *database) {
	e := still(map[string]stage{"prod": stageServed, "lost": stageUnreachable})
	db := e.databases.get("prod")
	db.session = session.New("prod", nil, nil)
	return e, db
}

func jobRow(key channels.Key, s channels.State, enqueued int64) *driver.Row {
	return &driver.Row{Job: channels.Job{Key: key}, State: s, Enqueued: enqueued}
}

// What a row may decide depends on what is under way.
func TestRowsByPhase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		was   phase
		state channels.State
		asked uint64
		want  phase // of a task that is left
		gone  bool
	}{
		"claiming, ended":       {phaseClaiming, channels.Done, 9, phaseClaiming, false},
		"unclaiming, ended":     {phaseUnclaiming, channels.Done, 9, phaseUnclaiming, false},
		"open, ended":           {phaseOpen, channels.Done, 9, phaseOpen, false},
		"asked, running before": {phaseAsked, channels.Started, 2, phaseAsked, false},
		"asked, running":        {phaseAsked, channels.Started, 3, phaseWatched, false},
		"asked, ended before":   {phaseAsked, channels.Done, 2, 0, true},
		"asked, ended":          {phaseAsked, channels.Done, 3, 0, true},
		"asked, mystery before": {phaseAsked, channels.Unknown, 2, phaseAsked, false},
		"asked, mystery":        {phaseAsked, channels.Unknown, 3, phaseWatched, false},
		"watched, ended":        {phaseWatched, channels.Pending, 0, 0, true},
		"watched, running":      {phaseWatched, channels.Started, 0, phaseWatched, false},
		"watched, mystery":      {phaseWatched, channels.Unknown, 0, phaseWatched, false},
		"parked, ended":         {phaseParked, channels.Failed, 0, 0, true},
		"parked, running":       {phaseParked, channels.Started, 0, phaseWatched, false},
		"parked, mystery":       {phaseParked, channels.Unknown, 0, phaseWatched, false},
		"claiming, mystery":     {phaseClaiming, channels.Unknown, 9, phaseClaiming, false},
		"unclaiming, mystery":   {phaseUnclaiming, channels.Unknown, 9, phaseUnclaiming, false},
		"open, mystery":         {phaseOpen, channels.Unknown, 9, phaseOpen, false},
	} {
		e, _ := served()
		key := e.holds("prod", "a", &task{phase: c.was, asked: 3, ours: true, sent: true, since: time.Now()})
		e.applyRow(jobRow(key, c.state, 5), c.asked, e.tree.Set)
		require.Equal(t, !c.gone, e.tasks[key] != nil, name)
		if !c.gone {
			require.Equal(t, c.want, e.tasks[key].phase, name)
			require.Equal(t, c.was == phaseOpen && c.state == channels.Done, !e.tasks[key].settledAt.IsZero(), name)
		}
		_, _, there := e.tree.Lookup(key)
		require.Equal(t, !c.gone || c.state == channels.Pending || c.state == channels.Failed, there, name)
	}
}

// A state that is not known ends a task that nothing executes.
func TestMysteryOfATaskThatIsOver(t *testing.T) {
	t.Parallel()
	e, _ := served()
	key := e.holds("prod", "a", &task{phase: phaseAsked, ours: true, sent: true, result: &driver.Result{Outcome: driver.Answered}})
	e.applyRow(jobRow(key, channels.Unknown, 0), 0, e.tree.Set)
	require.Empty(t, e.tasks)
	e.applyRow(jobRow(key, channels.Unknown, 0), 0, e.tree.Set)
	require.Empty(t, e.tasks, "without a task it is nothing")
}

// A row that has gone ends what no statement and no request is under way for.
func TestGoneByPhase(t *testing.T) {
	t.Parallel()
	for p := phaseClaiming; p <= phaseParked; p++ {
		e, _ := served()
		key := e.holds("prod", "a", &task{phase: p, row: &driver.Row{}})
		e.delays[key] = delay{attempts: 1}
		e.applyGone(key)
		stays := p == phaseClaiming || p == phaseUnclaiming || p == phaseOpen
		require.Equal(t, stays, e.tasks[key] != nil, p)
		require.Equal(t, stays, len(e.delays) == 1, p)
		if p == phaseOpen {
			require.True(t, e.tasks[key].gone)
			since := e.tasks[key].settledAt
			require.False(t, since.IsZero())
			e.tasks[key].settledAt = since.Add(-time.Hour)
			e.applyGone(key)
			require.Equal(t, since.Add(-time.Hour), e.tasks[key].settledAt, "since the first time")
		}
	}
	e, _ := served()
	key := channels.Key{DB: "prod", UUID: "a"}
	e.delays[key] = delay{attempts: 1}
	e.applyGone(key)
	require.Empty(t, e.delays)
}

// A pending job is taken on only if the first snapshot began while a request for it was open, and it is
// still open.
func TestInheritedRequests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		inheriting map[string]struct{}
		open, want bool
	}{
		"open":            {map[string]struct{}{"a": {}}, true, true},
		"ended meanwhile": {map[string]struct{}{"a": {}}, false, false},
		"began later":     {map[string]struct{}{"b": {}}, true, false},
		"no snapshot":     {nil, true, false},
	} {
		e, _ := served()
		key := channels.Key{DB: "prod", UUID: "a"}
		attempt := driver.Task{Key: key, Enqueued: 5, Trace: map[string]string{"traceparent": "x"}}
		if c.open {
			x, _ := e.config().Exchanges.Start(e.config().Driver, driver.Upstream{Name: "odoo1"}, attempt, e.log, func(*exchange.Exchange, driver.Result) {})
			defer x.Cancel()
		}
		e.inheriting = c.inheriting
		e.applyRow(jobRow(key, channels.Pending, 0), 0, e.tree.Set)
		require.Equal(t, c.want, e.tasks[key] != nil, name)
		_, state, _ := e.tree.Lookup(key)
		if !c.want {
			require.Equal(t, channels.Pending, state, name)
			continue
		}
		require.Equal(t, channels.Enqueued, state)
		got := e.tasks[key]
		require.Equal(t, phaseOpen, got.phase)
		require.Equal(t, driver.Task{Key: key, Enqueued: 5}, got.attempt)
		require.True(t, got.ours && got.sent)
		require.Equal(t, "odoo1", got.trail.upstream)
		require.False(t, got.settledAt.IsZero())
	}
}

// A task without an open request whose row says that it runs is put back only if all says that it does
// not.
func TestStillRunning(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*task, *driver.Row, *database){
		"":          func(*task, *driver.Row, *database) {},
		"broken":    func(t *task, _ *driver.Row, _ *database) { t.result.Outcome = driver.Broken },
		"unguarded": func(_ *task, _ *driver.Row, db *database) { db.fingerprint.Unguarded = true },
		"! broken, unguarded": func(t *task, _ *driver.Row, db *database) {
			t.result.Outcome, db.fingerprint.Unguarded = driver.Broken, true
		},
		"! watched":      func(t *task, _ *driver.Row, _ *database) { t.phase = phaseWatched },
		"! not ours":     func(t *task, _ *driver.Row, _ *database) { t.ours = false },
		"! claimed anew": func(_ *task, row *driver.Row, _ *database) { row.Enqueued = 6 },
		"! stuck":        func(t *task, _ *driver.Row, _ *database) { t.stuck = true },
		"! started":      func(_ *task, row *driver.Row, _ *database) { row.State = channels.Started },
	} {
		e, db := served()
		task := &task{phase: phaseAsked, ours: true, sent: true, attempt: driver.Task{Enqueued: 5}, result: &driver.Result{Outcome: driver.Answered}}
		key := e.holds("prod", "a", task)
		row := jobRow(key, channels.Enqueued, 5)
		change(task, row, db)
		e.applyRow(row, 0, e.tree.Set)
		back := name == "" || name[0] != '!'
		require.Equal(t, back, task.phase == phaseUnclaiming, name)
		require.Equal(t, !back, task.phase == phaseWatched, name)
	}
}

// When a database is out of reach, what nothing executes gives its slot to others.
func TestRest(t *testing.T) {
	t.Parallel()
	answered := &driver.Result{Outcome: driver.Answered}
	for name, c := range map[string]struct {
		t    task
		want phase
	}{
		"answered":           {task{phase: phaseAsked, ours: true, sent: true, result: answered}, phaseParked},
		"never sent":         {task{phase: phaseUnclaiming, ours: true}, phaseParked},
		"enqueued, answered": {task{phase: phaseAsked, ours: true, result: answered, row: &driver.Row{State: channels.Enqueued}}, phaseParked},
		"started, answered":  {task{phase: phaseAsked, ours: true, result: answered, row: &driver.Row{State: channels.Started}}, phaseWatched},
		"broken":             {task{phase: phaseAsked, ours: true, sent: true, result: &driver.Result{Outcome: driver.Broken}}, phaseWatched},
		"not ours":           {task{phase: phaseAsked}, phaseWatched},
		"gone, not ours":     {task{phase: phaseAsked, gone: true}, phaseParked},
		"open":               {task{phase: phaseAsked, ours: true, result: answered, exchange: &exchange.Exchange{}}, phaseWatched},
	} {
		for _, by := range []func(*engine, channels.Key, *task){
			(*engine).rest, (*engine).unclaim,
			func(e *engine, key channels.Key, t *task) { e.ask(e.databases.get(key.DB), key, t) },
		} {
			e, _ := served()
			task := c.t
			key := e.holds("lost", "a", &task)
			by(e, key, &task)
			require.Equal(t, c.want, task.phase, name)
			require.Equal(t, c.want == phaseWatched, !task.since.IsZero(), name)
			_, state, _ := e.tree.Lookup(key)
			require.Equal(t, c.want == phaseParked, state == channels.Pending, name)
		}
	}
	e, _ := served()
	second := &task{phase: phaseAsked, ours: true, sent: true, result: answered}
	key := e.holds("lost", "second", second)
	e.delays.strays(key)
	e.delays.add(key, retryFirst, retryLimit)
	e.rest(key, second)
	require.Equal(t, phaseWatched, second.phase, "an earlier request may still be read, and run the job")

	e, _ = served()
	since := time.Unix(1_700_000_000, 0)
	watched := &task{phase: phaseWatched, since: since}
	e.rest(e.holds("lost", "a", watched), watched)
	require.Equal(t, since, watched.since, "it has been watched before")
	nowhere := &task{phase: phaseOpen, ours: true, sent: true}
	e.unclaim(e.holds("not served", "a", nowhere), nowhere)
	require.Equal(t, phaseWatched, nowhere.phase)
}

// What was put back is told of the attempt that was to be put back, and of no other.
func TestUnclaimed(t *testing.T) {
	t.Parallel()
	e, db := served()
	attempt := func(uuid string) driver.Task {
		return driver.Task{Key: channels.Key{DB: "prod", UUID: uuid}, Enqueued: 5}
	}
	uuids := []string{"no task", "open", "anew", "locked", "condemned", "condemned, back", "failed otherwise", "back"}
	for _, uuid := range uuids[1:] {
		e.holds("prod", uuid, &task{phase: phaseUnclaiming, attempt: attempt(uuid)})
	}
	named := func(uuid string) *task { return e.tasks[channels.Key{DB: "prod", UUID: uuid}] }
	named("open").phase, named("anew").attempt.Enqueued = phaseOpen, 6
	named("condemned").condemned, named("condemned, back").condemned = 3, 3
	condemned, back, otherwise := named("condemned"), named("condemned, back"), named("failed otherwise")
	var tasks []driver.Task
	var rows []driver.Row
	for _, uuid := range uuids {
		tasks = append(tasks, attempt(uuid))
		state := channels.Pending
		if uuid == "condemned" || uuid == "failed otherwise" {
			state = channels.Failed
		}
		if uuid != "locked" {
			rows = append(rows, *jobRow(channels.Key{DB: "prod", UUID: uuid}, state, 0))
		}
	}
	e.unclaimed(db, tasks, rows)
	require.NotEmpty(t, condemned.trail.quarantined)
	require.Empty(t, back.trail.quarantined)
	require.Empty(t, otherwise.trail.quarantined)
	left := make(map[string]phase)
	for key, t := range e.tasks {
		left[key.UUID] = t.phase
	}
	require.Equal(t, map[string]phase{"locked": phaseAsked, "open": phaseOpen, "anew": phaseUnclaiming}, left)
	require.True(t, e.tasks[channels.Key{DB: "prod", UUID: "locked"}].stuck)
	require.Empty(t, e.delays)
}

// An order to read a job is taken back where there is one.
func TestUnread(t *testing.T) {
	t.Parallel()
	e, _ := served()
	for _, db := range []string{"prod", "lost", "not served"} {
		require.NotPanics(t, func() { e.unread(channels.Key{DB: db, UUID: "a"}) }, db)
	}
}

// What is told of a job that is gone depends on whether its database is served.
func TestTellingOfWhatIsGone(t *testing.T) {
	t.Parallel()
	for db, want := range map[string]string{"prod": "the job was deleted", "not served": "the database is not served any more"} {
		e, _ := served()
		var told []string
		e.with(func(cfg *Config) { cfg.Events = func(ev Event) { told = append(told, ev.Detail) } })
		task := &task{phase: phaseWatched, gone: true}
		e.settle(e.holds(db, "a", task), task)
		require.Equal(t, []string{want}, told)
	}
}

// Only a request that was delivered without its job having been run is a strike, and delays the job.
func TestPutBack(t *testing.T) {
	t.Parallel()
	for outcome, delivered := range map[driver.Outcome]bool{
		driver.Answered: true, driver.Refused: true, driver.Unavailable: true, driver.Broken: true, driver.NotSent: false,
	} {
		e, db := served()
		task := &task{phase: phaseUnclaiming, ours: true, result: &driver.Result{Outcome: outcome}}
		key := e.holds("prod", "a", task)
		e.putBack(db, jobRow(key, channels.Pending, 0), task)
		require.Equal(t, delivered, len(db.hold.struck) == 1, outcome)
		require.Equal(t, delivered, len(e.delays) == 1, outcome)
		require.Equal(t, outcome == driver.Broken || outcome == driver.Unavailable, e.delays[key].stray, outcome)
		require.Empty(t, e.tasks)
	}
}

// The end of a task: what delays its job, and what counts for its database.
func TestSettle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		state         channels.State
		outcome       driver.Outcome
		ended         bool // with a result
		delayed, runs bool
	}{
		"put back before it was sent": {channels.Pending, 0, false, true, false},
		"to be repeated":              {channels.Pending, driver.Answered, true, false, true},
		"done":                        {channels.Done, driver.Answered, true, false, true},
		"done, broken":                {channels.Done, driver.Broken, true, false, false},
		"done, watched":               {channels.Done, 0, false, false, false},
		"not known":                   {channels.Unknown, driver.Answered, true, false, true},
	} {
		e, db := served()
		db.hold.struck = []string{"x"}
		task := &task{phase: phaseAsked}
		if c.ended {
			task.result = &driver.Result{Outcome: c.outcome}
		}
		key := e.holds("prod", "a", task)
		e.delays[key] = delay{attempts: 1, until: 7}
		task.row = jobRow(key, c.state, 0)
		e.settle(key, task)
		require.Equal(t, c.delayed, len(e.delays) == 1, name)
		require.Equal(t, c.runs, len(db.hold.struck) == 0, name)
		_, _, there := e.tree.Lookup(key)
		require.Equal(t, c.state == channels.Pending, there, name)
	}
}

// The last job of a database that is served leaves the database as it is; one that is not is forgotten.
func TestLastJobOfADatabase(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"prod", "not served"} {
		for _, another := range []bool{false, true} {
			e, _ := served()
			e.tree.Suspend(db)
			task := &task{phase: phaseAsked, gone: true, result: &driver.Result{Outcome: driver.Answered}}
			key := e.holds(db, "a", task)
			if another {
				e.holds(db, "b", nil)
			}
			e.settle(key, task)
			e.tree.Set(channels.Job{Key: channels.Key{DB: db, UUID: "next"}}, channels.Pending)
			require.Equal(t, db == "prod" || another, len(e.tree.Next(time.Now(), 9)) == 0, "%s %t", db, another)
		}
	}
}

func TestWhenAnAttemptBegan(t *testing.T) {
	t.Parallel()
	since, sent := time.Unix(1, 0), time.Unix(2, 0)
	row := &driver.Row{Enqueued: 3e6}
	require.Equal(t, since, (&task{since: since}).began())
	require.Equal(t, since, (&task{since: since, row: &driver.Row{}}).began())
	require.Equal(t, time.Unix(3, 0), (&task{since: since, row: row}).began())
	require.Equal(t, time.Unix(4, 0), (&task{since: since, row: row, attempt: driver.Task{Enqueued: 4e6}}).began())
	require.Equal(t, sent, (&task{since: since, row: row, attempt: driver.Task{Enqueued: 4e6}, trail: trail{sent: sent}}).began())
}

// Each state of a session is a step of its database, and only claims that were lost hold it back.
func TestStepsOfASession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from     stage
		state    session.State
		want     stage
		claiming bool
		held     bool
	}{
		{stageServed, session.Connecting, stageConnecting, true, true}, {stageServed, session.Changed, stageConnecting, true, false},
		{stageServed, session.Standby, stageStandby, true, true}, {stageServed, session.Lost, stageUnreachable, true, true},
		{stageConnecting, session.Unreachable, stageUnreachable, false, false}, {stageServed, session.Lost, stageUnreachable, false, false},
	} {
		e, db := served()
		db.stage = c.from
		if c.claiming {
			e.holds("prod", "a", &task{})
		}
		e.sessionState(db, c.state, "why")
		require.Equal(t, c.want, db.stage)
		require.Equal(t, c.held, !db.hold.until.IsZero())
		require.Empty(t, e.tasks)
	}
	e, db := served()
	e.holds("prod", "a", &task{})
	e.step(db, stepYield, "")
	require.True(t, db.hold.until.IsZero(), "it was asked to leave")
}

// What runs in a neutralized database keeps its slot, and nothing else does.
func TestRunningInANeutralizedDatabase(t *testing.T) {
	t.Parallel()
	e, db := served()
	now := time.Now()
	runs := e.holds("prod", "runs", &task{phase: phaseWatched, since: now})
	over := e.holds("prod", "over", &task{phase: phaseWatched, since: now})
	opened, others := e.holds("prod", "open", &task{phase: phaseOpen}), e.holds("lost", "over", &task{phase: phaseWatched})
	waits := channels.Key{DB: "prod", UUID: "waits"}
	for _, health := range []driver.Health{driver.Undetected, driver.Neutralized} {
		db.reserved = []channels.Key{{DB: "prod", UUID: "(reserved)"}}
		e.tree.Set(channels.Job{Key: waits}, channels.Pending)
		e.fingerprinted(db, driver.Fingerprint{Health: health})
		require.Empty(t, db.reserved)
		_, _, there := e.tree.Lookup(waits)
		require.False(t, there)
	}
	e.running(db, []driver.Row{*jobRow(runs, channels.Started, 5)})
	require.Len(t, e.tasks, 3)
	require.NotContains(t, e.tasks, over)
	require.Contains(t, e.tasks, opened)
	require.Contains(t, e.tasks, others)
	require.False(t, db.counted)

	e, db = served()
	db.stage = stageLoading
	db.reserved = []channels.Key{e.holds("prod", "(reserved)", nil)}
	e.running(db, []driver.Row{*jobRow(runs, channels.Started, 5)})
	require.True(t, db.counted)
	require.Empty(t, db.reserved)
	require.Equal(t, phaseWatched, e.tasks[runs].phase)
}

// An answer is that of the task that waits for it. What was read before it came says nothing any more.
func TestAnswersOfExchanges(t *testing.T) {
	t.Parallel()
	answered := driver.Result{Outcome: driver.Answered, Status: 200}
	for name, c := range map[string]struct {
		db     string
		result driver.Result
		row    *driver.Row
		change func(*task)
		want   phase
		gone   bool
		heard  bool
	}{
		"answered":                {"prod", answered, nil, nil, phaseAsked, false, true},
		"answered, read before":   {"prod", answered, &driver.Row{State: channels.Started}, nil, phaseAsked, false, true},
		"answered, lost":          {"lost", answered, &driver.Row{State: channels.Started}, nil, phaseParked, false, true},
		"answered, ended":         {"prod", answered, &driver.Row{State: channels.Done}, nil, 0, true, true},
		"answered, not served":    {"not served", answered, nil, nil, 0, true, true},
		"broken":                  {"prod", driver.Result{Outcome: driver.Broken}, nil, nil, phaseAsked, false, false},
		"not sent, nowhere else":  {"prod", driver.Result{Outcome: driver.NotSent}, nil, nil, phaseUnclaiming, false, false},
		"not sent, with a status": {"prod", driver.Result{Outcome: driver.NotSent, Status: 1}, nil, nil, phaseUnclaiming, false, false},
		"not sent, not dated":     {"prod", driver.Result{Outcome: driver.NotSent}, nil, func(t *task) { t.attempt.Enqueued = 0 }, phaseAsked, false, false},
		"of another exchange":     {"prod", answered, nil, func(t *task) { t.exchange = &exchange.Exchange{} }, phaseOpen, false, false},
	} {
		e, _ := served()
		task := &task{ours: true, sent: true, row: c.row}
		key := e.sends(c.db, "a", "odoo1", task)
		x := task.exchange
		defer x.Cancel()
		task.attempt = driver.Task{Key: key, Enqueued: 5}
		if c.change != nil {
			c.change(task)
		}
		e.answered(x, c.result)
		require.Equal(t, c.gone, e.tasks[key] == nil, name)
		if !c.gone {
			require.Equal(t, c.want, task.phase, name)
			require.True(t, task.row == nil || task.phase == phaseOpen, name)
		}
		require.Equal(t, c.heard, !e.answeredAt["odoo1"].IsZero(), name)
		delete(e.tasks, key)
		e.answered(x, c.result)
		require.Empty(t, e.tasks, "nobody waits for it")
	}
}

// A snapshot of a served database disturbs nothing, and each row that it brings counts as seen, also that
// of a task. Its memory is used again.
func TestSnapshotOfAServedDatabase(t *testing.T) {
	t.Parallel()
	e, db := served()
	claiming, opened := e.holds("prod", "claiming", &task{}), e.holds("prod", "open", &task{phase: phaseOpen})
	e.snapshotBegin(db)
	require.Equal(t, stageServed, db.stage)
	require.Nil(t, db.open)
	rows := []driver.Row{*jobRow(claiming, channels.Pending, 0), *jobRow(opened, channels.Started, 5)}
	db.open = map[string]struct{}{"a": {}}
	e.snapshotRows(db, rows)
	require.Nil(t, e.inheriting)
	rows[1].Enqueued = 6
	require.EqualValues(t, 5, e.tasks[opened].row.Enqueued)
	require.Equal(t, phaseClaiming, e.tasks[claiming].phase)
	ended, gone := e.tree.RemoveStale("prod", e.tasksOf(db), 1)
	require.Empty(t, ended)
	require.Empty(t, gone)
}

// What is remembered of a job goes with it, also if only a snapshot tells that it is gone.
func TestSnapshotForgetsWhatIsGone(t *testing.T) {
	t.Parallel()
	e, db := served()
	gone, stays := channels.Key{DB: "prod", UUID: "gone"}, channels.Key{DB: "prod", UUID: "stays"}
	elsewhere := channels.Key{DB: "elsewhere", UUID: "gone"}
	task := e.holds("prod", "task", &task{phase: phaseOpen})
	for _, key := range []channels.Key{gone, stays, elsewhere, task} {
		if key != task {
			e.tree.Set(channels.Job{Key: key}, channels.Pending)
		}
		e.delays.add(key, time.Second, time.Minute)
		e.setbacks.add(key, Setback{Database: key.DB, UUID: key.UUID, At: time.Now()}, time.Hour)
	}
	e.snapshotBegin(db)
	e.snapshotRows(db, []driver.Row{*jobRow(stays, channels.Pending, 0)})
	e.snapshotEnd(db, nil, driver.Keys{})
	for _, key := range []channels.Key{gone, stays, elsewhere, task} {
		_, _, known := e.tree.Lookup(key)
		require.Equal(t, key != gone, known, key)
		require.Equal(t, known, len(e.setbacks.of[key]) == 1, key)
		require.Equal(t, known, e.delays[key].attempts == 1, key)
	}
}

// What nothing executes is over if its row is known, or that there is none; otherwise it is read.
func TestWhatTheScanSettles(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, c := range map[string]struct {
		row  *driver.Row
		gone bool
		asks bool
	}{
		"not read since":     {nil, false, true},
		"gone":               {nil, true, false},
		"in a strange state": {&driver.Row{State: channels.Unknown}, false, false},
	} {
		e, db := served()
		task := &task{phase: phaseWatched, ours: true, sent: true, result: &driver.Result{Outcome: driver.Answered}, row: c.row, gone: c.gone}
		key := e.holds("prod", "a", task)
		if c.row != nil {
			c.row.Key = key
		}
		require.True(t, e.decide(db, key, task, now), name)
		require.Equal(t, c.asks, e.tasks[key] != nil, name)
		require.Equal(t, c.asks, task.phase == phaseAsked, name)
	}
}

// A database that comes and goes keeps no slot for longer because of what is begun, and never done, about
// the job each time. What was never watched, or is another attempt, has all of its time.
func TestSinceWhenAJobIsWatched(t *testing.T) {
	t.Parallel()
	long := time.Now().Add(-mysteryLimit)
	for name, c := range map[string]struct {
		phase    phase
		since    time.Time
		enqueued int64
		keeps    bool
	}{
		"put back":          {phaseUnclaiming, long, 1, true},
		"read":              {phaseAsked, long, 1, true},
		"watched":           {phaseWatched, long, 1, true},
		"never watched":     {phaseUnclaiming, time.Time{}, 1, false},
		"watched, another":  {phaseWatched, long, 2, false},
		"put back, another": {phaseUnclaiming, long, 2, false},
	} {
		e, db := served()
		task := &task{phase: c.phase, since: c.since, ours: true, sent: true}
		key := e.holds("prod", "a", task)
		task.row = jobRow(key, channels.Enqueued, 1)
		e.databases.step(db, stepFail, "")
		e.lose(db)
		require.Equal(t, c.since.Equal(long), task.expired, name)
		e.databases.step(db, stepLoad, "")
		e.databases.step(db, stepLoaded, "")
		e.applyRow(jobRow(key, channels.Enqueued, c.enqueued), 9, e.tree.Set)
		require.Equal(t, phaseWatched, task.phase, name)
		require.Equal(t, c.keeps, task.since.Equal(long), name)
		require.NotZero(t, task.since, name)
	}
}

// What a step does to a database, and whether its jobs were known and are not any more.
func TestStepsOfADatabase(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from stage
		what step
		lost bool
	}{
		{stageServed, stepLoad, false}, {stageServed, stepFail, true}, {stageServed, stepYield, true},
		{stageUnreachable, stepFail, false}, {stageLoading, stepLoaded, false}, {stageLoading, stepFail, false},
	} {
		e, db := served()
		db.stage = c.from
		require.Equal(t, c.lost, e.databases.step(db, c.what, ""))
		require.Equal(t, c.what == stepLoaded, db.told)
	}
	e, db := served()
	db.lockedSince = time.Now()
	e.databases.step(db, stepLoaded, "")
	require.NotZero(t, db.lockedSince, "rows can be read, which does not show that inspections tell")
	e.databases.step(db, stepFail, "")
	require.Zero(t, db.lockedSince, "another connection has met none yet")
	e, db = served()
	e.databases.step(db, stepFail, "why")
	e.databases.step(db, stepFail, "")
	require.Equal(t, "why", db.detail, "nothing newer is known")
	e.databases.step(db, stepFail, "another")
	require.Equal(t, "another", db.detail)
	e.databases.step(db, stepStandby, "")
	require.Empty(t, db.detail)
	require.True(t, db.settling())
	db.told = true
	require.False(t, db.settling(), "it has told since this process leads")
}

// A job without a task: what delays it ends with it, and only a pending one is inherited.
func TestRowsWithoutATask(t *testing.T) {
	t.Parallel()
	e, _ := served()
	key := channels.Key{DB: "prod", UUID: "a"}
	x, _ := e.config().Exchanges.Start(e.config().Driver, driver.Upstream{}, driver.Task{Key: key}, e.log, func(*exchange.Exchange, driver.Result) {})
	defer x.Cancel()
	e.inheriting = map[string]struct{}{"a": {}}
	e.delays[key] = delay{attempts: 1, until: 7}
	e.applyRow(jobRow(key, channels.WaitDependencies, 0), 0, e.tree.Set)
	require.Len(t, e.delays, 1)
	e.applyRow(jobRow(key, channels.Done, 0), 0, e.tree.Set)
	require.Empty(t, e.delays)
	require.Empty(t, e.tasks)
}

// An attempt of another program that was never started is put back as what it is: no request of ours was
// for it.
func TestPuttingBackAnAttemptOfAnother(t *testing.T) {
	t.Parallel()
	for _, ours := range []bool{true, false} {
		e, db := served()
		now := time.Unix(1_700_000_000, 0)
		task := &task{phase: phaseWatched, ours: true, attempt: driver.Task{Enqueued: 5}, since: now, result: &driver.Result{Outcome: driver.Broken}}
		key := e.holds("prod", "a", task)
		task.attempt.Key = key
		task.row = jobRow(key, channels.Enqueued, 5)
		if !ours {
			task.row.Enqueued = 6
		}
		if !ours { // and of ours the row decides at once
			require.False(t, e.decide(db, key, task, now.Add(lostGrace-1)))
		}
		require.True(t, e.decide(db, key, task, now.Add(lostGrace)))
		require.Equal(t, phaseUnclaiming, task.phase)
		require.Equal(t, task.row.Enqueued, task.attempt.Enqueued)
		require.Equal(t, ours, task.ours)
		require.Equal(t, ours, task.result != nil)
	}
}

// What did not happen is not told, and a request is given up as soon as its answer is overdue.
func TestNothingHappened(t *testing.T) {
	t.Parallel()
	e, db := served()
	cfg := e.config()
	var told []Event
	cfg.Events = func(ev Event) { told = append(told, ev) }
	core, logs := observer.New(zap.DebugLevel)
	cfg.Logger = zap.New(core)
	e.config, e.notes.config = func() Config { return cfg }, func() Config { return cfg }
	e.claimed(db, session.Claims{})
	e.rowsRead(db, session.Reading{})
	e.reserve(db)
	require.Empty(t, told)
	require.Zero(t, logs.Len())
	e.claimed(db, session.Claims{Got: []driver.Task{{Key: channels.Key{DB: "prod", UUID: "a"}}}})
	e.rowsRead(db, session.Reading{Notified: 2})
	require.Len(t, told, 3)
	require.Equal(t, EventClaimed, told[0].Kind)
	require.Equal(t, 1, told[0].Count)
	require.Equal(t, EventUnclaimed, told[1].Kind, "there is no server")
	require.Equal(t, 2, told[2].Count)
}

func TestAbandon(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		task task
		want bool
	}{
		"overdue":         {task{settledAt: now.Add(-settleGrace), row: &driver.Row{State: channels.Done}}, true},
		"gone":            {task{settledAt: now.Add(-settleGrace), gone: true}, true},
		"not yet":         {task{settledAt: now.Add(1 - settleGrace), row: &driver.Row{State: channels.Done}}, false},
		"on its way":      {task{settledAt: now.Add(-4 * time.Second), row: &driver.Row{State: channels.Done}}, false},
		"not settled":     {task{row: &driver.Row{State: channels.Done}}, false},
		"to be run again": {task{settledAt: now.Add(-time.Hour), row: &driver.Row{State: channels.Pending}}, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			e, _ := served()
			key := e.sends("prod", "a", "odoo1", &c.task)
			e.abandon(key, &c.task, now)
			synctest.Wait()
			require.Equal(t, c.want, len(e.config().Driver.(open).ended) > 0, name)
			c.task.exchange.Cancel()
		})
	}
}

// A job that was not claimed gives its slot back, whatever has become of it, and is none of the queue
// unless it is still pending. One that another program has taken keeps it.
func TestMissedClaims(t *testing.T) {
	t.Parallel()
	for state, want := range map[channels.State]struct{ left, known, slot, paused bool }{
		channels.Pending:   {known: true, paused: true},
		channels.Enqueued:  {left: true, known: true, slot: true},
		channels.Started:   {left: true, known: true, slot: true},
		channels.Failed:    {known: true},
		channels.Done:      {},
		channels.Cancelled: {},
		channels.Unknown:   {},
	} {
		e, _ := served()
		key := e.holds("prod", "a", &task{phase: phaseClaiming, chosen: time.Now()})
		e.claimMissed(jobRow(key, state, 1))
		_, s, known := e.tree.Lookup(key)
		require.Equal(t, want.known, known, state)
		require.Equal(t, want.slot, known && s.Running(), state)
		require.Equal(t, want.left, e.tasks[key] != nil, state)
		require.Equal(t, want.paused, len(e.delays) > 0, state)
		for _, d := range e.delays {
			require.WithinDuration(t, time.Now().Add(100*time.Millisecond), time.UnixMicro(d.until), 80*time.Millisecond)
		}

		e, _ = served()
		key = e.holds("prod", "a", &task{phase: phaseOpen})
		e.claimMissed(jobRow(key, state, 1))
		require.Equal(t, phaseOpen, e.tasks[key].phase, "only a claim can be missed")
	}
}

// A job that was not claimed, and whose row could not be read, gives its slot back and waits a moment.
// Only a claim can be answered so.
func TestLockedClaims(t *testing.T) {
	t.Parallel()
	e, db := served()
	tried := e.holds("prod", "tried", &task{phase: phaseClaiming, chosen: time.Now()})
	opened := e.holds("prod", "opened", &task{phase: phaseOpen})
	e.claimed(db, session.Claims{Locked: []string{"tried", "opened", "nobody's"}})
	require.NotContains(t, e.tasks, tried)
	job, s, known := e.tree.Lookup(tried)
	require.True(t, known)
	require.Equal(t, channels.Pending, s)
	require.Len(t, e.delays, 1)
	require.Equal(t, e.delays[tried].until, job.ETA)
	require.WithinDuration(t, time.Now().Add(100*time.Millisecond), time.UnixMicro(job.ETA), 80*time.Millisecond)
	require.Equal(t, phaseOpen, e.tasks[opened].phase)
	_, s, _ = e.tree.Lookup(opened)
	require.Equal(t, channels.Enqueued, s)

	// What is not known any more is not put into a queue.
	gone := channels.Key{DB: "prod", UUID: "gone"}
	e.tasks[gone] = &task{phase: phaseClaiming}
	e.claimed(db, session.Claims{Locked: []string{"gone"}})
	require.NotContains(t, e.tasks, gone)
	require.Len(t, e.delays, 1)
}

// What a claim brings is for the tasks that are being claimed, and once for each attempt.
func TestClaimsOfOthers(t *testing.T) {
	t.Parallel()
	e, db := served()
	opened := e.holds("prod", "open", &task{phase: phaseOpen, ours: true, attempt: driver.Task{Enqueued: 5}})
	claiming := e.holds("prod", "claiming", &task{phase: phaseClaiming})
	e.claimed(db, session.Claims{Gone: []string{"open", "claiming", "nobody's"}})
	require.Equal(t, phaseOpen, e.tasks[opened].phase)
	require.False(t, e.tasks[opened].gone)
	require.NotContains(t, e.tasks, claiming)
	require.Len(t, e.tasks, 1)

	of := func(enqueued int64) session.Claims {
		return session.Claims{Got: []driver.Task{{Key: opened, Enqueued: enqueued}}}
	}
	e.tasks[opened].phase = phaseWatched
	e.claimed(db, of(5)) // the second row of one uuid
	require.Equal(t, phaseWatched, e.tasks[opened].phase)
	e.claimed(db, of(6)) // an order of an earlier connection
	require.Equal(t, phaseUnclaiming, e.tasks[opened].phase)
	require.Equal(t, int64(6), e.tasks[opened].attempt.Enqueued)
}

// A job that is claimed again while its request is open keeps the request and the slot. What was read
// before is not what its row says now, also if both claims fall into the same second.
func TestReclaimed(t *testing.T) {
	t.Parallel()
	for _, enqueued := range []int64{5, 6} {
		e, db := served()
		was := &task{ours: true, attempt: driver.Task{Enqueued: 5, ID: "id", Trace: map[string]string{"a": "b"}}}
		key := e.sends("prod", "a", "odoo1", was)
		x := was.exchange
		e.applyRow(jobRow(key, channels.Pending, 0), 0, e.tree.Set)
		require.True(t, was.settled())
		e.claimed(db, session.Claims{Got: []driver.Task{{Key: key, Enqueued: enqueued, Retry: 3}}})
		require.Same(t, was, e.tasks[key])
		require.Equal(t, phaseOpen, was.phase)
		require.Same(t, x, was.exchange)
		require.False(t, was.settled())
		require.True(t, was.settledAt.IsZero())
		require.Equal(t, driver.Task{Key: key, Enqueued: enqueued, Retry: 3, ID: "id", Trace: map[string]string{"a": "b"}}, was.attempt)
		_, state, _ := e.tree.Lookup(key)
		require.Equal(t, channels.Enqueued, state)
		x.Cancel()

		e.applyGone(key)
		was.ours = false
		e.claimed(db, session.Claims{Got: []driver.Task{{Key: key, Enqueued: enqueued}}})
		require.False(t, was.gone)
		require.True(t, was.ours)
	}
}

// What holds slots of a channel are the tasks in it and below, unless their database is out of reach.
func TestHeldSlots(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		e, _ := served()
		cfg := e.config()
		if own {
			cfg.DatabaseChannels = &channels.Capacities{}
			e.config = func() Config { return cfg }
		}
		for i, channel := range []string{"root", "root.mail", "root.mail", "root.mail.slow", "root.mailing"} {
			for _, db := range []string{"prod", "other"} {
				key := channels.Key{DB: db, UUID: strconv.Itoa(i)}
				e.tasks[key] = &task{phase: phaseOpen}
				e.tree.Set(channels.Job{Key: key, Channel: channel}, channels.Enqueued)
			}
		}
		e.tasks[channels.Key{DB: "prod", UUID: "1"}].phase = phaseParked
		want := 5
		if own {
			want = 2
		}
		x := channels.Explanation{Channel: "root.mail", Job: channels.Job{Key: channels.Key{DB: "prod"}}}
		require.Equal(t, want, e.held(x))
	}
}

// A delay is for a job that waits, and is not nothing.
func TestDelays(t *testing.T) {
	t.Parallel()
	d, key, now := delays{}, channels.Key{DB: "prod", UUID: "a"}, time.Now()
	d.add(key, skipFirst, skipLimit)
	until := time.UnixMicro(d[key].until)
	require.WithinRange(t, until, now.Add(50*time.Millisecond), time.Now().Add(200*time.Millisecond))
	for s, postponed := range map[channels.State]bool{channels.Pending: true, channels.Failed: false, channels.Done: false} {
		row := jobRow(key, s, 0)
		d.postpone(row)
		require.Equal(t, postponed, row.ETA == d[key].until, s)
	}
	other := jobRow(channels.Key{DB: "prod", UUID: "b"}, channels.Pending, 0)
	d.postpone(other)
	require.Zero(t, other.ETA)
}

// At the end of the first snapshot on a connection, the rows of this database's parked tasks are read,
// also of those that the tree has forgotten; other tasks are left as they are.
func TestParkedTasksAreReadAfterASnapshot(t *testing.T) {
	t.Parallel()
	e, db := served()
	db.stage = stageLoading
	runs, ended := e.holds("prod", "runs", &task{phase: phaseWatched, row: &driver.Row{}}), e.holds("prod", "ended", &task{phase: phaseWatched})
	parked := channels.Key{DB: "prod", UUID: "parked"}
	e.tasks[parked] = &task{phase: phaseParked}
	known := e.holds("prod", "known", &task{phase: phaseParked})
	e.requeue(known)
	elsewhere := e.holds("lost", "elsewhere", &task{phase: phaseParked})
	e.requeue(elsewhere)
	e.snapshotBegin(db)
	e.snapshotRows(db, []driver.Row{*jobRow(runs, channels.Started, 5)})
	e.snapshotEnd(db, nil, driver.Keys{})
	for key, want := range map[channels.Key]phase{
		runs: phaseWatched, ended: phaseAsked, parked: phaseAsked, known: phaseAsked, elsewhere: phaseParked,
	} {
		require.Equal(t, want, e.tasks[key].phase, key)
		_, state, _ := e.tree.Lookup(key)
		require.Equal(t, key == elsewhere, state == channels.Pending, key)
		require.Equal(t, key == known, state == channels.Failed, "it is known, and does not start")
	}
	require.ElementsMatch(t, []uint64{1, 2, 3}, []uint64{e.tasks[ended].asked, e.tasks[parked].asked, e.tasks[known].asked}, "once each")
}

// A job in a state that is not known keeps its slot no longer because its database comes and goes meanwhile,
// unless its row has been in another state.
func TestMysteryOfADatabaseThatComesAndGoes(t *testing.T) {
	for known, want := range map[bool]time.Duration{false: 2 * time.Minute, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			e := still(map[string]stage{"prod": stageServed})
			task := &task{phase: phaseWatched, since: time.Now().Add(-mysteryLimit)}
			key := e.holds("prod", "a", task)
			row := driver.Row{Job: channels.Job{Key: key}, State: channels.Unknown, RawState: "on_hold"}
			e.applyRow(&row, 0, e.tree.Set)
			require.Contains(t, e.tasks, key, "the time begins with that state")
			<-time.After(2 * time.Minute)
			if known {
				e.applyRow(&driver.Row{Job: row.Job, State: channels.Started}, 0, e.tree.Set)
			}
			e.running(e.databases.get("prod"), nil)
			require.Equal(t, phaseParked, task.phase)
			e.applyRow(&row, 0, e.tree.Set)
			require.Equal(t, phaseWatched, task.phase)
			require.Equal(t, want, e.evidence(e.databases.get("prod"), task, time.Now()).waited)
		})
	}
}
