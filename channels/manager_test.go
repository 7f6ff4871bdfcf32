package channels

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestManagerIsTheReference compares Manager with the reference model over random configurations
// and histories.
func TestManagerIsTheReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &comparison{m: NewManager(), ref: newReference(), now: 1000}
		s.configure(t)
		t.Repeat(map[string]func(*rapid.T){
			"":                  s.check,
			"configure":         s.configure,
			"set":               s.set,
			"set again":         s.set,
			"set the same":      s.setSame,
			"snapshot the same": s.snapshotSame,
			"next":              s.next,
			"remove":            s.remove,
			"remove some":       s.removeSome,
			"suspend":           s.suspend,
			"resume":            s.resume,
			"snapshot":          s.snapshot,
		})
	})
}

type comparison struct {
	m   *Manager
	ref *reference
	now int64 // seconds
}

var (
	drawDB    = rapid.SampledFrom([]string{"one", "two"})
	drawState = rapid.SampledFrom([]State{
		Pending, Pending, Pending, Enqueued, Started, Done, Cancelled, Failed, WaitDependencies, Unknown,
	})
	drawChannel = rapid.SampledFrom([]string{
		"", "root", "A", "root.A", "A.x", "A.x.z", "A.auto", "B", "S", "S.k", "auto.deep.er", "auto",
	})
	drawUUID = rapid.Custom(func(t *rapid.T) string {
		n := rapid.IntRange(0, 11).Draw(t, "job")
		if n < 3 {
			return fmt.Sprintf("job-%d", n)
		}
		return fmt.Sprintf("00000000-0000-4000-8000-0000000000%02x", n*20)
	})
	drawConfig = rapid.Custom(func(t *rapid.T) Config {
		cfg := Config{
			Name:     rapid.SampledFrom([]string{"root", "A", "A.x", "A.x.z", "B", "S", "S.k", "auto.deep"}).Draw(t, "name"),
			Capacity: rapid.SampledFrom([]int{1, 1, 2, 2, 3, 5, 0, -1}).Draw(t, "capacity"),
			Throttle: rapid.SampledFrom([]time.Duration{0, 0, 0, time.Second, 4 * time.Second, -time.Second}).Draw(t, "throttle"),
			Paused:   rapid.IntRange(0, 9).Draw(t, "paused") == 0,
		}
		cfg.Sequential = cfg.Capacity == 1 && rapid.Bool().Draw(t, "sequential")
		cfg.CapacityDefault = rapid.SampledFrom([]int{0, 0, 0, 1, 2, -1}).Draw(t, "capacity_default")
		cfg.SequentialDefault = cfg.CapacityDefault == 1 && rapid.Bool().Draw(t, "sequential_default")
		return cfg
	})
	drawPlainConfigs = rapid.SliceOfNDistinct(drawConfig, 0, 6, func(c Config) string { return c.Name })
	drawConfigs      = rapid.Custom(func(t *rapid.T) []Config {
		cfgs := drawPlainConfigs.Draw(t, "plain")
		for i := range cfgs {
			cfgs[i].Min = rapid.SampledFrom([]int{0, 0, 1, 1, 2, 3}).Draw(t, "min")
			if cfgs[i].Validate() != nil || validateMinimums(byName(cfgs)) != nil {
				cfgs[i].Min = 0
			}
		}
		if validateMinimums(byName(cfgs)) != nil { // a later one has made its parent smaller
			for i := range cfgs {
				cfgs[i].Min = 0
			}
		}
		return cfgs
	})
)

func byName(cfgs []Config) map[string]Config {
	named := make(map[string]Config)
	for _, cfg := range cfgs {
		named[Normalize(cfg.Name)] = cfg
	}
	return named
}

func (s *comparison) configure(t *rapid.T) {
	cfgs := drawConfigs.Draw(t, "configuration")
	before, told := s.m.wanted, s.m.shares != nil
	require.NoError(t, s.m.Configure(cfgs))
	require.NoError(t, s.ref.configure(cfgs))
	if (told || s.m.shares != nil) && !maps.Equal(before, s.m.wanted) {
		s.ref.gather()
	}
}

