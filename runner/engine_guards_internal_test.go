package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// open is a driver whose requests end when they are given up.
type open struct {
	driver.Driver
	ended chan driver.Task
}

func (open) Capabilities() driver.Capabilities { return driver.Capabilities{Application: "Odoo"} }

func (d open) Run(ctx context.Context, _ driver.Upstream, t driver.Task) driver.Result {
	<-ctx.Done()
	d.ended <- t
	return driver.Result{Outcome: driver.Broken}
}

// still is an engine without a loop.
func still(stages map[string]stage) *engine {
	cfg := Config{Logger: zap.NewNop(), Exchanges: exchange.NewRegister(), Driver: open{ended: make(chan driver.Task, 9)},
		Exiting: func() bool { return false }}
	e := newEngine(func() Config { return cfg })
	e.spawn = func(string, func()) {}
	e.ctx = context.Background()
	for name, s := range stages {
		db := &database{Database: driver.Database{Name: name}, stage: s, entered: time.Now()}
		e.databases.byName[name] = db
	}
	return e
}

// holds gives a job a task, if there is one, and a slot.
func (e *engine) holds(db, uuid string, t *task) channels.Key {
	key := channels.Key{DB: db, UUID: uuid}
	if t != nil {
		e.tasks[key] = t
	}
	e.tree.Set(channels.Job{Key: key}, channels.Enqueued)
	return key
}

// sends gives it an open request.
func (e *engine) sends(db, uuid, server string, t *task) channels.Key {
	key := e.holds(db, uuid, t)
	t.phase = phaseOpen
	t.exchange, _ = e.config().Exchanges.Start(e.config().Driver, driver.Upstream{Name: server},
		driver.Task{Key: key}, e.log, func(*exchange.Exchange, driver.Result) {})
	return key
}

func TestLockIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	l := leadership{lostAt: now}
	for s, given := range map[stage]bool{
		stageConnecting: false, stageUnreachable: false, stageUndetected: false, stageNeutralized: false, stageUnhealthy: false,
		stageStandby: false, stageLoading: true, stageServed: true, stageYielding: false,
	} {
		db := &database{stage: s, entered: now.Add(-time.Hour)}
		require.Equal(t, !given, l.giveUp(db).IsZero(), s)
		if given {
			require.Equal(t, now.Add(leaderlessLimit), l.giveUp(db))
			db.entered = now.Add(time.Second)
			require.Equal(t, now.Add(time.Second+leaderlessLimit), l.giveUp(db), "it has been held for less")
		}
		require.True(t, (&leadership{}).giveUp(db).IsZero())
	}
}

// Databases that are found when this process does not lead any more, or ends, are left alone.
func TestFoundTooLate(t *testing.T) {
	t.Parallel()
	found := []driver.Database{{Name: "prod", OID: 7}}
	for name, end := range map[string]func(*engine){
		"not leading": func(e *engine) { e.leadership.leading = false },
		"stopping":    func(e *engine) { e.shutdown.begun = true },
	} {
		e := still(nil)
		e.leadership.leading = true
		end(e)
		e.discovered(found)
		require.Empty(t, e.databases.byName, name)
		require.True(t, e.leadership.settleBy.IsZero(), name)
	}
	e := still(nil)
	e.leadership.leading = true
	e.discovered(nil)
	until := e.leadership.settleBy
	require.False(t, until.IsZero())
	require.True(t, e.leadership.idle)
	e.discovered(found)
	require.Equal(t, until, e.leadership.settleBy, "another list does not prolong the wait")
	require.False(t, e.leadership.idle)
	require.NotNil(t, e.databases.get("prod").session)
}

// What a database lets go of when its connection is lost is its own.
func TestLosingADatabase(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{"prod": stageServed, "other": stageServed})
	claiming := e.holds("prod", "claiming", &task{})
	others := e.holds("other", "claiming", &task{})
	opened := e.holds("prod", "open", &task{phase: phaseOpen})
	unclaiming := e.holds("prod", "unclaiming", &task{phase: phaseUnclaiming, ours: true, sent: true})
	require.Equal(t, 1, e.lose(e.databases.get("prod")))
	require.NotContains(t, e.tasks, claiming)
	require.Equal(t, phaseClaiming, e.tasks[others].phase)
	require.Equal(t, phaseOpen, e.tasks[opened].phase)
	require.Equal(t, phaseWatched, e.tasks[unclaiming].phase)
	_, state, _ := e.tree.Lookup(claiming)
	require.Equal(t, channels.Pending, state, "it waits for its turn")
	_, state, _ = e.tree.Lookup(others)
	require.Equal(t, channels.Enqueued, state)
}

