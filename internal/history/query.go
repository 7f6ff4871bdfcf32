package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	// PointsLimit bounds the points of an answer, and groupsLimit the names among which it groups.
	PointsLimit = 2000
	groupsLimit = 5000
)

// By is what attempts are grouped by.
type By string

// What attempts can be grouped by.
const (
	ByFunction By = "function"
	ByChannel  By = "channel"
	ByDatabase By = "database"
	// ByException groups only those that failed.
	ByException By = "exception"
)

// Query selects attempts. What is empty does not restrict them.
type Query struct {
	Database string
	// Channel is the full name; what is below it counts, too.
	Channel string
	// Function is a glob of the model and the method.
	Function string
	// From and To are when attempts ended. Whole intervals count: that in which From is, and that in
	// which To is, unless it begins then.
	From, To time.Time
	// Step is the length of a point, a multiple of [Step], and from an hour on of that. Default: what
	// makes a few hundred points.
	Step time.Duration
	By   By
}

// Point is what ended in one step.
type Point struct {
	Begin time.Time
	Sums
}

// Group is what attempts of one name add up to. Name is empty where it is not known.
type Group struct {
	Name string
	Sums
}

// Result is the answer to a query.
type Result struct {
	From, To time.Time
	Step     time.Duration
	// Known is since when there is a history; zero if there is none.
	Known  time.Time
	Total  Sums
	Points []Point
	// Groups are sorted by the time that they took, the most first.
	Groups []Group
	// Exceptions are those with which jobs failed, the most frequent first.
	Exceptions []Exception
	// Folded counts attempts that have lost their names, because there were too many.
	Folded uint64
	// Unreadable counts intervals that are lost, Lost attempts that could not be counted.
	Unreadable int
	Lost       uint64
	// Problem says what is wrong with the file, and Aside where one is that could not be used.
	Problem, Aside string
}

// ErrQuery is what a query is wrong with.
var ErrQuery = errors.New("this cannot be asked of the history")

// settle checks a query and fills what it leaves open.
func (q *Query) settle(now time.Time) error {
	if q.To.IsZero() {
		q.To = now.Add(1) // the present interval counts, also when it has just begun
	}
	if q.From.IsZero() {
		q.From = q.To.Add(-24 * time.Hour)
	}
	span := q.To.Sub(q.From)
	if span <= 0 {
		return fmt.Errorf("%w: it ends before it begins", ErrQuery)
	}
	fine := !q.From.Before(now.Add(-FineKeep))
	if q.Step == 0 {
		q.Step = stepFor(span, fine)
	}
	switch {
	case q.Step < 0 || q.Step%Step != 0 || q.Step > LongStep && q.Step%LongStep != 0:
		return fmt.Errorf("%w: a step is a multiple of %s, and beyond an hour of 1h", ErrQuery, Step)
	case q.Step < LongStep && !fine:
		return fmt.Errorf("%w: steps below an hour are known for the last %s only", ErrQuery, FineKeep)
	case span/q.Step >= PointsLimit:
		return fmt.Errorf("%w: that would be more than %d points, take a longer step", ErrQuery, PointsLimit)
	}
	if _, err := path.Match(q.Function, ""); err != nil {
		return fmt.Errorf("%w: function %q is no glob", ErrQuery, q.Function)
	}
	q.From = q.From.UTC().Truncate(q.Step)
	if end := q.To.UTC().Truncate(q.Step); end.Before(q.To) {
		q.To = end.Add(q.Step)
	}
	return nil
}

func stepFor(span time.Duration, fine bool) time.Duration {
	steps := []time.Duration{LongStep, 3 * LongStep, 6 * LongStep, 24 * LongStep}
	if fine {
		steps = append([]time.Duration{Step, 15 * time.Minute}, steps...)
	}
	for _, step := range steps {
		if span/step <= 400 {
			return step
		}
	}
	return max(span/400, LongStep).Truncate(LongStep) + LongStep
}

// wants reports whether a query selects a series.
func (q *Query) wants(s *Series) bool {
	if q.Database != "" && s.Database != q.Database {
		return false
	}
	if q.Channel != "" && s.Channel != q.Channel && !strings.HasPrefix(s.Channel, q.Channel+".") {
		return false
	}
	if q.Function == "" {
		return true
	}
	ok, err := path.Match(plainSlash.Replace(q.Function), plainSlash.Replace(s.Function()))
	return ok && err == nil
}

// plainSlash hides slashes from path.Match. PostgreSQL's texts cannot contain NUL.
var plainSlash = strings.NewReplacer("/", "\x00")

func (q *Query) group(s *Series) string {
	switch q.By {
	case ByChannel:
		return s.Channel
	case ByDatabase:
		return s.Database
	default:
		return s.Function()
	}
}

// answer is a result that is being added up.
type answer struct {
	*Result

	query      *Query
	groups     ranking[Sums]
	exceptions ranking[Exception]
}

