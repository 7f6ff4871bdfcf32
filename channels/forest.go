package channels

import (
	"fmt"
	"slices"
)

// Forest is either one channel tree for the jobs of all databases, which is how it begins, or a
// tree for each database (docs/contract.md 6.2). When each has its own tree, databases that have
// something to start take turns, job by job, and no more than Capacities.Max jobs run in all of
// them together.
//
// It replaces a [Manager]: its methods do what the Manager's do, for all trees. Like it, it is not
// safe for concurrent use and reads no clock. What a change or a pass costs does not depend on the
// number of databases in which nothing changed.
type Forest struct {
	shared *Manager         // the tree of all databases; nil if each has its own
	trees  map[string]*tree // otherwise, by database

	stopped    map[string]struct{} // what Pause holds back, by full name
	shares     Shares
	gates      *gates
	names      *allowance // of the trees of databases
	clock      *clock
	rules      func(db, channel string) Rules // nil: there are none
	capacities Capacities
	running    int // in all trees
	now        int64
	turns      uint64
	ready      heap[*tree, turnOrder]   // the trees that may have something to start
	wakes      heap[*tree, wakeupOrder] // the others that will, by the time
}

// tree is the tree of one database.
type tree struct {
	*Manager
	name string
	// configs is the configuration as it was given, before Capacities.
	configs []Config
	// withheld is set while there is no configuration that could be used.
	withheld bool

	// What follows is derived by settle.
	running    int
	wakeup     int64 // when it has to be checked
	turn       uint64
	readyIndex int
	wakeIndex  int
}

// turnOrder is the order of trees by when they had their last turn.
type turnOrder struct{}

func (turnOrder) before(a, b *tree) bool {
	return a.turn < b.turn || a.turn == b.turn && a.name < b.name
}
func (turnOrder) moved(t *tree, index int) { t.readyIndex = index }

// wakeupOrder is the order of trees by the time at which they need a check.
type wakeupOrder struct{}

func (wakeupOrder) before(a, b *tree) bool   { return a.wakeup < b.wakeup }
func (wakeupOrder) moved(t *tree, index int) { t.wakeIndex = index }

// NewForest returns one tree for all databases, with the one channel "root" of capacity 1.
func NewForest() *Forest {
	f := &Forest{stopped: make(map[string]struct{}), clock: new(clock), gates: new(gates)}
	f.shared = f.newManager("")
	return f
}

// Configure makes it one tree for all databases, if it is not, and configures that as
// [Manager.Configure] does. On an error nothing changes. A change from a tree per database loses no
// job, and what runs stays counted; only the pauses of throttled channels begin anew.
func (f *Forest) Configure(cfgs []Config) error {
	if f.shared != nil {
		return f.shared.Configure(cfgs)
	}
	m := f.newManager("")
	if err := m.Configure(cfgs); err != nil {
		return err
	}
	for _, t := range f.trees {
		m.adopt(t.dbs[t.name])
	}
	*f = Forest{shared: m, shares: f.shares, stopped: f.stopped, clock: f.clock, gates: f.gates, rules: f.rules}
	return nil
}

// ConfigureDatabases gives each database its own tree, if it has none, and sets what bounds them. A
// tree yields nothing before ConfigureDatabase has configured it. As with Configure, no job is
// lost.
func (f *Forest) ConfigureDatabases(c Capacities) {
	f.capacities = c
	if f.shared == nil {
		for _, t := range f.trees {
			_ = t.Configure(c.limited(t.name, t.configs)) // accepted before, whatever the limit of its root
			f.settle(t)
		}
		return
	}
	shared := f.shared
	f.names = newAllowance()
	f.shared, f.trees = nil, make(map[string]*tree, len(shared.dbs))
	for name, d := range shared.dbs {
		t := f.ensureTree(name)
		t.adopt(d)
		f.settle(t)
	}
}

// ConfigureDatabase replaces the configuration of one database's tree, at any time, as
// [Manager.Configure] does. The capacity of its root is at most what Capacities says; 0 means just
// that. On an error the tree yields nothing until there is a configuration without one; other trees
// are not concerned. With one tree for all databases it does nothing.
func (f *Forest) ConfigureDatabase(db string, cfgs []Config) error {
	if f.shared != nil {
		return nil
	}
	t := f.ensureTree(db)
	err := validateDatabase(cfgs)
	if err == nil {
		err = t.Configure(f.capacities.limited(db, cfgs))
	}
	if err == nil {
		t.configs = slices.Clone(cfgs)
	}
	t.withheld = err != nil
	f.settle(t)
	return err
}