// What is forgotten of a database depends on whether it may come back as what it is.
func TestForget(t *testing.T) {
	t.Parallel()
	for comesBack, want := range map[bool]struct {
		tasks, tree []string
		delays      int
	}{
		false: {[]string{"open"}, []string{"open"}, 1},
		true:  {[]string{"not in the tree", "open", "parked", "watched"}, []string{"open", "watched"}, 3},
	} {
		e := still(map[string]stage{"prod": stageServed, "other": stageServed})
		for uuid, p := range map[string]phase{
			"claiming": phaseClaiming, "open": phaseOpen, "unclaiming": phaseUnclaiming, "asked": phaseAsked, "watched": phaseWatched, "parked": phaseParked,
		} {
			e.delays[e.holds("prod", uuid, &task{phase: p})] = delay{attempts: 1}
			e.holds("other", uuid, &task{phase: p})
		}
		e.tree.Remove(e.holds("prod", "not in the tree", &task{phase: phaseParked}))
		e.tree.Remove(e.holds("prod", "asked, not in the tree", &task{phase: phaseAsked}))
		e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "pending"}}, channels.Pending)
		e.forget("prod", comesBack)
		var left, kept []string
		others := 0
		for key := range e.tasks {
			if key.DB == "prod" {
				left = append(left, key.UUID)
			} else {
				others++
			}
		}
		for job := range e.tree.Jobs("prod") {
			kept = append(kept, job.UUID)
		}
		slices.Sort(left)
		slices.Sort(kept)
		require.Equal(t, want.tasks, left)
		require.Equal(t, want.tree, kept)
		require.Len(t, e.delays, want.delays)
		require.Equal(t, 6, others)
	}
}

// A task of a database that is not served keeps its slot until nothing has been learnt for long, of the
// task and of the database. Where nothing may run, that is the end of the task.
func TestSlotsOfADatabaseThatIsNotServed(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	for s := stageConnecting; s <= stageYielding; s++ {
		for _, c := range []struct {
			task, db time.Duration
			long     bool
		}{
			{mysteryLimit, mysteryLimit, true}, {mysteryLimit - 1, mysteryLimit, false}, {mysteryLimit, mysteryLimit - 1, false},
		} {
			e := still(map[string]stage{"prod": s})
			db := e.databases.get("prod")
			db.servedUntil, db.entered = now.Add(-c.db), now.Add(-c.db)
			task := &task{phase: phaseWatched, since: now.Add(-c.task)}
			key := e.holds("prod", "a", task)
			e.expire(db, key, task, now)
			ends := c.long && (s == stageUndetected || s == stageNeutralized)
			require.Equal(t, !ends, e.tasks[key] != nil, "%d %v", s, c)
			require.Equal(t, c.long && !ends, task.phase == phaseParked, "%d %v", s, c)
			require.Equal(t, c.long && !ends, task.expired, "%d %v", s, c)
		}
	}
}

