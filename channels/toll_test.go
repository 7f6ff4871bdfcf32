package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// checkTolls counts anew what rates of databases count.
func checkTolls(t require.TestingT, m *Manager, c *channel) {
	if c.tolls == nil {
		return
	}
	shut := 0
	for db, toll := range c.tolls.of {
		running, active := 0, 0
		if d := m.dbs[db]; d != nil {
			d.each(func(r *record) bool {
				if r.hasLeft(c) {
					running++
					if r.location == inRunning {
						active++
					}
				}
				return true
			})
		}
		require.Equal(t, running, toll.running)
		require.Equal(t, active, toll.toll.active)
		b := toll.toll.bucket
		b.refill(m.clock.now)
		require.Equal(t, b.has(running-active+1), !toll.toll.shut || len(toll.waiting) == 0 && b.has(running-active+1), "%s in %s", db, c.name)
		if toll.toll.index >= 0 {
			shut++
			require.True(t, toll.toll.shut)
			require.NotEmpty(t, toll.waiting)
			require.Same(t, toll, c.tolls.due.items[toll.toll.index])
		}
	}
	require.Equal(t, shut, c.tolls.due.len())
	checkHeap(t, c.tolls.due.items, dueOrder{})
}

// perDatabase are tokens of each database.
func perDatabase(starts, burst int, period time.Duration) Share {
	return Share{Rate: &Rate{Starts: starts, Period: period, Burst: burst, PerDatabase: true}, RateSource: "policy root"}
}

// names returns the uuids of what a pass starts.
func names(m *Manager, seconds float64) (uuids []string) {
	for _, k := range m.Next(at(seconds), 0) {
		uuids = append(uuids, k.UUID)
	}
	return uuids
}

func wakeup(t *testing.T, m *Manager, seconds float64) {
	t.Helper()
	require.False(t, m.Pending())
	require.Equal(t, at(seconds).UTC(), m.Wakeup())
}

// TestRatePerDatabase: what waits for a token of its database is passed by, and a pass comes when there
// is one.
func TestRatePerDatabase(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4", nil)
	require.Empty(t, names(m, 1))
	m.SetShares(shareList{{"root", "*", perDatabase(1, 2, time.Minute)}})
	addTo(m, "a", "", "a1", "a2", "a3")
	require.Empty(t, names(m, 2), "it begins without tokens")
	addTo(m, "b", "", "b1", "b2")
	wakeup(t, m, 61)
	require.Equal(t, []string{"a1", "b1"}, names(m, 61))
	require.Equal(t, []string{"a2", "b2"}, names(m, 121), "others pass a3")
	require.Empty(t, names(m, 180))
	e, ok := m.Explain(Key{DB: "a", UUID: "a3"}, at(180))
	require.True(t, ok)
	require.Equal(t, ReasonChannelFull, e.Reason)
	for _, uuid := range []string{"a1", "a2"} {
		m.Remove(Key{DB: "a", UUID: uuid})
	}
	addTo(m, "a", "", "a4")
	e, _ = m.Explain(Key{DB: "a", UUID: "a4"}, at(180))
	require.Equal(t, ReasonRate, e.Reason)
	require.Equal(t, at(241).UTC(), e.Until)
	require.Contains(t, e.String(), "policy root lets 1 job of each database in a minute, 2 of them at once, of channel root start, and this one not before 1970-01-01T00:04:01Z")
	require.Equal(t, 2, m.root.status().PassedBy)
	by, until := statusOf(m, "root").LimitedBy()
	require.Equal(t, "rate", by)
	require.Equal(t, at(181).UTC(), until)
	wakeup(t, m, 181)
	require.Equal(t, []string{"a3"}, names(m, 181))
	m.Refund(Key{DB: "a", UUID: "a3"})
	require.Equal(t, []string{"a4"}, names(m, 182), "the token of a3 was given back")
	require.True(t, m.Wakeup().IsZero(), "nothing waits")
}

func statusOf(m *Manager, channel string) *Status {
	s := m.find(channel).status()
	return &s
}

