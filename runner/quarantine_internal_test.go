package runner

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Each mistake has its sentence, and what is at a limit is none.
func TestQuarantineMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q    Quarantine
		want string
	}{
		{Quarantine{Attempts: 0, Within: time.Hour}, "the number of attempts must be between 1 and 100"},
		{Quarantine{Attempts: 101, Within: time.Hour}, "the number of attempts must be between 1 and 100"},
		{Quarantine{Attempts: 1, Within: time.Minute}, ""},
		{Quarantine{Attempts: 100, Within: time.Minute}, ""},
		{Quarantine{Attempts: 3}, "the time within which attempts count is missing"},
		{Quarantine{Attempts: 3, Within: 72}, `the time must be at least 1m, it is 72ns; write it with a unit, such as "72h", because a bare number counts nanoseconds in JSON`},
		{Quarantine{Attempts: 3, Within: time.Millisecond - 1}, `the time must be at least 1m, it is 999.999µs; write it with a unit, such as "72h", because a bare number counts nanoseconds in JSON`},
		{Quarantine{Attempts: 3, Within: time.Millisecond}, "the time must be at least 1m, it is 1ms"},
		{Quarantine{Attempts: 3, Within: time.Minute - 1}, "the time must be at least 1m, it is 59.999999999s"},
		{Quarantine{Attempts: 3, Within: -time.Hour}, "the time must be at least 1m, it is -1h"},
	} {
		err := c.q.Validate()
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.EqualError(t, err, c.want)
	}
}

// Requests to one server that break within five seconds of each other broke in the same moment, and only
// those.
func TestSameMoment(t *testing.T) {
	t.Parallel()
	e, _ := served()
	now := time.Unix(1_800_000_000, 0)
	breaks := func(uuid, server string, at time.Duration) *task {
		k := &task{fate: fate{at: now.Add(at)}}
		e.accompany(channels.Key{DB: "prod", UUID: uuid}, k, server)
		return k
	}
	first, elsewhere := breaks("first", "odoo0", 0), breaks("elsewhere", "odoo1", 0)
	second := breaks("second", "odoo0", 5*time.Second)
	third := breaks("third", "odoo0", 10*time.Second+1)
	require.Equal(t, []channels.Key{{DB: "prod", UUID: "second"}}, first.fate.with)
	require.Equal(t, []channels.Key{{DB: "prod", UUID: "first"}}, second.fate.with)
	require.Empty(t, elsewhere.fate.with)
	require.Empty(t, third.fate.with)
	require.Len(t, e.setbacks.breaks, 1, "the rest is forgotten")
	again := third
	e.accompany(channels.Key{DB: "prod", UUID: "third"}, again, "odoo0")
	require.Empty(t, again.fate.with, "it is not its own companion")
}

// How much is remembered of what breaks is bounded.
func TestCompanionsAreBounded(t *testing.T) {
	t.Parallel()
	e, _ := served()
	now := time.Unix(1_800_000_000, 0)
	var first *task
	for i := range 3 * setbacksLimit {
		k := &task{fate: fate{at: now}}
		if i == 0 {
			first = k
		}
		e.accompany(channels.Key{DB: "prod", UUID: strconv.Itoa(i)}, k, "odoo0")
	}
	require.Len(t, e.setbacks.breaks, setbacksLimit)
	require.Len(t, first.fate.with, companions)
	var f fate
	f.join(channels.Key{UUID: "a"})
	f.join(channels.Key{UUID: "a"})
	require.Len(t, f.with, 1)
}

// well is a driver whose servers are well.
type well struct{ open }

func (well) Check(context.Context, driver.Upstream) error { return nil }

// pair is two servers.
type pair struct{}

func (pair) Upstreams(context.Context) ([]driver.Upstream, error) {
	return []driver.Upstream{{Name: "odoo0"}, {Name: "odoo1"}}, nil
}