// While rows cannot be read, a task whose row has been asked for loses its slot if nothing executes it, and
// after long in any case. An earlier request that may still be read counts as something.
func TestSlotsOfRowsThatCannotBeRead(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	answered, broken := &driver.Result{Outcome: driver.Answered}, &driver.Result{Outcome: driver.Broken}
	for name, c := range map[string]struct {
		db     string
		phase  phase
		result *driver.Result
		stray  bool
		asked  time.Duration
		keeps  bool
	}{
		"answered":                  {"prod", phaseAsked, answered, false, 0, false},
		"answered, another may run": {"prod", phaseAsked, answered, true, mysteryLimit - 1, true},
		"answered, another, long":   {"prod", phaseAsked, answered, true, mysteryLimit, false},
		"broken":                    {"prod", phaseAsked, broken, false, mysteryLimit - 1, true},
		"broken, long":              {"prod", phaseAsked, broken, false, mysteryLimit, false},
		"of another database":       {"other", phaseAsked, answered, false, mysteryLimit, true},
		"not asked for":             {"prod", phaseWatched, answered, false, mysteryLimit, true},
	} {
		e := still(map[string]stage{"prod": stageServed, "other": stageServed})
		task := &task{phase: c.phase, ours: true, sent: true, result: c.result, askedAt: now.Add(-c.asked)}
		key := e.holds(c.db, "a", task)
		if c.stray {
			e.delays.strays(key)
		}
		logs := e.logs()
		e.unreadable(e.databases.get("prod"), now)
		e.unreadable(e.databases.get("prod"), now)
		require.Equal(t, strings.HasSuffix(name, "long"), logs.FilterMessageSnippet("is locked, giving the slot").Len() == 1, name)
		require.Equal(t, c.keeps, e.hasSlot(key), name)
		require.Equal(t, c.keeps, e.databases.get("prod").serving(), "others start once it is known")
		require.Equal(t, !c.keeps, task.expired, name)
		require.Same(t, task, e.tasks[key], name)
	}
}

// When inspections have met locks for so long, the slot is free of what is watched for so long.
func TestSlotsOfWhatIsNotInspected(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		phase           phase
		watched, locked time.Duration
		locks, keeps    bool
	}{
		{phaseWatched, mysteryLimit, mysteryLimit, true, false}, {phaseOpen, mysteryLimit, mysteryLimit, true, true},
		{phaseWatched, mysteryLimit - 1, mysteryLimit, true, true}, {phaseWatched, mysteryLimit, mysteryLimit - 1, true, true},
		{phaseWatched, mysteryLimit, mysteryLimit, false, true}, // nothing would find out that the lock has ended
	} {
		e := still(map[string]stage{"prod": stageServed})
		db := e.databases.get("prod")
		task := &task{phase: c.phase, since: now.Add(-c.watched)}
		key := e.holds("prod", "a", task)
		db.fingerprint.Locks, e.databases.served[db] = c.locks, struct{}{}
		e.unreadable(db, now.Add(-c.locked))
		require.False(t, task.expired, "not yet")
		e.unreadable(db, now)
		require.Equal(t, c.keeps, e.hasSlot(key), c)
		require.Equal(t, !c.keeps, task.expired, c)
		require.Same(t, task, e.tasks[key], "its row decides")
		require.Equal(t, !c.keeps, db.hidden)
		if c.keeps {
			continue
		}
		db.session = session.New("prod", nil, nil)
		e.scan(now)
		require.True(t, db.hidden)
		row := driver.Row{Job: channels.Job{Key: key}, State: channels.Started}
		e.inspected(db, []driver.Liveness{{Row: row, Verdict: driver.Dead}})
		require.Zero(t, db.lockedSince)
		_, state, ok := e.tree.Lookup(key)
		require.True(t, ok, "it is known again, although not what it does")
		require.Equal(t, channels.Started, state)
		for _, tells := range []func(){
			func() {}, func() { e.rowsRead(db, session.Reading{}) }, func() { e.scan(now) },
		} {
			tells()
			require.False(t, db.hidden)
			db.hidden = true
		}
	}
}

// What lost its slot because inspections were hidden is read where there are none any more.
func TestWhatIsHiddenIsReadWithoutLockRows(t *testing.T) {
	t.Parallel()
	for _, expired := range []bool{true, false} {
		e := still(map[string]stage{"prod": stageServed})
		db := e.databases.get("prod")
		db.session = session.New("prod", nil, nil)
		row := &driver.Row{State: channels.Started}
		task := &task{phase: phaseWatched, since: time.Now(), row: row, expired: expired}
		e.holds("prod", "a", task)
		e.scan(time.Now())
		require.Equal(t, expired, task.phase == phaseAsked)
	}
}

