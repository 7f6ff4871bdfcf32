package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestSharingIsTheReference: jobs whose names share a channel start exactly when, and in the order
// in which, they would in channels of their own, over random configurations and histories.
func TestSharingIsTheReference(t *testing.T) {
	t.Parallel()
	shared := 0
	rapid.Check(t, func(t *rapid.T) {
		m := NewManager()
		m.names = &allowance{each: rapid.IntRange(0, 2).Draw(t, "names"), all: 3}
		s := &sharing{comparison{m: m, ref: newReference(), now: 1000}}
		t.Repeat(map[string]func(*rapid.T){
			"":            s.check,
			"configure":   s.configure,
			"set":         s.set,
			"set again":   s.set,
			"set more":    s.set,
			"next":        s.next,
			"next again":  s.next,
			"remove":      s.remove,
			"remove some": s.removeSome,
			"suspend":     s.suspend,
			"resume":      s.resume,
			"snapshot":    s.snapshot,
		})
		for _, d := range m.dbs {
			shared += d.sharing
		}
	})
	require.NotZero(t, shared, "nothing has been tried")
}

type sharing struct{ comparison }

var (
	drawDeepChannel = rapid.SampledFrom([]string{"A.one", "A.two", "A.x.three", "four", "five.deep.er", "six", "B.a.b.c", "S.k.l", "A.x.z"})
	// drawUnlimited limits no children of channels: what is below them shares without a loss.
	drawUnlimited = rapid.SliceOfNDistinct(rapid.Map(drawConfig, func(c Config) Config {
		c.CapacityDefault, c.SequentialDefault = 0, false
		return c
	}), 0, 6, func(c Config) string { return c.Name })
)

func (s *sharing) configure(t *rapid.T) {
	cfgs := drawUnlimited.Draw(t, "configuration")
	// A channel that is configured now may be one that jobs have passed only in the reference: in memory they
	// shared one beside it. So they wait at their beginning.
	for _, db := range []string{"one", "two"} {
		if d := s.m.dbs[db]; d != nil && d.sharing > 0 && !s.ref.suspended[db] {
			s.m.Suspend(db)
			s.m.Resume(db)
			s.ref.suspend(db, true)
			s.ref.suspend(db, false)
		}
	}
	require.NoError(t, s.m.Configure(cfgs))
	require.NoError(t, s.ref.configure(cfgs))
	s.reread(t)
}

// reread reads the rows of displaced databases anew: to the reference, these were suspended and
// are not any more.
func (s *sharing) reread(t *rapid.T) {
	for _, db := range s.m.Displaced() {
		was := s.ref.suspended[db]
		s.ref.suspend(db, true)
		s.m.BeginSnapshot(db)
		for _, j := range s.ref.sorted() {
			if j.DB == db {
				require.False(t, s.m.SetFromSnapshot(j.Job, j.state), "that is no repair")
			}
		}
		requireStale(t, s.m, db)
		s.m.EndSnapshot(db)
		s.ref.suspend(db, was)
	}
	require.Empty(t, s.m.Displaced())
}

func (s *sharing) set(t *rapid.T) {
	j := Job{
		Key:      Key{DB: drawDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")},
		Channel:  drawDeepChannel.Draw(t, "channel"),
		Priority: rapid.Int32Range(0, 2).Draw(t, "priority"),
		Created:  1,
	}
	if known := s.ref.jobs[j.Key]; known != nil {
		j.Channel = known.Channel // which one it had is not remembered
	}
	if rapid.Bool().Draw(t, "with eta") {
		j.ETA = (s.now + rapid.Int64Range(-3, 10).Draw(t, "eta")) * 1e6
	}
	state := drawState.Draw(t, "state")
	s.m.Set(j, state)
	s.ref.set(j, state)
}

func (s *sharing) check(t *rapid.T) {
	checkInvariants(t, s.m)
	wake := int64(0)
	if w := s.m.Wakeup(); !w.IsZero() {
		wake = w.UnixMicro()
	}
	require.Equal(t, s.ref.root.wakeup(), wake)
	require.Equal(t, len(s.ref.jobs), s.m.Len())
	for j, state := range s.m.Jobs("") {
		require.Equal(t, s.ref.jobs[j.Key].state, state)
		s.checkExplanation(t, j.Key, state)
	}
}

// TestSharingExceedsNoLimit: below a channel with a capacity_default, no channel ever runs more
// than that, whatever shares.
func TestSharingExceedsNoLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := NewManager()
		m.names = &allowance{each: rapid.IntRange(0, 2).Draw(t, "names"), all: 3}
		const most = 2
		require.NoError(t, m.Configure([]Config{{Name: "root"}, {Name: "A", CapacityDefault: most}}))
		names := map[Key]string{}
		running := map[Key]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				k := Key{DB: drawDB.Draw(t, "db"), UUID: fmt.Sprint(len(names))}
				names[k] = fmt.Sprintf("A.%d", rapid.IntRange(0, 3).Draw(t, "name"))
				m.Set(Job{Key: k, Channel: names[k] + rapid.SampledFrom([]string{"", ".x", ".y.z"}).Draw(t, "below")}, Pending)
			},
			"next": func(*rapid.T) {
				for _, k := range m.Next(at(1), 0) {
					running[k] = true
				}
			},
			"end": func(*rapid.T) {
				for k := range running {
					m.Remove(k)
					delete(running, k)
					return
				}
			},
			"": func(t *rapid.T) {
				checkInvariants(t, m)
				sums := map[string]int{}
				for k := range running {
					sums[names[k]]++
					require.LessOrEqual(t, sums[names[k]], most)
				}
			},
		})
	})
}

