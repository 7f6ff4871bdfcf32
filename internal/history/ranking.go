package history

import (
	"cmp"
	"slices"
	"strings"
)

// ranking adds up by name, and keeps the names that come first in its order: not those that were seen
// first, because then a database with many names would hide those of others. The rest is under [Other].
type ranking[T any] struct {
	of map[string]*T
	// limit bounds the names.
	limit   int
	make    func(name string) *T
	compare func(x, y *T) int
	merge   func(into, from *T)
}

// at returns what is added up under a name.
func (r *ranking[T]) at(name string) *T {
	if x := r.of[name]; x != nil {
		return x
	}
	if len(r.of) >= r.limit {
		r.fold(r.limit / 2)
	}
	x := r.make(name)
	r.of[name] = x
	return x
}

// fold keeps so many names, and adds the others to [Other].
func (r *ranking[T]) fold(keep int) {
	names := make([]string, 0, len(r.of))
	for name := range r.of {
		if name != Other {
			names = append(names, name)
		}
	}
	if len(names) <= keep {
		return
	}
	slices.SortFunc(names, func(x, y string) int {
		return cmp.Or(r.compare(r.of[x], r.of[y]), strings.Compare(x, y))
	})
	rest := r.of[Other]
	if rest == nil {
		rest = r.make(Other)
		r.of[Other] = rest
	}
	for _, name := range names[keep:] {
		r.merge(rest, r.of[name])
		delete(r.of, name)
	}
}
