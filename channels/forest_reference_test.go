package channels

import (
	"cmp"
	"maps"
	"slices"
)

// refForest is docs/contract.md 6.2 written down as directly as possible: one reference for each
// database, asked in turn for one job after the other.
type refForest struct {
	shared     *reference
	trees      map[string]*reference
	configs    map[string][]Config
	withheld   map[string]bool
	turns      map[string]int
	turn       int
	capacities Capacities
}

// jobs returns all jobs of all trees, in an order that can be drawn from.
func (f *refForest) jobs() []*refJob {
	if f.shared != nil {
		return f.shared.sorted()
	}
	var all []*refJob
	for _, db := range f.names() {
		all = append(all, f.trees[db].sorted()...)
	}
	return all
}

func (f *refForest) names() []string { return slices.Sorted(maps.Keys(f.trees)) }

func (f *refForest) tree(db string) *reference {
	if f.shared != nil {
		return f.shared
	}
	if f.trees[db] == nil {
		f.trees[db] = newReference()
		f.withheld[db] = true
		_ = f.trees[db].configure(f.capacities.limited(db, nil))
	}
	return f.trees[db]
}

// rebuild makes other trees of the same jobs.
func (f *refForest) rebuild(change func()) {
	jobs := f.jobs()
	suspended := map[string]bool{}
	if f.shared != nil {
		maps.Copy(suspended, f.shared.suspended)
	}
	for _, tree := range f.trees {
		maps.Copy(suspended, tree.suspended)
	}
	*f = refForest{trees: map[string]*reference{}, configs: map[string][]Config{}, withheld: map[string]bool{}, turns: map[string]int{}}
	change()
	for db, yes := range suspended {
		f.tree(db).suspended[db] = yes
	}
	for _, j := range jobs {
		f.tree(j.DB).set(j.Job, j.state)
	}
}

func (f *refForest) configure(cfgs []Config) {
	if f.shared == nil {
		f.rebuild(func() { f.shared = newReference() })
	}
	_ = f.shared.configure(cfgs)
}

func (f *refForest) configureDatabases(c Capacities) {
	if f.shared != nil {
		f.rebuild(func() { f.capacities = c })
	}
	f.capacities = c
	for db, tree := range f.trees {
		_ = tree.configure(c.limited(db, f.configs[db]))
	}
}

func (f *refForest) configureDatabase(db string, cfgs []Config) {
	if f.shared == nil {
		f.configs[db], f.withheld[db] = cfgs, false
		_ = f.trees[db].configure(f.capacities.limited(db, cfgs))
	}
}

func (f *refForest) running() (n int) {
	for _, tree := range f.trees {
		n += len(tree.root.running)
	}
	return n
}

func (f *refForest) hasRoom() bool { return f.running() < f.capacities.Max }

// next asks those databases in which a job is pending or due: in others a pass could at most move
// jobs below a full channel, which changes nothing.
func (f *refForest) next(now int64, limit int, pending func(db string) bool) (keys []Key) {
	if f.shared != nil {
		return f.shared.next(now, limit)
	}
	waiting := slices.DeleteFunc(f.names(), func(db string) bool {
		w := f.trees[db].root.wakeup()
		return f.withheld[db] || !pending(db) && (w == 0 || w > now)
	})
	for len(waiting) > 0 && f.hasRoom() && (limit <= 0 || len(keys) < limit) {
		slices.SortFunc(waiting, func(a, b string) int { return cmp.Or(cmp.Compare(f.turns[a], f.turns[b]), cmp.Compare(a, b)) })
		db := waiting[0]
		got := f.trees[db].next(now, 1)
		if len(got) == 0 {
			waiting = waiting[1:]
			continue
		}
		keys = append(keys, got...)
		f.turn++
		f.turns[db] = f.turn
	}
	return keys
}

// wakeup returns 0 for none.
func (f *refForest) wakeup() (first int64) {
	if f.shared != nil {
		return f.shared.root.wakeup()
	}
	if !f.hasRoom() {
		return 0
	}
	for db, tree := range f.trees {
		if w := tree.root.wakeup(); w != 0 && !f.withheld[db] && (first == 0 || w < first) {
			first = w
		}
	}
	return first
}
