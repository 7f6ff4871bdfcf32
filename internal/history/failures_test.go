package history

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fails notes failures with an exception, now.
func (b *book) fails(n int, s Series, exception string) {
	for range n {
		b.notes.put(note{at: b.at.UnixNano(), outcome: Failed, series: s, run: time.Second, exception: exception})
	}
}

// TestFailuresByException: which exceptions jobs failed with, how often and when, from the file and from
// memory, as the other filters select them.
func TestFailuresByException(t *testing.T) {
	b := newBook(t, t.TempDir())
	big := Series{"test", "root.mail.big", "mail.mail", "send"}
	b.fails(3, mail, "odoo.UserError")
	b.fails(1, big, "psycopg2.OperationalError")
	b.ends(5, Done, mail)
	b.save()
	b.at = start.Add(2 * Step)
	b.fails(2, mail, "psycopg2.OperationalError")
	b.fails(1, big, "")
	b.ends(1, Retried, mail)

	name := func(r *Result) (list []string) {
		for _, e := range r.Exceptions {
			list = append(list, fmt.Sprint(e.Name, " ", e.Failed))
		}
		return list
	}
	r := b.ask(Query{From: start, Step: Step, By: ByException})
	require.Equal(t, []string{"odoo.UserError 3", "psycopg2.OperationalError 3", " 1"}, name(r))
	require.Equal(t, []uint64{1, 0, 2}, r.Exceptions[1].Points)
	require.Len(t, r.Groups, 3)
	require.EqualValues(t, 3, r.Groups[0].Outcomes[Failed])
	require.EqualValues(t, 7, r.Total.Outcomes[Failed])
	require.EqualValues(t, 5, r.Total.Outcomes[Done], "the total is of all")

	require.Equal(t, []string{" 1", "psycopg2.OperationalError 1"}, name(b.ask(Query{Database: "test"})))
	require.Equal(t, []string{" 1", "psycopg2.OperationalError 1"}, name(b.ask(Query{Channel: "root.mail.big"})))
	require.Len(t, name(b.ask(Query{Channel: "root.mail"})), 3)
	require.Empty(t, name(b.ask(Query{Function: "res.*"})))
	require.Empty(t, name(b.ask(Query{From: start.Add(Step), To: start.Add(2 * Step), Step: Step})))
	require.Equal(t, "mail.mail.send", b.ask(Query{}).Groups[0].Name, "by function as ever")
	b.save()
	require.Equal(t, []string{"odoo.UserError 3", "psycopg2.OperationalError 3", " 1"}, name(b.ask(Query{From: start.Add(-time.Hour), Step: LongStep})))
}

// TestHostileExceptions: whatever databases call their exceptions, memory and answers stay small, no
// failure is left out, and no database takes the room of another.
func TestHostileExceptions(t *testing.T) {
	b := newBook(t, t.TempDir())
	all := uint64(0)
	for i := range 2000 {
		b.fails(1, mail, fmt.Sprint("Error", i))
		b.fails(1, Series{fmt.Sprint("d", i), "root", "m", "f"}, strings.Repeat("x", nameLimit+1))
		b.fails(1, Series{"\xff", "root", "m", "f"}, "\xff")
		all += 3
		b.count()
	}
	b.fails(1, Series{"other.db", "root", "m", "f"}, "Mine")
	all++
	r := b.ask(Query{By: ByException})
	require.LessOrEqual(t, len(b.present.failures.of), failuresLimit+databaseLimit+1)
	require.Equal(t, failuresQuota, b.present.failures.own["prod"])
	require.LessOrEqual(t, len(r.Exceptions), exceptionsLimit+1)
	sum := uint64(0)
	for _, e := range r.Exceptions {
		sum += e.Failed
	}
	require.Equal(t, all, sum)
	require.Equal(t, []Exception{{"Mine", 1, b.ask(Query{Database: "other.db"}).Exceptions[0].Points}}, b.ask(Query{Database: "other.db"}).Exceptions)

	// Many databases share an answer.
	for i := range 40 {
		for j := range failuresQuota / 2 {
			b.fails(1, Series{fmt.Sprint("e", i), "root", "m", "f"}, fmt.Sprint(i, "/", j))
		}
		b.count()
	}
	r = b.ask(Query{By: ByException})
	require.True(t, len(r.Exceptions) >= exceptionsLimit && len(r.Exceptions) <= exceptionsLimit+1, len(r.Exceptions))
	require.Equal(t, Other, r.Exceptions[0].Name)
}