// paired gives an engine in a bubble two servers that are up.
func paired(t *testing.T) *engine {
	t.Helper()
	e := quarantining()
	cfg := e.config()
	cfg.Targets, cfg.Driver = pair{}, well{}
	e.config = func() Config { return cfg }
	e.pool = upstream.New(cfg.upstream, poolReports{e}, func(_ string, f func()) { go f() })
	e.pool.Refresh(t.Context(), false)
	synctest.Wait()
	return e
}

// All servers are gone in the moment in which a request ends if that is less than five seconds ago, or in
// five seconds at most.
func TestVanishedInTheSameMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		died := func(ago time.Duration) *task {
			k := &task{fate: fate{at: time.Now().Add(-ago)}}
			e.holds("prod", ago.String(), k)
			return k
		}
		just, before := died(5*time.Second), died(5*time.Second+1)
		e.serverDown()
		require.False(t, just.fate.vanished, "they are up")
		e.pool.Suspect("odoo0", errors.New("refused"))
		e.serverDown()
		require.False(t, just.fate.vanished, "one is up")
		e.pool.Suspect("odoo1", errors.New("refused"))
		e.serverDown()
		require.True(t, just.fate.vanished)
		require.False(t, before.fate.vanished)

		timing.Sleep(t.Context(), 5*time.Second)
		key, ends := channels.Key{DB: "prod", UUID: "ends"}, &task{}
		e.parted(key, ends, "odoo0", driver.Answered)
		require.True(t, ends.fate.vanished)
		timing.Sleep(t.Context(), 1)
		e.parted(key, ends, "odoo0", driver.Answered)
		require.False(t, ends.fate.vanished)
	})
}

// A server that has refused connections for two seconds is being stopped in order.
func TestOrderly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		require.Empty(t, e.excuseOf("odoo0"))
		require.Equal(t, "the server was no target any more", e.excuseOf("odoo9"))
		e.pool.Suspect("odoo0", errors.New("refused"))
		timing.Sleep(t.Context(), 2*time.Second-1)
		require.Empty(t, e.excuseOf("odoo0"))
		timing.Sleep(t.Context(), 1)
		require.Equal(t, "the server was down already", e.excuseOf("odoo0"))
		require.Empty(t, e.excuseOf("odoo1"))
	})
}

// What was so when the request of a job broke still counts when the job is found dead later.
func TestDiedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := paired(t)
		key := channels.Key{DB: "prod", UUID: "a"}
		now := time.Now()
		k := &task{trail: trail{upstream: "odoo0"}}
		e.diedLater(key, k, now)
		require.Zero(t, k.fate.at, "its end was not seen")
		k.fate.at = now.Add(-time.Hour)
		e.diedLater(key, k, now)
		require.Equal(t, now, k.fate.at)
		require.Empty(t, k.fate.excuse)
		require.False(t, k.fate.vanished)
		other := &task{trail: trail{upstream: "odoo0"}, fate: fate{at: now}}
		e.diedLater(channels.Key{DB: "prod", UUID: "b"}, other, now)
		require.Equal(t, []channels.Key{key}, other.fate.with)

		e.setbacks.vanished = now
		e.diedLater(key, k, now.Add(5*time.Second+1))
		require.False(t, k.fate.vanished)
		e.diedLater(key, k, now.Add(5*time.Second))
		require.True(t, k.fate.vanished)
		e.diedLater(key, k, now.Add(time.Hour))
		require.True(t, k.fate.vanished, "it was so before")
		k.fate.excuse, k.trail.upstream = "the first", "odoo9"
		e.diedLater(key, k, now)
		require.Equal(t, "the first", k.fate.excuse)
		k.fate.excuse = ""
		e.diedLater(key, k, now)
		require.Equal(t, "the server was no target any more", k.fate.excuse)
	})
}

