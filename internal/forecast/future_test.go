package forecast

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

var here = Place{"prod", "root.a"}

// chance draws what follows from a seed.
func chance() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// TestRate: a minute with more jobs than are likely counts as a usual one, and one of which nothing is told
// has none.
func TestRate(t *testing.T) {
	require.InDelta(t, 3, likely(0), 1e-9)
	require.InDelta(t, 21, likely(9), 1e-9)
	require.InDelta(t, 133, likely(100), 1e-9)
	for name, c := range map[string]struct {
		counts  []int
		minutes int
		want    float64
	}{
		"none":                         {nil, 5, 0},
		"no minutes":                   {[]int{5}, 0, 0},
		"the same":                     {[]int{9, 9, 9, 9}, 4, 9},
		"some":                         {[]int{8, 9, 10}, 3, 9},
		"just likely":                  {[]int{9, 9, 9, 21}, 4, 12},
		"a burst":                      {[]int{9, 9, 9, 22}, 4, 9},
		"fewer are told":               {[]int{3, 3, 3}, 6, 1.5},
		"more are told":                {[]int{3, 3, 3, 3}, 2, 3},
		"mostly none":                  {[]int{0, 0, 0, 4}, 4, 0},
		"less than none":               {[]int{-5, 2, 4}, 3, 2},
		"of two, the greater is usual": {[]int{1, 9}, 2, 5},
	} {
		require.InDelta(t, c.want, rate(c.counts, c.minutes), 1e-9, name)
	}
	require.InDelta(t, .05, rates(map[Place][]int{here: {3, 3}}, 2)[here], 1e-9, "in a second")
}

// TestDueLately: of etas, the last minutes count, and those that are known for the next one.
func TestDueLately(t *testing.T) {
	p := &Present{
		Minutes: 7, Due: map[Place][]int{here: {1, 2, 3, 4, 5, 6, 7}, {"prod", "root.b"}: {8}},
		Coming: map[Place]map[int]int{here: {0: 9, 1: 99}, {"prod", "root.c"}: {1: 5}},
	}
	require.Equal(t, map[Place][]int{here: {3, 4, 5, 6, 7, 9}, {"prod", "root.b"}: {8}, {"prod", "root.c"}: {0}}, dueLately(p))
	require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7}, p.Due[here])
	p.Minutes = dueMinutes
	require.NotEmpty(t, dueLately(p))
	p.Minutes--
	require.Empty(t, dueLately(p), "nothing is assumed before a few minutes are known")
}

// TestHorizon: it is as far away as so many jobs allow, those that wait included.
func TestHorizon(t *testing.T) {
	const rest = outlookJobs/outlooks - 5400 // a 16th of a job in a second is 5400 in a day
	for name, c := range map[string]struct {
		waiting, coming int
		rate, due       float64
		want            time.Duration
	}{
		"none":             {0, 0, 0, 0, Horizon},
		"as many as may":   {rest, 0, 1. / 16, 0, Horizon},
		"with those due":   {rest - 100, 100, 1. / 32, 1. / 32, Horizon},
		"twice as many":    {rest - 100, 100, 1. / 16, 1. / 16, Horizon / 2},
		"one more":         {rest + 1, 0, 1. / 16, 0, Horizon - 16*time.Second},
		"very many wait":   {outlookJobs, 0, 1. / 16, 0, horizonLeast},
		"and none come":    {outlookJobs, 0, 0, 0, Horizon},
		"very many come":   {0, 0, 1000, 0, horizonLeast},
		"they come at eta": {0, outlookJobs, 0, 1, horizonLeast},
	} {
		f := &future{
			Present: Present{Waiting: map[Place]int{here: c.waiting}, Coming: map[Place]map[int]int{here: {0: c.coming / 2, 7: c.coming - c.coming/2}}},
			places:  []Place{here}, rates: map[Place]float64{here: c.rate}, dues: map[Place]float64{here: c.due},
		}
		require.Equal(t, c.want, f.horizon(), name)
	}
}

