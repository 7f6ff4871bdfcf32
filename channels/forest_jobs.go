package channels

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"
)

// enter returns the tree for a job of a database, for a change; settle follows.
func (f *Forest) enter(db string) (*Manager, *tree) {
	if f.shared != nil {
		return f.shared, nil
	}
	t := f.ensureTree(db)
	return t.Manager, t
}

// find returns it for a read; nil if there is none.
func (f *Forest) find(db string) *Manager {
	if f.shared != nil {
		return f.shared
	}
	if t := f.trees[db]; t != nil {
		return t.Manager
	}
	return nil
}

// Set is [Manager.Set].
func (f *Forest) Set(j Job, s State) (changed bool) {
	m, t := f.enter(j.DB)
	changed = m.Set(j, s)
	f.settle(t)
	return changed
}

// SetFromSnapshot is [Manager.SetFromSnapshot].
func (f *Forest) SetFromSnapshot(j Job, s State) (repaired bool) {
	m, t := f.enter(j.DB)
	repaired = m.SetFromSnapshot(j, s)
	f.settle(t)
	return repaired
}

// Remove is [Manager.Remove].
func (f *Forest) Remove(k Key) (known bool) {
	m, t := f.find(k.DB), f.trees[k.DB]
	if m == nil {
		return false
	}
	known = m.Remove(k)
	f.settle(t)
	return known
}

// RemoveDB is [Manager.RemoveDB]. The database's own tree goes, too.
func (f *Forest) RemoveDB(db string) (n int) {
	m, t := f.enter(db)
	n = m.RemoveDB(db)
	if t != nil {
		t.withheld = true
		f.settle(t)
		delete(f.trees, db)
	}
	return n
}

// RemoveAllBut is [Manager.RemoveAllBut].
func (f *Forest) RemoveAllBut(db string, kept []string) (n int) {
	m, t := f.find(db), f.trees[db]
	if m == nil {
		return 0
	}
	n = m.RemoveAllBut(db, kept)
	f.settle(t)
	return n
}

// Suspend is [Manager.Suspend].
func (f *Forest) Suspend(db string) {
	m, t := f.enter(db)
	m.Suspend(db)
	f.settle(t)
}

// Resume is [Manager.Resume].
func (f *Forest) Resume(db string) {
	m, t := f.enter(db)
	m.Resume(db)
	f.settle(t)
}

// Pause is [Manager.Pause], of the channel of that name in every tree.
func (f *Forest) Pause(name string, yes bool) {
	name = Normalize(name)
	if yes {
		f.stopped[name] = struct{}{}
	} else {
		delete(f.stopped, name)
	}
	if f.shared != nil {
		f.shared.Pause(name, yes)
		return
	}
	for _, t := range f.trees {
		t.Pause(name, yes)
		f.settle(t)
	}
}

// Lookup is [Manager.Lookup].
func (f *Forest) Lookup(k Key) (Job, State, bool) {
	if m := f.find(k.DB); m != nil {
		return m.Lookup(k)
	}
	return Job{}, Unknown, false
}

// Jobs returns all known jobs of a database, in no particular order. The loop must not change any.
func (f *Forest) Jobs(db string) iter.Seq2[Job, State] {
	m := f.find(db)
	if m == nil {
		m = NewManager()
	}
	return m.Jobs(db)
}

// BeginSnapshot is [Manager.BeginSnapshot].
func (f *Forest) BeginSnapshot(db string) {
	if m := f.find(db); m != nil {
		m.BeginSnapshot(db)
	}
}

// RemoveStale is [Manager.RemoveStale].
func (f *Forest) RemoveStale(db string, spared []string, number int) (left, removed []Key) {
	if m := f.find(db); m != nil {
		left, removed = m.RemoveStale(db, spared, number)
		f.settle(f.trees[db])
	}
	return left, removed
}

// Next is [Manager.Next]. When each database has its own tree, those that have something to start
// give one job each, in turn, as long as there is room; the one that has waited longest for its
// turn begins.
func (f *Forest) Next(now time.Time, limit int) []Key {
	if f.shared != nil {
		return f.shared.Next(now, limit)
	}
	f.advanceClock(now)
	f.now = now.UnixMicro()
	for f.wakes.len() > 0 && f.wakes.first().wakeup <= f.now {
		f.settle(f.wakes.first())
	}
	var keys []Key
	due := dueLimit
	for f.ready.len() > 0 && f.hasRoom() && (limit <= 0 || len(keys) < limit) {
		t, left := f.ready.first(), due
		started := t.next(now, 1, &due)
		if len(started) == 0 && left == 0 {
			break // it goes first in the next pass, which makes more jobs ready
		}
		if len(started) > 0 || due == 0 {
			keys = append(keys, started...)
			f.turns++
			t.turn = f.turns
		}
		f.settle(t)
		f.regate()
	}
	return keys
}

