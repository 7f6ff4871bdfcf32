package channels

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestForestIsTheReference compares Forest with the reference model over random configurations and
// histories, changes between the two modes among them.
func TestForestIsTheReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &forestComparison{f: NewForest(), ref: &refForest{shared: newReference()}, now: 1000}
		s.configureDatabases(t)
		t.Repeat(map[string]func(*rapid.T){
			"":                         s.check,
			"configure":                s.configure,
			"configure databases":      s.configureDatabases,
			"configure databases more": s.configureDatabases,
			"configure database":       s.configureDatabase,
			"configure database more":  s.configureDatabase,
			"withhold":                 s.withhold,
			"set":                      s.set,
			"set again":                s.set,
			"set once more":            s.set,
			"next":                     s.next,
			"next again":               s.next,
			"remove":                   s.remove,
			"suspend":                  s.suspend,
			"snapshot":                 s.snapshot,
		})
	})
}

type forestComparison struct {
	f   *Forest
	ref *refForest
	now int64 // seconds
}

var (
	drawForestDB   = rapid.SampledFrom([]string{"one", "two", "three", "four"})
	drawCapacities = rapid.Custom(func(t *rapid.T) Capacities {
		c := Capacities{Max: rapid.SampledFrom([]int{2, 3, 5, 1, 0}).Draw(t, "max_capacity")}
		if rules := rapid.SampledFrom([]string{"", "2", "t*:1,*:3", "one:0,t*:2"}).Draw(t, "rules"); rules != "" {
			var err error
			c.Rules, err = ParseCapacityRules(rules)
			require.NoError(t, err)
		}
		return c
	})
)

func (s *forestComparison) configure(t *rapid.T) {
	cfgs := drawPlainConfigs.Draw(t, "configuration")
	require.NoError(t, s.f.Configure(cfgs))
	s.ref.configure(cfgs)
}

func (s *forestComparison) configureDatabases(t *rapid.T) {
	c := drawCapacities.Draw(t, "capacities")
	s.f.ConfigureDatabases(c)
	s.ref.configureDatabases(c)
}

func (s *forestComparison) configureDatabase(t *rapid.T) {
	db, cfgs := drawForestDB.Draw(t, "db"), drawPlainConfigs.Draw(t, "configuration")
	bad := slices.ContainsFunc(cfgs, func(c Config) bool { return c.Capacity < 0 || c.Throttle < 0 || c.CapacityDefault < 0 })
	err := s.f.ConfigureDatabase(db, cfgs)
	s.ref.tree(db)
	switch {
	case s.ref.shared != nil:
		require.NoError(t, err)
	case bad:
		require.Error(t, err)
		s.ref.withheld[db] = true
	default:
		require.NoError(t, err)
		s.ref.configureDatabase(db, cfgs)
	}
}

func (s *forestComparison) withhold(t *rapid.T) {
	db := drawForestDB.Draw(t, "db")
	s.f.Withhold(db)
	if s.ref.tree(db); s.ref.shared == nil {
		s.ref.withheld[db] = true
	}
}

func (s *forestComparison) set(t *rapid.T) {
	j := Job{
		Key:      Key{DB: drawForestDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")},
		Channel:  drawChannel.Draw(t, "channel"),
		Priority: rapid.Int32Range(0, 2).Draw(t, "priority"),
		Created:  1,
	}
	if rapid.IntRange(0, 3).Draw(t, "with eta") == 0 {
		j.ETA = (s.now + rapid.Int64Range(-3, 10).Draw(t, "eta")) * 1e6
	}
	state := drawState.Draw(t, "state")
	s.f.Set(j, state)
	s.ref.tree(j.DB).set(j, state)
}

func (s *forestComparison) next(t *rapid.T) {
	s.now += rapid.Int64Range(0, 4).Draw(t, "seconds later")
	limit := rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "limit")
	now := time.Unix(s.now, 0)
	wake := s.f.Wakeup()
	due := s.f.Pending() || !wake.IsZero() && !wake.After(now)
	pending := make(map[string]bool)
	for db, tree := range s.f.trees {
		pending[db] = tree.Pending()
	}
	keys := s.f.Next(now, limit)
	require.Equal(t, s.ref.next(now.UnixMicro(), limit, func(db string) bool { return pending[db] }), keys)
	require.True(t, due || len(keys) == 0, "neither Pending nor Wakeup announced this pass")
	if limit == 0 {
		require.False(t, s.f.Pending(), "a pass leaves nothing to do")
	}
}

