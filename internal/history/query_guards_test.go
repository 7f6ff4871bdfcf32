package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStepFor: a step is the shortest one that makes four hundred points, or a little more.
func TestStepFor(t *testing.T) {
	for _, c := range []struct {
		span       time.Duration
		fine, rest time.Duration // the step where intervals of five minutes are known, and elsewhere
	}{
		{time.Hour, Step, LongStep},
		{400 * Step, Step, LongStep},
		{401 * Step, 15 * time.Minute, LongStep},
		{400 * LongStep, LongStep, LongStep},
		{401 * LongStep, 3 * LongStep, 3 * LongStep},
		{401 * 3 * LongStep, 6 * LongStep, 6 * LongStep},
		{401 * 6 * LongStep, 24 * LongStep, 24 * LongStep},
		{400 * 24 * LongStep, 24 * LongStep, 24 * LongStep},
		{401 * 24 * LongStep, 25 * LongStep, 25 * LongStep},
		{800 * 24 * LongStep, 49 * LongStep, 49 * LongStep},
	} {
		require.Equal(t, c.fine, stepFor(c.span, true), c.span)
		require.Equal(t, c.rest, stepFor(c.span, false), c.span)
	}
}

// TestSettledQueries: what a query leaves open is filled in, and whole steps are told of.
func TestSettledQueries(t *testing.T) {
	now := start.Add(7 * time.Minute)
	for name, c := range map[string]struct {
		query Query
		want  Query // without a step: it is refused
	}{
		"nothing said":       {Query{}, Query{From: start.Add(5*time.Minute - 24*time.Hour), To: start.Add(10 * time.Minute), Step: Step}},
		"a point":            {Query{From: start, To: start.Add(1), Step: Step}, Query{From: start, To: start.Add(Step), Step: Step}},
		"whole steps":        {Query{From: start, To: start.Add(Step), Step: Step}, Query{From: start, To: start.Add(Step), Step: Step}},
		"no time":            {Query{From: start, To: start, Step: Step}, Query{}},
		"two hours":          {Query{From: start, To: start.Add(LongStep), Step: 2 * LongStep}, Query{From: start, To: start.Add(2 * LongStep), Step: 2 * LongStep}},
		"just fine":          {Query{From: now.Add(-FineKeep), To: start, Step: Step}, Query{From: start.Add(Step - FineKeep), To: start, Step: Step}},
		"too old":            {Query{From: now.Add(-FineKeep - 1), To: start, Step: Step}, Query{}},
		"old, and hours":     {Query{From: start.Add(-2 * FineKeep), To: start, Step: LongStep}, Query{From: start.Add(-2 * FineKeep), To: start, Step: LongStep}},
		"as many as allowed": {Query{From: start.Add(-PointsLimit*LongStep + 1), To: start, Step: LongStep}, Query{From: start.Add(-PointsLimit * LongStep), To: start, Step: LongStep}},
		"one more":           {Query{From: start.Add(-PointsLimit * LongStep), To: start, Step: LongStep}, Query{}},
	} {
		q := c.query
		err := q.settle(now)
		if c.want.Step == 0 {
			require.ErrorIs(t, err, ErrQuery, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.want, q, name)
		require.LessOrEqual(t, len(newAnswer(&q).Points), PointsLimit, name)
	}
}

// TestWants: what is empty does not restrict, a channel includes those below it, and a glob of a function
// treats slashes as any other sign.
func TestWants(t *testing.T) {
	s := Series{"prod", "root.mail", "mail.mail", "send/all"}
	for want, list := range map[bool][]Query{
		true: {
			{},
			{Database: "prod"},
			{Channel: "root"},
			{Channel: "root.mail"},
			{Function: "mail.mail.send/all"},
			{Function: "mail.*"},
			{Function: "*send?all"},
			{Database: "prod", Channel: "root.mail", Function: "*"},
		},
		false: {
			{Database: "test"},
			{Channel: "root.mail.big"},
			{Channel: "root.m"},
			{Channel: "root.mails"},
			{Function: "send"},
			{Function: "["},
			{Database: "test", Channel: "root.mail", Function: "*"},
			{Database: "prod", Channel: "root.other", Function: "*"},
			{Database: "prod", Channel: "root.mail", Function: "other"},
		},
	} {
		for _, q := range list {
			require.Equal(t, want, q.wants(&s), "%+v", q)
		}
	}
}

// TestFoldedOfATime: attempts without a name are counted for the time that was asked for.
func TestFoldedOfATime(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i := range 3 {
		b.at = start.Add(time.Duration(i) * Step)
		b.ends(1<<i, Done, Series{Database: "\xff"})
		b.count()
	}
	for range 2 { // in memory, and in the file
		folded := func(from, to time.Duration) uint64 {
			return b.ask(Query{From: start.Add(from), To: start.Add(to), Step: Step}).Folded
		}
		require.EqualValues(t, 7, folded(0, 3*Step))
		require.EqualValues(t, 2, folded(Step, 2*Step))
		require.EqualValues(t, 4, folded(2*Step, 3*Step))
		require.Zero(t, folded(-2*Step, 0))
		require.Equal(t, start, b.ask(Query{From: start.Add(Step), To: start.Add(2 * Step), Step: Step}).Known)
		b.save()
	}
}

// TestOrderOfGroups: what took the most time is first, of those that took the same what ended most often,
// then the first by name.
func TestOrderOfGroups(t *testing.T) {
	b := newBook(t, t.TempDir())
	for i, c := range []struct {
		run      time.Duration
		attempts int
	}{{time.Second, 1}, {time.Second, 1}, {time.Second, 2}, {time.Minute, 1}} {
		for range c.attempts {
			b.notes.put(note{at: b.at.UnixNano(), series: Series{Database: fmt.Sprint("db", i)}, run: c.run / time.Duration(c.attempts)})
		}
	}
	var names []string
	for _, g := range b.ask(Query{By: ByDatabase}).Groups {
		names = append(names, g.Name)
	}
	require.Equal(t, []string{"db3", "db2", "db0", "db1"}, names)
}