// Pending is [Manager.Pending].
func (f *Forest) Pending() bool {
	if f.shared != nil {
		return f.shared.Pending()
	}
	return f.ready.len() > 0 && f.hasRoom()
}

// Wakeup is [Manager.Wakeup], the first of all trees. Without room there is none: the end of a job
// makes room.
func (f *Forest) Wakeup() time.Time {
	switch {
	case f.shared != nil:
		return f.shared.Wakeup()
	case !f.hasRoom() || f.wakes.len() == 0:
		return time.Time{}
	}
	return time.UnixMicro(f.wakes.first().wakeup).UTC()
}

// Explain is [Manager.Explain].
func (f *Forest) Explain(k Key, now time.Time) (Explanation, bool) {
	m := f.find(k.DB)
	if m == nil {
		return Explanation{}, false
	}
	e, ok := m.Explain(k, now)
	if f.shared != nil || !ok {
		return e, ok
	}
	switch e.Reason {
	case ReasonRunning, ReasonFailed, ReasonETA, ReasonSuspended, ReasonDisplaced:
		return e, true
	default: // the job is for the tree to decide about
	}
	switch {
	case f.trees[k.DB].withheld:
		e.Reason = ReasonWithheld
	case !f.hasRoom() && (e.Reason == ReasonReady || e.Reason == ReasonBehind):
		e.Reason, e.Capacity, e.Running = ReasonMaxCapacity, f.capacities.Max, f.running
	}
	return e, true
}

// Counts is [Manager.Counts].
func (f *Forest) Counts() []Count {
	if f.shared != nil {
		return f.shared.Counts()
	}
	var counts []Count
	for _, db := range slices.Sorted(maps.Keys(f.trees)) {
		counts = append(counts, f.trees[db].Counts()...)
	}
	return counts
}

// Unfinished is [Manager.Unfinished].
func (f *Forest) Unfinished(db string) int {
	m := f.find(db)
	if m == nil {
		return 0
	}
	return m.Unfinished(db)
}

// Channel returns one channel, as jobs of a database have it, or reports false for one that does
// not exist.
func (f *Forest) Channel(db, name string) (Status, bool) {
	m := f.find(db)
	if m == nil {
		return Status{}, false
	}
	st, ok := m.Channel(name)
	if f.shared == nil {
		st.DB = db
	}
	return st, ok
}

// Channels returns every channel, sorted by database and full name. Databases of which neither
// channels nor jobs are known have none.
func (f *Forest) Channels() []Status {
	if f.shared != nil {
		return f.shared.Channels()
	}
	var list []Status
	for _, db := range slices.Sorted(maps.Keys(f.trees)) {
		if t := f.trees[db]; !t.withheld || t.jobs > 0 {
			list = append(list, f.DatabaseChannels(db)...)
		}
	}
	return list
}

// DatabaseChannels returns the channels of a database's own tree, sorted by full name; none if it
// has no tree.
func (f *Forest) DatabaseChannels(db string) []Status {
	t := f.trees[db]
	if t == nil {
		return nil
	}
	list := t.Channels()
	for i := range list {
		list[i].DB = db
	}
	return list
}

// Running returns how many jobs run in all databases that have their own trees, and how many may.
func (f *Forest) Running() (running, limit int) { return f.running, f.capacities.Max }

// ID identifies a channel: DB is empty if the tree is that of all databases.
type ID struct{ DB, Channel string }

// Oldest is [Manager.Oldest], of all trees. Its bound is for all of them together.
func (f *Forest) Oldest(now time.Time) map[ID]time.Time {
	oldest := make(map[ID]time.Time)
	add := func(db string, of map[string]time.Time) {
		for channel, since := range of {
			oldest[ID{db, channel}] = since
		}
	}
	if f.shared != nil {
		add("", f.shared.Oldest(now))
		return oldest
	}
	f.shareBudget(func(t *tree, budget int) int {
		of, left := t.oldest(now, budget)
		add(t.name, of)
		return left
	})
	return oldest
}

// Waiting is [Manager.Waiting], of all trees. Its bound is for all of them together.
func (f *Forest) Waiting(now time.Time, see func(Waiting)) {
	if f.shared != nil {
		f.shared.Waiting(now, see)
		return
	}
	f.shareBudget(func(t *tree, budget int) int { return t.waiting(now, budget, see) })
}

// shareBudget gives each tree its share of the jobs that may be visited in all. What small ones leave of
// theirs is for the others.
func (f *Forest) shareBudget(visit func(t *tree, budget int) (left int)) {
	trees := slices.SortedFunc(maps.Values(f.trees), func(a, b *tree) int { return cmp.Compare(a.jobs, b.jobs) })
	budget := oldestLimit
	for i, t := range trees {
		share := max(budget/(len(trees)-i), 1)
		budget -= share
		budget += visit(t, share)
	}
}
