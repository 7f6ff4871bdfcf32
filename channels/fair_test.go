package channels

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var fairByDatabase = shareList{{"root", "*", Share{Fair: PerDatabase, Source: "policy root"}}}

// simulation runs jobs by a virtual clock.
type simulation struct {
	t        require.TestingT
	m        *Manager
	now      time.Duration
	duration map[string]func() time.Duration // by database
	running  []simulated
	queued   map[Key]time.Duration // since when
	waits    map[string][]time.Duration
	busy     map[string]time.Duration // of jobs that have ended
	serial   int
}

type simulated struct {
	job  Job
	from time.Duration
	to   time.Duration
}

func newSimulation(t require.TestingT, config string, shares Shares) *simulation {
	m := loaded(t, 0, 1, config)
	m.SetShares(shares)
	return &simulation{
		t: t, m: m, duration: map[string]func() time.Duration{}, queued: map[Key]time.Duration{},
		waits: map[string][]time.Duration{}, busy: map[string]time.Duration{},
	}
}

func (s *simulation) clock() time.Time { return time.Unix(1000, 0).Add(s.now) }

// takes says how long the jobs of a database take.
func (s *simulation) takes(db string, d time.Duration) {
	s.duration[db] = func() time.Duration { return d }
}

func (s *simulation) add(db, channel string, n int) {
	for range n {
		s.serial++
		j := Job{Key: Key{DB: db, UUID: fmt.Sprint(s.serial)}, Channel: channel, ID: int64(s.serial), Created: s.clock().UnixMicro()}
		s.queued[j.Key] = s.now
		s.m.Observe(s.clock())
		s.m.Set(j, Pending)
	}
}

// start starts what may start.
func (s *simulation) start() {
	for _, k := range s.m.Next(s.clock(), 0) {
		j, _, _ := s.m.Lookup(k)
		s.waits[k.DB] = append(s.waits[k.DB], s.now-s.queued[k])
		delete(s.queued, k)
		s.running = append(s.running, simulated{j, s.now, s.now + s.duration[k.DB]()})
	}
}

// until lets time pass. Each event is one of its own, as notifications are.
func (s *simulation) until(end time.Duration) {
	for s.start(); len(s.running) > 0; s.start() {
		i := 0
		for at := range s.running {
			if s.running[at].to < s.running[i].to {
				i = at
			}
		}
		first := s.running[i]
		if first.to > end {
			break
		}
		s.now = first.to
		s.running = slices.Delete(s.running, i, i+1)
		s.busy[first.job.DB] += first.to - first.from
		s.m.Observe(s.clock())
		s.m.Set(first.job, Done)
	}
	s.now = end
}

func p99(waits []time.Duration) time.Duration {
	slices.Sort(waits)
	return waits[len(waits)*99/100]
}

// refFair is start-time fair queueing written down as directly as possible: of the keys that have jobs, the
// one with the least virtual time goes next; among equals, the one with the best job.
type refFair struct {
	virtual, latest, mean int64
	lanes                 map[string]*refLane
}

type refLane struct {
	start, mean int64
	waiting     []int64 // ids
	charged     map[string]int64
}

func (f *refFair) lane(db string) *refLane {
	if f.lanes[db] == nil {
		f.lanes[db] = &refLane{start: f.virtual, charged: map[string]int64{}}
	}
	return f.lanes[db]
}

func (f *refFair) add(db string, id int64) {
	l := f.lane(db)
	if len(l.waiting) == 0 {
		l.start = max(l.start, f.virtual)
	}
	l.waiting = append(l.waiting, id)
}

// start returns which job goes next.
func (f *refFair) start() string {
	best := ""
	for db, l := range f.lanes {
		b := f.lanes[best]
		if len(l.waiting) > 0 && (b == nil || l.start < b.start || l.start == b.start && l.waiting[0] < b.waiting[0]) {
			best = db
		}
	}
	l := f.lanes[best]
	f.virtual = max(f.virtual, l.start)
	uuid := fmt.Sprint(l.waiting[0])
	l.waiting = l.waiting[1:]
	l.charged[uuid] = max(cmp.Or(l.mean, f.mean), leastCharge)
	l.start += l.charged[uuid]
	f.latest = max(f.latest, l.start)
	return best + "/" + uuid
}