func (s *forestComparison) remove(t *rapid.T) {
	db, all := drawForestDB.Draw(t, "db"), rapid.IntRange(0, 3).Draw(t, "all") == 0
	k := Key{DB: db, UUID: drawUUID.Draw(t, "uuid")}
	if !all {
		require.Equal(t, s.ref.tree(db).remove(k), s.f.Remove(k))
		s.f.Suspend(db) // makes the tree, as the lookup did in the reference
		s.f.Resume(db)
		s.ref.tree(db).suspend(db, true)
		s.ref.tree(db).suspend(db, false)
		return
	}
	s.f.RemoveDB(db)
	if s.ref.shared == nil {
		delete(s.ref.withheld, db)
		delete(s.ref.trees, db)
		delete(s.ref.configs, db)
		delete(s.ref.turns, db)
		return
	}
	for _, j := range s.ref.shared.sorted() {
		if j.DB == db {
			s.ref.shared.remove(j.Key)
		}
	}
	delete(s.ref.shared.suspended, db)
}

func (s *forestComparison) suspend(t *rapid.T) {
	db, yes := drawForestDB.Draw(t, "db"), rapid.Bool().Draw(t, "yes")
	if yes {
		s.f.Suspend(db)
	} else {
		s.f.Resume(db)
	}
	s.ref.tree(db).suspend(db, yes)
}

// snapshot names some of the jobs, perhaps over a change of mode: the others are stale all the
// same.
func (s *forestComparison) snapshot(t *rapid.T) {
	db := drawForestDB.Draw(t, "db")
	s.f.BeginSnapshot(db)
	var left []Key
	for _, j := range s.ref.jobs() {
		switch {
		case j.DB != db:
		case rapid.Bool().Draw(t, "seen"):
			require.False(t, s.f.SetFromSnapshot(j.Job, j.state))
		default:
			left = append(left, j.Key)
		}
	}
	switch rapid.IntRange(0, 3).Draw(t, "change") {
	case 0:
		s.configure(t)
	case 1:
		s.configureDatabases(t)
	}
	requireStale(t, s.f, db, left...)
}

func (s *forestComparison) check(t *rapid.T) {
	if s.ref.shared == nil {
		running, limit := s.f.Running()
		require.Equal(t, s.ref.running(), running)
		require.Equal(t, s.ref.capacities.Max, limit)
		require.LessOrEqual(t, s.f.ready.len()+s.f.wakes.len(), len(s.f.trees))
		for db, tree := range s.ref.trees {
			checkInvariants(t, s.f.trees[db].Manager)
			var lines []string
			for _, c := range s.f.DatabaseChannels(db) {
				require.Equal(t, db, c.DB)
				lines = append(lines, c.String())
			}
			slices.Sort(lines)
			require.Equal(t, tree.status(), lines)
		}
	}
	if !s.f.Pending() {
		wake := int64(0)
		if w := s.f.Wakeup(); !w.IsZero() {
			wake = w.UnixMicro()
		}
		require.Equal(t, s.ref.wakeup(), wake)
	}
	for _, j := range s.ref.jobs() {
		_, state, ok := s.f.Lookup(j.Key)
		require.True(t, ok)
		require.Equal(t, j.state, state)
		x, ok := s.f.Explain(j.Key, time.Unix(s.now, 0))
		require.True(t, ok)
		if x.Reason == ReasonReady && s.ref.shared == nil {
			require.True(t, s.ref.hasRoom() && !s.ref.withheld[j.DB])
		}
	}
}

// newForest returns a Forest of databases that all have the same channels.
func newForest(t require.TestingT, c Capacities, channels string, dbs ...string) *Forest {
	f := NewForest()
	f.ConfigureDatabases(c)
	cfgs, _, err := ParseConfigs(channels)
	require.NoError(t, err)
	for _, db := range dbs {
		require.NoError(t, f.ConfigureDatabase(db, cfgs))
	}
	return f
}

func fill(f *Forest, db, channel string, n int) {
	for i := range n {
		f.Set(Job{Key: Key{DB: db, UUID: fmt.Sprintf("%s%d", channel, i)}, Channel: channel, ID: int64(i)}, Pending)
	}
}