// TestKnownRuns: runs are those of the place, or of the channel elsewhere, or of all jobs.
func TestKnownRuns(t *testing.T) {
	f := newFuture(Present{Recent: []Job{
		{Database: "prod", Channel: "root.a", Run: 1}, {Database: "test", Channel: "root.b", Run: 2}, {Database: "test", Channel: "root.b", Run: 3},
	}})
	require.Equal(t, []time.Duration{1}, f.knownRuns(here))
	require.Equal(t, []time.Duration{2, 3}, f.knownRuns(Place{"prod", "root.b"}))
	require.Equal(t, []time.Duration{1, 2, 3}, f.knownRuns(Place{"prod", "root.c"}))
	require.True(t, f.known)
	require.False(t, newFuture(Present{}).known)
}

// TestDrawnRuns: of few runs, each future has a sample of its own, of many all are taken.
func TestDrawnRuns(t *testing.T) {
	for n, own := range map[int]bool{1: true, resampled: true, resampled + 1: false} {
		f := &try{&future{runs: map[Place][]time.Duration{here: make([]time.Duration, n)}}, chance(), make(map[Place][]time.Duration)}
		for i := range n {
			f.runs[here][i] = time.Duration(i + 1)
		}
		for range 3 {
			require.Positive(t, f.run(here))
		}
		require.Len(t, f.drawn[here], n)
		require.Equal(t, own, &f.drawn[here][0] != &f.runs[here][0], n)
	}
}

// TestDrawnRate: a rate is as sure as the jobs are many of which it was counted.
func TestDrawnRate(t *testing.T) {
	f := &try{&future{Present: Present{Minutes: 10}}, chance(), nil}
	require.Zero(t, f.rate(0))
	require.InDelta(t, .25*(1+chance().NormFloat64()/math.Sqrt(.25*600)), f.rate(.25), 1e-12)
	for range 1000 {
		require.GreaterOrEqual(t, f.rate(1./600), 0.)
	}
	f.Minutes = 0
	require.InDelta(t, .25, f.rate(.25), 1e-12, "it is given")
}

// TestDrawnOfThoseThatRun: a job that runs will run for longer than it has; one that was sent now runs, too.
func TestDrawnOfThoseThatRun(t *testing.T) {
	long, short := 100*time.Second, time.Second
	rng := chance()
	draw := func(sent time.Time, runs ...time.Duration) Job {
		f := newFuture(Present{Now: noon, Running: []Job{{Database: "prod", Channel: "root.a", Sent: sent}}})
		f.any = runs
		list := f.jobs(rng, time.Hour)
		require.Len(t, list, 1)
		return list[0]
	}
	require.Equal(t, 51*time.Second, draw(after(-50), short).Run, "longer than is known of any")
	require.Equal(t, long, draw(after(-50), long).Run)
	require.Equal(t, 2*long, draw(after(-100), long).Run, "it has not ended")
	got := make(map[time.Duration]int)
	for range 1000 {
		got[draw(after(-50), short, long).Run]++
	}
	require.Len(t, got, 2)
	require.InDelta(t, 750, got[long], 50, "unless its future knows of short ones only, as one of four does")
	for _, sent := range []time.Time{noon, after(5)} {
		j := draw(sent, short)
		require.Equal(t, noon.Add(-1), j.Sent)
		require.Equal(t, short, j.Run)
	}
	require.Equal(t, after(-.5), draw(after(-.5), short).Sent)
}

// perMinute counts what comes in each minute.
func perMinute(t *testing.T, draw func(come func(in time.Duration))) map[int]int {
	t.Helper()
	got := make(map[int]int)
	draw(func(in time.Duration) {
		require.GreaterOrEqual(t, in, time.Duration(0))
		got[int(in/time.Minute)]++
	})
	return got
}

// TestLater: those with an eta come in the minute of which it is known, as far as can be looked.
func TestLater(t *testing.T) {
	f := &try{&future{Present: Present{Coming: map[Place]map[int]int{here: {0: 3, 5: 4, 10: 5, 11: 6}}}}, chance(), nil}
	require.Equal(t, map[int]int{0: 3, 5: 4, 10: 5}, perMinute(t, func(come func(time.Duration)) { f.later(here, 10*time.Minute, come) }))
}

// TestArrive: jobs come at random, at a rate, until the horizon.
func TestArrive(t *testing.T) {
	f := &try{&future{}, chance(), nil}
	require.Empty(t, perMinute(t, func(come func(time.Duration)) { f.arrive(0, time.Hour, come) }))
	require.Equal(t, chance().Uint64(), f.rng.Uint64(), "nothing is drawn for those that do not come")
	got := perMinute(t, func(come func(time.Duration)) { f.arrive(10, 10*time.Minute, come) })
	require.Len(t, got, 10)
	for _, n := range got {
		require.InDelta(t, 600, n, 100)
	}
}

