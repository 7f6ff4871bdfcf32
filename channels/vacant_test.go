package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Where there is a vacancy, a job of root that asks for nothing else is what starts next, and alone.
func TestVacant(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := NewForest()
		now := time.Unix(1_700_000_000, 0)
		trees := rapid.SampledFrom([]string{"root:2", "root:2,a:1", "root:1:sequential", "root:3:throttle=2", "root:0", "root:2,a:2,b:1"})
		set := func() {
			cfgs, _, err := ParseConfigs(trees.Draw(t, "tree"))
			require.NoError(t, err)
			if rapid.IntRange(0, 5).Draw(t, "a minimum") == 0 && cfgs[0].Capacity > 0 {
				cfgs = append(cfgs, Config{Name: "m", Min: 1})
			}
			require.NoError(t, f.Configure(cfgs))
		}
		set()
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"configure": func(*rapid.T) { set() },
			"job": func(t *rapid.T) {
				state := rapid.SampledFrom([]State{Pending, Pending, Enqueued, Started, Failed, Done}).Draw(t, "state")
				j := Job{
					Key:     Key{DB: "db", UUID: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "job"))},
					Channel: rapid.SampledFrom([]string{"", "root.a", "root.b", "root.m"}).Draw(t, "channel"),
				}
				if rapid.Bool().Draw(t, "later") {
					j.ETA = now.Add(time.Second).UnixMicro()
				}
				f.Set(j, state)
			},
			"pass":    func(*rapid.T) { f.Next(now, 0) },
			"later":   func(t *rapid.T) { now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "s")) * time.Second) },
			"suspend": func(*rapid.T) { f.Suspend("db") },
			"resume":  func(*rapid.T) { f.Resume("db") },
			"pause":   func(t *rapid.T) { f.Pause("root", rapid.Bool().Draw(t, "pause")) },
			"": func(t *rapid.T) {
				if !f.Vacant("db") {
					return
				}
				n++
				due := f.Wakeup()
				probe := Job{Key: Key{DB: "db", UUID: fmt.Sprint("probe", n)}, Priority: 1000}
				f.Set(probe, Pending)
				started := f.Next(now, 0)
				if due.IsZero() || due.After(now) {
					require.Equal(t, []Key{probe.Key}, started)
				}
				f.Set(probe, Done)
			},
		})
	})
}

// It is false where more than the tree of all databases, and its capacities, decides.
func TestNotVacant(t *testing.T) {
	t.Parallel()
	f := NewForest()
	require.True(t, f.Vacant("db"))
	f.SetShares(fairByDatabase)
	require.False(t, f.Vacant("db"), "shares")
	f = NewForest()
	f.ConfigureDatabases(Capacities{Max: 5})
	require.False(t, f.Vacant("db"), "a tree for each database")
	f = NewForest()
	f.Govern(func(_, _ string) Rules {
		return Rules{Rate: &Rate{Starts: 1, Period: time.Hour, Burst: 1}}
	})
	require.False(t, f.Vacant("db"), "rules")
	for name, c := range map[string]struct {
		cfgs []Config
		want bool
	}{
		"a throttle":  {[]Config{{Name: "root", Capacity: 2, Throttle: time.Second}}, false},
		"a minimum":   {[]Config{{Name: "root", Capacity: 2}, {Name: "root.a", Min: 1}}, false},
		"none of it":  {[]Config{{Name: "root", Capacity: 2}, {Name: "root.a", Capacity: 1}}, true},
		"without end": {[]Config{{Name: "root"}}, true},
	} {
		f = NewForest()
		require.NoError(t, f.Configure(c.cfgs))
		require.Equal(t, c.want, f.Vacant("db"), name)
	}
	f = NewForest()
	f.Suspend("db")
	require.True(t, f.Vacant("other"))
	require.False(t, f.Vacant("db"))
}

// The pause of a throttle lasts, also if the throttle is gone by then.
func TestNotVacantDuringAPause(t *testing.T) {
	t.Parallel()
	f, now := NewForest(), time.Unix(1_700_000_000, 0)
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 2, Throttle: time.Second}}))
	f.Set(Job{Key: Key{DB: "db", UUID: "a"}}, Pending)
	require.Len(t, f.Next(now, 0), 1)
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 2}}))
	require.Equal(t, f.Wakeup().IsZero(), f.Vacant("db"))
}