// TestTokensOfChannelsThatGo: a channel that only jobs need keeps its tokens, and a new leader knows of
// none.
func TestTokensOfChannelsThatGo(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4", nil)
	names(m, 1)
	m.SetShares(shareList{{"root.x", "*", perDatabase(1, 2, time.Minute)}})
	addTo(m, "a", "x", "a1", "a2")
	require.Equal(t, []string{"a1", "a2"}, names(m, 1000))
	m.Remove(Key{DB: "a", UUID: "a1"})
	m.Remove(Key{DB: "a", UUID: "a2"})
	require.Nil(t, m.find("root.x"))
	addTo(m, "a", "x", "a3")
	require.Empty(t, names(m, 1001))
	require.Equal(t, []string{"a3"}, names(m, 1060))
	m.Remove(Key{DB: "a", UUID: "a3"})
	names(m, 2000)
	m.EmptyBuckets(at(2000))
	addTo(m, "a", "x", "a4")
	require.Empty(t, names(m, 2001))
	require.Equal(t, []string{"a4"}, names(m, 2060))
}

// TestNewLeaderCallsBack: what has passed a rate and waits further up does not start by the tokens of
// the last leader.
func TestNewLeaderCallsBack(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", nil)
	names(m, 1)
	m.SetShares(shareList{{"root.x", "*", perDatabase(1, 2, time.Minute)}})
	m.Set(Job{Key: Key{DB: "b", UUID: "runs"}, ID: 1}, Started)
	addTo(m, "a", "x", "a1")
	require.Empty(t, names(m, 1000), "a1 waits in root")
	require.Equal(t, 1, m.root.ready.len())
	m.EmptyBuckets(at(1000))
	require.Zero(t, m.root.ready.len())
	m.Remove(Key{DB: "b", UUID: "runs"})
	require.Empty(t, names(m, 1001))
	require.Equal(t, []string{"a1"}, names(m, 1060))
}

// TestNewLeaderCallsBackByRules: it is the same with the rate of a channel.
func TestNewLeaderCallsBackByRules(t *testing.T) {
	t.Parallel()
	m := loaded(t, 0, 1, "root:1")
	names(m, 1)
	m.Govern(func(channel string) (r Rules) {
		if channel == "root.x" {
			r.Rate = &Rate{Starts: 1, Period: time.Minute, Burst: 2}
		}
		return r
	})
	m.Set(Job{Key: Key{DB: "b", UUID: "runs"}, ID: 1}, Started)
	addTo(m, "a", "x", "a1")
	require.Empty(t, names(m, 1000), "a1 waits in root")
	require.Equal(t, 1, m.root.ready.len())
	m.EmptyBuckets(at(1000))
	require.Zero(t, m.root.ready.len())
	m.Remove(Key{DB: "b", UUID: "runs"})
	require.Empty(t, names(m, 1001))
	require.Equal(t, []string{"a1"}, names(m, 1060))
}

// TestTokenBelongsToItsDatabase: jobs that hold slots of a channel further down, and have no token
// further up, give them back.
func TestTokenBelongsToItsDatabase(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4,x:1", nil)
	names(m, 1)
	m.SetShares(shareList{{"root", "*", perDatabase(1, 1, time.Hour)}})
	addTo(m, "a", "x", "a1", "a2")
	addTo(m, "b", "x", "b1")
	require.Equal(t, []string{"a1"}, names(m, 3601))
	m.Remove(Key{DB: "a", UUID: "a1"})
	require.Equal(t, []string{"b1"}, names(m, 3602))
}

// BenchmarkTolls: a change of a job where a thousand databases have a rate and wait.
func BenchmarkTolls(b *testing.B) {
	for _, rated := range []bool{false, true} {
		b.Run(fmt.Sprintf("rated=%t", rated), func(b *testing.B) {
			m := NewManager()
			if err := m.Configure([]Config{{Name: "root", Capacity: 8}}); err != nil {
				b.Fatal(err)
			}
			m.Next(at(1), 0)
			if rated {
				m.SetShares(shareList{{"root", "*", perDatabase(1, 1, time.Second)}})
			}
			for i := range 100_000 {
				n := int64(i + 1)
				m.Set(Job{Key: Key{DB: fmt.Sprint("db", i%1000), UUID: fmt.Sprintf("00000000-0000-0000-0000-%012d", i)}, ID: n, Created: n}, Pending)
			}
			now := 1.0
			b.ReportAllocs()
			for b.Loop() {
				now += 0.001
				for _, k := range m.Next(at(now), 0) {
					j, _, _ := m.Lookup(k)
					m.Set(j, Done)
					j.ID += 100_000
					m.Set(j, Pending)
				}
			}
		})
	}
}

