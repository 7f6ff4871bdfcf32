package history

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
)

// failures counts failed jobs by what they have in common.
type failures struct {
	of map[Failure]uint64
	quota
}

// add counts failures. What there is no room for is counted as [Other] of its database, or of all.
func (f *failures) add(x Failure, n uint64) {
	if f.of == nil {
		f.of, f.limit, f.each = make(map[Failure]uint64), failuresLimit, failuresQuota
	}
	if _, ok := f.of[x]; !ok {
		x = f.place(x)
	}
	f.of[x] = plus(f.of[x], n)
}

// place returns under what failures of a new kind are counted.
func (f *failures) place(x Failure) Failure {
	counted := func(rest Series) bool { _, ok := f.of[Failure{rest, Other}]; return ok }
	if at, rest := f.quota.place(x.Series, len(f.of), counted, x.Exception); rest {
		return Failure{at, Other}
	}
	return x
}

func (f *failures) merge(o *failures) {
	for x, n := range o.of {
		f.add(x, n)
	}
}

// exceptionsLimit bounds the names of exceptions in one answer; the rest is [Other].
const exceptionsLimit = 200

// Exception is how many jobs failed with one exception.
type Exception struct {
	// Name is empty where Odoo tells none.
	Name   string
	Failed uint64
	// Points are the failures by step, as those of the [Result].
	Points []uint64
}

// fail adds failures of the interval that begins at a time.
func (a *answer) fail(i int, x *Failure, n uint64) {
	name := x.Exception
	e := a.exceptions[name]
	if e == nil && len(a.exceptions) >= exceptionsLimit {
		name = Other
		e = a.exceptions[name]
	}
	if e == nil {
		e = &Exception{Name: name, Points: make([]uint64, len(a.Points))}
		a.exceptions[name] = e
	}
	e.Failed = plus(e.Failed, n)
	e.Points[i] = plus(e.Points[i], n)
}