// quarantining is an engine with a quarantine, and without a loop.
func quarantining() *engine {
	e, _ := served()
	cfg := e.config()
	cfg.Quarantine = &Quarantine{Attempts: 3, Within: time.Hour}
	e.config = func() Config { return cfg }
	return e
}

// A suspect waits while another one is tried, for some seconds at a time, until that has run for ten
// minutes.
func TestApart(t *testing.T) {
	t.Parallel()
	a, b := channels.Key{DB: "prod", UUID: "a"}, channels.Key{DB: "prod", UUID: "b"}
	now := time.Now()
	for name, c := range map[string]struct {
		other  task
		shared [2]bool
		at     time.Duration
		want   bool
	}{
		"being claimed":      {other: task{phase: phaseClaiming}, shared: [2]bool{true, true}, want: true},
		"just begun":         {other: task{phase: phaseOpen, since: now}, shared: [2]bool{true, true}, want: true},
		"almost ten minutes": {other: task{phase: phaseOpen, since: now.Add(-10*time.Minute + 1)}, shared: [2]bool{true, true}, want: true},
		"ten minutes":        {other: task{phase: phaseOpen, since: now.Add(-10 * time.Minute)}, shared: [2]bool{true, true}},
		"parked":             {other: task{phase: phaseParked, since: now}, shared: [2]bool{true, true}},
		"no suspect":         {other: task{phase: phaseOpen, since: now}, shared: [2]bool{false, true}},
		"no other suspect":   {other: task{phase: phaseOpen, since: now}, shared: [2]bool{true, false}},
		"an hour ago":        {other: task{phase: phaseOpen, since: now}, shared: [2]bool{true, true}, at: time.Hour},
		"almost an hour ago": {other: task{phase: phaseOpen, since: now}, shared: [2]bool{true, true}, at: time.Hour - 1, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := quarantining()
			for i, key := range []channels.Key{a, b} {
				e.setbacks.add(key, Setback{At: now.Add(-c.at), Shared: c.shared[i]}, 2*time.Hour)
			}
			e.tree.Set(channels.Job{Key: a}, channels.Pending)
			other := c.other
			e.holds("prod", "b", &other)
			e.holds("prod", "c", &task{phase: phaseClaiming})
			require.Equal(t, c.want, e.apart(a, now))
			job, _, _ := e.tree.Lookup(a)
			require.Equal(t, c.want, job.ETA > 0)
		})
	}

	e, _ := served()
	for _, e := range []*engine{e, quarantining()} {
		require.False(t, e.apart(a, now), "nothing has died")
		for _, key := range []channels.Key{a, b} {
			e.setbacks.add(key, Setback{At: now, Shared: true}, time.Hour)
		}
		e.holds("prod", "b", &task{phase: phaseClaiming})
		require.Equal(t, e.config().Quarantine != nil, e.apart(a, now))
	}
	e = quarantining()
	for _, key := range []channels.Key{a, b} {
		e.setbacks.add(key, Setback{At: now, Shared: true}, time.Hour)
	}
	e.holds("prod", "b", &task{phase: phaseClaiming})
	for _, pause := range []time.Duration{5, 10, 15, 15} { // each with a jitter of a fifth
		before := time.Now()
		require.True(t, e.apart(a, now))
		waits := time.UnixMicro(e.delays[a].until).Sub(before)
		require.InDelta(t, float64(pause), waits.Seconds(), float64(pause)/5+0.5)
	}
}

// Answers without a run count if they are ten minutes apart, or if other jobs have been run in between.
func TestTooSoon(t *testing.T) {
	t.Parallel()
	e := quarantining()
	db, a, now := e.databases.get("prod"), channels.Key{DB: "prod", UUID: "a"}, time.Now()
	require.False(t, e.tooSoon(db, a, now), "it is the first one")
	e.setbacks.add(a, Setback{At: now, NotRun: true}, time.Hour)
	require.True(t, e.tooSoon(db, a, now.Add(10*time.Minute-1)))
	require.False(t, e.tooSoon(db, a, now.Add(10*time.Minute)))
	db.hold.ranAt = now
	require.True(t, e.tooSoon(db, a, now.Add(time.Minute)))
	db.hold.ranAt = now.Add(1)
	require.False(t, e.tooSoon(db, a, now.Add(time.Minute)))
}

