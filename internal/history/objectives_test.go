package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// TestObjectives: attempts count for the policy whose objective holds for them, over reloads, as long as that
// stays; those of all jobs have nothing to burn.
func TestObjectives(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.ends(1, Done, mail)
	b.count()
	require.Empty(t, b.Objectives())
	policies := func(wait time.Duration) []policy.Policy {
		return []policy.Policy{
			{Channels: []string{"root.export"}, Objective: &policy.Objective{Wait: time.Second}},
			{Channels: []string{"root.mail"}, Database: "prod", Objective: &policy.Objective{Wait: wait, Percent: 95}},
			{Channels: []string{"root"}, Objective: &policy.Objective{Wait: time.Hour, Percent: 80}},
			{Channels: []string{"root.mail"}, Timeout: &policy.Timeout{After: time.Hour}},
		}
	}
	configure := func(wait time.Duration) {
		b.Configure(Options{Dir: b.options.Dir, Logger: zap.NewNop(), Policies: policies(wait)})
	}
	configure(time.Second)
	put := func(channel, database string, wait time.Duration) {
		b.notes.put(note{at: b.at.UnixNano(), series: Series{Channel: channel, Database: database}, wait: wait, run: 1})
	}
	put("root.mail", "prod", time.Second)       // in time
	put("root.mail.big", "prod", 2*time.Second) // below it, late
	put("root.mail", "test", 2*time.Hour)       // of root, late
	put("root.export", "prod", time.Hour)       // all of them are to be in time
	put("root.mail", "prod", 0)                 // was not sent
	b.count()
	want := []Objective{
		{Policy: "policy root.mail database prod", Wait: time.Second, Target: .95, Attempts: 2, Late: 1},
		{Policy: "policy root", Wait: time.Hour, Target: .8, Attempts: 1, Late: 1},
	}
	require.Equal(t, want, b.Objectives())
	configure(time.Second)
	require.Equal(t, want, b.Objectives(), "a reload changes nothing")
	configure(time.Minute)
	require.Zero(t, b.Objectives()[0].Attempts, "that is another objective")
	require.EqualValues(t, 1, b.Objectives()[1].Attempts)
	for i := range objectiveCache + 10 {
		put(fmt.Sprint("root.", i), "prod", time.Second)
		if i%1000 == 0 {
			b.count()
		}
	}
	b.count()
	require.LessOrEqual(t, len(b.objectives.known), objectiveCache)
	require.EqualValues(t, objectiveCache+11, b.Objectives()[1].Attempts)
}

// TestBurn: an objective burns when what the alert rules ask for has held for two minutes, ends when it has
// not for two, and each is told once; a reload forgets nothing, and what it takes away is told to be over.
func TestBurn(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.at = start.Truncate(time.Minute)
	mailPolicy := []policy.Policy{{Channels: []string{"root.mail"}, Objective: &policy.Objective{Wait: time.Minute, Percent: 95}}}
	var told []runner.Event
	configure := func(policies []policy.Policy) {
		b.Configure(Options{Dir: b.options.Dir, Logger: zap.NewNop(), Policies: policies, Tell: func(ev runner.Event) { told = append(told, ev) }})
	}
	require.Equal(t, Step, b.beat(b.at.Truncate(Step)), "without an objective nothing is watched")
	configure(mailPolicy)
	require.Equal(t, time.Minute, b.beat(b.at))
	// pass lets jobs end in each of some minutes, late ones among them.
	pass := func(minutes, jobs, late int) {
		for range minutes {
			for i := range jobs {
				wait := time.Second
				if i < late {
					wait = time.Hour
				}
				b.notes.put(note{at: b.at.UnixNano(), series: Series{Channel: "root.mail", Database: "prod"}, wait: wait, run: 1})
			}
			b.at = b.at.Add(time.Minute)
			b.count()
			b.watch()
		}
	}
	pass(120, 20, 1)
	require.Empty(t, told, "5 of 100 may be late")
	pass(30, 20, 10)
	require.Len(t, told, 1, "twice as many may not, and it is told once")
	require.Equal(t, runner.EventObjectiveBurns, told[0].Kind)
	require.Equal(t, "default", told[0].Runner)
	require.Regexp(t, `^policy root\.mail: 1\d% of the jobs of the last 6h waited longer than 1m0s, and its objective allows 5%$`, told[0].Detail)
	burn := b.Objectives()[0].Burn
	require.InDelta(t, .14, burn.Late, .01)
	require.Equal(t, told[0].Time, burn.Since)
	configure(mailPolicy)
	pass(1, 20, 10)
	require.Len(t, told, 1, "a reload forgets nothing")
	pass(60, 20, 0)
	require.Len(t, told, 2)
	require.Equal(t, runner.Event{Time: told[1].Time, Kind: runner.EventObjectiveKept, Runner: "default", Policy: "policy root.mail", Detail: "policy root.mail: its objective is kept again"}, told[1])
	require.Nil(t, b.Objectives()[0].Burn)
	pass(400, 0, 0)
	require.Len(t, told, 2)
	pass(4, 1, 1)
	require.Len(t, told, 2, "four late ones are chance")
	pass(4, 1, 1)
	require.Len(t, told, 3)
	configure(nil)
	pass(1, 0, 0)
	require.Len(t, told, 4)
	require.Equal(t, runner.EventObjectiveKept, told[3].Kind)
	require.Contains(t, told[3].Detail, "has no such objective any more")
}

