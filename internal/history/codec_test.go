package history

import (
	"bytes"
	"compress/flate"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
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
	tb.add(&note{outcome: Failed, series: Series{"prod", "root", "", "f"}, exception: "odoo.exceptions.UserError", wait: time.Millisecond, run: time.Second})
	tb.add(&note{outcome: Gone, series: Series{"\xff", "root", "", "f"}})
	return tb
}

// TestBlocks: what is written is read.
func TestBlocks(t *testing.T) {
	tb := sample()
	block, err := tb.encode()
	require.NoError(t, err)
	got := newTable()
	folded, err := got.take(block)
	require.NoError(t, err)
	require.Equal(t, tb.series, got.series)
	require.Equal(t, map[Failure]uint64{{Series{"prod", "root", "", "f"}, "odoo.exceptions.UserError"}: 1}, got.failures.of)
	require.EqualValues(t, 1, folded)
	for i := range block { // torn off
		_, err := decode(block[:i], func(Series, *Sums) {}, func(Failure, uint64) {})
		require.Error(t, err)
	}
	whole, err := open(block)
	require.NoError(t, err)
	read := 0
	for i := range whole.in {
		short := encoder{out: whole.in[:i], names: whole.names}
		block, err := short.seal()
		require.NoError(t, err)
		if _, err = decode(block, func(Series, *Sums) {}, func(Failure, uint64) {}); err == nil {
			read++
		}
	}
	require.Equal(t, 1, read, "up to where failures begin, which a version of before did not write")
}

// TestBlockOfAFullTable: as many series and kinds of failures as a table ever has, with names of their own,
// are read again.
func TestBlockOfAFullTable(t *testing.T) {
	tb, names := newTable(), 0
	add := func(n int, outcome Outcome) {
		for range n {
			names++
			name := fmt.Sprint(names)
			tb.add(&note{outcome: outcome, series: Series{"db" + name, "root." + name, "model" + name, "method" + name}, exception: "Error" + name})
		}
	}
	add(seriesLimit+databaseLimit, Done)
	add(failuresLimit+databaseLimit+1, Failed)
	require.Len(t, tb.series, seriesLimit+databaseLimit+1)
	require.Len(t, tb.failures.of, failuresLimit+databaseLimit+1)
	block, err := tb.encode()
	require.NoError(t, err)
	got := newTable()
	_, err = got.take(block)
	require.NoError(t, err)
	require.Equal(t, tb.series, got.series)
	require.Equal(t, tb.failures.of, got.failures.of)
}

