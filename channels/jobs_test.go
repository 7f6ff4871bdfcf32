package channels

import (
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestLimitedPass(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:3,A:9")
	f.add("A", "a", "b", "c", "d")
	require.Equal(t, []Key{key("a")}, f.Next(at(1), 1))
	require.True(t, f.Pending())
	require.Equal(t, []Key{key("b"), key("c")}, f.Next(at(1), 2))
	require.False(t, f.Pending(), "root is full")
	f.state(Done, "a")
	require.True(t, f.Pending())
	require.Equal(t, []Key{key("d")}, f.Next(at(1), 2))
	require.False(t, f.Pending())
}

func TestSetReportsChanges(t *testing.T) {
	t.Parallel()
	m := NewManager()
	j := Job{Key: key("j"), Channel: "A", ID: 1, Priority: 10}
	require.False(t, m.Set(j, Unknown))
	require.False(t, m.Set(j, Done))
	require.Zero(t, m.Len())
	require.True(t, m.Set(j, Pending))
	require.False(t, m.Set(j, Pending))
	j.Channel = "root.A"
	require.False(t, m.Set(j, Pending), "the same channel, spelled differently")
	require.Equal(t, []Key{j.Key}, m.Next(at(1), 0))
	require.False(t, m.Set(j, Enqueued), "Next has counted it so")
	require.False(t, m.SetFromSnapshot(j, Enqueued))
	require.True(t, m.Set(j, Started))
	require.False(t, m.Set(j, Unknown))
	j.Created = 7
	require.True(t, m.Set(j, Started))
	j.Channel = "B.deep"
	require.True(t, m.Set(j, Started))
	require.Equal(t, "root(C:1,Q:0,R:1,F:0)\nroot.B(C:inf,Q:0,R:1,F:0)\nroot.B.deep(C:inf,Q:0,R:1,F:0)", dump(m))
	got, state, ok := m.Lookup(j.Key)
	require.True(t, ok)
	require.Equal(t, j, got)
	require.Equal(t, Started, state)
	require.True(t, m.Set(j, Failed))
	require.False(t, m.Set(j, Failed))
	require.True(t, m.Set(j, WaitDependencies))
	require.False(t, m.Remove(j.Key))
	require.Equal(t, "root(C:1,Q:0,R:0,F:0)", dump(m))
}

// TestWaitDependencies covers a job that already has a slot, which OCA's runner leaks.
func TestWaitDependencies(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:1")
	f.add("", "a", "b")
	f.run(1, "a")
	f.state(WaitDependencies, "a")
	f.run(2, "b")
}

// TestDueJobAgain: a job whose eta has come and that is set again waits for its eta again until the
// next pass, as in OCA's runner.
func TestDueJobAgain(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root", Capacity: 2}}))
	a, b := Job{Key: key("a"), ETA: 5e6}, Job{Key: key("b"), ETA: 5e6, ID: 1}
	m.Set(a, Pending)
	m.Set(b, Pending)
	require.Equal(t, []Key{a.Key}, m.Next(at(6), 1))
	require.True(t, m.Wakeup().IsZero())
	require.False(t, m.SetFromSnapshot(b, Pending))
	require.True(t, m.Set(b, Pending))
	require.Equal(t, at(5).UTC(), m.Wakeup())
	require.Equal(t, []Key{b.Key}, m.Next(at(6), 1))
}

// TestFullChannelKeepsEtas: the end of a throttle pause does not promote jobs of a full channel.
func TestFullChannelKeepsEtas(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:9,A:1:throttle=5")
	f.add("A", "a")
	f.run(1, "a")
	f.Set(Job{Key: key("b"), Channel: "A", ETA: 3e6}, Pending)
	f.run(7)
	f.state(Done, "a")
	require.Equal(t, at(3).UTC(), f.Wakeup())
	f.run(7, "b")
}

func TestSuspend(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:2,A:5")
	f.Suspend("db")
	f.add("A", "a", "b", "c", "d")
	f.run(1)
	f.dump("root(C:2,Q:0,R:0,F:0)\nroot.A(C:5,Q:0,R:0,F:0)")
	d, state, _ := f.Lookup(key("d"))
	require.False(t, f.Set(d, state))
	f.Resume("db")
	f.run(1, "a", "b")
	f.Suspend("db")
	f.dump("root(C:2,Q:0,R:2,F:0)\nroot.A(C:5,Q:0,R:2,F:0)")
	f.state(Done, "a")
	f.Set(Job{Key: Key{DB: "other", UUID: "z"}, ID: 9}, Pending)
	require.Equal(t, []Key{{DB: "other", UUID: "z"}}, f.Next(at(2), 0))
	f.Resume("db")
	f.state(Failed, "b")
	f.run(3, "c")
}

// TestSetFromSnapshot: Set pulls a job back that waits further up, SetFromSnapshot does not.
func TestSetFromSnapshot(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:1,A:2")
	f.add("A", "a", "b")
	f.run(1, "a")
	b, state, _ := f.Lookup(key("b"))
	require.False(t, f.SetFromSnapshot(b, state))
	f.dump("root(C:1,Q:1,R:1,F:0)\nroot.A(C:2,Q:0,R:2,F:0)")
	require.True(t, f.Set(b, state))
	f.dump("root(C:1,Q:0,R:1,F:0)\nroot.A(C:2,Q:1,R:1,F:0)")
	require.True(t, f.SetFromSnapshot(b, Failed))
}

// TestStale also goes once around the counter of synchronizations.
func TestStale(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:1")
	f.add("", "a", "b", "odd")
	requireStale(t, f, "db")
	f.BeginSnapshot("no such database")
	requireStale(t, f, "no such database")
	for range 600 {
		f.BeginSnapshot("db")
		f.state(Pending, "b")
		f.Set(Job{Key: Key{DB: "other", UUID: "a"}}, Pending)
		requireStale(t, f, "db", key("a"), key("odd"))
		requireStale(t, f, "db")
		requireStale(t, f, "other")
	}
	f.BeginSnapshot("db")
	f.Set(Job{Key: key("a")}, Unknown)
	f.Remove(key("b"))
	f.add("", "new")
	requireStale(t, f, "db", key("odd"))
}

func TestSameUUIDInTwoDatabases(t *testing.T) {
	t.Parallel()
	const id = "0b0cb8a5-2b36-4a39-9d0c-9a4d1fe3b7aa"
	for _, id := range []string{id, strings.ToUpper(id), "", "not a uuid", strings.ReplaceAll(id, "-", "0")} {
		m := NewManager()
		one, two := Key{DB: "one", UUID: id}, Key{DB: "two", UUID: id}
		m.Set(Job{Key: one}, Pending)
		m.Set(Job{Key: two}, Pending)
		require.Equal(t, []Key{one}, m.Next(at(1), 0))
		require.Equal(t, 1, m.RemoveDB("one"))
		require.Zero(t, m.RemoveDB("one"))
		require.Equal(t, []Key{two}, m.Next(at(1), 0))
		checkInvariants(t, m)
	}
}

// TestOrder: each job precedes the next for one reason more subtle.
func TestOrder(t *testing.T) {
	t.Parallel()
	const low, high = "00000000-0000-4000-8000-000000000001", "f0000000-0000-4000-8000-000000000001"
	want := []Job{
		{Key: Key{DB: "b", UUID: "z"}, Priority: -1, Created: 9, ID: 9},
		{Key: Key{DB: "b", UUID: "y"}, Created: -5, ID: 9}, // NULL is priority 0
		{Key: Key{DB: "b", UUID: "x"}, Created: 1, ID: 1},
		{Key: Key{DB: "a", UUID: high}, Created: 1, ID: 2},
		{Key: Key{DB: "b", UUID: low}, Created: 1, ID: 2},
		{Key: Key{DB: "b", UUID: high}, Created: 1, ID: 2},
		{Key: Key{DB: "b", UUID: "0 odd"}, Created: 1, ID: 2},
		{Key: Key{DB: "b", UUID: "1 odd"}, Created: 1, ID: 2},
		{Key: Key{DB: "a", UUID: "w"}, Priority: 10},
	}
	m := NewManager()
	require.NoError(t, m.Configure([]Config{{Name: "root"}}))
	keys := make([]Key, len(want))
	for i := len(want) - 1; i >= 0; i-- {
		m.Set(want[i], Pending)
		keys[i] = want[i].Key
	}
	require.Equal(t, keys, m.Next(at(1), 0))
}

func TestJobs(t *testing.T) {
	t.Parallel()
	m := NewManager()
	for _, db := range []string{"one", "two"} {
		for _, uuid := range []string{"a", "b", "c"} {
			m.Set(Job{Key: Key{DB: db, UUID: uuid}}, Pending)
		}
	}
	counts := make(map[string]int)
	for _, db := range []string{"one", "", "none"} {
		for j, state := range m.Jobs(db) {
			require.Equal(t, Pending, state)
			counts[db+"/"+j.DB]++
		}
	}
	require.Equal(t, map[string]int{"one/one": 3, "/one": 3, "/two": 3}, counts)
	seen := 0
	for range m.Jobs("") {
		seen++
		if seen == 4 {
			break
		}
	}
	require.Equal(t, 4, seen)
	for j := range m.Jobs("one") {
		m.Remove(j.Key)
	}
	require.Equal(t, 3, m.Len())
}

// TestEndlessName: the depth of the tree is bounded, names are not.
func TestEndlessName(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:2,x:1")
	deep := "x" + strings.Repeat(".x", 100_000)
	f.add(deep, "a", "b")
	f.add(deep+".y", "c")
	f.run(1, "a")
	f.state(Done, "a")
	f.run(2, "b")
	// Root, the levels below it, and at the lowest one a second channel.
	require.Len(t, f.Channels(), 1+maxDepth+1)
	f.RemoveDB("db")
	f.dump("root(C:2,Q:0,R:0,F:0)\nroot.x(C:1,Q:0,R:0,F:0)")
	require.Equal(t, maxDepth, NewManager().place(deep).levels, "what bounds names counts the same levels")
}

// TestPassTouchesOnlyWhatChanged counts with the dirty set: of many idle channels, one change marks
// one path.
func TestPassTouchesOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	m := loaded(t, 5_000, 1_000, "root:1000000")
	m.Next(at(1), 0)
	require.Zero(t, m.dirtyCount)
	m.Set(benchJob(5_000, 1_000), Pending)
	require.Equal(t, 1, m.dirtyCount)
	require.Len(t, m.Next(at(1), 0), 1)
	require.Zero(t, m.dirtyCount)
}

