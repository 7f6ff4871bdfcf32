package channels

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// setRooms says anew what room there is.
func (s *comparison) setRooms(t *rapid.T) {
	var rooms []Room
	for _, name := range []string{"x", "y"} {
		r := Room{Gate: name, Free: rapid.SampledFrom([]int{0, 0, 1, 1, 2, 9}).Draw(t, "free")}
		if name == "y" && rapid.IntRange(0, 2).Draw(t, "of") == 0 {
			r.Of = "x"
		}
		rooms = append(rooms, r)
	}
	s.m.SetRooms(rooms)
	s.ref.rooms = make(map[string]Room)
	for _, r := range rooms {
		s.ref.rooms[r.Gate] = r
	}
	s.ref.sendBack()
}

// gate is that of the deepest channel that has one.
func (j *refJob) gate() string {
	for c := j.channel; c != nil && c.m.shares != nil; c = c.parent {
		if g := c.m.shares.Share(c.name, j.DB).Gate; g != "" {
			return g
		}
	}
	return ""
}

// source is the gate whose room a job takes.
func (m *reference) source(j *refJob) string {
	g := j.gate()
	if of := m.rooms[g].Of; of != "" {
		return of
	}
	return g
}

func (m *reference) closed(j *refJob) bool {
	g := m.source(j)
	return g != "" && m.rooms[g].Free <= 0
}

func (m *reference) spend(j *refJob) {
	if g := m.source(j); g != "" {
		r := m.rooms[g]
		r.Free--
		m.rooms[g] = r
	}
}

// TestGate: jobs for which there is no room let others pass, hold no slot, and go as soon as there is.
func TestGate(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9,a:2", shareList{
		{"root.a", "*", Share{Gate: "heavy"}},
		{"root", "*", Share{Gate: "rest"}},
	})
	for i, channel := range []string{"a", "a", "a", "a.deep", "b", ""} {
		m.Set(Job{Key: key(string(rune('a' + i))), Channel: channel, ID: int64(i)}, Pending)
	}
	require.Empty(t, m.Next(at(1), 0), "nobody has said that there is room")
	require.True(t, m.Waits("heavy"))
	require.True(t, m.Gated("rest"))
	require.False(t, m.Waits("unknown"))
	require.False(t, m.Gated("unknown"))
	e, _ := m.Explain(key("b"), at(1))
	require.Equal(t, ReasonNoRoom, e.Reason)
	require.Equal(t, "job db/b waits: there is no room for it at heavy, and 1 job goes before it", e.String())
	m.SetRooms([]Room{{Gate: "heavy", Free: 1}, {Gate: "rest", Free: 5}})
	require.ElementsMatch(t, []Key{key("a"), key("e"), key("f")}, m.Next(at(1), 0))
	st, _ := m.Channel("a")
	require.Equal(t, 1, st.Running, "what has no room holds no slot")
	require.Equal(t, 3, st.PassedBy)
	require.False(t, m.Pending())
	require.False(t, m.Gated("rest"))
	m.Remove(key("a"))
	require.Empty(t, m.Next(at(1), 0), "the end of a job does not tell whether there is room")
	m.SetRooms([]Room{{Gate: "heavy", Of: "rest"}})
	require.True(t, m.Pending())
	require.False(t, m.Waits("heavy"))
	require.Equal(t, []Key{key("b"), key("c")}, m.Next(at(1), 0), "a has two slots")
	m.Remove(key("b"))
	require.False(t, m.Waits("heavy"), "there is room")
	m.SetRooms([]Room{{Gate: "rest", Free: 0}})
	require.True(t, m.Waits("heavy"))
	m.SetRooms([]Room{{Gate: "rest", Free: 1}})
	require.Equal(t, []Key{key("d")}, m.Next(at(1), 0))
	m.SetShares(nil)
	require.False(t, m.Gated("heavy"))
}

// TestWaitsForTheGateAlone: a job that something else holds back as well does not wait for the gate.
func TestWaitsForTheGateAlone(t *testing.T) {
	t.Parallel()
	heavy := Share{Gate: "heavy"}
	for name, c := range map[string]struct {
		config string
		share  Share
		want   bool
	}{
		"the gate alone":    {"root:9,a:2", heavy, true},
		"a limit":           {"root:9,a:2", Share{Gate: "heavy", Limit: 1, Per: PerDatabase}, false},
		"its channel":       {"root:9,a:1", heavy, false},
		"the channel above": {"root:1,a:2", heavy, false},
		"a throttle":        {"root:9,a:2:throttle=60", heavy, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := limitFixture(t, c.config, shareList{{"root.a", "*", c.share}})
			m.SetRooms([]Room{{Gate: "heavy", Free: 1}})
			addTo(m, "db", "a", "runs", "waits")
			require.Equal(t, []string{"runs"}, started(m))
			require.True(t, m.Gated("heavy"))
			require.Equal(t, c.want, m.Waits("heavy"))
		})
	}
}

// TestGateSpansTrees: where each database has its own tree, all of them take the room of a gate.
func TestGateSpansTrees(t *testing.T) {
	t.Parallel()
	f := NewForest()
	f.ConfigureDatabases(Capacities{Max: 100})
	f.SetShares(shareList{{"root", "*", Share{Gate: "x"}}})
	for _, db := range []string{"one", "two", "three"} {
		require.NoError(t, f.ConfigureDatabase(db, nil))
		for _, uuid := range []string{"a", "b", "c"} {
			f.Set(Job{Key: Key{db, uuid}}, Pending)
		}
	}
	require.False(t, f.Pending())
	require.True(t, f.Waits("x"))
	require.True(t, f.Gated("x"))
	f.SetRooms([]Room{{Gate: "x", Free: 4}})
	require.True(t, f.Pending())
	require.Len(t, f.Next(at(1), 0), 4)
	require.False(t, f.Pending())
	f.SetRooms([]Room{{Gate: "x", Free: 9}})
	require.NoError(t, f.ConfigureDatabase("four", nil))
	f.Set(Job{Key: Key{"four", "a"}}, Pending)
	require.Len(t, f.Next(at(1), 0), 6)
	require.False(t, f.Pending())
	require.False(t, f.Gated("x"))
	f.SetRooms([]Room{{Gate: "x", Free: 0}})
	f.Set(Job{Key: Key{"four", "b"}}, Pending)
	require.Empty(t, f.Next(at(1), 0))
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 99}}))
	require.Empty(t, f.Next(at(1), 0))
	f.SetRooms([]Room{{Gate: "x", Free: 1}})
	require.Len(t, f.Next(at(1), 0), 1)
}
