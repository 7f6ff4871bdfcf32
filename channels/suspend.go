package channels

// Suspend takes the jobs of a database out of the queues until Resume: they
// are remembered, but nothing starts them, and they are in nobody's way.
// Running jobs keep their places and failed ones stay failed; what Set brings
// meanwhile is remembered like the rest. It is for a database that is being
// loaded or is out of reach. No Status counts them. It costs O(n log n) for n
// jobs of the database.
func (m *Manager) Suspend(db string) {
	d := m.database(db)
	if d.suspended {
		return
	}
	d.suspended = true
	d.each(func(r *record) bool {
		if r.place.inReady() || r.place == inETAQueue {
			m.take(r)
			m.put(r, r.state)
		}
		return true
	})
}

// Resume puts the jobs of a suspended database into the queues.
func (m *Manager) Resume(db string) {
	d := m.database(db)
	if !d.suspended {
		return
	}
	d.suspended = false
	d.each(func(r *record) bool {
		if r.place == suspended {
			m.take(r)
			m.put(r, r.state)
		}
		return true
	})
}

// database returns the database of a name and creates it if need be.
func (m *Manager) database(name string) *database {
	d := m.dbs[name]
	if d == nil {
		d = newDatabase(name)
		m.dbs[name] = d
	}
	return d
}
