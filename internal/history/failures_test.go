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