// TestMinutes: a minute is not counted twice, whatever the clock does.
func TestMinutes(t *testing.T) {
	var m minutes
	at := start
	sum := func(window time.Duration) float64 { n, _ := m.sum(at, window); return n }
	m.add(minute(at), true)
	m.add(minute(at)-burnKept, true)
	require.EqualValues(t, 1, sum(6*time.Hour), "what is too old does not replace what is new")
	m.add(minute(at)+1, true)
	require.EqualValues(t, 1, sum(6*time.Hour), "the future does not count yet")
	m.add(minute(at)+burnKept, true)
	require.Zero(t, sum(time.Hour))
	m.add(-7, true) // before 1970
	m = minutes{}
	m.add(minute(at)-59, true)
	m.add(minute(at)-60, true)
	require.EqualValues(t, 1, sum(time.Hour), "an hour is of sixty minutes")
}

// TestBurnLimits: an objective burns if more than its limit were late in both windows, and more than chance.
func TestBurnLimits(t *testing.T) {
	type span struct{ ago, attempts, late int }
	for name, c := range map[string]struct {
		target float64
		spans  []span
		window time.Duration // 0: it does not burn
	}{
		"chance":             {.5, []span{{0, 4, 4}}, 0},
		"more than chance":   {.5, []span{{0, 5, 5}}, time.Hour},
		"nine of ten":        {.5, []span{{0, 10, 9}}, 0},
		"ten of ten":         {.5, []span{{0, 10, 10}}, time.Hour},
		"nine in all":        {.5, []span{{40, 10, 8}, {0, 10, 10}}, 0},
		"not lately":         {.5, []span{{40, 100, 100}, {0, 10, 9}}, 0},
		"still":              {.5, []span{{40, 100, 100}, {4, 10, 10}}, time.Hour},
		"over since a while": {.5, []span{{40, 100, 100}, {5, 10, 10}, {4, 10, 0}}, 0},
		"six times":          {.95, []span{{0, 1000, 301}}, time.Hour},
		"two times":          {.95, []span{{0, 1000, 101}}, 6 * time.Hour},
		"not two times":      {.95, []span{{0, 1000, 99}}, 0},
		"of six hours":       {.95, []span{{359, 100, 100}, {0, 1000, 101}}, 6 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			watched := counted{Objective: Objective{Target: c.target}}
			late, all := 0, 0
			for _, s := range c.spans {
				for i := range s.attempts {
					watched.minutes.add(minute(start)-int64(s.ago), i < s.late)
				}
				late, all = late+s.late, all+s.attempts
			}
			burn := watched.burns(start)
			if c.window == 0 {
				require.Nil(t, burn)
				return
			}
			require.Equal(t, &Burn{Since: start, Late: float64(late) / float64(all), Allowed: 1 - c.target, Window: c.window}, burn)
		})
	}
}

// TestBurnHolds: what begins or ends counts after two minutes, by whatever the clock says then, and a burn
// is as old as when it was told.
func TestBurnHolds(t *testing.T) {
	late := func(c *counted, at time.Time) {
		for range burnLeast {
			c.minutes.add(minute(at), true)
		}
	}
	c := counted{Objective: Objective{Target: .5}}
	late(&c, start)
	require.False(t, c.check(start))
	require.False(t, c.check(start.Add(burnHold-1)))
	require.True(t, c.check(start.Add(burnHold)))
	since := c.Burn.Since
	require.Equal(t, start.Add(burnHold), since)
	late(&c, start.Add(3*time.Minute))
	require.False(t, c.check(start.Add(3*time.Minute)))
	require.Equal(t, since, c.Burn.Since)
	over := start.Add(time.Hour)
	require.False(t, c.check(over))
	require.NotNil(t, c.Burn)
	require.True(t, c.check(over.Add(burnHold)))
	require.Nil(t, c.Burn)

	c = counted{Objective: Objective{Target: .5}}
	back := start.Add(-time.Hour)
	late(&c, back)
	late(&c, start)
	require.False(t, c.check(start))
	require.False(t, c.check(back), "the clock has been set back")
	require.False(t, c.check(back.Add(burnHold-1)))
	require.True(t, c.check(back.Add(burnHold)))
}
