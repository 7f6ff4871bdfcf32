package channels

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fixture is a Manager with a short hand for rows: all of database "db", with rising ids.
type fixture struct {
	*Manager
	t  *testing.T
	id int64
}

func newFixture(t *testing.T, config string) *fixture {
	f := &fixture{Manager: NewManager(), t: t}
	f.configure(config)
	return f
}

func (f *fixture) configure(config string) {
	f.t.Helper()
	cfgs, _, err := ParseConfigs(config)
	require.NoError(f.t, err)
	require.NoError(f.t, f.Configure(cfgs))
	checkInvariants(f.t, f.Manager)
}

func key(uuid string) Key { return Key{DB: "db", UUID: uuid} }

// add adds pending jobs.
func (f *fixture) add(channel string, uuids ...string) {
	for _, uuid := range uuids {
		f.id++
		f.Set(Job{Key: key(uuid), Channel: channel, ID: f.id}, Pending)
	}
}

// state changes the state of known jobs.
func (f *fixture) state(s State, uuids ...string) {
	f.t.Helper()
	for _, uuid := range uuids {
		j, _, ok := f.Lookup(key(uuid))
		require.True(f.t, ok)
		f.Set(j, s)
	}
}

// run requires a pass at second now to start these jobs.
func (f *fixture) run(now float64, want ...string) {
	f.t.Helper()
	var got []string
	for _, k := range f.Next(at(now), 0) {
		got = append(got, k.UUID)
	}
	require.Equal(f.t, want, got)
	checkInvariants(f.t, f.Manager)
}