func newAnswer(q *Query) *answer {
	a := &answer{Result: &Result{From: q.From, To: q.To, Step: q.Step}, query: q}
	for at := q.From; at.Before(q.To); at = at.Add(q.Step) {
		a.Points = append(a.Points, Point{Begin: at})
	}
	a.groups = ranking[Sums]{
		of: make(map[string]*Sums), limit: groupsLimit, compare: compareSums, merge: (*Sums).Merge,
		make: func(string) *Sums { return new(Sums) },
	}
	a.exceptions = ranking[Exception]{
		of: make(map[string]*Exception), limit: exceptionsSeen, compare: compareExceptions, merge: (*Exception).merge,
		make: func(name string) *Exception { return &Exception{Name: name, Points: make([]uint64, len(a.Points))} },
	}
	return a
}

// compareSums orders what took the most time first.
func compareSums(x, y *Sums) int {
	return cmp.Or(cmp.Compare(y.RunTotal, x.RunTotal), cmp.Compare(y.Attempts(), x.Attempts()))
}

// settle sorts what was added up.
func (a *answer) settle() {
	a.unnamed()
	a.Exceptions = a.sorted()
	if a.query.By == ByException {
		for i := range a.Exceptions {
			e := &a.Exceptions[i]
			a.Groups = append(a.Groups, Group{e.Name, Sums{Outcomes: [outcomes]uint64{Failed: e.Failed}}})
		}
		return
	}
	for name, sums := range a.groups.of {
		a.Groups = append(a.Groups, Group{name, *sums})
	}
	slices.SortFunc(a.Groups, func(x, y Group) int {
		return cmp.Or(compareSums(&x.Sums, &y.Sums), strings.Compare(x.Name, y.Name))
	})
}

// step returns the number of the point in which an interval is, which is between From and To, and whether
// a series of it counts.
func (a *answer) step(begin time.Time, s *Series) (i int, wanted bool) {
	return int(begin.Sub(a.query.From) / a.query.Step), a.query.wants(s)
}

// add adds a series of the interval that begins at a time.
func (a *answer) add(begin time.Time, s Series, sums *Sums) {
	i, wanted := a.step(begin, &s)
	if !wanted {
		return
	}
	a.Points[i].Merge(sums)
	a.Total.Merge(sums)
	if a.query.By != ByException {
		a.groups.at(a.query.group(&s)).Merge(sums)
	}
}

// addFailures adds failures of the interval that begins at a time.
func (a *answer) addFailures(begin time.Time, f Failure, n uint64) {
	if i, wanted := a.step(begin, &f.Series); wanted {
		a.exceptions.at(f.Exception).add(i, n)
	}
}

// Query answers from the file, and from what is not written yet. It fails with [ErrQuery], or if ctx ends;
// what is wrong with the file is in the result.
func (l *Log) Query(ctx context.Context, q Query) (*Result, error) {
	if err := q.settle(l.now()); err != nil {
		return nil, err
	}
	a := newAnswer(&q)
	release, err := l.takeTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if err := l.read(ctx, a); err != nil {
		return nil, err
	}
	l.remembered(a)
	a.settle()
	return a.Result, nil
}

// takeTurn waits until nothing else reads or writes the file.
func (l *Log) takeTurn(ctx context.Context) (release func(), err error) {
	select {
	case l.turn <- struct{}{}:
		return func() { <-l.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the history: %w", context.Cause(ctx))
	}
}

// read adds what is in the file; the caller has the turn.
func (l *Log) read(ctx context.Context, a *answer) error {
	if written, err := l.openWritten(); err != nil {
		l.complain(err)
		return nil
	} else if !written {
		return nil
	}
	bucket := coarseBucket
	if a.Step < LongStep {
		bucket = fineBucket
	}
	err := l.file.store.scan(bucket, a.query.From, a.query.To, func(begin time.Time, block []byte) error {
		folded, err := decode(block, func(s Series, sums *Sums) { a.add(begin, s, sums) },
			func(f Failure, n uint64) { a.addFailures(begin, f, n) })
		a.Folded = plus(a.Folded, folded)
		if err != nil {
			a.Unreadable++
		}
		return ctx.Err()
	})
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("reading the history: %w", context.Cause(ctx))
	case err != nil:
		l.complain(err)
		l.damaged(err)
	default:
		a.Known = l.file.store.first()
	}
	return nil
}

// remembered adds what is not in the file.
func (l *Log) remembered(a *answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for iv := range l.unwritten {
		begin := iv.begin()
		if a.Known.IsZero() || begin.Before(a.Known) {
			a.Known = begin
		}
		if begin.Before(a.query.From) || !begin.Before(a.query.To) {
			continue
		}
		a.Folded = plus(a.Folded, iv.attempts)
		for s, sums := range iv.series {
			a.add(begin, s, sums)
		}
		for f, n := range iv.failures.of {
			a.addFailures(begin, f, n)
		}
	}
	a.Problem, a.Aside, a.Lost = l.complaint, l.aside, l.lost
}
