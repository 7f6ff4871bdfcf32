package runner

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// Each state has a word of its own, and what is none has another one.
func TestWordsOfStates(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for s := DatabaseConnecting; s <= DatabaseAsleep; s++ {
		require.False(t, seen[s.String()])
		seen[s.String()] = true
		parsed, ok := ParseDatabaseState(s.String())
		require.True(t, ok)
		require.Equal(t, s, parsed)
	}
	require.Equal(t, "invalid", (DatabaseAsleep + 1).String())
	require.Equal(t, "invalid", (NotReady + 1).String())
	_, ok := ParseDatabaseState("invalid")
	require.False(t, ok)
}

// Attempts are counted by what is done for them, and by how far they are with their time limits.
func TestCountsOfTasks(t *testing.T) {
	t.Parallel()
	e, _ := served()
	for p, n := range map[phase]int{phaseClaiming: 2, phaseOpen: 3, phaseUnclaiming: 1, phaseAsked: 4, phaseWatched: 2, phaseParked: 9} {
		for i := range n {
			e.holds("prod", fmt.Sprint(phaseNames[p], i), &task{phase: p})
		}
	}
	for stage, stuck := range map[TimeoutStage]bool{TimeoutNone: false, TimeoutWarned: false, TimeoutReached: false, TimeoutCancelled: true, TimeoutTerminated: false} {
		e.holds("prod", stage.String(), &task{phase: phaseOpen, limit: &limit{policy: ending(), stage: stage, stuck: stuck}})
	}
	e.holds("prod", "lifted", &task{phase: phaseOpen, limit: &limit{stage: TimeoutReached, stuck: true}})
	st := e.status(time.Now())
	require.Equal(t, []int{2, 3 + 6, 7}, []int{st.Claiming, st.Open, st.Watched})
	require.Equal(t, 3, st.Overdue)
	require.Len(t, st.Stuck, 1)
	require.Equal(t, "cancelled", st.Stuck[0].UUID)
	list := e.taskList(time.Now())
	require.Len(t, list, 2+9+7)
	require.False(t, slices.ContainsFunc(list, func(s TaskStatus) bool { return s.Phase == "parked" }))
}

// What is shown of leadership is what is known of it.
func TestStatusOfTheLeader(t *testing.T) {
	t.Parallel()
	e, _ := served()
	for _, l := range []leadership{
		{}, {known: true, detail: "pid 7"}, {leading: true, known: true}, {leading: true, known: true, settled: true},
	} {
		e.leadership = l
		st := e.status(time.Now())
		require.Equal(t, []bool{l.leading, l.known, l.leading && !l.settled}, []bool{st.Leader, st.LeaderKnown, st.TakingOver})
		require.Equal(t, l.detail, st.LeaderDetail)
	}
}

// A database is shown as woken from then until it is served, and as upgrading since its upgrade began.
func TestStatusOfADatabase(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		set            func(*database)
		woken, upgrade bool
		unknown        bool
	}{
		"served":        {func(db *database) { db.quiet, db.slept = true, &sleep{until: at} }, false, false, false},
		"woken":         {func(db *database) { db.quiet, db.slept, db.stage = true, &sleep{until: at}, stageConnecting }, true, false, true},
		"not quiet":     {func(db *database) { db.slept, db.stage = &sleep{until: at}, stageConnecting }, false, false, true},
		"never slept":   {func(db *database) { db.quiet, db.stage = true, stageConnecting }, false, false, true},
		"read before":   {func(db *database) { db.read, db.stage = true, stageConnecting }, false, false, false},
		"counted":       {func(db *database) { db.count, db.stage = &channels.Count{}, stageConnecting }, false, false, false},
		"waits":         {func(db *database) { db.read, db.stage = true, stageWaiting }, false, false, true},
		"upgrading":     {func(db *database) { db.upgrade.Active = true }, false, true, false},
		"upgraded once": {func(*database) {}, false, false, false},
	} {
		e, db := served()
		db.upgradeSince = at
		c.set(db)
		st := e.databases.status(nil)[1]
		require.Equal(t, "prod", st.Name)
		require.Equal(t, c.woken, !st.Woken.IsZero(), name)
		require.Equal(t, c.upgrade, !st.UpgradeSince.IsZero(), name)
		require.Equal(t, c.unknown, st.JobsUnknown, name)
		all := Status{Databases: []DatabaseStatus{st}}
		require.Equal(t, c.unknown, all.JobsUnknown()["prod"], name)
	}
}

// Why a job waits for others says for which, and what to do if it need not any more.
func TestWhyAJobWaitsForOthers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		waits    int
		first    string
		releases bool
		text     string
		blocker  string
	}{
		{0, "", true, "the runner does it", ""},
		{0, "", false, "for which there is release_dependents", ""},
		{0, "p", false, "for which there is release_dependents", ""},
		{1, "p", true, "one other job that is not done, p", "p"},
		{1, "", true, "waits for 1 other jobs", ""},
		{2, "p", false, "2 other jobs that are not done, p among them", "p"},
		{2, "", false, "2 other jobs that are not done", ""},
	} {
		w := Why{Key: channels.Key{DB: "prod", UUID: "a"}, Detail: &driver.Detail{WaitsFor: c.waits, FirstParent: c.first}}
		w.dependent(c.releases)
		require.Equal(t, WhyWaitDependencies, w.Code)
		require.Contains(t, w.Text, c.text)
		if c.blocker == "" {
			require.Zero(t, w.Blocker, c.text)
		} else {
			require.Equal(t, channels.Key{DB: "prod", UUID: c.blocker}, w.Blocker)
		}
	}
}

// Why no server takes a job says it of each, and tells what is drained from what is broken.
func TestWhyNoServerTakesAJob(t *testing.T) {
	t.Parallel()
	drained, down := UpstreamStatus{Name: "a", Up: true, Drain: &Drain{By: "Ada"}}, UpstreamStatus{Name: "b", Reason: "refused"}
	full, kept := UpstreamStatus{Name: "c", Up: true, Full: "2 of at most 2 jobs"}, UpstreamStatus{Name: "d", Up: true}
	for code, c := range map[string]struct {
		ups  []UpstreamStatus
		text string
	}{
		WhyNoUpstream:        {nil, "no Odoo server is known"},
		WhyDrained:           {[]UpstreamStatus{drained, drained}, "every Odoo server is drained: a is being drained by Ada; a is being drained by Ada"},
		WhyNoUpstream + " 2": {[]UpstreamStatus{drained, down}, "no Odoo server is healthy: a is being drained by Ada; b: refused"},
	} {
		var w Why
		w.noUpstream("Odoo", c.ups)
		require.Equal(t, c.text, w.Text, code)
		require.Contains(t, code, w.Code)
	}
	for ahead, text := range map[int]string{0: "", 2: "; 2 jobs go before this one"} {
		var w Why
		w.noServer("Odoo", []UpstreamStatus{full, kept}, &channels.Explanation{Ahead: ahead})
		require.Equal(t, WhyNoServer, w.Code)
		require.Equal(t, "no Odoo server takes another job now: c: 2 of at most 2 jobs; d: its room is for jobs that are about to be sent"+text, w.Text)
	}
}