func (f *fixture) dump(want string) {
	f.t.Helper()
	require.Equal(f.t, want, dump(f.Manager))
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc string
		test func(*testing.T)
	}{
		{"shrink keeps running jobs counted and calls waiting ones back", func(t *testing.T) {
			f := newFixture(t, "root:2,A:5")
			f.add("A", "a", "b", "c", "d", "e")
			f.run(1, "a", "b")
			f.dump("root(C:2,Q:3,R:2,F:0)\nroot.A(C:5,Q:0,R:5,F:0)")
			f.configure("root:2,A:1")
			f.dump("root(C:2,Q:0,R:2,F:0)\nroot.A(C:1,Q:3,R:2,F:0)")
			f.state(Done, "a")
			f.run(2) // b alone fills A
			f.state(Done, "b")
			f.run(3, "c")
		}},
		{"shrink of root", func(t *testing.T) {
			f := newFixture(t, "root:3")
			f.add("", "a", "b", "c", "d")
			f.run(1, "a", "b", "c")
			f.configure("root:1")
			f.dump("root(C:1,Q:1,R:3,F:0)")
			f.state(Done, "a", "b")
			f.run(2)
			f.state(Done, "c")
			f.run(3, "d")
		}},
		{"grow takes effect in the next pass", func(t *testing.T) {
			f := newFixture(t, "root:1,A:1")
			f.add("A", "a", "b", "c")
			f.run(1, "a")
			require.False(t, f.Pending())
			f.configure("root:3,A:2")
			require.True(t, f.Pending())
			f.run(1, "b")
		}},
		{"a channel that vanishes becomes unlimited and loses its throttle", func(t *testing.T) {
			f := newFixture(t, "root:9,A:1:throttle=60")
			f.add("A", "a", "b")
			f.run(1, "a")
			require.Equal(t, at(1).UTC(), f.Channels()[1].PausedUntil.Add(-time.Minute))
			f.configure("root:9")
			f.run(1, "b")
			f.dump("root(C:9,Q:0,R:2,F:0)\nroot.A(C:inf,Q:0,R:2,F:0)")
			f.state(Done, "a", "b")
			f.dump("root(C:9,Q:0,R:0,F:0)")
		}},
		{"an empty channel that vanishes is gone, with what was only above it", func(t *testing.T) {
			f := newFixture(t, "root:9,a.b.c:1")
			f.configure("root:9,a:2")
			f.dump("root(C:9,Q:0,R:0,F:0)\nroot.a(C:2,Q:0,R:0,F:0)")
			f.configure("")
			f.dump("root(C:1,Q:0,R:0,F:0)")
		}},
		{"a limit further down moves jobs under it", func(t *testing.T) {
			f := newFixture(t, "root:1,A:5")
			f.add("A.x", "a", "b", "c")
			f.add("A.y", "d")
			f.run(1, "a")
			f.configure("root:4,A:5,A.x:2")
			f.dump("root(C:4,Q:1,R:1,F:0)\nroot.A(C:5,Q:0,R:2,F:0)\nroot.A.x(C:2,Q:2,R:1,F:0)\nroot.A.y(C:inf,Q:0,R:1,F:0)")
			f.run(1, "b", "d")
		}},
		{"a pause holds for the very next job", func(t *testing.T) {
			f := newFixture(t, "root:1,A:5")
			f.add("A", "a", "b", "c")
			f.run(1, "a")
			f.configure("root:1,A:5:paused")
			f.state(Done, "a")
			f.run(2)
			f.configure("root:1,A:5")
			f.run(2, "b")
		}},
		{"a pause holds for channels below", func(t *testing.T) {
			f := newFixture(t, "root:1,A:5:paused")
			f.add("A.x", "a")
			f.run(1)
			f.configure("root:1,A:5")
			f.run(1, "a")
		}},
		{"sequential holds for the very next job", func(t *testing.T) {
			f := newFixture(t, "root:1,A:5")
			f.add("A", "a", "b")
			f.run(1, "a")
			f.configure("root:1,A:1:sequential")
			f.state(Failed, "a")
			f.run(2)
			f.configure("root:1,A:1")
			f.run(2, "b")
		}},
		{"an introduced throttle spaces the next jobs", func(t *testing.T) {
			f := newFixture(t, "root:1,A:5")
			f.add("A", "a", "b", "c")
			f.run(1, "a")
			f.configure("root:3,A:5:throttle=10")
			f.run(1, "b")
			f.run(2)
			f.run(11, "c")
		}},
		{"a changed throttle counts from the last job", func(t *testing.T) {
			f := newFixture(t, "root:5:throttle=10")
			f.add("", "a", "b", "c")
			f.run(1, "a")
			f.configure("root:5:throttle=3")
			f.run(3)
			f.run(4, "b")
			f.configure("root:5:throttle=30")
			f.run(33)
			f.run(34, "c")
		}},
		{"defaults limit direct children that are not configured", func(t *testing.T) {
			f := newFixture(t, "root:9,A:9:capacity_default=1:sequential_default,A.own:2")
			f.add("A.x", "x1", "x2")
			f.add("A.x.deep", "x3")
			f.add("A.own", "o1", "o2", "o3")
			f.add("B", "b1", "b2")
			f.run(1, "x1", "o1", "o2", "b1", "b2")
			f.state(Failed, "x1")
			f.run(2)
			f.configure("root:9,A:9:capacity_default=2")
			f.run(2, "x2", "x3")
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			c.test(t)
		})
	}
}

func TestReconfigureRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, "root:4,A:2:throttle=1")
	f.add("A", "a", "b")
	f.run(1, "a")
	before := f.Channels()
	for _, c := range []struct {
		cfgs []Config
		want string
	}{
		{[]Config{{Name: "A", Capacity: 1}, {Name: "S", Capacity: 2, Sequential: true}}, "channel root.S: a sequential channel must have a capacity of 1"},
		{[]Config{{Name: "A", Capacity: 1}, {Name: "root.A", Capacity: 2}}, "channel root.A is configured twice"},
	} {
		require.EqualError(t, f.Configure(c.cfgs), c.want)
		require.Equal(t, before, f.Channels())
	}
}