// The text lists the last attempts, and says how many there were before.
func TestSentence(t *testing.T) {
	t.Parallel()
	q := Quarantine{Attempts: 3, Within: 72 * time.Hour}
	at := time.Unix(1_800_000_000, 0)
	one := Setback{At: at, Upstream: "odoo0", Ran: 1500*time.Millisecond + 400*time.Microsecond, Cause: "it died"}
	require.Equal(t, `1 attempt of this job came to nothing within 72h, so it is not run again until it is requeued.
2027-01-15 08:00:00 UTC on odoo0, after 1.5s: it died.`, q.sentence([]Setback{one}))
	shared := one
	shared.Shared = true
	require.Contains(t, q.sentence([]Setback{shared}), "it died. Other jobs on that server ended in the same moment.")
	list := slices.Repeat([]Setback{one}, sentenceLimit)
	require.NotContains(t, q.sentence(list), "earlier")
	require.Equal(t, 20, strings.Count(q.sentence(list), "\n"))
	list = append(list, one, one)
	require.Contains(t, q.sentence(list), "22 attempts of this job")
	require.Contains(t, q.sentence(list), "\n(2 earlier ones)\n")
	require.Equal(t, 21, strings.Count(q.sentence(list), "\n"))
}

// Only a request that broke, or that a proxy answered in the server's place, tells of a death with others.
func TestWhatBreaksTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for outcome, together := range map[driver.Outcome]bool{
			driver.Broken: true, driver.Unavailable: true, driver.Answered: false, driver.NotSent: false, driver.Refused: false,
		} {
			e := paired(t)
			var k task
			e.parted(channels.Key{DB: "prod", UUID: "a"}, &k, "odoo0", outcome)
			require.Equal(t, time.Now(), k.fate.at)
			require.Equal(t, together, len(e.setbacks.breaks) == 1, outcome.String())
		}
		e, _ := served()
		var k task
		e.parted(channels.Key{DB: "prod", UUID: "a"}, &k, "odoo0", driver.Broken)
		require.Zero(t, k.fate, "without a quarantine")
	})
}

// A database that is gone, or not connected, is not asked whether it is being upgraded.
func TestUpgradeOfNobody(t *testing.T) {
	t.Parallel()
	e := quarantining()
	cfg := e.config()
	cfg.UpgradeGate = true
	e.config = func() Config { return cfg }
	require.NotPanics(t, func() {
		e.checkUpgrade(nil)
		e.checkUpgrade(e.databases.get("lost"))
		e.checkUpgrade(e.databases.get("prod"))
	})
}