func (s *comparison) job(t *rapid.T) Job {
	j := Job{
		Key:      Key{DB: drawDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")},
		Channel:  drawChannel.Draw(t, "channel"),
		ID:       rapid.Int64Range(1, 3).Draw(t, "id"),
		Priority: rapid.Int32Range(0, 2).Draw(t, "priority"),
		Created:  rapid.Int64Range(1, 3).Draw(t, "created"),
	}
	if s.m.shares != nil {
		j.Company = rapid.Int32Range(0, 2).Draw(t, "company")
		j.Identity = rapid.Uint64Range(0, 3).Draw(t, "identity")
	}
	if rapid.Bool().Draw(t, "with eta") {
		j.ETA = (s.now + rapid.Int64Range(-3, 10).Draw(t, "eta")) * 1e6
	}
	return j
}

func (s *comparison) set(t *rapid.T) {
	j, state := s.job(t), drawState.Draw(t, "state")
	s.m.Set(j, state)
	s.ref.set(j, state)
}

// known draws a job that both know. If there is none yet, there is one now.
func (s *comparison) known(t *rapid.T) (Job, State) {
	if len(s.ref.jobs) == 0 {
		j := s.job(t)
		s.m.Set(j, Pending)
		s.ref.set(j, Pending)
	}
	j := rapid.SampledFrom(s.ref.sorted()).Draw(t, "known job")
	return j.Job, j.state
}

func (s *comparison) setSame(t *rapid.T) {
	j, _ := s.known(t)
	state := drawState.Draw(t, "state")
	s.m.Set(j, state)
	s.ref.set(j, state)
}

func (s *comparison) snapshotSame(t *rapid.T) {
	j, state := s.known(t)
	require.False(t, s.m.SetFromSnapshot(j, state))
}

func (s *comparison) next(t *rapid.T) {
	s.now += rapid.Int64Range(0, 4).Draw(t, "seconds later")
	limit := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "limit")
	now := time.Unix(s.now, 0)
	wake := s.m.Wakeup()
	due := s.m.Pending() || !wake.IsZero() && !wake.After(now)
	keys := s.m.Next(now, limit)
	require.Equal(t, s.ref.next(now.UnixMicro(), limit), keys)
	require.True(t, due || len(keys) == 0, "neither Pending nor Wakeup announced this pass")
}

