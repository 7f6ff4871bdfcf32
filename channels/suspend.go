package channels

import "slices"

// Suspend takes the jobs of a database out of the queues until Resume: they are remembered, but
// nothing starts them, and they hold no other job up. Running jobs keep their slots and failed ones
// stay failed; what Set brings meanwhile is remembered like the rest. It is for a database that is
// being loaded or is out of reach. No Status counts them. It costs O(n log n) for n jobs of the
// database.
func (m *Manager) Suspend(db string) {
	d := m.database(db)
	d.unwanted = true
	m.hold(d)
}

// Resume puts the jobs of a suspended database into the queues.
func (m *Manager) Resume(db string) {
	d := m.database(db)
	d.unwanted = false
	m.hold(d)
}

// hold takes the jobs of a database out of the queues, or puts them into these, as it has to be.
func (m *Manager) hold(d *database) {
	suspended := d.unwanted || d.displaced
	if d.suspended == suspended {
		return
	}
	d.suspended = suspended
	if !suspended {
		for _, h := range d.homes {
			m.unpark(h)
		}
		return
	}
	d.each(func(r *record) bool {
		if r.location.inReady() || r.location == inETAQueue {
			m.take(r)
			m.put(r, r.state)
		}
		return true
	})
}

// park adds a job to those that wait for Resume. Unlike append, it doubles the list, which leaves
// less garbage while a database is loaded.
func (h *home) park(r *record) {
	if items := h.parked.items; len(items) == cap(items) {
		h.parked.items = slices.Grow(items, max(len(items), 1))
	}
	h.parked.push(r)
}

// unpark puts all jobs that are parked into the queues of their channel at once: sorting them costs
// less than inserting each, and a snapshot brings them in nearly the right order.
func (m *Manager) unpark(h *home) {
	ready := h.parked.items
	h.parked.items = nil
	var timed []*record
	for _, r := range ready {
		if r.location = inOwnQueue; r.eta != 0 {
			r.location = inETAQueue
			timed = append(timed, r)
		}
	}
	if len(timed) > 0 {
		ready = slices.DeleteFunc(ready, func(r *record) bool { return r.location == inETAQueue })
	}
	if len(ready) < cap(ready)/8*7 {
		ready = slices.Clone(ready)
	}
	h.channel.ready.take(ready)
	h.channel.eta.take(timed)
	m.settle(h.channel, h.channel)
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