// What an attempt counts for depends on what is known of its end.
func TestSetbackOf(t *testing.T) {
	t.Parallel()
	key, began := channels.Key{DB: "prod", UUID: "a"}, time.Unix(1_800_000_000, 0)
	ended := began.Add(time.Minute)
	for name, c := range map[string]struct {
		change func(e *engine, db *database, k *task)
		counts bool
	}{
		"a death":             {func(*engine, *database, *task) {}, true},
		"no quarantine":       {func(e *engine, _ *database, _ *task) { e.config = func() Config { return Config{} } }, false},
		"not seen":            {func(_ *engine, _ *database, k *task) { k.fate.at = time.Time{} }, false},
		"excused":             {func(_ *engine, _ *database, k *task) { k.fate.excuse = "drained" }, false},
		"no result":           {func(_ *engine, _ *database, k *task) { k.result = nil }, false},
		"no row":              {func(_ *engine, _ *database, k *task) { k.row = nil }, false},
		"within its limit":    {func(_ *engine, _ *database, k *task) { k.limit = &limit{} }, true},
		"ended by its limit":  {func(_ *engine, _ *database, k *task) { k.limit = &limit{ended: &policy.Policy{}} }, false},
		"no database":         {func(e *engine, _ *database, _ *task) { delete(e.databases.byName, "prod") }, false},
		"not served":          {func(_ *engine, db *database, _ *task) { db.stage = stageUnreachable }, false},
		"served since":        {func(_ *engine, db *database, _ *task) { db.entered = began.Add(1) }, false},
		"served then":         {func(_ *engine, db *database, _ *task) { db.entered = began }, true},
		"an upgrade since":    {func(_ *engine, db *database, _ *task) { db.upgradeSince = began.Add(1) }, false},
		"an upgrade before":   {func(_ *engine, db *database, _ *task) { db.upgradeSince = began }, true},
		"answered, not run":   {func(_ *engine, _ *database, k *task) { notRun(k) }, true},
		"answered by a proxy": {func(_ *engine, _ *database, k *task) { notRun(k); k.result.Outcome = driver.Refused }, false},
		"others are not run":  {func(_ *engine, db *database, k *task) { notRun(k); db.hold.struck = []string{"b"} }, false},
		"it alone is not run": {func(_ *engine, db *database, k *task) { notRun(k); db.hold.struck = []string{"a"} }, true},
		"not run again too soon": {func(e *engine, _ *database, k *task) {
			notRun(k)
			e.setbacks.add(key, Setback{At: ended, NotRun: true}, time.Hour)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := quarantining()
			db := e.databases.get("prod")
			db.entered = began.Add(-time.Hour)
			k := &task{
				fate: fate{at: ended}, trail: trail{sent: began, upstream: "odoo0"}, result: &driver.Result{Outcome: driver.Broken},
				row: jobRow(key, channels.Started, 1),
			}
			k.row.Retry = 3
			c.change(e, db, k)
			s, ok := e.setbackOf(key, k)
			require.Equal(t, c.counts, ok)
			if !ok {
				require.Zero(t, s)
				return
			}
			require.Equal(t, time.Minute, s.Ran)
			require.Equal(t, "odoo0", s.Upstream)
			if k.row.State == channels.Enqueued {
				require.True(t, s.NotRun)
				require.EqualValues(t, 3, s.Retry)
				require.Equal(t, "its request was answered with status 500 without having run the job", s.Cause)
				return
			}
			require.False(t, s.NotRun)
			require.EqualValues(t, 4, s.Retry)
			require.Equal(t, "its request broke, and nothing ran the job any more: its worker died", s.Cause)
			require.False(t, s.Shared || s.Excused)
			k.result = &driver.Result{Outcome: driver.Unavailable, Status: 502}
			k.fate.with = []channels.Key{{UUID: "b"}}
			s, _ = e.setbackOf(key, k)
			require.Equal(t, "its request was answered with status 502, and nothing ran the job any more", s.Cause)
			require.True(t, s.Shared)
			require.False(t, s.Excused)
			k.fate.with, k.fate.vanished = nil, true
			s, _ = e.setbackOf(key, k)
			require.True(t, s.Shared && s.Excused)
			k.fate.at = began.Add(-1)
			s, _ = e.setbackOf(key, k)
			require.Zero(t, s.Ran)
		})
	}
}

// notRun makes the end of an attempt one that came to nothing.
func notRun(k *task) {
	k.result = &driver.Result{Outcome: driver.Answered, Status: 500}
	k.row.State = channels.Enqueued
}