func (s *comparison) remove(t *rapid.T) {
	k := Key{DB: drawDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")}
	require.Equal(t, s.ref.remove(k), s.m.Remove(k))
}

func (s *comparison) removeSome(t *rapid.T) {
	db := drawDB.Draw(t, "db")
	all := rapid.Bool().Draw(t, "all")
	removed := 0
	var kept []string
	for _, j := range s.ref.sorted() {
		switch {
		case j.DB != db:
		case !all && j.state.Running() && rapid.Bool().Draw(t, "kept"):
			kept = append(kept, j.UUID)
		default:
			s.ref.remove(j.Key)
			removed++
		}
	}
	if all {
		delete(s.ref.suspended, db)
		require.Equal(t, removed, s.m.RemoveDB(db))
	} else {
		require.Equal(t, removed, s.m.RemoveAllBut(db, append(kept, "unknown")))
	}
}

func (s *comparison) suspend(t *rapid.T) {
	db := drawDB.Draw(t, "db")
	s.m.Suspend(db)
	s.ref.suspend(db, true)
}

func (s *comparison) resume(t *rapid.T) {
	db := drawDB.Draw(t, "db")
	s.m.Resume(db)
	s.ref.suspend(db, false)
}

// snapshot names some of the jobs: the others are stale, and may be removed.
func (s *comparison) snapshot(t *rapid.T) {
	db := drawDB.Draw(t, "db")
	s.m.BeginSnapshot(db)
	var stale []Key
	for _, j := range s.ref.sorted() {
		switch {
		case j.DB != db:
		case rapid.Bool().Draw(t, "seen"):
			require.False(t, s.m.SetFromSnapshot(j.Job, j.state))
		default:
			stale = append(stale, j.Key)
		}
	}
	if rapid.Bool().Draw(t, "remove") {
		s.removeStale(t, db, stale)
	}
}

// requireStale requires that these jobs of a database are stale, and touches them.
func requireStale(t require.TestingT, m interface {
	Jobs(db string) iter.Seq2[Job, State]
	RemoveStale(db string, spared []string, number int) (left, removed []Key)
}, db string, want ...Key) {
	var all []string
	for j := range m.Jobs(db) {
		all = append(all, j.UUID)
	}
	left, removed := m.RemoveStale(db, all, 1)
	require.ElementsMatch(t, want, left)
	require.Empty(t, removed)
}

func (s *comparison) removeStale(t *rapid.T, db string, stale []Key) {
	var spared []string
	for _, j := range s.ref.sorted() {
		if j.DB == db && j.state.Running() && rapid.Bool().Draw(t, "spared") {
			spared = append(spared, j.UUID)
		}
	}
	var wantLeft, wantRemoved []Key
	for _, k := range stale {
		if slices.Contains(spared, k.UUID) {
			wantLeft = append(wantLeft, k)
			continue
		}
		wantRemoved = append(wantRemoved, k)
		s.ref.remove(k)
	}
	number := rapid.IntRange(0, 12).Draw(t, "number")
	mostly := len(wantRemoved) > 0 && 2*len(wantRemoved) > s.m.dbs[db].len()
	left, removed := s.m.RemoveStale(db, spared, number)
	require.ElementsMatch(t, wantLeft, left)
	require.Subset(t, wantRemoved, removed)
	require.Len(t, removed, min(number, len(wantRemoved)))
	requireStale(t, s.m, db)
	for _, j := range s.ref.sorted() {
		if mostly && j.DB == db && j.state == Pending {
			s.ref.set(j.Job, Pending) // it is back in its own channel
		}
	}
}

func (s *comparison) check(t *rapid.T) {
	checkInvariants(t, s.m)
	var lines []string
	for _, c := range s.m.Channels() {
		lines = append(lines, c.String())
	}
	slices.Sort(lines)
	require.Equal(t, s.ref.status(), lines)
	wake := int64(0)
	if w := s.m.Wakeup(); !w.IsZero() {
		wake = w.UnixMicro()
	}
	require.Equal(t, s.ref.root.wakeup(), wake)
	require.Equal(t, len(s.ref.jobs), s.m.Len())
	for j, state := range s.m.Jobs("") {
		want := s.ref.jobs[j.Key]
		require.NotNil(t, want)
		require.Equal(t, want.state, state)
		require.Equal(t, want.channel.name, Normalize(j.Channel))
		require.Equal(t, want.ETA, j.ETA)
		s.checkExplanation(t, j.Key, state)
	}
}

// checkExplanation: when no pass is due, nothing is explained as ready, and explaining changes
// nothing (the next check would see it).
func (s *comparison) checkExplanation(t *rapid.T, k Key, state State) {
	e, ok := s.m.Explain(k, time.Unix(s.now, 0))
	require.True(t, ok)
	require.NotEmpty(t, e.String())
	require.Equal(t, state.Running(), e.Reason == ReasonRunning)
	require.Equal(t, state == Failed, e.Reason == ReasonFailed)
	require.Equal(t, state == Pending && s.ref.suspended[k.DB], e.Reason == ReasonSuspended)
	wake := s.m.Wakeup()
	if !s.m.Pending() && (wake.IsZero() || wake.After(time.Unix(s.now, 0))) {
		require.NotEqual(t, ReasonReady, e.Reason, e.String())
	}
}
