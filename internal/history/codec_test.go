package history

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLatencies: a quantile is off by a bucket at most, whatever the times are.
func TestLatencies(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var l Latencies
	_, ok := l.Quantile(.5)
	require.False(t, ok)
	times := make([]time.Duration, 0, 10000)
	for range cap(times) {
		d := time.Duration(math.Exp(rng.NormFloat64()*2) * float64(time.Second))
		times = append(times, d)
		l.Add(d)
	}
	slices.Sort(times)
	for _, share := range []float64{.1, .5, .95, .99} {
		got, ok := l.Quantile(share)
		require.True(t, ok)
		want := times[int(share*float64(len(times)))]
		require.InEpsilon(t, want.Seconds(), got.Seconds(), .13, "%v", share)
	}
	require.EqualValues(t, len(times), l.Count())
	require.InDelta(t, len(times)/2, l.Above(time.Second), 1000)
	require.Equal(t, 0, bucket(-1))
	require.Equal(t, latencyBuckets-1, bucket(1<<63-1))
}

func sample() *table {
	tb := newTable()
	tb.add(&note{outcome: Done, series: mail, wait: time.Minute, run: time.Hour})
	tb.add(&note{outcome: Failed, series: Series{"prod", "root", "", "f"}, wait: time.Millisecond, run: time.Second})
	tb.add(&note{outcome: Gone, series: Series{"\xff", "root", "", "f"}})
	return tb
}

// TestBlocks: what is written is read.
func TestBlocks(t *testing.T) {
	tb := sample()
	block, err := tb.encode()
	require.NoError(t, err)
	got := newTable()
	folded, err := decode(block, func(s Series, sums *Sums) {
		into, _ := got.place(s)
		into.Merge(sums)
	})
	require.NoError(t, err)
	require.Equal(t, tb.series, got.series)
	require.EqualValues(t, 1, folded)
	for i := range block { // torn off
		_, err := decode(block[:i], func(Series, *Sums) {})
		require.Error(t, err)
	}
}

// FuzzDecode: whatever a file holds, it is read or refused.
func FuzzDecode(f *testing.F) {
	block, err := sample().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(block)
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, block := range [][]byte{raw, sealed(t, raw)} {
			sum := newTable()
			_, _ = decode(block, func(s Series, sums *Sums) {
				into, _ := sum.place(s)
				into.Merge(sums)
			})
			require.LessOrEqual(t, len(sum.series), seriesLimit+databaseLimit+1)
		}
	})
}

// sealed is a block that holds just that.
func sealed(t *testing.T, raw []byte) []byte {
	t.Helper()
	e := encoder{out: raw, names: []string{"a", "b"}}
	block, err := e.seal()
	require.NoError(t, err)
	return block
}

// TestYear: how large the file of many databases is after a year, which the test prints.
func TestYear(t *testing.T) {
	const databases, perDatabase = 300, 6
	rng := rand.New(rand.NewPCG(3, 4))
	hour := func() *table {
		tb := newTable()
		for d := range databases {
			for s := range perDatabase {
				for range 1 + rng.IntN(20) {
					tb.add(&note{
						outcome: Done, wait: time.Duration(rng.ExpFloat64() * float64(5*time.Second)), run: time.Duration(rng.ExpFloat64() * float64(time.Second)),
						series: Series{fmt.Sprintf("customer_%03d", d), fmt.Sprint("root.c", s%3), "sale.order", fmt.Sprint("_job_", s)},
					})
				}
			}
		}
		return tb
	}
	b := newBook(t, t.TempDir())
	store, err := openStore(b.path())
	require.NoError(t, err)
	defer store.close()
	store.db.NoSync = true
	// Each hour that is written is one of a few, and stands for all of so many days.
	const sampled, days = 3, 6
	var tables []*table
	for range sampled {
		tables = append(tables, hour())
	}
	block, err := tables[0].encode()
	require.NoError(t, err)
	largest := int64(0)
	for i := range 365 / days {
		at := start.Add(time.Duration(i) * days * 24 * time.Hour)
		require.NoError(t, store.write(&interval{number: number(at), table: tables[i%sampled]}, KeepDefault, at))
		largest = max(largest, store.used())
	}
	perHour := float64(largest) / (90 / days)
	t.Logf("%d databases with %d series each: a block has %d kB, ninety days of hours %.0f MB; the limit is %d MB",
		databases, perDatabase, len(block)>>10, perHour*24*90/(1<<20), sizeLimit>>20)
	require.Less(t, perHour*24*90, float64(sizeLimit))
}

// Count is how many times were counted.
func (l *Latencies) Count() uint64 {
	total := uint64(0)
	for _, n := range l {
		total = plus(total, n)
	}
	return total
}