// A database that is lost again before inspections can tell anything keeps no slots for ever.
func TestSlotsOfADatabaseThatComesAndGoes(t *testing.T) {
	for served, expires := range map[time.Duration]bool{0: true, servedLeast - 1: true, servedLeast: false} {
		synctest.Test(t, func(t *testing.T) {
			e := still(map[string]stage{"prod": stageServed})
			db := e.databases.get("prod")
			long := time.Now().Add(-mysteryLimit)
			db.servedUntil, db.entered = long, time.Now().Add(-served)
			task := &task{phase: phaseWatched, since: long}
			e.holds("prod", "a", task)
			e.step(db, stepFail, "a fault")
			require.Equal(t, stageUnreachable, db.stage)
			require.Equal(t, expires, task.expired, served)
			require.Equal(t, expires, task.phase == phaseParked, served)
			require.Equal(t, expires, db.servedUntil.Equal(long), served)
		})
	}
}

// A request is given up only if all says that nothing will come of it, and a second one does no harm.
func TestGivingUpAnUnstartedJob(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*engine, *database, *task, time.Time){
		"":               func(*engine, *database, *task, time.Time) {},
		"still enqueued": func(_ *engine, _ *database, t *task, _ time.Time) { t.row = &driver.Row{State: channels.Enqueued} },
		"put back, with a lock table": func(_ *engine, db *database, t *task, _ time.Time) {
			db.fingerprint.Locks, t.row = true, &driver.Row{State: channels.Pending}
		},
		"! put back, without one": func(_ *engine, _ *database, t *task, _ time.Time) { t.row = &driver.Row{State: channels.Pending} },
		"! failed": func(_ *engine, db *database, t *task, _ time.Time) {
			db.fingerprint.Locks, t.row = true, &driver.Row{State: channels.Failed}
		},
		"another's server":     func(e *engine, _ *database, _ *task, now time.Time) { e.answeredAt["odoo2"] = now },
		"answered before":      func(e *engine, _ *database, _ *task, now time.Time) { e.answeredAt["odoo1"] = now.Add(-time.Hour) },
		"! not served":         func(_ *engine, db *database, _ *task, _ time.Time) { db.stage = stageUnreachable },
		"! unknown database":   func(e *engine, db *database, _ *task, _ time.Time) { e.databases.drop(db) },
		"! a second one harms": func(_ *engine, db *database, _ *task, _ time.Time) { db.fingerprint.Unguarded = true },
		"! not long enough":    func(_ *engine, _ *database, t *task, now time.Time) { t.trail.sent = now.Add(1 - unstartedLimit) },
		"! of another engine": func(_ *engine, _ *database, t *task, now time.Time) {
			t.trail.sent, t.since = time.Time{}, now.Add(1-unstartedLimit)
		},
		"! gone":                    func(_ *engine, _ *database, t *task, _ time.Time) { t.gone = true },
		"! started":                 func(_ *engine, _ *database, t *task, _ time.Time) { t.row = &driver.Row{State: channels.Started} },
		"! the server has answered": func(e *engine, _ *database, _ *task, now time.Time) { e.answeredAt["odoo1"] = now },
		"! the server is busy": func(e *engine, _ *database, _ *task, _ time.Time) {
			e.sends("prod", "other", "odoo1", &task{row: &driver.Row{State: channels.Started}})
		},
		"another server is busy": func(e *engine, _ *database, _ *task, _ time.Time) {
			e.sends("prod", "other", "odoo2", &task{row: &driver.Row{State: channels.Started}})
		},
		"others wait there, too": func(e *engine, _ *database, _ *task, _ time.Time) {
			e.sends("prod", "other", "odoo1", &task{row: &driver.Row{State: channels.Enqueued}})
			e.sends("prod", "unread", "odoo1", &task{})
			e.holds("prod", "watched", &task{phase: phaseWatched, row: &driver.Row{State: channels.Started}})
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := still(map[string]stage{"prod": stageServed})
			now := time.Now()
			task := &task{}
			key := e.sends("prod", "a", "odoo1", task)
			task.trail.sent = now.Add(-unstartedLimit)
			change(e, e.databases.get("prod"), task, now)
			e.giveUpUnstarted(key, task, now)
			synctest.Wait()
			ended := e.config().Driver.(open).ended
			given := len(ended) > 0
			require.Equal(t, name == "" || name[0] != '!', given, name)
			for _, t := range e.tasks {
				if t.exchange != nil {
					t.exchange.Cancel()
				}
			}
		})
	}
}