// TestBlocksOfBefore: a block of a version that did not count failures is read, and one of today has them
// after all that such a version reads.
func TestBlocksOfBefore(t *testing.T) {
	tb := sample()
	before := encoder{known: make(map[string]uint64)}
	before.number(7)
	before.number(1)
	before.series(&mail)
	for _, n := range tb.series[mail].Outcomes {
		before.number(n)
	}
	before.latencies(&tb.series[mail].Wait)
	before.latencies(&tb.series[mail].Run)
	for range 3 {
		before.number(1)
	}
	block, err := before.seal()
	require.NoError(t, err)
	seen := 0
	folded, err := decode(block, func(s Series, _ *Sums) { seen++; require.Equal(t, mail, s) }, func(Failure, uint64) { t.Error("there are none") })
	require.NoError(t, err)
	require.EqualValues(t, 7, folded)
	require.Equal(t, 1, seen)

	block, err = tb.encode()
	require.NoError(t, err)
	today, err := open(block)
	require.NoError(t, err)
	tb.failures = failures{}
	block, err = tb.encode()
	require.NoError(t, err)
	none, err := open(block)
	require.NoError(t, err)
	require.Equal(t, none.in[:len(none.in)-1], today.in[:len(none.in)-1])
	require.Zero(t, none.in[len(none.in)-1], "how many kinds of failures there are")
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
			_, _ = sum.take(block)
			require.LessOrEqual(t, len(sum.failures.of), failuresMost)
			require.LessOrEqual(t, len(sum.series), seriesMost)
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

// TestBlocksOfNobody: a small block that tells of more than a table can have is refused, before it takes
// memory or time.
func TestBlocksOfNobody(t *testing.T) {
	numbers := func(list ...uint64) (out []byte) {
		var e encoder
		for _, n := range list {
			e.number(n)
		}
		return e.out
	}
	// repeated is a block of so many names, and of a head and many times the same.
	repeated := func(names int, name string, head []byte, times int, each ...uint64) []byte {
		e := encoder{out: append(head, bytes.Repeat(numbers(each...), times)...)}
		for range names {
			e.names = append(e.names, name)
		}
		block, err := e.seal()
		require.NoError(t, err)
		require.Less(t, len(block), 1<<20)
		return block
	}
	empty := []uint64{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // names, outcomes, times
	read := func(block []byte) (seen int, err error) {
		_, err = decode(block, func(Series, *Sums) { seen++ }, func(Failure, uint64) { seen++ })
		return seen, err
	}
	for _, c := range []struct {
		name  string
		block func(more int) []byte
		most  int
	}{
		{"names", func(more int) []byte { return repeated(namesMost+more, "", numbers(0, 0), 0) }, 0},
		{"a long name", func(more int) []byte { return repeated(1, strings.Repeat("x", nameLimit+more), numbers(0, 0), 0) }, 0},
		{"series", func(more int) []byte {
			return repeated(1, "", numbers(0, uint64(seriesMost+more)), seriesMost+more, empty...)
		}, seriesMost},
		{"failures", func(more int) []byte {
			return repeated(1, "", numbers(0, 0, uint64(failuresMost+more)), failuresMost+more, 0, 0, 0, 0, 0, 1)
		}, failuresMost},
	} {
		seen, err := read(c.block(0))
		require.NoError(t, err, c.name)
		require.Equal(t, c.most, seen, c.name)
		seen, err = read(c.block(1))
		require.ErrorIs(t, err, errMalformed, c.name)
		require.Zero(t, seen, c.name)
	}
	_, err := read(repeated(1, "", numbers(0, 1), 1, 1))
	require.ErrorIs(t, err, errMalformed, "a name that is not in the list")
	for name, block := range map[string]func(more int) []byte{
		"series of a recording": func(more int) []byte {
			return repeated(1, "", numbers(0, uint64(seriesLimit+more)), seriesLimit+more+1, 0, 0, 0, 0)
		},
		"attempts": func(more int) []byte {
			return repeated(1, "", numbers(0, 1, 0, 0, 0, 0, uint64(attemptsLimit+more)), attemptsLimit+more, 0, 0, 1, 1, 0, 0)
		},
	} {
		_, err := decodeRecording(block(0), start)
		require.NoError(t, err, name)
		_, err = decodeRecording(block(1), start)
		require.ErrorIs(t, err, errMalformed, name)
	}
}

// TestYear: how large the file of many databases is after a year, which the test prints.
func TestYear(t *testing.T) {
	const databases, perDatabase = 300, 6
	rng := rand.New(rand.NewPCG(3, 4))
	hour := func() *table {
		tb := newTable()
		for d := range databases {
			for s := range perDatabase {
				// Some jobs of each database fail, with one exception or another.
				tb.add(&note{
					outcome: Failed, run: time.Second, exception: fmt.Sprint("odoo.addons.sale.exceptions.Error", rng.IntN(10)),
					series: Series{fmt.Sprintf("customer_%03d", d), fmt.Sprint("root.c", s%3), "sale.order", fmt.Sprint("_job_", s)},
				})
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

// TestBlockLimit: a block that takes more memory than one may is refused, whatever it says.
func TestBlockLimit(t *testing.T) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, blockLimit+1)) // no names, and nothing of anything else
	require.NoError(t, err)
	require.NoError(t, w.Close())
	_, err = open(b.Bytes())
	require.ErrorIs(t, err, errMalformed)
}

// TestBucketsOfNobody: times are counted in buckets that there are.
func TestBucketsOfNobody(t *testing.T) {
	for _, steps := range [][]uint64{{latencyBuckets}, {latencyBuckets - 1, 1}, {50, 50}, {1, math.MaxUint64}} {
		var e encoder
		e.number(uint64(len(steps)))
		for _, step := range steps {
			e.number(step)
			e.number(7)
		}
		d := decoder{in: e.out}
		var l Latencies
		d.latencies(&l)
		require.ErrorIs(t, d.err, errMalformed, steps)
	}
}