func (f *refFair) end(k Key, took int64, idle bool) {
	l := f.lane(k.DB)
	took = max(took, leastCharge)
	smooth := func(old int64) int64 {
		if old == 0 {
			return took
		}
		return old + (took-old)/weight
	}
	l.mean, f.mean = smooth(l.mean), smooth(f.mean)
	l.start += took - l.charged[k.UUID]
	f.latest = max(f.latest, l.start)
	delete(l.charged, k.UUID)
	if idle {
		f.virtual = f.latest
	}
}

// TestFairIsTheReference: whatever comes and ends, the job goes next that goes in the model.
func TestFairIsTheReference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := loaded(t, 0, 1, fmt.Sprintf("root:%d", rapid.IntRange(1, 3).Draw(t, "slots")))
		m.SetShares(fairByDatabase)
		ref := &refFair{mean: firstCharge, lanes: map[string]*refLane{}}
		now := time.Unix(1000, 0)
		running := map[string]time.Time{}
		waiting, id := 0, int64(0)
		next := func() {
			for _, k := range m.Next(now, 0) {
				require.Equal(t, ref.start(), k.String())
				running[k.String()] = now
				waiting--
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"queue": func(t *rapid.T) {
				db := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "database")
				for range rapid.IntRange(1, 4).Draw(t, "jobs") {
					id++
					m.Observe(now)
					m.Set(Job{Key: Key{DB: db, UUID: fmt.Sprint(id)}, ID: id}, Pending)
					ref.add(db, id)
					waiting++
				}
				next()
			},
			"end": func(t *rapid.T) {
				if len(running) == 0 {
					return // nothing can end, and nothing has changed
				}
				name := rapid.SampledFrom(slices.Sorted(maps.Keys(running))).Draw(t, "job")
				db, uuid, _ := strings.Cut(name, "/")
				k := Key{DB: db, UUID: uuid}
				now = now.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "milliseconds later")) * time.Millisecond)
				began := running[name]
				delete(running, name)
				m.Observe(now)
				m.Remove(k)
				ref.end(k, now.Sub(began).Microseconds(), len(running) == 0 && waiting == 0)
				next()
			},
		})
	})
}

// TestFairToTheSmallOne: a tenant with one job a second hardly notices another one with 100,000.
func TestFairToTheSmallOne(t *testing.T) {
	t.Parallel()
	const seconds, duration = 500, 700 * time.Millisecond
	wait := func(big int, shares Shares) time.Duration {
		s := newSimulation(t, "root:4", shares)
		s.takes("big", duration)
		s.takes("small", duration)
		s.add("big", "", big)
		for i := range seconds {
			s.until(time.Duration(i) * time.Second)
			s.add("small", "", 1)
		}
		s.until(s.now)
		require.NotEmpty(t, s.waits["small"])
		return p99(s.waits["small"])
	}
	alone := wait(0, fairByDatabase)
	require.Zero(t, alone)
	require.LessOrEqual(t, wait(100_000, fairByDatabase), alone+duration)
	s := newSimulation(t, "root:4", nil)
	s.takes("big", duration)
	s.takes("small", duration)
	s.add("big", "", 100_000)
	s.add("small", "", 1)
	s.until(seconds * time.Second)
	require.Empty(t, s.waits["small"], "without a share it waits for hours")
}

// TestFairByTime: whose jobs are long gets fewer of them, and the same time.
func TestFairByTime(t *testing.T) {
	t.Parallel()
	dice := rand.New(rand.NewPCG(1, 14))
	s := newSimulation(t, "root:4", fairByDatabase)
	s.takes("short", 100*time.Millisecond)
	s.takes("long", 3*time.Second)
	s.duration["mixed"] = func() time.Duration { return time.Duration(1+dice.IntN(2000)) * time.Millisecond }
	for db := range s.duration {
		s.add(db, "", 50_000)
	}
	s.until(1000 * time.Second)
	third := 4000 * time.Second / 3
	for db := range s.duration {
		require.InEpsilon(t, third, s.busy[db], 0.05, db)
	}
}

// TestFairBound: the busy time of keys that always have jobs differs by one job at most for each slot,
// whatever these take. What a job takes is known only after others have started.
func TestFairBound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		slots := rapid.IntRange(1, 3).Draw(t, "slots")
		s := newSimulation(t, fmt.Sprintf("root:%d", slots), fairByDatabase)
		longest := time.Duration(0)
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 14))
		dbs := []string{"a", "b", "c"}[:rapid.IntRange(2, 3).Draw(t, "databases")]
		for _, db := range dbs {
			most := rapid.IntRange(1, 20).Draw(t, "seconds at most")
			longest = max(longest, time.Duration(most)*time.Second)
			s.duration[db] = func() time.Duration {
				return time.Duration(1+dice.IntN(most*10)) * 100 * time.Millisecond
			}
			s.add(db, "", 1000) // more than two minutes have time for
		}
		bound := time.Duration(slots) * longest
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			s.until(s.now + 3*time.Second)
			used := make(map[string]time.Duration)
			for _, db := range dbs {
				used[db] = s.busy[db]
			}
			for _, r := range s.running {
				used[r.job.DB] += s.now - r.from
			}
			for _, a := range dbs {
				for _, b := range dbs {
					require.LessOrEqual(t, used[a]-used[b], bound, "%v", used)
				}
			}
		}
	})
}