// crowd names so many channels in a database.
func crowd(m *Manager, db string, n int) {
	for i := range n {
		m.Set(Job{Key: Key{DB: db, UUID: fmt.Sprint(i)}, Channel: fmt.Sprintf("root.c%d", i), ID: int64(i)}, Pending)
	}
}

func TestNamesOfADatabaseAreBounded(t *testing.T) {
	t.Parallel()
	m := NewManager()
	crowd(m, "evil", 50000)
	require.Len(t, m.Channels(), 1+NamesPerDatabase+1)
	require.Len(t, m.Counts(), NamesPerDatabase+1)
	require.Equal(t, 50000-NamesPerDatabase, m.Sharing("evil"))
	others, ok := m.Channel("root." + OthersName)
	require.True(t, ok)
	require.Equal(t, 50000-NamesPerDatabase, others.Queued)
	job, state, ok := m.Lookup(Key{DB: "evil", UUID: "40000"})
	require.True(t, ok)
	require.Equal(t, others.FullName, job.Channel)
	require.False(t, m.Set(job, state), "a job as it was looked up is no other job")
	x, _ := m.Explain(job.Key, at(1))
	require.True(t, x.Shared)
	require.Contains(t, x.String(), "names more than 1000 channels")

	crowd(m, "good", 10)
	require.Zero(t, m.Sharing("good"), "the names of one database take none from another one")
	_, ok = m.Channel("root.c9")
	require.True(t, ok)

	m.RemoveDB("evil")
	require.Equal(t, 10, m.names.used, "they are given back")
	require.Len(t, m.Channels(), 11)
	crowd(m, "new", NamesPerDatabase)
	require.Zero(t, m.Sharing("new"))
	checkInvariants(t, m)
}

func TestNamesOfAllDatabasesAreBounded(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "")
	for i := range 30 {
		for n := range NamesPerDatabase {
			channel := fmt.Sprintf("a%d.b", n)
			f.Set(Job{Key: Key{DB: fmt.Sprint(i), UUID: fmt.Sprint(n)}, Channel: channel}, Pending)
		}
	}
	require.LessOrEqual(t, f.names.used, NamesInAll)
	require.Less(t, len(f.Channels()), NamesInAll+100)
	require.Equal(t, NamesPerDatabase/2, f.Sharing("0"), "each part of a name counts")
	require.Equal(t, NamesPerDatabase, f.Sharing("29"))
	require.NoError(t, f.Configure(nil))
	require.LessOrEqual(t, f.shared.names.used, NamesInAll)
	require.NotEmpty(t, f.Displaced())
	f.ConfigureDatabases(Capacities{Max: 9})
	for i := range 30 {
		f.RemoveDB(fmt.Sprint(i))
	}
	require.Zero(t, f.names.used)
}

// TestSharedChannelsBecomeConfigured: what is configured, or paused, holds for jobs that have
// shared, from the first pass on.
func TestSharedChannelsBecomeConfigured(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Forest) error{
		"configured": func(f *Forest) error { return f.Configure([]Config{{Name: "root"}, {Name: "b", Capacity: 1}}) },
		"paused":     func(f *Forest) error { f.Pause("b", true); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := NewForest()
			f.shared.names.each = 1
			require.NoError(t, f.Configure([]Config{{Name: "root"}}))
			var jobs []Job
			for i, channel := range []string{"a", "b.x", "b.y", "c", "b"} {
				jobs = append(jobs, Job{Key: Key{DB: "db", UUID: fmt.Sprint(i)}, Channel: channel, ID: int64(i)})
				f.Set(jobs[i], Pending)
			}
			f.Suspend("db")
			f.Resume("db")
			require.Equal(t, 4, f.Sharing("db"))
			require.NoError(t, change(f))
			require.Equal(t, []string{"db"}, f.Displaced())
			require.Empty(t, f.Next(at(1), 0), "nothing starts before the rows have been read")
			f.Resume("db")
			require.Empty(t, f.Next(at(1), 0), "nor because something else ends")
			x, _ := f.Explain(jobs[1].Key, at(1))
			require.Equal(t, ReasonDisplaced, x.Reason)
			require.Contains(t, x.String(), "job db/1 waits: channels have changed, and the jobs of database db are being read anew")

			f.BeginSnapshot("db")
			for _, j := range jobs {
				require.False(t, f.SetFromSnapshot(j, Pending))
			}
			f.EndSnapshot("db")
			require.Empty(t, f.Displaced())
			var started []string
			for _, k := range f.Next(at(1), 0) {
				started = append(started, k.UUID)
			}
			want := map[string][]string{"configured": {"0", "1", "3"}, "paused": {"0", "3"}}
			require.Equal(t, want[name], started)
			checkInvariants(t, f.shared)
		})
	}
}

