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
	// own counts the kinds of each database, and folded those of them that are for the rest.
	own    map[string]int
	folded int
}

// add counts failures. What there is no room for is counted as [Other] of its database, or of all.
func (f *failures) add(x Failure, n uint64) {
	if f.of == nil {
		f.of, f.own = make(map[Failure]uint64), make(map[string]int)
	}
	if _, ok := f.of[x]; !ok {
		x = f.place(x)
	}
	f.of[x] = plus(f.of[x], n)
}

// place returns under what failures of a new kind are counted.
func (f *failures) place(x Failure) Failure {
	named := permitted(x.Database) && x.Database != ""
	if named && permitted(x.Channel) && permitted(x.Model) && permitted(x.Method) && permitted(x.Exception) && !x.rest() &&
		len(f.of)-f.folded < failuresLimit && f.own[x.Database] < failuresQuota {
		f.own[x.Database]++
		return x
	}
	rest := Failure{Series{Database: Other, Channel: Other, Method: Other}, Other}
	if own := (Failure{Series{Database: x.Database, Channel: Other, Method: Other}, Other}); named {
		if _, ok := f.of[own]; ok || f.folded < databaseLimit {
			rest = own
		}
	}
	if _, ok := f.of[rest]; !ok {
		f.folded++
	}
	return rest
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
