package history

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// TestSums: a wait and a run count where they are known, a run only of what has ended by itself.
func TestSums(t *testing.T) {
	for _, c := range []struct {
		n          note
		waits, run uint64
	}{
		{note{outcome: Done, wait: time.Second, run: time.Minute}, 1, 1},
		{note{outcome: Retried, wait: time.Second, run: time.Minute}, 1, 1},
		{note{outcome: Rescued, wait: time.Second, run: time.Minute}, 1, 0},
		{note{outcome: Done, wait: time.Second}, 1, 0},
		{note{outcome: Done, run: time.Minute}, 0, 1},
		{note{outcome: NotRun}, 0, 0},
		{note{outcome: Failed, wait: -1, run: -1}, 0, 0},
	} {
		var s Sums
		s.add(&c.n)
		require.EqualValues(t, 1, s.Attempts())
		require.EqualValues(t, 1, s.Outcomes[c.n.outcome])
		require.Equal(t, c.waits, s.Wait.Count(), "%+v", c.n)
		require.Equal(t, time.Duration(c.waits)*time.Second, s.WaitTotal)
		require.Equal(t, c.run, s.Run.Count(), "%+v", c.n)
		require.Equal(t, time.Duration(c.run)*time.Minute, s.RunTotal)
		require.Equal(t, s.RunTotal, s.RunMost)
	}
}

// TestSumsDoNotOverflow: what is read from a file can be anything.
func TestSumsDoNotOverflow(t *testing.T) {
	const most = time.Duration(math.MaxInt64)
	require.Equal(t, most, longer(most, 1))
	require.Equal(t, most, longer(1, most))
	require.Equal(t, most, longer(most-1, 1))
	require.Equal(t, most-1, longer(most-1, 0))
	require.Equal(t, uint64(math.MaxUint64), plus(math.MaxUint64, 1))
	require.Equal(t, uint64(math.MaxUint64), plus(math.MaxUint64-1, 1))
	require.EqualValues(t, 3, plus(1, 2))
}

// TestBuckets: a time is in the bucket that it does not exceed, and longer ones are above it.
func TestBuckets(t *testing.T) {
	for d, want := range map[time.Duration]int{
		-time.Hour: 0, 0: 0, latencyLeast: 0, latencyLeast + 1: 1, 2 * latencyLeast: 3, 2*latencyLeast + 1: 4, 1 << 62: latencyBuckets - 1,
	} {
		require.Equal(t, want, bucket(d), d)
	}
	var l Latencies
	for i := range 4 {
		l[i] = 1 << i
	}
	for d, want := range map[time.Duration]uint64{0: 14, latencyLeast: 14, latencyLeast + 1: 12, 2 * latencyLeast: 0, time.Hour: 0, 1 << 62: 0} {
		require.Equal(t, want, l.Above(d), d)
	}
}

// TestFunctionNames: a function is called by what is known of it.
func TestFunctionNames(t *testing.T) {
	for want, s := range map[string]Series{
		"res.partner.merge": {Model: "res.partner", Method: "merge"}, "merge": {Method: "merge"}, "res.partner": {Model: "res.partner"}, "": {},
	} {
		require.Equal(t, want, s.Function())
	}
}

// TestPermittedNames: a name is kept if it is text, and as long as one may be.
func TestPermittedNames(t *testing.T) {
	long := strings.Repeat("x", nameLimit)
	require.True(t, permitted())
	require.True(t, permitted("", "a", long))
	require.False(t, permitted("a", long+"x"))
	require.False(t, permitted("\xff", "a"))
}

// TestMergedTables: what was folded before, and what is folded now, is counted once each.
func TestMergedTables(t *testing.T) {
	full := newTable()
	for i := range seriesQuota + 3 {
		full.add(&note{series: Series{"prod", "root", "m", fmt.Sprint(i)}})
	}
	require.EqualValues(t, 3, full.attempts)
	sum := newTable()
	sum.merge(full)
	require.Equal(t, full.series, sum.series)
	require.EqualValues(t, 3, sum.attempts)
	other := newTable()
	for i := range 5 {
		other.add(&note{series: Series{"prod", "root", "m", fmt.Sprint("other", i)}})
	}
	sum.merge(other)
	require.EqualValues(t, 8, sum.attempts)
	require.EqualValues(t, 8, sum.series[restOf("prod")].Attempts())
	require.Len(t, sum.series, seriesQuota+1)
}

// TestRanking: when there are too many names, the half of them that comes first is kept, and the rest is
// not lost.
func TestRanking(t *testing.T) {
	r := ranking[Sums]{
		of: make(map[string]*Sums), limit: 6, compare: compareSums, merge: (*Sums).Merge, make: func(string) *Sums { return new(Sums) },
	}
	add := func(name string, run time.Duration) { r.at(name).add(&note{run: run}) }
	for i := range r.limit {
		add(fmt.Sprint(i), time.Duration(i+1))
	}
	add("0", 9)
	r.fold(6)
	require.Len(t, r.of, 6, "as many as there may be, and no rest")
	add("new", 5)
	require.Len(t, r.of, 3+2)
	for name, total := range map[string]time.Duration{"0": 10, "5": 6, "4": 5, Other: 2 + 3 + 4, "new": 5} {
		require.Contains(t, r.of, name)
		require.Equal(t, total, r.of[name].RunTotal, name)
	}
	r.fold(4)
	require.Len(t, r.of, 5, "they are as few, without the rest")
	r.fold(1)
	require.Len(t, r.of, 2)
	require.Equal(t, time.Duration(9+5+5+6), r.of[Other].RunTotal)
}

// TestObjectivesThatCount: an objective of all jobs has nothing that could be missed a little; one that stays
// is known by its policy and its time; and which one holds is not remembered for more places than a bound.
func TestObjectivesThatCount(t *testing.T) {
	b := newBook(t, t.TempDir())
	of := func(channel string, wait time.Duration, percent int) policy.Policy {
		return policy.Policy{Channels: []string{channel}, Objective: &policy.Objective{Wait: wait, Percent: percent}}
	}
	configure := func(list ...policy.Policy) {
		b.Configure(Options{Dir: b.options.Dir, Logger: zap.NewNop(), Policies: list})
	}
	put := func(channel string) {
		b.notes.put(note{at: b.at.UnixNano(), series: Series{Channel: channel, Database: "prod"}, wait: time.Second, run: 1})
		b.count()
	}
	attempts := func() (list []uint64) {
		for _, o := range b.Objectives() {
			list = append(list, o.Attempts)
		}
		return list
	}
	configure(of("root.all", time.Second, 100), of("root.a", time.Second, 99), of("root.b", time.Second, 1))
	for _, channel := range []string{"root.all", "root.a", "root.b", "root.b"} {
		put(channel)
	}
	require.Equal(t, []uint64{1, 2}, attempts())
	configure(of("root.b", time.Second, 50), of("root.a", time.Second, 50), of("root.c", time.Second, 50))
	require.Equal(t, []uint64{2, 1, 0}, attempts(), "in another order, and with another target")
	require.InDelta(t, .5, b.Objectives()[0].Target, 1e-9)

	o := &b.objectives
	clear(o.known)
	for i := range objectiveCache {
		o.known[[2]string{fmt.Sprint(i)}] = nil
	}
	put("root.a")
	require.Len(t, o.known, 1, "they are forgotten together")
}
