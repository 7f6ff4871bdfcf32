package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRecording: single attempts are kept for a day, with what a replay needs, in order, over a restart.
func TestRecording(t *testing.T) {
	dir := t.TempDir()
	b := newBook(t, dir)
	for i := range 30 * 12 {
		b.at = start.Add(time.Duration(i) * Step)
		b.notes.put(note{at: b.at.Add(time.Minute).UnixNano(), series: mail, wait: time.Duration(i+1) * time.Second, run: 7 * time.Millisecond, priority: int32(i - 5), outcome: Retried})
		b.notes.put(note{at: b.at.Add(time.Second).UnixNano(), series: Series{"test", "root", "m", "f"}, wait: time.Millisecond, run: time.Hour})
		b.notes.put(note{at: b.at.UnixNano(), series: mail, outcome: NotRun, run: time.Second}) // was not sent
		b.notes.put(note{at: b.at.UnixNano(), series: mail, run: time.Second})                  // since when it waited is not known
		if i%3 == 0 {
			b.save() // two thirds of the rest are written later
		} else {
			b.count()
		}
	}
	b.save()
	b.shut()
	b = newBook(t, dir)
	b.at = start.Add(30 * time.Hour)
	b.notes.put(note{at: b.at.UnixNano(), series: mail, wait: time.Second, run: time.Second})
	b.count()
	r, err := b.Recording(t.Context(), b.at.Add(-time.Hour), b.at.Add(1))
	require.NoError(t, err)
	require.Len(t, r.Attempts, 12*2+1)
	require.Zero(t, r.Missing)
	require.Equal(t, b.at.Add(-RecordKeep-Step), r.Known)
	a := r.Attempts[1]
	require.Equal(t, mail, a.Series)
	require.Equal(t, Retried, a.Outcome)
	require.EqualValues(t, 29*12-5, a.Priority)
	require.Equal(t, b.at.Add(-time.Hour).Add(time.Minute), a.End)
	require.Equal(t, 7*time.Millisecond, a.Run)
	require.Equal(t, time.Duration(29*12+1)*time.Second, a.Wait)
	require.Equal(t, a.End.Add(-a.Run-a.Wait), a.Ready())
	require.Equal(t, b.at, r.Attempts[24].End)
}

// TestRecordingIsBounded: attempts that are too many are counted, and the oldest go when there are too many
// in all.
func TestRecordingIsBounded(t *testing.T) {
	var r recording
	for i := range attemptsLimit + 5 {
		r.add(&note{at: int64(i), series: mail, wait: 1, run: 1})
	}
	require.Len(t, r.list, attemptsLimit)
	require.EqualValues(t, 5, r.missing)
	r = recording{}
	for i := range seriesLimit + 5 {
		r.add(&note{series: Series{Channel: fmt.Sprint(i)}, wait: 1, run: 1})
	}
	r.add(&note{series: Series{Channel: "\xff"}, wait: 1, run: 1})
	require.EqualValues(t, 6, r.missing)
	require.Len(t, r.list, seriesLimit)
	r = recording{}
	for _, function := range []string{"\xff", strings.Repeat("x", nameLimit+1)} {
		r.add(&note{series: Series{"prod", "root", "m", function}, wait: 1, run: 1})
		r.add(&note{series: Series{"prod", "root", function, "f"}, wait: 1, run: 1})
	}
	require.Equal(t, []Series{{"prod", "root", "", Other}}, r.series, "what is needed to try another capacity is kept")
	require.Len(t, r.list, 4)
}

// FuzzRecording: whatever a file holds, it is read or refused.
func FuzzRecording(f *testing.F) {
	var r recording
	r.add(&note{at: start.UnixNano(), series: mail, wait: time.Second, run: time.Hour, priority: -3})
	block, err := r.encode(start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(block)
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = decodeRecording(raw, start)
		if got, err := decodeRecording(sealed(t, raw), start); err == nil {
			for i := range got.list {
				require.Less(t, int(got.list[i].series), len(got.series))
			}
		}
	})
}