// A rescued job counts as one that its request did not run, if it was enqueued and is pending now.
func TestRescuedJobsThatWereNotStarted(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*task, *driver.Row){
		"":              func(*task, *driver.Row) {},
		"! not watched": func(t *task, _ *driver.Row) { t.phase = phaseClaiming },
		"! no request":  func(t *task, _ *driver.Row) { t.result = nil },
		"! not read":    func(t *task, _ *driver.Row) { t.row = nil },
		"! started":     func(t *task, _ *driver.Row) { t.row.State = channels.Started },
		"! failed":      func(_ *task, row *driver.Row) { row.State = channels.Failed },
	} {
		e := still(map[string]stage{"prod": stageServed})
		db := e.databases.get("prod")
		task := &task{phase: phaseWatched, result: &driver.Result{Outcome: driver.Broken}, row: &driver.Row{State: channels.Enqueued}}
		key := e.holds("prod", "a", task)
		row := driver.Row{Job: channels.Job{Key: key}, State: channels.Pending}
		change(task, &row)
		e.rescued(db, []driver.Row{row, {Job: channels.Job{Key: channels.Key{DB: "prod", UUID: "no task"}}, State: channels.Pending}})
		require.True(t, task.trail.rescued)
		require.Equal(t, name == "", len(db.hold.struck) == 1, name)
		require.Equal(t, name == "", e.delays[key].attempts == 1, name)
	}
}

// All rows of one answer are taken in, whatever the first ones say, and also those without a task.
func TestRescuedTogether(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*task, *driver.Row){
		"dead":        func(*task, *driver.Row) {},
		"not started": func(t *task, _ *driver.Row) { t.row.State = channels.Enqueued },
		"quarantined": func(t *task, row *driver.Row) { t.condemned, row.State = 3, channels.Failed },
		"ended": func(t *task, row *driver.Row) {
			t.limit, row.State = &limit{ended: &policy.Policy{Timeout: &policy.Timeout{}}}, channels.Failed
		},
	} {
		e, db := served()
		cfg := e.config()
		cfg.Quarantine = &Quarantine{Attempts: 3, Within: time.Hour}
		e.config = func() Config { return cfg }
		rows := []driver.Row{*jobRow(channels.Key{DB: "prod", UUID: "no task"}, channels.Pending, 0)}
		var tasks []*task
		for _, uuid := range []string{"a", "b"} {
			task := &task{phase: phaseWatched, result: &driver.Result{Outcome: driver.Broken}, row: &driver.Row{State: channels.Started}}
			row := jobRow(e.holds("prod", uuid, task), channels.Pending, 0)
			change(task, row)
			tasks, rows = append(tasks, task), append(rows, *row)
		}
		e.rescued(db, rows)
		for _, task := range tasks {
			require.True(t, task.trail.rescued, name)
		}
		require.Empty(t, e.tasks, name)
	}
}

// A database whose job no server takes keeps the server that has run its last one.
func TestNoServerIsPicked(t *testing.T) {
	t.Parallel()
	e, db := served()
	db.server = "odoo2"
	_, ok := e.pick(channels.Key{DB: "prod"}, &task{})
	require.False(t, ok)
	require.Equal(t, "odoo2", db.server)
}

// An inspection says something of tasks that are watched, and of no others.
func TestInspected(t *testing.T) {
	t.Parallel()
	liveness := func(uuid string, v driver.Verdict, s channels.State) driver.Liveness {
		return driver.Liveness{Verdict: v, Row: driver.Row{Job: channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}}, State: s, Enqueued: 5}}
	}
	e := still(map[string]stage{"prod": stageServed})
	db := e.databases.get("prod")
	db.fingerprint.Locks = true
	asked := e.holds("prod", "asked", &task{phase: phaseAsked})
	dead := e.holds("prod", "dead", &task{phase: phaseWatched})
	alive := e.holds("prod", "alive", &task{phase: phaseWatched})
	ended := e.holds("prod", "ended", &task{phase: phaseWatched})
	gone := e.holds("prod", "gone", &task{phase: phaseWatched})
	notHere := liveness("gone", driver.Uncertain, 0)
	notHere.Gone = true
	e.inspected(db, []driver.Liveness{
		liveness("no task", driver.Dead, channels.Started), liveness("asked", driver.Dead, channels.Started), notHere,
		liveness("dead", driver.Dead, channels.Started), liveness("alive", driver.Alive, channels.Started),
		liveness("ended", driver.Uncertain, channels.Done),
	})
	require.Len(t, e.tasks, 3)
	require.Nil(t, e.tasks[asked].row)
	require.True(t, e.tasks[asked].deadSince.IsZero())
	require.EqualValues(t, 5, e.tasks[dead].row.Enqueued)
	require.False(t, e.tasks[dead].deadSince.IsZero())
	require.True(t, e.tasks[alive].alive)
	require.EqualValues(t, 5, e.tasks[alive].row.Enqueued)
	for _, key := range []channels.Key{ended, gone} {
		_, _, there := e.tree.Lookup(key)
		require.False(t, there, key)
	}
}