// TestUnknown: with an eta, together as many come as lately: those of which nothing is known yet make up for
// what is missing. A burst that is known is none of these.
func TestUnknown(t *testing.T) {
	all := func(n int) map[int]int {
		of := make(map[int]int)
		for m := range n {
			of[m] = 600
		}
		return of
	}
	for name, c := range map[string]struct {
		coming map[int]int
		want   []int // in the first minutes
	}{
		"nothing is known":  {nil, []int{600, 600, 600, 600}},
		"all is known":      {all(20), []int{0, 0, 0, 0}},
		"the next two are":  {all(2), []int{0, 0, 600, 600}},
		"half of the first": {map[int]int{0: 300}, []int{300, 600, 600, 600}},
		"half of some":      {map[int]int{0: 300, 1: 300, 2: 300}, []int{300, 300, 300, 600}},
		"a third too many":  {map[int]int{0: 650, 1: 650, 2: 500}, []int{0, 0, 0, 600}},
		"a burst":           {map[int]int{0: 60_000}, []int{0, 600 - 77, 600, 600}},
	} {
		f := &try{&future{Present: Present{Coming: map[Place]map[int]int{here: c.coming}}, dues: map[Place]float64{here: 10}}, chance(), nil}
		got := perMinute(t, func(come func(time.Duration)) { f.unknown(here, 20*time.Minute, come) })
		for m, want := range c.want {
			require.InDelta(t, want, got[m], .15*float64(want), "%s, minute %d", name, m)
		}
	}
}

// TestPerHour: what comes in a channel, and below it, whether it has an eta or not.
func TestPerHour(t *testing.T) {
	below := Place{"test", "root.a.b"}
	f := &future{
		places: []Place{here, below, {"prod", "root"}},
		rates:  map[Place]float64{here: 1, below: 2, {"prod", "root"}: 4}, dues: map[Place]float64{here: 8},
	}
	for channel, want := range map[string]float64{"root": 15, "root.a": 11, "root.a.b": 2, "root.c": 0} {
		require.InDelta(t, want*3600, f.perHour(channels.ID{Channel: channel}), 1e-6, channel)
	}
	f.Own = true
	require.InDelta(t, 13*3600, f.perHour(channels.ID{DB: "prod", Channel: "root"}), 1e-6)
	require.Zero(t, f.perHour(channels.ID{Channel: "root"}))
}

// TestOutlookOfTries: a channel drains where it did in more than four of five tries; otherwise it is never
// empty, unless it has got clearly emptier.
func TestOutlookOfTries(t *testing.T) {
	at := channels.ID{Channel: "root.a"}
	f := &future{waiting: map[channels.ID]int{at: 100}, scheduled: map[channels.ID]int{at: 7}}
	in := func(n int) (list []time.Duration) {
		for i := range n {
			list = append(list, time.Duration(n-i)*time.Minute)
		}
		return list
	}
	look := func(t *tries) Outlook { return f.outlook(at, t, time.Hour) }
	require.Equal(t, Outlook{Channel: "root.a", Waiting: 100, Scheduled: 7, Verdict: Unknown}, look(nil))
	require.Equal(t, Outlook{
		Channel: "root.a", Waiting: 100, Scheduled: 7, Verdict: Drains, In: 8 * time.Minute, Least: 2 * time.Minute, Most: 14 * time.Minute,
	}, look(&tries{in: in(15)}))
	require.Equal(t, Drains, look(&tries{in: in(13), left: []int{1, 1}}).Verdict)
	require.Equal(t, Later, look(&tries{in: in(12), left: []int{1, 1, 1}}).Verdict)
	require.Equal(t, time.Hour, look(&tries{left: []int{1, 300, 89}}).Least)
	for middle, verdict := range map[int]Verdict{89: Later, 90: Never, 200: Never} {
		require.Equal(t, verdict, look(&tries{left: []int{0, 1000, middle, 1, 999}}).Verdict, middle)
	}
	f.waiting[at] = 0
	require.Equal(t, Empty, look(nil).Verdict)
}