// TestFrequentExceptions: the most frequent exceptions of a long time are told, however many rare ones a
// database had before.
func TestFrequentExceptions(t *testing.T) {
	b := newBook(t, t.TempDir())
	all := uint64(0)
	for i := range 60 {
		for j := range failuresQuota {
			b.fails(1, mail, fmt.Sprint("Rare", i, "/", j))
		}
		all += failuresQuota
		if i > 40 {
			b.fails(2, Series{"shop", "root", "m", "f"}, "Frequent")
			all += 2
		}
		b.save()
		b.at = b.at.Add(Step)
	}
	r := b.ask(Query{From: start, Step: Step, By: ByException})
	require.Len(t, r.Exceptions, exceptionsLimit+1)
	require.Equal(t, Other, r.Exceptions[0].Name)
	require.Equal(t, "Frequent", r.Exceptions[1].Name)
	require.EqualValues(t, 38, r.Exceptions[1].Failed)
	require.EqualValues(t, 2, r.Exceptions[1].Points[59])
	sum, points := uint64(0), uint64(0)
	for _, e := range r.Exceptions {
		sum += e.Failed
		for _, n := range e.Points {
			points += n
		}
	}
	require.Equal(t, all, sum)
	require.Equal(t, all, points)
	require.Equal(t, r.Total.Outcomes[Failed], sum)
	require.Len(t, r.Groups, len(r.Exceptions))
}

// TestFrequentFunctions: as with exceptions, the functions that took the most time are told.
func TestFrequentFunctions(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range groupsLimit/seriesQuota + 2 {
		for j := range seriesQuota {
			b.ends(1, Done, Series{"prod", "root", "m", fmt.Sprint("f", i, "/", j)})
		}
		b.save()
		b.at = b.at.Add(Step)
	}
	b.ends(2, Done, Series{"shop", "root", "sale.order", "invoice"})
	r := b.ask(Query{From: start, Step: Step})
	require.Equal(t, Other, r.Groups[0].Name)
	require.Equal(t, "sale.order.invoice", r.Groups[1].Name)
	require.LessOrEqual(t, len(r.Groups), groupsLimit+1)
	sum := uint64(0)
	for i := range r.Groups {
		sum += r.Groups[i].Attempts()
	}
	require.Equal(t, r.Total.Attempts(), sum)
}

// TestFailuresWithoutRoom: a database with many failing functions loses the functions before the
// exceptions, and only a few of those are kept so.
func TestFailuresWithoutRoom(t *testing.T) {
	var f failures
	for i := range failuresQuota + 10 {
		f.add(Failure{Series{"prod", "root", "m", fmt.Sprint("f", i)}, "UserError"}, 1)
	}
	rest := restOf("prod")
	require.Len(t, f.of, failuresQuota+1)
	require.EqualValues(t, 10, f.of[Failure{rest, "UserError"}])
	for i := range exceptionsQuota + 5 {
		f.add(Failure{Series{"prod", "root", "m", "f"}, fmt.Sprint("Error", i)}, 2)
	}
	require.Len(t, f.of, failuresQuota+exceptionsQuota+1)
	require.EqualValues(t, 12, f.of[Failure{rest, Other}], "six of fifteen had no room")
	var sum failures
	sum.merge(&f)
	require.Equal(t, f.of, sum.of)
	f.add(Failure{Series{"prod", "root", "m", "f"}, Other}, 1)
	require.EqualValues(t, 13, f.of[Failure{rest, Other}])

	// All databases together.
	f = failures{}
	for d := range databaseLimit + 100 {
		for i := range failuresQuota + exceptionsQuota + 1 {
			f.add(Failure{Series{fmt.Sprint("d", d), "root", "m", "f"}, fmt.Sprint("Error", i)}, 1)
		}
	}
	require.Len(t, f.of, failuresMost)
	require.Equal(t, databaseLimit+1, f.folded)
	require.EqualValues(t, 1, f.of[Failure{restOf("d0"), Other}])
}

// TestFailuresUnaccounted: failures of which the exception is not known are told as such.
func TestFailuresUnaccounted(t *testing.T) {
	b := newBook(t, t.TempDir())
	b.fails(3, mail, "UserError")
	b.save()
	b.at = start.Add(Step)
	b.fails(2, mail, "UserError")
	b.count()
	b.present.failures = failures{} // as a version that did not count by exception leaves it
	b.fails(1, mail, "UserError")
	r := b.ask(Query{From: start, Step: Step, By: ByException})
	require.Equal(t, []Exception{{"UserError", 4, []uint64{3, 1}}, {"", 2, []uint64{0, 2}}}, r.Exceptions)
	require.Len(t, r.Groups, 2)
}

// TestRoomForBareExceptions: an exception without channel and function has room as long as all kinds
// together have some, of which those for the rest are none, and its database.
func TestRoomForBareExceptions(t *testing.T) {
	t.Parallel()
	kinds := func(n int) map[Failure]uint64 {
		of := make(map[Failure]uint64)
		for i := range n {
			of[Failure{Series: mail, Exception: fmt.Sprint(i)}] = 1
		}
		return of
	}
	x := Failure{restOf("prod"), "Error"}
	for name, c := range map[string]struct {
		kinds, folded, bare int
		room                bool
	}{
		"none yet":          {0, 0, 0, true},
		"one is left":       {4, 0, 0, true},
		"none is left":      {5, 0, 0, false},
		"those of the rest": {6, 2, 0, true},
		"and all others":    {7, 2, 0, false},
		"one of its own":    {1, 0, exceptionsQuota - 1, true},
		"none of its own":   {1, 0, exceptionsQuota, false},
	} {
		f := failures{of: kinds(c.kinds), bare: map[string]int{"prod": c.bare}, quota: quota{limit: 5, folded: c.folded}}
		require.Equal(t, c.room, f.admitBare(&x), name)
	}
}