// notebook keeps what is handed over.
type notebook struct {
	stored [][]Slots
	err    error
}

func (n *notebook) Load(context.Context) ([]Slots, error) { return nil, nil }

func (n *notebook) Store(_ context.Context, slots []Slots) error {
	n.stored = append(n.stored, slots)
	return n.err
}

// What runs is written down by a leader that knows it, if it has changed, one at a time and not too often.
func TestWhenItIsHandedOver(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	book := &notebook{}
	leads := func() (*engine, *[]func()) {
		e := still(map[string]stage{"prod": stageServed})
		cfg := e.config()
		cfg.Handover = book
		e.config = func() Config { return cfg }
		writes := new([]func())
		e.spawn = func(_ string, f func()) { *writes = append(*writes, f) }
		e.leadership.leading, e.leadership.settled = true, true
		e.holds("prod", "a", &task{phase: phaseWatched})
		e.tree.Set(channels.Job{Key: channels.Key{DB: "prod", UUID: "waits"}, Channel: "other"}, channels.Pending)
		return e, writes
	}
	one := []Slots{{Database: "prod", Channel: "root", Jobs: 1}}
	require.Equal(t, one, func() []Slots { e, _ := leads(); return e.occupied() }())

	for name, change := range map[string]func(*engine){
		"not leading": func(e *engine) { e.leadership.leading = false },
		"not settled": func(e *engine) { e.leadership.settled = false },
	} {
		e, writes := leads()
		change(e)
		e.handOver(now)
		require.Empty(t, *writes, name)
		e.leave()
		require.Empty(t, book.stored, name)
	}

	e, writes := leads()
	finish := func() {
		(*writes)[0]()
		*writes = nil
		for _, f := range e.mail.take() {
			f()
		}
	}
	hand := func(after time.Duration, want int) {
		t.Helper()
		e.handOver(now.Add(after))
		require.Len(t, *writes, want)
	}
	hand(0, 1)
	hand(handoverInterval, 1) // the first one is under way
	finish()
	require.Equal(t, [][]Slots{one}, book.stored)
	hand(handoverInterval, 0) // nothing has changed
	e.holds("prod", "b", &task{phase: phaseWatched})
	hand(2*handoverInterval-1, 0) // too soon
	book.err = context.DeadlineExceeded
	hand(2*handoverInterval, 1)
	finish()
	book.err = nil
	hand(3*handoverInterval, 1) // it was not stored
	finish()
	hand(4*handoverInterval, 0)
	require.Len(t, book.stored, 3)
	e.leave()
	require.Len(t, book.stored, 4)
}

// The slots that a former leader's jobs occupied are reserved for their database, up to a limit, until it
// has told or has been silent for long.
func TestReservedSlots(t *testing.T) {
	t.Parallel()
	now := time.Now()
	e := still(map[string]stage{"prod": stageConnecting, "other": stageConnecting})
	e.handover.left = []Slots{{Database: "prod", Channel: "root.a", Jobs: 2}, {Database: "other", Channel: "root", Jobs: reserveLimit + 1}}
	prod, other := e.databases.get("prod"), e.databases.get("other")
	e.reserve(prod)
	e.reserve(other)
	prod.reservedAt, other.reservedAt = now, now.Add(1-mysteryLimit)
	require.Equal(t, []Slots{{Database: "other", Channel: "root", Jobs: reserveLimit}, {Database: "prod", Channel: "root.a", Jobs: 2}},
		slices.SortedFunc(slices.Values(e.occupied()), func(a, b Slots) int { return len(b.Database) - len(a.Database) }))
	e.expireReserved(now)
	require.Len(t, e.occupied(), 2)
	e.expireReserved(now.Add(1))
	require.Equal(t, []Slots{{Database: "prod", Channel: "root.a", Jobs: 2}}, e.occupied())
	require.Empty(t, other.reserved)
	e.unreserve(prod)
	require.Empty(t, e.occupied())
	require.Empty(t, prod.reserved)
}

