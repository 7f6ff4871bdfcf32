package channels

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// limitFixture is a Manager with a share for everything, and jobs of two databases.
func limitFixture(t *testing.T, config string, shares shareList) *Manager {
	t.Helper()
	m := loaded(t, 0, 1, config)
	m.SetShares(shares)
	return m
}

// addTo queues jobs of a database, which are created one after the other.
func addTo(m *Manager, db, channel string, uuids ...string) {
	for _, uuid := range uuids {
		n := int64(m.Len() + 1)
		m.Set(Job{Key: Key{DB: db, UUID: uuid}, Channel: channel, ID: n, Created: n}, Pending)
	}
}

func started(m *Manager) (uuids []string) {
	for _, k := range m.Next(at(1), 0) {
		uuids = append(uuids, k.UUID)
	}
	return uuids
}

// why explains a job that must be known.
func why(t *testing.T, m *Manager, db, uuid string) Explanation {
	t.Helper()
	e, ok := m.Explain(Key{DB: db, UUID: uuid}, at(1))
	require.True(t, ok)
	return e
}

var twoPerDatabase = shareList{{"root", "*", Share{Limit: 2, Per: PerDatabase, Source: "policy root"}}}

func TestOverTheLimitIsPassedBy(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4", twoPerDatabase)
	addTo(m, "a", "", "a1", "a2", "a3", "a4")
	addTo(m, "b", "", "b1")
	require.Equal(t, []string{"a1", "a2", "b1"}, started(m))
	require.False(t, m.Pending())

	e := why(t, m, "a", "a4")
	require.Equal(t, ReasonLimit, e.Reason)
	require.Equal(t, 1, e.Ahead)
	require.Equal(t, &ShareUse{Channel: "root", Key: "database a", Limit: 2, Running: 2, Source: "policy root"}, e.Share)
	require.Equal(t, "job a/a4 waits: database a has 2 of at most 2 at once in channel root (policy root), and 1 job goes before it", e.String())
	root, _ := m.Channel("root")
	require.Equal(t, 2, root.PassedBy)

	m.Remove(Key{DB: "a", UUID: "a2"})
	require.Equal(t, ReasonReady, why(t, m, "a", "a3").Reason)
	e = why(t, m, "a", "a4")
	require.Equal(t, "job a/a4 waits: database a has 1 of at most 2 at once in channel root (policy root), and 1 job goes before it", e.String())
	require.Equal(t, []string{"a3"}, started(m))
}

// TestRunningJobsCount: those found running after a restart are above the limit, and stay.
func TestRunningJobsCount(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:8", twoPerDatabase)
	addTo(m, "a", "", "a1", "a2", "a3", "a4")
	for i, uuid := range []string{"a1", "a2", "a3"} {
		m.Set(Job{Key: Key{DB: "a", UUID: uuid}, ID: int64(i + 1), Created: int64(i + 1)}, Started)
	}
	require.Empty(t, started(m))
	require.Equal(t, 3, why(t, m, "a", "a4").Share.Running)
	m.Remove(Key{DB: "a", UUID: "a1"})
	require.Empty(t, started(m))
	m.Remove(Key{DB: "a", UUID: "a2"})
	require.Equal(t, []string{"a4"}, started(m))

	// The limit of a new configuration counts what already runs.
	addTo(m, "a", "", "a5", "a6")
	m.SetShares(shareList{{"root", "a", Share{Limit: 3, Per: PerDatabase}}})
	require.Equal(t, []string{"a5"}, started(m))
	m.SetShares(nil)
	require.Equal(t, []string{"a6"}, started(m))
}

// TestOverTheLimitHoldsNoSlot: what waits further up for its own kind gives its slot back.
func TestOverTheLimitHoldsNoSlot(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4,root.mail:2", shareList{{"root", "*", Share{Limit: 1, Per: PerDatabase}}})
	addTo(m, "a", "mail", "a1", "a2", "a3")
	addTo(m, "b", "mail", "b1")
	require.Equal(t, []string{"a1", "b1"}, started(m), "a2 does not take the second slot of mail from b1")
	mail, _ := m.Channel("root.mail")
	require.Equal(t, 2, mail.Running)
	require.Equal(t, 2, mail.PassedBy)
	require.Equal(t, "root", why(t, m, "a", "a2").Share.Channel)
	checkInvariants(t, m)
}