// SetShares is [Manager.SetShares], for every tree.
func (f *Forest) SetShares(s Shares) {
	f.shares = s
	if f.shared != nil {
		f.shared.SetShares(s)
		return
	}
	for _, t := range f.trees {
		t.SetShares(s)
		f.settle(t)
	}
}

// Withhold lets a database's tree yield nothing until ConfigureDatabase: its configuration cannot
// be read, or has not been yet.
func (f *Forest) Withhold(db string) {
	if f.shared == nil {
		t := f.ensureTree(db)
		t.withheld = true
		f.settle(t)
	}
}

// validateDatabase finds what only a configuration string may have.
func validateDatabase(cfgs []Config) error {
	for _, c := range cfgs {
		switch {
		case c.Capacity < 0:
			return fmt.Errorf("channel %s: capacity must not be negative", Normalize(c.Name))
		case c.Throttle < 0:
			return fmt.Errorf("channel %s: throttle must not be negative", Normalize(c.Name))
		case c.CapacityDefault < 0:
			return fmt.Errorf("channel %s: capacity_default must not be negative", Normalize(c.Name))
		}
	}
	return nil
}

// limited is the configuration of a database with the capacity that its root may have at most.
func (c Capacities) limited(db string, cfgs []Config) []Config {
	cfgs = slices.Clone(cfgs)
	i := slices.IndexFunc(cfgs, func(cfg Config) bool { return Normalize(cfg.Name) == rootName })
	if i < 0 {
		i = len(cfgs)
		cfgs = append(cfgs, Config{Name: rootName})
	}
	root := &cfgs[i]
	root.ceiling, root.bounded = max(c.Of(db), 0), true
	switch limit := c.Of(db); {
	case limit <= 0:
		root.Paused = true
	case root.Sequential: // its capacity is 1, or a mistake
	case root.Capacity == 0 || root.Capacity > limit:
		root.Capacity = limit
	}
	return cfgs
}

// newManager returns a tree that is held back where the others are, and has their rules. db is empty
// for one of all databases.
func (f *Forest) newManager(db string) *Manager {
	m := NewManager()
	m.clock, m.gates = f.clock, f.gates
	f.govern(m, db)
	m.SetShares(f.shares)
	for name := range f.stopped {
		m.Pause(name, true)
	}
	return m
}

// ensureTree returns the tree of a database and makes it if need be.
func (f *Forest) ensureTree(db string) *tree {
	t := f.trees[db]
	if t == nil {
		m := f.newManager(db)
		m.names = f.names
		t = &tree{Manager: m, name: db, withheld: true, wakeup: never, readyIndex: -1, wakeIndex: -1}
		_ = t.Configure(f.capacities.limited(db, nil)) // one channel without a mistake
		f.trees[db] = t
	}
	return t
}

// adopt takes over the jobs of a database from another Manager, and with them which ones the
// current snapshot has named. A nil database has none.
func (m *Manager) adopt(old *database) {
	if old == nil {
		return
	}
	d := m.database(old.name)
	d.suspended, d.unwanted, d.snapshot = old.suspended, old.unwanted, old.snapshot
	d.displaced = old.displaced || old.sharing > 0
	m.hold(d)
	old.each(func(r *record) bool {
		m.copy(d, r)
		return true
	})
}

// copy takes over one job.
func (m *Manager) copy(d *database, r *record) {
	j := r.job()
	n := newName(j.UUID)
	copied := m.insert(d, &n, &j, r.state)
	if r.home.shared {
		copied.home.share()
	}
	if copied.snapshot != r.snapshot {
		copied.snapshot = r.snapshot
		d.seen--
	}
}

// settle brings up to date what is derived of a tree after it has changed. A nil tree is the one of
// all databases, of which nothing is.
func (f *Forest) settle(t *tree) {
	if t == nil {
		return
	}
	f.running += t.root.running - t.running
	t.running = t.root.running
	t.wakeup = t.root.wake
	due := t.Pending() || t.wakeup <= f.now
	arrange(&f.ready, t, t.readyIndex, due && !t.withheld)
	arrange(&f.wakes, t, t.wakeIndex, !due && !t.withheld && t.wakeup != never)
}

// hasRoom reports whether one more job may run in all databases together.
func (f *Forest) hasRoom() bool { return f.running < f.capacities.Max }
