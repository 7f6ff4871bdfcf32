package history

import (
	"cmp"
	"slices"
	"strings"
)

// Failure is what failed jobs have in common that are counted together.
type Failure struct {
	Series
	// Exception is the name of the one that Odoo wrote down; empty if it tells none.
	Exception string
}

const (
	// failuresLimit bounds the kinds of failures of one interval, and failuresQuota those of one
	// database, because each name comes from a database that may belong to anyone.
	failuresLimit = 1000
	failuresQuota = 50
	// exceptionsQuota bounds the exceptions of one database that are counted without channel and
	// function, when it has no room left for kinds.
	exceptionsQuota = 10
)

// failures counts failed jobs by what they have in common.
type failures struct {
	of map[Failure]uint64
	quota
	// bare counts, by database, the exceptions without channel and function.
	bare map[string]int
}

// add counts failures. Where there is no room for a kind, its channel and function go first, and then
// the exception: it is counted as [Other] of its database, or of all.
func (f *failures) add(x Failure, n uint64) {
	if f.of == nil {
		f.of, f.bare = make(map[Failure]uint64), make(map[string]int)
		f.limit, f.each = failuresLimit, failuresQuota
	}
	if _, ok := f.of[x]; !ok {
		x = f.place(x)
	}
	f.of[x] = plus(f.of[x], n)
}

// place returns under what failures of a new kind are counted.
func (f *failures) place(x Failure) Failure {
	if f.admit(x.Series, len(f.of), x.Exception) {
		return x
	}
	if bare := (Failure{restOf(x.Database), x.Exception}); f.of[bare] > 0 || f.admitBare(&bare) {
		return bare
	}
	return Failure{f.fold(x.Series, func(rest Series) bool { return f.of[Failure{rest, Other}] > 0 }), Other}
}

// admitBare reports whether there is room for an exception without channel and function, and takes it.
func (f *failures) admitBare(x *Failure) bool {
	if !owned(x.Series) || !permitted(x.Exception) || x.Exception == Other ||
		len(f.of)-f.folded >= f.limit || f.bare[x.Database] >= exceptionsQuota {
		return false
	}
	f.bare[x.Database]++
	return true
}

func (f *failures) merge(o *failures) {
	for x, n := range o.of {
		f.add(x, n)
	}
}

const (
	// exceptionsLimit bounds the names of exceptions in one answer; the rest is [Other].
	exceptionsLimit = 200
	// exceptionsSeen bounds those among which the most frequent are found.
	exceptionsSeen = 1000
)

// Exception is how many jobs failed with one exception.
type Exception struct {
	// Name is empty where Odoo tells none, and where it is not known any more.
	Name   string
	Failed uint64
	// Points are the failures by step, as those of the [Result].
	Points []uint64
}

func (e *Exception) add(i int, n uint64) {
	e.Failed = plus(e.Failed, n)
	e.Points[i] = plus(e.Points[i], n)
}

func (e *Exception) merge(o *Exception) {
	for i, n := range o.Points {
		e.add(i, n)
	}
}

// compareExceptions orders the most frequent first.
func compareExceptions(x, y *Exception) int { return cmp.Compare(y.Failed, x.Failed) }

// unnamed adds the failures of which no exception is known, in each point those that no kind of failure
// accounts for: they are of a version that did not count by exception, or their kind lost what the query
// selects by.
func (a *answer) unnamed() {
	named := make([]uint64, len(a.Points))
	for _, e := range a.exceptions.of {
		for i, n := range e.Points {
			named[i] = plus(named[i], n)
		}
	}
	for i := range a.Points {
		if failed := a.Points[i].Outcomes[Failed]; failed > named[i] {
			a.exceptions.at("").add(i, failed-named[i])
		}
	}
}

// sorted returns the most frequent exceptions.
func (a *answer) sorted() (list []Exception) {
	a.exceptions.fold(exceptionsLimit)
	for _, e := range a.exceptions.of {
		list = append(list, *e)
	}
	slices.SortFunc(list, func(x, y Exception) int {
		return cmp.Or(compareExceptions(&x, &y), strings.Compare(x.Name, y.Name))
	})
	return list
}