// TestPassGoesOnForOthers: what starts in place of jobs that were sent back counts against the limit of the
// pass.
func TestPassGoesOnForOthers(t *testing.T) {
	t.Parallel()
	for limit, want := range [][]string{{"a1", "b1", "c1"}, {"a1"}, {"a1", "b1"}, {"a1", "b1", "c1"}, {"a1", "b1", "c1"}} {
		m := limitFixture(t, "root:9,root.mail:3", shareList{{"root", "*", Share{Limit: 1, Per: PerDatabase}}})
		addTo(m, "a", "mail", "a1", "a2", "a3")
		addTo(m, "b", "mail", "b1")
		addTo(m, "c", "mail", "c1")
		addTo(m, "d", "mail", "d1")
		var got []string
		for _, k := range m.Next(at(1), limit) {
			got = append(got, k.UUID)
		}
		require.Equal(t, want, got, limit)
		checkInvariants(t, m)
	}
}

// TestOrderOfKeys: what is over a limit with a burst comes after what is not.
func TestOrderOfKeys(t *testing.T) {
	t.Parallel()
	over, under := &keyQueue{over: 1}, new(keyQueue)
	require.True(t, keyOrder{}.before(under, over))
	require.False(t, keyOrder{}.before(over, under))
}

// TestBurst: a key exceeds its limit while nobody else can use the slots.
func TestBurst(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:4", shareList{{"root", "*", Share{Limit: 1, Per: PerDatabase, Burst: true}}})
	addTo(m, "a", "", "a1", "a2", "a3", "a4", "a5", "a6")
	addTo(m, "b", "", "b1", "b2")
	require.Equal(t, []string{"a1", "b1", "a2", "a3"}, started(m))
	m.Remove(Key{DB: "b", UUID: "b1"})
	require.Equal(t, []string{"b2"}, started(m), "it is below its limit, a is not")
	m.Remove(Key{DB: "b", UUID: "b2"})
	require.Equal(t, []string{"a4"}, started(m))
}

func TestLimitPerCompany(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:8", shareList{{"root", "*", Share{Limit: 1, Per: PerCompany}}})
	for i, company := range []int32{1, 1, 2, 0, 0} {
		m.Set(Job{Key: Key{DB: "a", UUID: string(rune('a' + i))}, ID: int64(i), Company: company}, Pending)
	}
	m.Set(Job{Key: Key{DB: "b", UUID: "f"}, ID: 9, Company: 1}, Pending)
	require.Equal(t, []string{"a", "c", "d", "f"}, started(m))
	require.Equal(t, "company 1 of database a", why(t, m, "a", "b").Share.Key)
	require.Equal(t, "jobs of database a without a company", why(t, m, "a", "e").Share.Key)

	job, _, _ := m.Lookup(Key{DB: "a", UUID: "b"})
	job.Company = 3
	require.True(t, m.Set(job, Pending), "another company is another key")
	require.Equal(t, []string{"b"}, started(m))
}

// TestLimitsOfTrees: a forest of trees has the shares, and keeps them when it becomes one tree.
func TestLimitsOfTrees(t *testing.T) {
	t.Parallel()
	f := newForest(t, Capacities{Max: 9}, "root:5", "a", "b")
	f.SetShares(shareList{{"root", "a", Share{Limit: 2, Per: PerDatabase}}})
	fill(f, "a", "", 5)
	fill(f, "b", "", 5)
	require.Equal(t, []string{"a", "b", "a", "b", "b", "b", "b"}, databases(f.Next(at(1), 0)))
	require.NoError(t, f.Configure([]Config{{Name: "root", Capacity: 99}}))
	require.Empty(t, f.Next(at(2), 0))
	f.SetShares(nil)
	require.Len(t, f.Next(at(3), 0), 3)
	f.SetShares(twoPerDatabase)
	f.ConfigureDatabases(Capacities{Max: 99})
	require.NoError(t, f.ConfigureDatabase("c", []Config{{Name: "root", Capacity: 9}}))
	fill(f, "c", "", 5)
	require.Equal(t, []string{"c", "c"}, databases(f.Next(at(4), 0)), "a tree that is made later has them, too")
}