// TestIdlenessEarnsNothing: who comes back shares what there is from then on, and owes nothing of a time
// in which nobody else wanted the slots.
func TestIdlenessEarnsNothing(t *testing.T) {
	t.Parallel()
	s := newSimulation(t, "root:1", fairByDatabase)
	s.takes("a", time.Second)
	s.takes("b", time.Second)
	s.add("a", "", 200)
	s.until(100 * time.Second)
	s.add("b", "", 200)
	s.until(120 * time.Second)
	require.InDelta(t, 110, s.busy["a"].Seconds(), 1)
	require.InDelta(t, 10, s.busy["b"].Seconds(), 1)

	s = newSimulation(t, "root:1", fairByDatabase)
	s.takes("a", time.Second)
	s.takes("b", time.Second)
	s.add("a", "", 50)
	s.until(60 * time.Second) // everything has ended
	s.add("a", "", 100)
	s.add("b", "", 100)
	s.until(80 * time.Second)
	require.InDelta(t, 60, s.busy["a"].Seconds(), 1)
}

// TestFairKeepsPriorities: they hold among the jobs of one key.
func TestFairKeepsPriorities(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", fairByDatabase)
	addTo(m, "a", "", "a1", "a2", "a3")
	addTo(m, "b", "", "b1", "b2")
	m.Set(Job{Key: Key{DB: "a", UUID: "a0"}, Priority: -1}, Pending)
	var order []string
	for range 6 {
		uuids := started(m)
		order = append(order, uuids...)
		for _, db := range []string{"a", "b"} {
			m.Remove(Key{DB: db, UUID: uuids[0]})
		}
	}
	require.Equal(t, []string{"a0", "b1", "a1", "b2", "a2", "a3"}, order)
}

// TestFairExplained: it is said whose turn comes first.
func TestFairExplained(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:2", fairByDatabase)
	addTo(m, "a", "", "a1", "a2", "a3", "a4")
	require.Equal(t, []string{"a1", "a2"}, started(m))
	addTo(m, "b", "", "b1")
	e := why(t, m, "a", "a4")
	require.Equal(t, ReasonChannelFull, e.Reason)
	require.Equal(t, "job a/a4 waits: channel root is full (2 running, capacity 2), and 1 job goes before it; "+
		"1 turn of another comes before the one of database a", e.String())
	require.Equal(t, &Turns{Channel: "root", Key: "database a", Before: 1}, e.Turns)
	require.Zero(t, why(t, m, "b", "b1").Turns.Before)
	m.Remove(Key{DB: "a", UUID: "a1"})
	require.Equal(t, ReasonReady, why(t, m, "b", "b1").Reason)
	require.Equal(t, "job a/a3 waits: 0 jobs go before it in channel root; 1 turn of another comes before the one of database a",
		why(t, m, "a", "a3").String())
	require.Equal(t, []string{"b1"}, started(m))
}

// TestFairOfSome: databases that the share does not name take turns as one.
func TestFairOfSome(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:6", shareList{{"root", "prod*", Share{Fair: PerCompany}}})
	addTo(m, "test1", "", "t1", "t2", "t3")
	addTo(m, "test2", "", "t4", "t5", "t6")
	for i := range 6 {
		m.Set(Job{Key: Key{DB: "prod", UUID: fmt.Sprint("p", i)}, ID: int64(100 + i), Created: 100, Company: int32(1 + i%2)}, Pending)
	}
	require.Equal(t, []string{"t1", "p0", "p1", "t2", "p2", "p3"}, started(m))
	require.Equal(t, "the other databases", why(t, m, "test1", "t3").Turns.Key)
	require.Equal(t, "company 1 of database prod", why(t, m, "prod", "p4").Turns.Key)
}