// TestRestingIsBounded: buckets that nobody needs do not pile up, and those that say nothing go first.
func TestRestingIsBounded(t *testing.T) {
	t.Parallel()
	rate := Rate{Starts: 1, Period: time.Minute, Burst: 1}
	used := func(at int64) bucket {
		b := newBucket(rate, at)
		b.add(-1)
		return b
	}
	var p resting
	fill := func(from, n int, at int64) {
		for i := range n {
			p.put(restingKey{db: fmt.Sprint(from + i)}, used(at), at)
		}
	}
	require.Positive(t, restingLimit)
	fill(0, restingLimit, 1e9)
	require.Len(t, p.of, restingLimit)
	fill(restingLimit, 1, 1e9)
	require.Empty(t, p.of, "all of them say something, so all begin anew")
	require.EqualValues(t, 1e9, p.since)

	p.empty(0)
	const gone = restingLimit/2 + 1
	fill(0, gone, 1e9)
	later := int64(1e9 + 3600e6)
	fill(gone, restingLimit-gone, later)
	fill(restingLimit, 1, later)
	require.Len(t, p.of, restingLimit-gone+1, "the first ones are full by now")
}

// TestOrderOfTokens: the token that comes first is waited for first.
func TestOrderOfTokens(t *testing.T) {
	t.Parallel()
	first, second := &tally{toll: &toll{due: 1}}, &tally{toll: &toll{due: 2}}
	require.True(t, dueOrder{}.before(first, second))
	require.False(t, dueOrder{}.before(second, first))
}

// TestTollsInUseAreKept: when there are many, those of databases are forgotten of which nothing runs or waits
// and that have all their tokens, and no others.
func TestTollsInUseAreKept(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:2", nil)
	m.Next(at(1), 0)
	m.SetShares(shareList{{"root", "*", perDatabase(1, 1, time.Minute)}})
	key := func(db string) Key { return Key{DB: db, UUID: "a"} }
	run := func(seconds float64, db string) {
		addTo(m, db, "", "a")
		require.Equal(t, []Key{key(db)}, m.Next(at(seconds), 0))
	}
	run(100, "runs")
	for i := range tollsFirst - 3 {
		db := fmt.Sprint("db", i)
		run(100, db)
		m.Remove(key(db))
	}
	require.Len(t, m.root.tolls.of, tollsFirst-2)
	run(1000, "used")
	addTo(m, "waits", "", "a")
	require.Empty(t, m.Next(at(1000), 0), "both slots are taken")
	require.Len(t, m.root.tolls.of, tollsFirst)
	addTo(m, "new", "", "a")
	var left []string
	for db := range m.root.tolls.of {
		left = append(left, db)
	}
	require.ElementsMatch(t, []string{"runs", "used", "waits", "new"}, left)
	require.Equal(t, 2*3+tollsFirst, m.root.tolls.many)
	checkTolls(t, m, m.root)
	m.Remove(key("runs"))
	require.Equal(t, []Key{key("waits")}, m.Next(at(1000), 0))
	m.Remove(key("used"))
	require.Equal(t, []Key{key("new")}, m.Next(at(1000), 0))
	checkTolls(t, m, m.root)
}

// TestRatedDatabases: the status counts the databases of which jobs wait for a token, not those that wait for
// a slot, and not those of which none waits.
func TestRatedDatabases(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", nil)
	m.Next(at(1), 0)
	m.SetShares(shareList{{"root", "*", perDatabase(1, 1, time.Minute)}})
	addTo(m, "a", "", "a1")
	require.Equal(t, []string{"a1"}, names(m, 100))
	require.Zero(t, statusOf(m, "root").Rated, "it has no token, and needs none")
	addTo(m, "b", "", "b2")
	require.Empty(t, names(m, 100))
	require.Zero(t, statusOf(m, "root").Rated, "b has a token, and no slot")
	m.Remove(Key{DB: "b", UUID: "b2"})
	addTo(m, "a", "", "a2")
	addTo(m, "b", "", "b1")
	require.Empty(t, names(m, 100))
	require.Equal(t, 1, statusOf(m, "root").Rated)
	e, ok := m.Explain(Key{DB: "b", UUID: "b1"}, at(100))
	require.True(t, ok)
	require.Equal(t, ReasonChannelFull, e.Reason)
	require.Zero(t, e.Ahead, "a2 is passed by")
	m.Remove(Key{DB: "a", UUID: "a1"})
	e, ok = m.Explain(Key{DB: "b", UUID: "b1"}, at(100))
	require.True(t, ok)
	require.NotEqual(t, ReasonRate, e.Reason, "its one token is enough")
	require.Equal(t, []string{"b1"}, names(m, 100))
}