// TestExampleOfLimit is the one of docs/policies-shares.md.
func TestExampleOfLimit(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:8,root.mail:2", shareList{{"root", "*", Share{Limit: 4, Per: PerDatabase, Source: "policy root"}}})
	addTo(m, "a", "", "a1", "a2", "a3", "a4", "a5", "a6")
	require.Equal(t, []string{"a1", "a2", "a3", "a4"}, started(m))
	addTo(m, "b", "", "b1", "b2")
	require.Equal(t, []string{"b1", "b2"}, started(m))
	require.Contains(t, why(t, m, "a", "a5").String(), "database a has 4 of at most 4 at once in channel root (policy root)")
	m.Remove(Key{DB: "a", UUID: "a1"})
	require.Equal(t, []string{"a5"}, started(m))
}

// TestPassedByIsNotCountedAnew: a status costs nothing for each key that is over its limit.
func TestPassedByIsNotCountedAnew(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", shareList{{"root", "*", Share{Limit: 1, Per: PerCompany}}})
	m.Set(Job{Key: Key{DB: "a", UUID: "runs"}, Company: 1}, Started)
	for i := range 10 {
		m.Set(Job{Key: Key{DB: "a", UUID: fmt.Sprint(i)}, ID: int64(i), Company: int32(i % 2)}, Pending)
	}
	root := m.root.status()
	require.Equal(t, 5, root.PassedBy)
	m.Remove(Key{DB: "a", UUID: "runs"})
	require.Zero(t, m.root.status().PassedBy)

	// A budget that is used up ends the search for the oldest, however many keys there are.
	visited, budget := 0, 3
	m.root.ready.each(&budget, func(*record) { visited++ })
	require.Equal(t, 3, visited)
	require.Zero(t, budget)
	visited, budget = 0, 1
	m.root.ready.each(&budget, func(*record) { visited++ })
	require.Equal(t, 1, visited, "although there are two keys")
}

// TestBudgetOfKeys: what the jobs of one key leave of their share is not lost.
func TestBudgetOfKeys(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", twoPerDatabase)
	addTo(m, "few", "", "x")
	addTo(m, "many", "", "a", "b", "c", "d", "e", "f", "g", "h", "i")
	for range 20 { // either may be the first
		visited, budget := 0, 8
		m.root.ready.each(&budget, func(*record) { visited++ })
		require.Equal(t, 8, visited+budget)
		require.GreaterOrEqual(t, visited, 5)
	}
}

// TestExplainLeavesOutWhatIsHeld: a job whose eta has come, which no pass has seen yet, goes before another
// one only if nothing holds it back.
func TestExplainLeavesOutWhatIsHeld(t *testing.T) {
	t.Parallel()
	limit, identity, gate := Share{Limit: 1, Per: PerDatabase}, Share{Serialize: "root"}, Share{Gate: "heavy"}
	for name, c := range map[string]struct {
		share Share
		other State // of a job that is like it
		room  int
		ahead int
	}{
		"nothing":             {Share{}, Started, 0, 1},
		"a limit":             {limit, Started, 0, 0},
		"a limit with room":   {limit, Pending, 0, 1},
		"an identity":         {identity, Started, 0, 0},
		"an identity at rest": {identity, Pending, 0, 1},
		"a gate":              {gate, Pending, 0, 0},
		"a gate with room":    {gate, Pending, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := limitFixture(t, "root:9", shareList{{"root", "two", c.share}})
			m.SetRooms([]Room{{Gate: "heavy", Free: c.room}})
			m.Set(Job{Key: Key{"two", "due"}, Identity: 7, ETA: at(1).UnixMicro()}, Pending)
			m.Set(Job{Key: Key{"two", "other"}, Identity: 7, Created: 99}, c.other)
			addTo(m, "one", "", "job")
			require.Equal(t, c.ahead, why(t, m, "one", "job").Ahead)
		})
	}
}

// TestOldestOfEachKey: the best job of each key is among those that are visited, also while others have
// very many.
func TestOldestOfEachKey(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", shareList{{"root", "*", Share{Limit: 1, Per: PerCompany}}})
	m.Set(Job{Key: key("runs"), Company: 9}, Started)
	for i := range 2 * oldestLimit {
		m.Set(Job{Key: key(fmt.Sprint(i)), ID: int64(i), Created: 9e6, Company: int32(i%3) + 1}, Pending)
	}
	m.Set(Job{Key: key("old"), Created: 5e6, Company: 8}, Pending)
	require.Equal(t, map[string]time.Time{"root": at(5).UTC()}, m.Oldest(at(20)))
	seen := map[Waiting]int{}
	m.Waiting(at(20), func(w Waiting) { seen[w]++ })
	require.Equal(t, 1, seen[Waiting{DB: "db", Channel: "root", Since: at(5).UTC()}])
	require.Len(t, seen, 2)
	require.LessOrEqual(t, seen[Waiting{DB: "db", Channel: "root", Since: at(9).UTC()}], oldestLimit)
}