func databases(keys []Key) (dbs []string) {
	for _, k := range keys {
		dbs = append(dbs, k.DB)
	}
	return dbs
}

func TestForestTakesTurns(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 4}, "", "a", "b", "c")
	for _, db := range []string{"a", "b", "c"} {
		fill(f, db, "", 10)
	}
	keys := f.Next(at(1), 0)
	require.Equal(t, []string{"a", "b", "c", "a"}, databases(keys))
	f.Remove(keys[0])
	f.Remove(keys[3])
	require.Equal(t, []string{"b", "c"}, databases(f.Next(at(2), 0)), "the turn goes on over passes")
	require.Empty(t, f.Next(at(3), 0))
	require.False(t, f.Pending())
	require.True(t, f.Wakeup().IsZero(), "nothing to do before a job ends")
}

// TestForestRoots: the capacity of a root is bounded by that of its database.
func TestForestRoots(t *testing.T) {
	t.Parallel()
	rules, err := ParseCapacityRules("closed:0,small:2")
	require.NoError(t, err)
	for _, test := range []struct {
		db, channels string
		want         int
		paused       bool
	}{
		{"big", "", 9, false},
		{"big", "root:0", 9, false},
		{"big", "root:3", 3, false},
		{"small", "root:3", 2, false},
		{"small", "root:0", 2, false},
		{"small", "root:1:sequential", 1, false},
		{"closed", "root:3", 3, true},
	} {
		f := newForest(t, Capacities{Max: 9, Rules: rules}, test.channels, test.db)
		root, ok := f.Channel(test.db, "root")
		require.True(t, ok)
		require.Equal(t, test.want, root.Capacity, test)
		require.Equal(t, test.paused, root.Paused, test)
	}
}

func TestForestConfiguration(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "root:2", "good")
	for _, db := range []string{"good", "bad", "new"} {
		fill(f, db, "", 5)
	}
	err := f.ConfigureDatabase("bad", []Config{{Name: "root.mail", Capacity: 2, Sequential: true}})
	require.ErrorContains(t, err, "channel root.mail: a sequential channel must have a capacity of 1")
	require.Equal(t, []string{"good", "good"}, databases(f.Next(at(1), 0)), "only the one with a configuration runs")
	x, _ := f.Explain(Key{DB: "bad", UUID: "0"}, at(1))
	require.Equal(t, ReasonWithheld, x.Reason)
	require.Equal(t, "job bad/0 waits: the channels of database bad are not known, or cannot be used", x.String())

	require.NoError(t, f.ConfigureDatabase("bad", []Config{{Name: "root", Capacity: 1}}))
	require.Equal(t, []string{"bad"}, databases(f.Next(at(2), 0)))
	for _, cfg := range []Config{{Name: "a", Capacity: -1}, {Name: "a", Throttle: -1}} {
		require.ErrorContains(t, f.ConfigureDatabase("bad", []Config{cfg}), "must not be negative")
	}
	f.Withhold("good")
	f.Remove(Key{DB: "good", UUID: "0"})
	f.Remove(Key{DB: "bad", UUID: "0"})
	require.Empty(t, f.Next(at(3), 0))
	require.NoError(t, f.ConfigureDatabase("good", nil))
	require.Len(t, f.Next(at(4), 0), 3, "what runs is still counted, and there is no limit but that of all")
	root, _ := f.Channel("good", "root")
	require.Equal(t, 4, root.Running)
}