// TestStrays: a job stays in the channel that it shares as long as its name belongs there.
func TestStrays(t *testing.T) {
	t.Parallel()
	m := NewManager()
	m.names.each = 0
	require.NoError(t, m.Configure([]Config{{Name: "root"}, {Name: "A", Capacity: 2}, {Name: "B", Capacity: 2}}))
	m.Set(Job{Key: key("a"), Channel: "A.x"}, Pending)
	h := m.dbs["db"].homes["root.A."+OthersName]
	require.True(t, h.shared)
	for name, want := range map[string]bool{"A.x": false, "A.y.z": false, "A": true, "B.x": true, "c": true} {
		require.Equal(t, want, m.strays(h, name), name)
	}
}

// TestNamesAtTheirLimits: as many names as are allowed have channels of their own, and so has one that is
// configured.
func TestNamesAtTheirLimits(t *testing.T) {
	t.Parallel()
	channelOf := func(m *Manager, name string) string {
		m.Set(Job{Key: key(name), Channel: name}, Pending)
		j, _, _ := m.Lookup(key(name))
		return Normalize(j.Channel)
	}
	for _, names := range []allowance{{each: 2, all: 9}, {each: 9, all: 2}} {
		m := NewManager()
		m.names = &names
		require.Equal(t, "root.a", channelOf(m, "a"))
		require.Equal(t, "root.b", channelOf(m, "b"))
		require.Equal(t, "root."+OthersName, channelOf(m, "c"))
	}
	m := NewManager()
	m.names.each = 0
	require.NoError(t, m.Configure([]Config{{Name: "root"}, {Name: "A", CapacityDefault: 1}}))
	require.Equal(t, "root.A."+OthersName, channelOf(m, "A.x"))
	require.Equal(t, "root.A", channelOf(m, "A"))
	require.Equal(t, 2, m.place("root..a").levels, "an empty part is one, too")
}

// TestSnapshotOfBeforeDoesNotDo: rows that were read before the channels changed place no job.
func TestSnapshotOfBeforeDoesNotDo(t *testing.T) {
	t.Parallel()
	m := NewManager()
	m.names.each = 0
	crowd(m, "db", 2)
	m.BeginSnapshot("db")
	require.NoError(t, m.Configure([]Config{{Name: "c1", Capacity: 1}}))
	m.EndSnapshot("db")
	require.Equal(t, []string{"db"}, m.Displaced())
	require.NoError(t, m.Configure([]Config{{Name: "c1", Capacity: 1}}))
	m.BeginSnapshot("db")
	require.NoError(t, m.Configure([]Config{{Name: "c1", Capacity: 1}}), "the same changes nothing")
	m.EndSnapshot("db")
	require.Empty(t, m.Displaced())
}

// BenchmarkLook is what a look at the status costs at most: as many names as there can be.
func BenchmarkLook(b *testing.B) {
	f := NewForest()
	for i := range NamesInAll/NamesPerDatabase + 1 {
		db := fmt.Sprint(i)
		for n := range 5000 {
			f.Set(Job{Key: Key{DB: db, UUID: fmt.Sprint(n)}, Channel: fmt.Sprintf("%s.c%d", db, n)}, Pending)
		}
	}
	for b.Loop() {
		f.Counts()
		f.Channels()
		f.Oldest(at(1))
	}
}

// BenchmarkNames is the cost of a job whose name shares a channel.
func BenchmarkNames(b *testing.B) {
	m := NewManager()
	crowd(m, "db", NamesPerDatabase)
	now := time.Unix(1, 0)
	for i := 0; b.Loop(); i++ {
		k := Key{DB: "db", UUID: "00000000-0000-4000-8000-000000000000"}
		m.Set(Job{Key: k, Channel: fmt.Sprintf("root.d%d", i)}, Pending)
		m.Next(now, 0)
		m.Remove(k)
	}
}