// A job is condemned with the attempt that is one too many, unless one of those that died with it has had
// as many.
func TestCondemn(t *testing.T) {
	t.Parallel()
	a, b := channels.Key{DB: "prod", UUID: "a"}, channels.Key{DB: "prod", UUID: "b"}
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct {
		before, others int
		change         func(e *engine, k *task)
		want           int
	}{
		"too few":              {before: 1},
		"enough":               {before: 2, want: 3},
		"more":                 {before: 4, want: 5},
		"as many as another":   {before: 2, others: 2},
		"more than another":    {before: 2, others: 1, want: 3},
		"less than another":    {before: 2, others: 3},
		"excused":              {before: 2, change: func(_ *engine, k *task) { k.fate.vanished = true }},
		"not run, and a death": {before: 2, change: func(_ *engine, k *task) { notRun(k) }},
		"not run once more": {before: 1, want: 3, change: func(e *engine, k *task) {
			notRun(k)
			e.setbacks.add(a, Setback{At: now.Add(-20 * time.Minute), NotRun: true}, time.Hour)
		}},
		"nothing is known": {before: 2, change: func(_ *engine, k *task) { k.row = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := quarantining()
			e.databases.get("prod").entered = now.Add(-time.Hour)
			k := &task{
				fate: fate{at: now}, trail: trail{sent: now.Add(-time.Second)}, result: &driver.Result{Outcome: driver.Broken},
				row: jobRow(a, channels.Started, 1), condemned: 7,
			}
			for i := range c.before {
				e.setbacks.add(a, Setback{At: now.Add(-time.Duration(i+30) * time.Minute)}, time.Hour)
			}
			for i := range c.others {
				e.setbacks.add(b, Setback{At: now.Add(-time.Duration(i+30) * time.Minute)}, time.Hour)
			}
			if c.others > 0 { // its death in the same moment is not one more
				e.setbacks.add(b, Setback{At: now.Add(-time.Second)}, time.Hour)
				k.fate.with = []channels.Key{b}
			}
			if c.change != nil {
				c.change(e, k)
			}
			why := e.condemn(a, k)
			require.Equal(t, c.want > 0, why != "", why)
			require.Equal(t, c.want, k.condemned)
			if c.want > 0 {
				require.Contains(t, why, attempts(c.want)+" of this job")
			}
		})
	}
}

// Answers that concern several jobs in a row are forgiven to all of them; those of one are counted.
func TestRebuff(t *testing.T) {
	t.Parallel()
	key, now := channels.Key{DB: "prod", UUID: "a"}, time.Now()
	s := Setback{At: now, NotRun: true}
	e, db := served()
	e.rebuff(db, key, s, true)
	require.Empty(t, e.setbacks.of, "without a quarantine")
	e = quarantining()
	db = e.databases.get("prod")
	e.rebuff(db, key, s, false)
	require.Empty(t, e.setbacks.of)
	db.hold.struck, db.hold.since = []string{"a"}, now.Add(-time.Minute)
	e.rebuff(db, key, s, true)
	require.Len(t, e.setbacks.of[key], 1)
	db.hold.struck = []string{"a", "b"}
	e.rebuff(db, key, s, true)
	require.Empty(t, e.setbacks.of)
	e.setBack(key, &task{})
	require.Empty(t, e.setbacks.of, "nothing is known of it")
}

// A job that was failed is told of with its number, also if the option was switched off meanwhile.
func TestQuarantinedIsTold(t *testing.T) {
	t.Parallel()
	for within, want := range map[time.Duration]string{time.Hour: "3 attempts came to nothing within 1h", 0: "3 attempts came to nothing"} {
		e := quarantining()
		logs := e.logs()
		cfg := e.config()
		if cfg.Quarantine.Within = within; within == 0 {
			cfg.Quarantine = nil
		}
		e.config = func() Config { return cfg }
		k := &task{condemned: 3}
		e.quarantined(jobRow(channels.Key{DB: "prod", UUID: "a"}, channels.Failed, 1), k)
		require.Equal(t, want, k.trail.quarantined)
		require.Equal(t, 1, logs.FilterMessage("job quarantined: a").Len())
	}
}
