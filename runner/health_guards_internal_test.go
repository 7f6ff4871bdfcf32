package runner

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// What is wrong with one thing only is said of that thing only.
func TestHealthAtItsEdges(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	heard := func(name string, change func(*DatabaseStatus)) DatabaseStatus {
		db := DatabaseStatus{Name: name, State: DatabaseReady, Connected: now, Heard: now}
		if change != nil {
			change(&db)
		}
		return db
	}
	pausedRoot := func(change func(*channels.Status)) []ChannelStatus {
		c := channels.Status{FullName: "root"}
		change(&c)
		return []ChannelStatus{{Status: c}}
	}
	const unserved = "database w waits for a connection" + waitingAdvice
	waits := DatabaseStatus{Name: "w", State: DatabaseWaiting}
	for name, c := range map[string]struct {
		change   func(*Status)
		warnings []string
	}{
		"nothing":              {func(*Status) {}, nil},
		"root without a limit": {func(st *Status) { st.Channels = pausedRoot(func(c *channels.Status) { c.Capacity = 0 }) }, nil},
		"root of nothing": {
			func(st *Status) { st.Channels = pausedRoot(func(c *channels.Status) { c.Capacity = -1 }) },
			[]string{"no job runs: channel root is paused by its configuration"},
		},
		"root of a database": {func(st *Status) { st.Channels = pausedRoot(func(c *channels.Status) { c.DB, c.Paused = "a", true }) }, nil},
		"another channel": {func(st *Status) {
			st.Channels = pausedRoot(func(c *channels.Status) { c.FullName, c.Paused = "root.a", true })
		}, nil},
		"some capacity":              {func(st *Status) { st.DatabaseChannels, st.MaxCapacity = true, 1 }, nil},
		"no capacity, not asked for": {func(st *Status) { st.MaxCapacity = 0 }, nil},
		"both are paused": {
			func(st *Status) {
				for _, name := range []string{"a", "b"} {
					st.Databases = append(st.Databases, heard(name, func(db *DatabaseStatus) { db.Pause = &Pause{} }))
				}
				st.Databases = st.Databases[1:]
			}, []string{"database a is paused", "database b is paused"},
		},
		"one waits": {func(st *Status) { st.Databases = append(st.Databases, waits) }, []string{"1 of 2 databases served", unserved}},
		"one job waits": {
			func(st *Status) {
				w := waits
				w.Pending, w.JobsUnknown = 1, true
				st.Databases = append(st.Databases, w)
			}, []string{"1 of 2 databases served", unserved + " (1 job waits)"},
		},
		"unknown jobs wait": {
			func(st *Status) {
				w := waits
				w.JobsUnknown = true
				st.Databases = append(st.Databases, w)
			}, []string{"1 of 2 databases served", unserved + " (how many jobs wait is unknown)"},
		},
		"just woken": {func(st *Status) {
			w := waits
			w.Woken = now.Add(1 - 10*time.Second)
			st.Databases = append(st.Databases, w)
		}, nil},
		"woken before": {func(st *Status) {
			w := waits
			w.Woken = now.Add(-wakingLimit)
			st.Databases = append(st.Databases, w)
		}, []string{"1 of 2 databases served", unserved}},
		"asleep": {func(st *Status) {
			st.Databases = append(st.Databases, DatabaseStatus{Name: "s", State: DatabaseAsleep})
		}, nil},
		"a copy beside it": {func(st *Status) {
			st.Databases = append(st.Databases, DatabaseStatus{Name: "c", State: DatabaseNeutralized})
		}, nil},
	} {
		st := Status{Leader: true, LeaderKnown: true, Upstreams: []UpstreamStatus{{Name: "up", Up: true}}, Databases: []DatabaseStatus{heard("x", nil)}}
		c.change(&st)
		require.Empty(t, st.Problems(now), name)
		require.Equal(t, c.warnings, st.Warnings(now), name)
	}
}

// Only a leader that has taken over knows what does not run.
func TestWarningsOfALeader(t *testing.T) {
	t.Parallel()
	paused := []string{"everything is paused"}
	for _, c := range []struct {
		leads, takingOver bool
		warnings          []string
	}{{true, false, paused}, {true, true, nil}, {false, false, nil}, {false, true, nil}} {
		st := Status{
			Leader: c.leads, TakingOver: c.takingOver, LeaderKnown: true, Controls: Controls{Pauses: []Pause{{}}},
			Upstreams: []UpstreamStatus{{Name: "up", Up: true}},
		}
		require.Equal(t, c.warnings, st.Warnings(time.Now()), "%+v", c)
	}
}

// Ten are named, and of more it is said how many.
func TestFew(t *testing.T) {
	t.Parallel()
	var list []string
	for i := range healthNamed {
		list = append(list, strconv.Itoa(i))
	}
	require.Equal(t, list, few(list))
	more := few(append(list, "last"))
	require.Len(t, more, healthNamed+1)
	require.Equal(t, "and 1 more", more[healthNamed])
	require.Equal(t, "1 job waits", waiting(1))
	require.Equal(t, "0 jobs wait", waiting(0))
}

// A database should have a session unless it is known why it has none.
func TestWhichDatabasesAreServed(t *testing.T) {
	t.Parallel()
	for s := DatabaseConnecting; s <= DatabaseAsleep; s++ {
		without := s == DatabaseUndetected || s == DatabaseStandby || s == DatabaseYielding || s == DatabaseNeutralized || s == DatabaseAsleep
		require.Equal(t, !without, (&DatabaseStatus{State: s}).Served(), s)
	}
}

// Rows tell by what jobs are counted as soon as one policy wants it.
func TestWhichKeysAreRead(t *testing.T) {
	t.Parallel()
	none := policy.Policy{Timeout: &policy.Timeout{}}
	company, serial := policy.Policy{Fair: policy.PerCompany}, policy.Policy{Serialize: policy.ByIdentityKey}
	for _, c := range []struct {
		policies []policy.Policy
		want     driver.Keys
	}{
		{nil, driver.Keys{}},
		{[]policy.Policy{none, {Fair: policy.PerDatabase}}, driver.Keys{}},
		{[]policy.Policy{company, none}, driver.Keys{Companies: true}},
		{[]policy.Policy{none, serial, none}, driver.Keys{Identities: true}},
		{[]policy.Policy{company, serial}, driver.Keys{Companies: true, Identities: true}},
	} {
		require.Equal(t, c.want, keys(c.policies))
	}
}