// TestManyCompanies: beyond a number, companies of a database count as one, until they have no jobs.
func TestManyCompanies(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9999", shareList{{"root", "*", Share{Limit: 1, Per: PerCompany}}})
	job := func(db string, i int) Job {
		return Job{Key: Key{DB: db, UUID: fmt.Sprint(i)}, ID: int64(i), Company: int32(i)}
	}
	for i := range CompaniesPerDatabase + 10 {
		m.Set(job("big", i+1), Pending)
	}
	m.Set(job("small", 7), Pending)
	require.Len(t, m.root.ready.shared.keys, CompaniesPerDatabase+2)
	require.Len(t, m.Next(at(1), 0), CompaniesPerDatabase+2)
	last := fmt.Sprint(CompaniesPerDatabase + 10)
	require.Equal(t, "the companies of database big beyond 1000", why(t, m, "big", last).Share.Key)
	checkInvariants(t, m)

	// The same row again changes nothing, and another company of a known job counts there.
	require.False(t, m.Set(job("big", CompaniesPerDatabase+10), Pending))
	moved := job("big", CompaniesPerDatabase+10)
	moved.Company = 0
	require.True(t, m.Set(moved, Pending))
	require.Len(t, m.Next(at(2), 0), 1)
	for i := range CompaniesPerDatabase + 10 {
		m.Remove(job("big", i+1).Key)
	}
	require.Equal(t, companies{}, m.dbs["big"].companies)
	m.Set(job("big", 12345), Pending)
	require.Len(t, m.Next(at(3), 0), 1)
	require.Equal(t, int32(12345), m.dbs["big"].companies.of(12345))
	checkInvariants(t, m)
}

// TestRoomOfALimit: as many as the limit leaves, none if more run than it allows.
func TestRoomOfALimit(t *testing.T) {
	t.Parallel()
	require.Equal(t, 3, (&tally{limit: 5, running: 2}).room())
	k := &keyQueue{hurdles: []hurdle{{tally: &tally{limit: 5, running: 2}}, {tally: &tally{limit: 1, burst: true}}}}
	require.Equal(t, 3, k.room(), "a limit with a burst holds nothing back")
	k.hurdles = append(k.hurdles, hurdle{tally: &tally{limit: 1, running: 2}})
	require.Zero(t, k.room())
}

// TestAheadOfTheSameKey: of its own key, all that go before a job are counted, however many the limit lets
// pass.
func TestAheadOfTheSameKey(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9", twoPerDatabase)
	addTo(m, "a", "", "a1", "a2", "a3", "a4", "a5", "a6", "a7")
	require.Equal(t, []string{"a1", "a2"}, started(m))
	require.Equal(t, 4, why(t, m, "a", "a7").Ahead)
}

// TestAheadOfOtherKeys: jobs over their limits do not go before those of others, whichever key is counted
// first.
func TestAheadOfOtherKeys(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:21", twoPerDatabase)
	for i := range 10 {
		addTo(m, fmt.Sprint("over", i), "", "1", "2", "3")
	}
	require.Len(t, started(m), 20)
	for i := range 10 {
		addTo(m, fmt.Sprint("under", i), "", "1")
	}
	addTo(m, "last", "", "job")
	require.Equal(t, 10, why(t, m, "last", "job").Ahead)
}

// TestBurstSendsNoneBack: what has passed a throttled channel does not have to wait for it again when a
// limit with a burst is no longer reached.
func TestBurstSendsNoneBack(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1,mail:2:throttle=60", shareList{{"root", "*", Share{Limit: 1, Per: PerDatabase, Burst: true}}})
	addTo(m, "a", "", "runs")
	require.Equal(t, []string{"runs"}, started(m))
	addTo(m, "a", "mail", "waits")
	require.Empty(t, started(m))
	m.Remove(Key{DB: "a", UUID: "runs"})
	require.Equal(t, []string{"waits"}, started(m))
}