func TestForestMaxCapacity(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 3}, "root:2", "a", "b")
	fill(f, "a", "", 5)
	fill(f, "b", "", 5)
	require.Equal(t, []string{"a", "b", "a"}, databases(f.Next(at(1), 0)))
	x, _ := f.Explain(Key{DB: "b", UUID: "1"}, at(1))
	require.Equal(t, ReasonMaxCapacity, x.Reason)
	require.Equal(t, "job b/1 waits: max_capacity is reached (3 running in all databases, 3 may)", x.String())
	x, _ = f.Explain(Key{DB: "a", UUID: "2"}, at(1))
	require.Equal(t, ReasonChannelFull, x.Reason)

	f.ConfigureDatabases(Capacities{Max: 4})
	require.Equal(t, []string{"b"}, databases(f.Next(at(2), 0)))
	rules, err := ParseCapacityRules("a:4")
	require.NoError(t, err)
	f.ConfigureDatabases(Capacities{Max: 9, Rules: rules})
	require.Empty(t, f.Next(at(3), 0), "the database's own root is full")
	f.ConfigureDatabases(Capacities{})
	require.False(t, f.Pending())
	x, _ = f.Explain(Key{DB: "b", UUID: "4"}, at(1))
	require.Equal(t, ReasonPaused, x.Reason)

	// More than may run were found running: they count.
	f.ConfigureDatabases(Capacities{Max: 5, Rules: rules})
	for i := range 4 {
		f.Set(Job{Key: Key{DB: "c", UUID: fmt.Sprint(i)}}, Started)
	}
	running, limit := f.Running()
	require.Equal(t, 8, running)
	require.Equal(t, 5, limit)
	require.Equal(t, 4, f.RemoveDB("c"))
	running, _ = f.Running()
	require.Equal(t, 4, running)
	require.Nil(t, f.DatabaseChannels("c"))
}

func TestForestPause(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "", "a")
	f.Pause("mail", true)
	require.NoError(t, f.ConfigureDatabase("b", nil))
	for _, db := range []string{"a", "b"} {
		fill(f, db, "mail", 2)
		fill(f, db, "", 1)
	}
	require.Len(t, f.Next(at(1), 0), 2)
	x, _ := f.Explain(Key{DB: "b", UUID: "mail0"}, at(1))
	require.Equal(t, ReasonPaused, x.Reason)
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 9}}))
	require.Empty(t, f.Next(at(2), 0), "pauses outlive a change of mode")
	f.ConfigureDatabases(Capacities{Max: 9})
	for _, db := range []string{"a", "b"} {
		require.NoError(t, f.ConfigureDatabase(db, nil))
	}
	require.Empty(t, f.Next(at(3), 0))
	f.Pause("root.mail", false)
	require.Len(t, f.Next(at(4), 0), 4)
}

func TestForestWakesUp(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 1}, "root:1:throttle=60", "a", "b")
	for i, db := range []string{"a", "b"} {
		f.Set(Job{Key: Key{DB: db, UUID: "1"}, ETA: int64(10+i) * 1e6}, Pending)
	}
	require.Equal(t, at(10).UTC(), f.Wakeup())
	keys := f.Next(at(10), 0)
	require.Equal(t, []string{"a"}, databases(keys))
	require.True(t, f.Wakeup().IsZero())
	f.Remove(keys[0])
	require.Equal(t, at(11).UTC(), f.Wakeup())
	require.Equal(t, []string{"b"}, databases(f.Next(at(11), 0)))
}

// TestForestLimit: a pass starts no more than it may.
func TestForestLimit(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "root:3", "a", "b")
	fill(f, "a", "", 3)
	fill(f, "b", "", 3)
	require.Len(t, f.Next(at(1), 1), 1)
	require.Len(t, f.Next(at(1), 2), 2)
	require.Len(t, f.Next(at(1), 0), 3)
}

// TestForestTurnWithoutAJob: a database that had a turn and nothing to start keeps its place.
func TestForestTurnWithoutAJob(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "root:1,mail:2", "a", "b")
	fill(f, "a", "", 1)
	require.Equal(t, []string{"a"}, databases(f.Next(at(1), 0)))
	fill(f, "b", "", 1)
	require.Equal(t, []string{"b"}, databases(f.Next(at(1), 0)))
	fill(f, "a", "mail", 1)
	require.True(t, f.Pending())
	require.Empty(t, f.Next(at(1), 0))
	fill(f, "b", "mail", 1)
	require.True(t, f.Remove(Key{DB: "b", UUID: "0"}))
	require.True(t, f.Remove(Key{DB: "a", UUID: "0"}))
	require.Equal(t, []string{"a"}, databases(f.Next(at(1), 1)))
}

// TestForestListsWhatIsKnown: a database without jobs has its channels, unless they are withheld.
func TestForestListsWhatIsKnown(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 1}, "", "a")
	require.Len(t, f.Channels(), 1)
	f.Withhold("a")
	require.Empty(t, f.Channels())
	fill(f, "a", "", 1)
	require.Len(t, f.Channels(), 1)
}