// TestFairLanesAreForgotten: there are not more and more of them.
func TestFairLanesAreForgotten(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:1", shareList{{"root", "*", Share{Fair: PerCompany}}})
	for i := range int32(20 * lanesFirst) {
		k := Key{DB: "a", UUID: fmt.Sprint(i)}
		m.Set(Job{Key: k, Company: i}, Pending)
		m.Next(at(float64(i)), 0)
		m.Observe(at(float64(i) + 1))
		m.Remove(k)
	}
	require.Less(t, len(m.root.ready.shared.fair.lanes), 3*lanesFirst)
	require.Empty(t, m.root.ready.shared.fair.charges)
}

// TestFairIsConsistent plays random histories with fair shares, limits, windows and rates: what is derived
// is right, no limit is exceeded by a start, and no slot stays free for a job that may start.
func TestFairIsConsistent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := &comparison{m: NewManager(), ref: newReference(), now: 1000}
		share := func(t *rapid.T) {
			list := shareList(drawShares.Draw(t, "shares"))
			for i := range list {
				list[i].share.Fair = rapid.SampledFrom([]Per{PerNothing, PerDatabase, PerCompany}).Draw(t, "fair")
				if rapid.Bool().Draw(t, "without limit") {
					list[i].share.Limit = 0
				}
				if rapid.IntRange(0, 3).Draw(t, "with rate") == 0 {
					list[i].share.Rate = new(drawRate.Draw(t, "rate"))
				}
			}
			s.m.SetShares(list)
			s.ref.shares = list
		}
		s.m.Next(time.Unix(s.now, 0), 0)
		share(t)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				checkInvariants(t, s.m)
				for j, state := range s.m.Jobs("") {
					s.checkExplanation(t, j.Key, state)
				}
			},
			"configure": func(t *rapid.T) { require.NoError(t, s.m.Configure(drawPlainConfigs.Draw(t, "configuration"))) },
			"share":     share,
			"govern": func(t *rapid.T) {
				rules := drawRules(t)
				s.m.Govern(func(channel string) Rules { return rules[channel] })
			},
			"set": func(t *rapid.T) {
				j := Job{
					Key:     Key{DB: drawDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")},
					Channel: drawChannel.Draw(t, "channel"), Company: rapid.Int32Range(0, 2).Draw(t, "company"),
					Identity: rapid.Uint64Range(0, 3).Draw(t, "identity"),
					Priority: rapid.Int32Range(0, 2).Draw(t, "priority"),
				}
				s.m.Observe(time.Unix(s.now, 0))
				s.m.Set(j, drawState.Draw(t, "state"))
			},
			"next": func(t *rapid.T) {
				s.now += rapid.Int64Range(0, 4).Draw(t, "seconds later")
				s.m.Next(time.Unix(s.now, 0), rapid.SampledFrom([]int{0, 1, 2}).Draw(t, "limit"))
			},
			"remove": func(t *rapid.T) {
				s.m.Remove(Key{DB: drawDB.Draw(t, "db"), UUID: drawUUID.Draw(t, "uuid")})
			},
			"remove all": func(t *rapid.T) {
				db := drawDB.Draw(t, "db")
				s.m.RemoveDB(db)
				delete(s.ref.suspended, db)
			},
			"suspend": func(t *rapid.T) {
				db := drawDB.Draw(t, "db")
				s.m.Suspend(db)
				s.ref.suspended[db] = true
			},
			"resume": func(t *rapid.T) {
				db := drawDB.Draw(t, "db")
				s.m.Resume(db)
				delete(s.ref.suspended, db)
			},
		})
	})
}

// checkFairness recomputes what a fair queue knows.
func checkFairness(t require.TestingT, m *Manager, q *sharedQueue) {
	if q.fair == nil {
		return
	}
	running := make(map[*lane]int)
	for r, ch := range q.fair.charges {
		running[ch.lane]++
		require.True(t, r.hasLeft(q.channel))
		require.Equal(t, r.location == inRunning, ch.began != unbegun)
	}
	require.Len(t, q.fair.charges, q.channel.running, "every job that has left has been charged")
	for name, l := range q.fair.lanes {
		require.Equal(t, name, l.name)
		require.Equal(t, running[l], l.running)
		require.Equal(t, l.open.len() > 0, l.index >= 0)
		require.LessOrEqual(t, l.start, cmp.Or(q.fair.latest, l.start))
	}
	for _, k := range q.keys {
		require.Same(t, q.fair.lanes[k.lane.name], k.lane)
	}
	require.NotZero(t, m.fair)
}

