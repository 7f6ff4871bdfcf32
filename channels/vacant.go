package channels

// Vacant reports whether a job of a database that wants nothing but a slot of root, at once, would start
// whatever else there is: no job waits for what it would take, root has a slot, and nothing but its
// capacity limits it. It is false rather than wrong: where shares, rules or minimums are in force, or each
// database has its own tree, only [Forest.Next] knows.
func (f *Forest) Vacant(db string) bool { return f.shared != nil && f.shared.vacant(db) }

func (m *Manager) vacant(db string) bool {
	r := m.root
	if d := m.dbs[db]; d != nil && d.suspended {
		return false
	}
	return m.dirtyCount == 0 && r.hasCapacity() && !r.sequential && r.throttle == 0 &&
		r.pausedUntil == 0 && r.floors == nil && r.ruling == nil && m.shares == nil
}