func TestHeapsGiveMemoryBack(t *testing.T) {
	t.Parallel()
	m := loaded(t, 10_000, 1, "root:0")
	require.GreaterOrEqual(t, cap(m.find("c0").ready.items), 10_000)
	require.Len(t, m.Next(at(1), 0), 10_000)
	require.LessOrEqual(t, cap(m.find("c0").ready.items)+cap(m.root.ready.items), 2*shrinkAbove)
}

func TestRecordSize(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 64, unsafe.Sizeof(record{}))
}

func TestNamesOfConstants(t *testing.T) {
	t.Parallel()
	for s := Unknown; s <= Failed; s++ {
		if s != Unknown {
			require.Equal(t, s, ParseState(s.String()))
		}
	}
	require.Equal(t, Done, ParseState(""))
	require.Equal(t, Unknown, ParseState("weird"))
	require.Equal(t, "State(200)", State(200).String())
	require.Equal(t, "Reason(0)", Reason(0).String())
	require.Equal(t, "throttled", ReasonThrottled.String())
	require.True(t, Failed.Finished())
	require.Equal(t, "job /: Reason(77)", Explanation{Reason: 77}.String())
}

func TestWakeupIsUTC(t *testing.T) {
	t.Parallel()
	m := NewManager()
	require.True(t, m.Wakeup().IsZero())
	m.Set(Job{Key: key("a"), ETA: 1_500_000}, Pending)
	require.Equal(t, time.Date(1970, 1, 1, 0, 0, 1, 500_000_000, time.UTC), m.Wakeup())
}

// A channel below one that does not exist does not exist either.
func TestChannelBelowNone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:1,A:1")
	for _, name := range []string{"A.b.c", "b.c.d", "root.b.c"} {
		_, ok := f.Channel(name)
		require.False(t, ok, name)
	}
	_, ok := f.Channel("A")
	require.True(t, ok)
}

// TestUUIDs: a uuid that is not canonical in one place is none.
func TestUUIDs(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"00000000-0000-0000-0000-000000000000", "01234567-89ab-cdef-0123-456789abcdef"} {
		id, ok := parseUUID(text)
		require.True(t, ok)
		require.Equal(t, text, id.String())
		for i := range text {
			for _, other := range []string{"g", "F", "", "00"} {
				_, ok = parseUUID(text[:i] + other + text[i+1:])
				require.False(t, ok, "%q at %d", other, i)
			}
		}
	}
}
