package history

import (
	"bytes"
	"context"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// TestRecordingOfWhatWasSent: an attempt is recorded if it was sent, and it is known since when it could
// have been, and for how long it ran.
func TestRecordingOfWhatWasSent(t *testing.T) {
	for _, c := range []struct {
		wait, run time.Duration
		outcome   Outcome
		recorded  bool
	}{
		{1, 1, Done, true},
		{1, 1, Rescued, true},
		{1, 1, NotRun, false},
		{0, 1, Done, false},
		{1, 0, Done, false},
		{-1, 1, Done, false},
		{1, -1, Done, false},
	} {
		var r recording
		r.add(&note{series: mail, wait: c.wait, run: c.run, outcome: c.outcome})
		require.Equal(t, c.recorded, len(r.list) == 1, "%+v", c)
		require.Zero(t, r.missing)
	}
}

// TestRecordingOfNobody: what is not of this code, such as a series or an outcome that there is not, is
// refused.
func TestRecordingOfNobody(t *testing.T) {
	for name, c := range map[string]struct {
		series, outcome uint64
		priority        int64
		valid           bool
	}{
		"the largest":            {1, uint64(outcomes) - 1, math.MaxInt32, true},
		"the smallest":           {0, 0, math.MinInt32, true},
		"no series":              {2, 0, 0, false},
		"no outcome":             {0, uint64(outcomes), 0, false},
		"too large a priority":   {0, 0, math.MaxInt32 + 1, false},
		"too small a priority":   {0, 0, math.MinInt32 - 1, false},
		"nothing that is either": {math.MaxUint64, math.MaxUint64, math.MinInt64, false},
	} {
		e := encoder{known: make(map[string]uint64)}
		e.number(0)
		e.number(2)
		e.series(&mail)
		e.series(&Series{"test", "root", "m", "f"})
		e.number(1)
		e.signed(5)
		e.number(c.series)
		e.number(1)
		e.number(1)
		e.signed(c.priority)
		e.number(c.outcome)
		block, err := e.seal()
		require.NoError(t, err)
		r, err := decodeRecording(block, start)
		if !c.valid {
			require.ErrorIs(t, err, errMalformed, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, []attempt{{
			end: start.Add(5 * recordUnit).UnixNano(), wait: recordUnit, run: recordUnit,
			series: uint32(c.series), priority: int32(c.priority), outcome: Outcome(c.outcome),
		}}, r.list, name)
	}
}

// TestRecordingInUnits: times are as exact as a unit, and never nothing.
func TestRecordingInUnits(t *testing.T) {
	var r recording
	for _, d := range []time.Duration{1, recordUnit - 1, 2*recordUnit + 1} {
		r.add(&note{at: start.Add(d).UnixNano(), series: mail, wait: d, run: d})
	}
	block, err := r.encode(start)
	require.NoError(t, err)
	got, err := decodeRecording(block, start)
	require.NoError(t, err)
	for i, rounded := range []time.Duration{recordUnit, recordUnit, 2 * recordUnit} {
		require.Equal(t, rounded, got.list[i].wait)
		require.Equal(t, rounded, got.list[i].run)
	}
	require.Equal(t, start.Add(2*recordUnit).UnixNano(), got.list[2].end)
}

// TestRecordingThatIsTooLarge: the oldest attempts go when those of all intervals take more than they may,
// and no sooner.
func TestRecordingThatIsTooLarge(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.save()
	require.NoError(t, b.open())
	b.file.store.db.NoSync = true
	iv := &interval{number: number(start), table: newTable()}
	kept := func(more int) (n int) {
		require.NoError(t, b.file.store.db.Update(func(tx *bolt.Tx) error {
			r := tx.Bucket(recordBucket)
			const blocks = trimLimit + 2
			for i := range blocks {
				block := bytes.Repeat([]byte{1}, recordLimit/blocks)
				if i == 0 {
					block = append(block, make([]byte, more)...)
				}
				require.NoError(t, r.Put(keyOf(start.Add(-time.Duration(i+1)*Step)), block))
			}
			require.NoError(t, iv.record(r, start))
			return r.ForEach(func([]byte, []byte) error { n++; return nil })
		}))
		return n
	}
	require.Equal(t, trimLimit+2, kept(0))
	require.Equal(t, 2, kept(1))
}

// TestRecordingOfNothing: an interval without attempts has no block, and one of which all are missing has.
func TestRecordingOfNothing(t *testing.T) {
	b := newBook(t, t.TempDir())
	require.NoError(t, b.open())
	block := func(r recording) (block []byte) {
		require.NoError(t, b.file.store.db.Update(func(tx *bolt.Tx) error {
			iv := &interval{number: number(start), table: newTable(), recording: r}
			require.NoError(t, iv.record(tx.Bucket(recordBucket), start))
			block = bytes.Clone(tx.Bucket(recordBucket).Get(keyOf(start)))
			return nil
		}))
		return block
	}
	require.Nil(t, block(recording{}))
	require.NotNil(t, block(recording{missing: 3}))
	r, err := decodeRecording(block(recording{missing: 4}), start)
	require.NoError(t, err)
	require.EqualValues(t, 7, r.missing, "it adds to what is there")
}

// TestMissingAttempts: what is missing counts for the intervals that were asked for, and an interval that
// cannot be read is missing.
func TestMissingAttempts(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range 4 {
		b.at = start.Add(time.Duration(i) * 2 * Step)
		b.ends(1, Done, mail)
		b.count()
		b.present.recording.missing = 1 << i
		if i < 3 {
			b.save()
		}
	}
	missing := func(from, to time.Duration) uint64 {
		r, err := b.Recording(t.Context(), start.Add(from), start.Add(to))
		require.NoError(t, err)
		require.Equal(t, start, r.Known, "whatever was asked for")
		return r.Missing
	}
	require.EqualValues(t, 15, missing(0, 7*Step))
	require.EqualValues(t, 4, missing(3*Step+1, 6*Step))
	require.EqualValues(t, 8, missing(6*Step, 7*Step), "what is not written")
	require.NoError(t, b.file.store.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(recordBucket).Put(keyOf(start.Add(2*Step)), []byte{1, 2, 3})
	}))
	require.EqualValues(t, 5, missing(Step+1, 6*Step))
}

// TestRecordingWithoutAFile: what is not written is told, a question makes no file, one that is given up
// ends, and a file that cannot be read is put aside.
func TestRecordingWithoutAFile(t *testing.T) {
	b := newBook(t, t.TempDir())
	r, err := b.Recording(t.Context(), start, start.Add(Step))
	require.NoError(t, err)
	require.Zero(t, *r)
	b.ends(1, Done, mail)
	b.count()
	r, err = b.Recording(t.Context(), start, start.Add(Step))
	require.NoError(t, err)
	require.Len(t, r.Attempts, 1)
	require.NoFileExists(t, b.path())

	b.save()
	ctx, cancel := context.WithCancel(t.Context())
	b.turn <- struct{}{}
	cancel()
	require.ErrorIs(t, b.readRecording(ctx, start, start.Add(Step), new(Recording), func(*recording, time.Time) {}), context.Canceled)
	<-b.turn
	b.shut()
	require.NoError(t, os.WriteFile(b.path(), []byte(strings.Repeat("?", 1<<16)), 0o600))
	r, err = b.Recording(t.Context(), start, start.Add(Step))
	require.NoError(t, err)
	require.Empty(t, r.Attempts, "it has begun anew")
	require.Equal(t, 1, b.said.FilterMessageSnippet("put aside").Len())
}
