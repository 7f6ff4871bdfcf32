package channels_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// arrival is a job of the simulation: when it comes, in which database, and how long it runs.
type arrival struct {
	at, takes time.Duration
	db        int
}

// load is an hour of jobs in very many databases, of which few have any at a time: most come in bursts,
// as imports do, and some databases have far more of them than others.
func load(databases int, seed uint64) (list []arrival) {
	random := rand.New(rand.NewPCG(seed, 1))
	zipf := rand.NewZipf(random, 1.2, 4, uint64(databases-1))
	for at := time.Duration(0); at < time.Hour; at += time.Duration(random.ExpFloat64() * float64(4*time.Second)) {
		db, n := int(zipf.Uint64()), 1
		if random.IntN(10) == 0 {
			n = 1 + random.IntN(120)
		}
		for range n {
			list = append(list, arrival{at, time.Second + time.Duration(random.IntN(9000))*time.Millisecond, db})
		}
	}
	return list
}

// outcome is what became of a load: how long jobs waited, and how many ran at once.
type outcome struct {
	mean, p99 time.Duration
	most      int
}

// simulate has so many leaders, each of which serves its part of the databases with a capacity of its own,
// run a load.
func simulate(t *testing.T, list []arrival, leaders, capacity int) (o outcome) {
	t.Helper()
	forests := make([]*channels.Forest, leaders)
	for i := range forests {
		forests[i] = channels.NewForest()
		require.NoError(t, forests[i].Configure([]channels.Config{{Name: "root", Capacity: capacity}}))
	}
	type running struct {
		ends time.Duration
		key  channels.Key
		at   int
	}
	var busy []running
	var waits []time.Duration
	came := make(map[channels.Key]int)
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	job := func(i int) channels.Job {
		key := channels.Key{DB: fmt.Sprintf("db%d", list[i].db), UUID: fmt.Sprint(i)}
		return channels.Job{Key: key, Channel: "root", ID: int64(i), Created: int64(list[i].at / time.Microsecond)}
	}
	for i := 0; i < len(list) || len(busy) > 0; {
		now := time.Duration(1<<63 - 1)
		if i < len(list) {
			now = list[i].at
		}
		for _, r := range busy {
			now = min(now, r.ends)
		}
		busy = slices.DeleteFunc(busy, func(r running) bool {
			if r.ends <= now {
				forests[r.at].Set(job(came[r.key]), channels.Done)
				return true
			}
			return false
		})
		for ; i < len(list) && list[i].at <= now; i++ {
			j := job(i)
			came[j.Key] = i
			forests[list[i].db%leaders].Set(j, channels.Pending)
		}
		for at, f := range forests {
			for _, key := range f.Next(start.Add(now), 0) {
				n := came[key]
				waits = append(waits, now-list[n].at)
				busy = append(busy, running{now + list[n].takes, key, at})
			}
		}
		o.most = max(o.most, len(busy))
	}
	require.Len(t, waits, len(list))
	slices.Sort(waits)
	var sum time.Duration
	for _, w := range waits {
		sum += w
	}
	o.mean, o.p99 = sum/time.Duration(len(waits)), waits[len(waits)*99/100]
	return o
}

// TestSplit: what it means that several leaders share the databases: with a part of the capacity each, jobs
// wait longer, because slots of one are free while jobs of another wait; with all of it each, more run than
// the capacity.
func TestSplit(t *testing.T) {
	t.Parallel()
	const capacity, parts, databases = 32, 4, 10_000
	var one, split, each outcome
	for seed := range uint64(5) {
		list := load(databases, seed)
		for _, c := range []struct {
			to                *outcome
			leaders, capacity int
		}{{&one, 1, capacity}, {&split, parts, capacity / parts}, {&each, parts, capacity}} {
			o := simulate(t, list, c.leaders, c.capacity)
			c.to.mean, c.to.p99, c.to.most = c.to.mean+o.mean/5, c.to.p99+o.p99/5, max(c.to.most, o.most)
		}
	}
	t.Logf("one leader %+v, %d with a part each %+v, with all of it each %+v", one, parts, split, each)
	require.Equal(t, capacity, one.most)
	require.LessOrEqual(t, split.most, capacity)
	require.Greater(t, each.most, capacity)
	require.Greater(t, split.mean, one.mean)
	require.Less(t, each.mean, split.mean)
}