// A scan checks all tasks, whichever comes first.
func TestAScanChecksAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := still(map[string]stage{"prod": stageServed})
		e.databases.get("prod").session = session.New("prod", nil, nil)
		now := time.Now()
		for i := range 8 {
			k := &task{}
			e.sends("prod", fmt.Sprint(i), "odoo1", k)
			k.trail.sent = now.Add(-unstartedLimit)
			e.holds("prod", fmt.Sprint("claiming", i), &task{phase: phaseClaiming})
		}
		e.scan(now)
		synctest.Wait()
		require.Len(t, e.config().Driver.(open).ended, 8)
	})
}

// A scan decides about tasks that are watched. Of the others something else does: the end of a request,
// the result of a statement, or a database that is back.
func TestAScanDecidesAboutWatchedTasks(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{"prod": stageUnreachable})
	tasks := map[phase]*task{}
	for p := phaseClaiming; p <= phaseParked; p++ {
		tasks[p] = &task{phase: p, deadAgain: true}
		e.holds("prod", phaseNames[p], tasks[p])
	}
	tasks[phaseOpen].exchange = &exchange.Exchange{}
	e.scan(time.Now())
	for p, task := range tasks {
		watched := p == phaseWatched
		require.Equal(t, watched, task.expired, phaseNames[p])
		require.Equal(t, !watched, task.deadAgain, phaseNames[p])
		require.Equal(t, watched || p == phaseParked, task.phase == phaseParked, phaseNames[p])
	}
}

// The loop turns for a scan only while there are tasks, and for time limits only where there are some.
func TestWhenTheLoopTurns(t *testing.T) {
	t.Parallel()
	e := still(map[string]stage{"prod": stageServed})
	now := time.Unix(1_700_000_000, 0)
	e.targetsAt, e.scanAt, e.timeouts.at = now.Add(3*time.Second), now.Add(2*time.Second), now.Add(time.Second)
	require.Equal(t, e.targetsAt, e.nextTick(now))
	e.holds("prod", "a", &task{phase: phaseWatched})
	require.Equal(t, e.scanAt, e.nextTick(now))
	e.timeouts.set = &policy.Set{}
	require.Equal(t, e.timeouts.at, e.nextTick(now))
}

// Seats are counted where servers have limits, or pools do. Without a quarantine, setbacks are forgotten,
// and a configuration with a mistake changes nothing.
func TestWhatAConfigurationPutsIntoForce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change                 func(*Config)
		refused, limited, kept bool
	}{
		"nothing":    {func(*Config) {}, false, false, false},
		"limits":     {func(cfg *Config) { cfg.Server.MaxJobs = 1 }, false, true, false},
		"pools":      {func(cfg *Config) { cfg.Pools = map[string]upstream.Limits{"heavy": {}} }, false, true, false},
		"quarantine": {func(cfg *Config) { cfg.Quarantine = &Quarantine{Attempts: 3, Within: time.Hour} }, false, false, true},
		"a mistake": {func(cfg *Config) {
			cfg.Server.MaxJobs = 1
			cfg.Channels = append(cfg.Channels, channels.Config{Name: "root", Capacity: 2})
		}, true, false, true},
	} {
		e, _ := served()
		e.setbacks.add(channels.Key{DB: "prod", UUID: "a"}, Setback{At: time.Now().Add(-time.Second)}, time.Hour)
		cfg := e.config()
		cfg.Channels = []channels.Config{{Name: "root", Capacity: 1}}
		c.change(&cfg)
		require.Equal(t, c.refused, e.configure(cfg) != nil, name)
		require.Equal(t, c.limited, e.seats.limited, name)
		require.Equal(t, c.kept, len(e.setbacks.of) == 1, name)
	}
}
