package channels

// Suspend takes the jobs of a database out of the queues until Resume: they are remembered, but
// nothing starts them, and they hold no other job up. Running jobs keep their slots and failed ones
// stay failed; what Set brings meanwhile is remembered like the rest. It is for a database that is
// being loaded or is out of reach. No Status counts them.
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
	if suspended {
		m.parkAll(d)
	}
	d.suspended = suspended
	if !suspended {
		for _, h := range d.homes {
			m.release(h)
		}
	}
}

// park adds a job to those that wait for Resume. Unlike append, it doubles the list, which leaves
// less garbage while a database is loaded.
func (h *home) park(r *record) {
	if r.location = inOwnQueue; r.eta != 0 {
		r.location = inETAQueue
		h.eta.grow()
		h.eta.push(r)
		return
	}
	h.ready.grow()
	h.ready.push(r)
}

// unpark takes one of them out.
func (h *home) unpark(r *record) {
	if r.location == inETAQueue {
		h.eta.remove(int(r.index))
	} else {
		h.ready.remove(int(r.index))
	}
}

// release puts all jobs that are parked into the queues of their channel. They are in order already,
// so that it takes no time if there are no others.
func (m *Manager) release(h *home) {
	h.ready.trim()
	h.eta.trim()
	c := h.channel
	c.ready.merge(&h.ready)
	c.eta.merge(&h.eta)
	m.settle(c, c)
}

// parkAll takes the waiting jobs of a database out of all queues. If they are most of what is in
// these, the others are sorted anew instead, which costs much less than to take out each.
func (m *Manager) parkAll(d *database) {
	queues := make(map[*channel]struct{})
	waiting, queued := 0, 0
	for _, h := range d.homes {
		waiting += h.states[Pending]
		for c := h.channel; c != nil; c = c.parent {
			if _, ok := queues[c]; ok {
				break
			}
			queues[c] = struct{}{}
			queued += c.waiting()
		}
	}
	if waiting*height(queued) <= queued {
		d.each(func(r *record) bool {
			if r.location < inFailed {
				m.take(r)
				r.home.count(r.state, 1)
				r.home.park(r)
			}
			return true
		})
		return
	}
	ours := func(r *record) bool { return r.home.db == d }
	unsorted := make(map[*home]struct{})
	for c := range queues {
		list, sorted := c.ready.split(ours)
		m.parkList(list, sorted, false, unsorted)
		list, sorted = c.eta.split(ours)
		m.parkList(list, sorted, true, unsorted)
	}
	for h := range unsorted {
		h.ready.rebuild(0)
		h.eta.rebuild(0)
	}
	for c := range queues {
		m.settle(c, c)
	}
}

// parkList parks jobs that were taken out of a queue, and notes where they are in no order. They are
// a heap if sorted is set, by their eta if byETA is.
func (m *Manager) parkList(list []*record, sorted, byETA bool, unsorted map[*home]struct{}) {
	if len(list) == 0 {
		return
	}
	h, timed, alike := list[0].home, list[0].eta != 0, true
	for _, r := range list {
		if r.location.inReady() {
			c := r.home.channel
			for range r.location {
				m.occupy(c, r, -1)
				c = c.parent
			}
		}
		if r.location = inOwnQueue; r.eta != 0 {
			r.location = inETAQueue
		}
		alike = alike && r.home == h && (r.eta != 0) == timed
	}
	if alike && sorted && byETA == timed {
		// Mostly so: the jobs of a database that is large are those of one channel.
		if timed && h.eta.len() == 0 {
			h.eta.items = list
			return
		}
		if !timed && h.ready.len() == 0 {
			h.ready.items = list
			return
		}
	}
	for _, r := range list {
		if r.location == inETAQueue {
			r.home.eta.items = append(r.home.eta.items, r)
		} else {
			r.home.ready.items = append(r.home.ready.items, r)
		}
		unsorted[r.home] = struct{}{}
	}
}

// clear forgets all jobs of a database at once. It returns the database without them, which takes
// the place of the other one.
func (m *Manager) clear(d *database) *database {
	if !d.suspended {
		m.parkAll(d)
		d.suspended = true
	}
	left := 0
	done := make(map[*home]struct{})
	for _, h := range d.homes {
		left += h.states[Enqueued] + h.states[Started]
		failed, all := h.states[Failed], h.channel.failed.len()
		if failed*height(all) <= all {
			left += failed
			continue
		}
		h.channel.failed.split(func(r *record) bool { return r.home == h })
		m.settle(h.channel, h.channel)
		done[h] = struct{}{}
	}
	if left > 0 {
		d.each(func(r *record) bool {
			if _, ok := done[r.home]; r.location == inRunning || r.location == inFailed && !ok {
				m.take(r)
				left--
			}
			return left > 0
		})
	}
	m.jobs -= d.len()
	for _, h := range d.homes {
		h.channel.own -= h.jobs
		m.closeHome(h)
	}
	fresh := newDatabase(d.name)
	fresh.snapshot, fresh.unwanted, fresh.displaced, fresh.placing = d.snapshot, d.unwanted, d.displaced, d.placing
	fresh.suspended = d.unwanted || d.displaced
	m.dbs[d.name] = fresh
	return fresh
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