func TestForestViews(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 1}, "mail:2", "b", "a")
	fill(f, "b", "mail", 2)
	fill(f, "a", "", 3)
	f.Next(at(1), 0)
	f.Suspend("unknown")
	var names []string
	for _, c := range f.Channels() {
		names = append(names, c.DB+"/"+c.FullName)
	}
	require.Equal(t, []string{"a/root", "a/root.mail", "b/root", "b/root.mail"}, names)
	require.Equal(t, []Count{{DB: "a", Channel: "root", Pending: 2, Enqueued: 1}, {DB: "b", Channel: "root.mail", Pending: 2}}, f.Counts())
	require.Len(t, f.Oldest(at(9)), 2)
	require.Contains(t, f.Oldest(at(9)), ID{"b", "root.mail"})
	waiting := func() (n int) {
		f.Waiting(at(9), func(Waiting) { n++ })
		return n
	}
	require.Equal(t, 4, waiting())
	require.Equal(t, 2, f.Unfinished("b"))
	require.Zero(t, f.Unfinished("none"))
	st, ok := f.Channel("b", "root.mail")
	require.True(t, ok)
	require.Equal(t, "b", st.DB)
	_, ok = f.Channel("none", "root")
	require.False(t, ok)
	_, ok = f.Explain(Key{DB: "none"}, at(1))
	require.False(t, ok)
	_, _, ok = f.Lookup(Key{DB: "none"})
	require.False(t, ok)
	require.False(t, f.Remove(Key{DB: "none"}))
	requireStale(t, f, "none")
	for range f.Jobs("none") {
		t.Fatal("there is no job")
	}
	require.NoError(t, f.Configure(nil))
	require.Empty(t, f.Channels()[0].DB)
	st, ok = f.Channel("b", "root")
	require.True(t, ok)
	require.Empty(t, st.DB)
	require.Contains(t, f.Oldest(at(9)), ID{"", "root"})
	require.Len(t, f.Counts(), 2)
	require.Equal(t, 4, waiting())
	f.Withhold("a")
	require.NoError(t, f.ConfigureDatabase("a", nil))
	require.Nil(t, f.DatabaseChannels("a"))
	require.ErrorContains(t, f.Configure([]Config{{Name: "a", Sequential: true}}), "sequential")
}

// TestForestRefusesAndStays: a configuration with a mistake changes nothing, the mode included.
func TestForestRefusesAndStays(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 2}, "", "a")
	require.Error(t, f.Configure([]Config{{Name: "a", Capacity: 2, Sequential: true}}))
	require.Len(t, f.DatabaseChannels("a"), 1)
}

// many returns so many databases, each with a full root and waiting jobs, some for an eta, and the
// key of the job that runs in the first.
func many(t require.TestingT, n int) (*Forest, Key) {
	var dbs []string
	for i := range n {
		dbs = append(dbs, fmt.Sprintf("db%03d", i))
	}
	f := newForest(t, Capacities{Max: 2 * n}, "root:1,mail:2", dbs...)
	for i, db := range dbs {
		fill(f, db, "", 100)
		fill(f, db, "mail", 10)
		f.Set(Job{Key: Key{DB: db, UUID: "later"}, ETA: int64(1000+i) * 1e6}, Pending)
	}
	return f, f.Next(at(1), 0)[0]
}

// TestForestPassTouchesOnlyWhatChanged: after a change in one of many databases, a pass visits that
// one alone.
func TestForestPassTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	f, running := many(t, 300)
	require.Zero(t, f.ready.len())
	f.Remove(running)
	require.Equal(t, 1, f.ready.len())
	require.Equal(t, []string{running.DB}, databases(f.Next(at(2), 0)))
	require.Zero(t, f.ready.len())
}

// BenchmarkForestChange is what a busy runner does all the time, a job ends and the next one
// starts: the same change in one of so many databases.
func BenchmarkForestChange(b *testing.B) {
	for _, n := range []int{1, 10, 300, 10_000} {
		b.Run(fmt.Sprintf("databases=%d", n), func(b *testing.B) {
			f, running := many(b, n)
			for b.Loop() {
				j, _, _ := f.Lookup(running)
				f.Set(j, Done)
				j.Created++
				f.Set(j, Pending)
				running = f.Next(at(2), 0)[0]
			}
		})
	}
}