// TestLaneThatWaitsIsKept: whose jobs wait for a limit further up is not forgotten, however many others
// come and go meanwhile. Its jobs would be charged to another lane, so that it had every turn.
func TestLaneThatWaitsIsKept(t *testing.T) {
	t.Parallel()
	m := limitFixture(t, "root:9,root.mail:1", shareList{
		{"root.mail", "*", Share{Fair: PerDatabase}},
		{"root", "*", Share{Limit: 1, Per: PerDatabase}},
	})
	clock := 1.0
	pass := func() (started []Key) {
		started = m.Next(at(clock), 0)
		clock++
		m.Observe(at(clock))
		for _, k := range started {
			m.Remove(k)
		}
		return started
	}
	outside := Key{DB: "big", UUID: "outside"}
	m.Set(Job{Key: outside}, Started)
	for i := range 50 {
		addTo(m, "big", "mail", fmt.Sprint("big", i))
	}
	for i := range 2 * lanesFirst {
		addTo(m, fmt.Sprint("guest", i), "mail", fmt.Sprint("guest", i))
		require.Len(t, pass(), 1)
	}
	for i := range 50 {
		addTo(m, "small", "mail", fmt.Sprint("small", i))
	}
	m.Remove(outside)
	turns := make(map[string]int)
	for range 40 {
		for _, k := range pass() {
			turns[k.DB]++
		}
	}
	require.Equal(t, map[string]int{"big": 20, "small": 20}, turns)
	checkInvariants(t, m)
}

// TestFirstCharge: as long as no job has ended, one counts as a second.
func TestFirstCharge(t *testing.T) {
	t.Parallel()
	require.Equal(t, time.Second.Microseconds(), newFairness().mean)
}

// TestLanesAreSwept: when there are many, those are forgotten that owe nothing and have no jobs, and the
// next time when there are many more.
func TestLanesAreSwept(t *testing.T) {
	t.Parallel()
	f := newFairness()
	f.virtual = 5
	add := func(company int32, l lane) { f.lanes[laneName{company: company}] = &l }
	for i := range int32(lanesFirst - 4) {
		add(i, lane{start: 5})
	}
	add(-1, lane{start: 6})
	add(-2, lane{running: 1})
	add(-3, lane{queues: 1})
	f.sweep()
	require.Len(t, f.lanes, lanesFirst-1)
	add(-4, lane{})
	f.sweep()
	require.Len(t, f.lanes, 3)
	require.Equal(t, 6+lanesFirst, f.sweepAt)
}

// TestMeans: the first job is the mean, and each further one counts for an eighth.
func TestMeans(t *testing.T) {
	t.Parallel()
	require.EqualValues(t, 80, mean(0, 80))
	require.EqualValues(t, 90, mean(80, 160))
	require.EqualValues(t, 70, mean(80, 0))
}

// TestCharges: a lane is charged with its own mean, and before it has one with that of all.
func TestCharges(t *testing.T) {
	t.Parallel()
	s := newSimulation(t, "root:1", fairByDatabase)
	s.takes("a", 9*time.Second)
	s.takes("b", time.Second)
	s.add("a", "", 2)
	fair := s.m.root.ready.shared.fair
	charged := func() (amount time.Duration) {
		require.Len(t, fair.charges, 1)
		for _, c := range fair.charges {
			amount = time.Duration(c.amount) * time.Microsecond
		}
		return amount
	}
	s.start()
	require.Equal(t, time.Second, charged())
	s.until(9 * time.Second)
	require.Equal(t, 9*time.Second, charged())
	s.until(18 * time.Second)
	s.add("b", "", 1)
	s.start()
	all := mean(mean(firstCharge, (9*time.Second).Microseconds()), (9 * time.Second).Microseconds())
	require.Equal(t, time.Duration(all)*time.Microsecond, charged())
}

// TestIdleEarnsNothing: whose jobs come late has no more turns than the others from then on, and also
// not fewer.
func TestIdleEarnsNothing(t *testing.T) {
	t.Parallel()
	for _, first := range []int{0, 1} {
		s := newSimulation(t, "root:1", fairByDatabase)
		for _, db := range []string{"late", "always", "long"} {
			s.takes(db, time.Second)
		}
		s.takes("long", 50*time.Second)
		s.add("late", "", first)
		s.add("always", "", 1000)
		s.add("long", "", 1)
		s.until(60 * time.Second) // "long" is far ahead
		was := len(s.waits["late"])
		for i := range 40 { // one after the other, so that it is idle in between
			s.add("late", "", 1)
			s.until(time.Duration(61+i) * time.Second)
		}
		require.InDelta(t, 20, len(s.waits["late"])-was, 2)
	}
}
