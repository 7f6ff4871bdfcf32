package channels

import "iter"

// Manager decides which jobs start when. It holds the channel tree and every job that is not done,
// of any number of databases.
//
// A Manager is not safe for concurrent use: one goroutine owns it. It reads no clock; times are
// parameters.
type Manager struct {
	root       *channel
	dbs        map[string]*database
	jobs       int
	configured map[*channel]struct{}
	timers     heap[*channel, timerOrder]
	stopped    map[string]struct{} // the channels that Pause holds back, by full name
	wanted     map[string]Config   // what Configure was given last, by full name
	names      *allowance
	clock      *clock
	rules      func(channel string) Rules // nil: there are none
	governed   map[*channel]struct{}      // the channels that have rules
	resting    resting                    // of channels that have gone
	percents   int                        // how many channels have a part of their parents' capacity
	shares     Shares
	given      Shares // what SetShares was given last
	gates      *gates
	// tollsResting are those of the databases in channels that have gone.
	tollsResting resting
	fair         int          // how many channels are shared fairly
	turned       []*tally     // whose limits have just been reached, or are not any more
	dirty        [][]*channel // by depth: the channels that can yield
	dirtyCount   int          // how many these are
}

// NewManager returns a Manager without jobs and with the one channel "root", which has capacity 1.
func NewManager() *Manager {
	return &Manager{
		root:       newChannel(nil, rootName),
		dbs:        make(map[string]*database),
		configured: make(map[*channel]struct{}),
		stopped:    make(map[string]struct{}),
		names:      newAllowance(),
		gates:      new(gates),
		clock:      new(clock),
		governed:   make(map[*channel]struct{}),
	}
}

// Set applies a row as it was just read, as OCA's runner does on a notification
// (docs/contract.md 2.1, 2.2):
//
//   - pending queues the job in its channel. One that waits further up the tree
//     or was counted as running is pulled back.
//   - enqueued and started count it as running in its channel and all above,
//     whatever their capacities.
//   - failed adds it to the failed jobs of its channel.
//   - done, cancelled and wait_dependencies remove it.
//   - Unknown changes nothing.
//
// A changed id, priority, date_created, eta or channel queues the job anew. Set reports whether the
// state, location or properties of the job changed.
func (m *Manager) Set(j Job, s State) (changed bool) {
	d, n := m.dbs[j.DB], newName(j.UUID)
	return m.set(d, d.find(&n), &n, &j, s)
}

// set is Set for the database and the record of the job, nil if they are not known.
func (m *Manager) set(d *database, r *record, n *name, j *Job, s State) (changed bool) {
	switch s {
	case Pending, Enqueued, Started, Failed:
	case Done, Cancelled, WaitDependencies:
		if r != nil {
			m.remove(r)
		}
		return r != nil
	default:
		if r != nil {
			r.home.db.see(r)
		}
		return false
	}
	if r == nil {
		if d == nil {
			d = m.database(j.DB)
		}
		m.insert(d, n, j, s)
		return true
	}
	r.home.db.see(r)
	if r.differs(j) || r.home.name != j.Channel && m.strays(r.home, j.Channel) {
		m.replace(r, j, s)
		return true
	}
	return m.transition(r, s)
}

// SetFromSnapshot is Set for a row of a snapshot: a job on which memory and the row agree is left
// where it is, and only noted as seen. It reports whether something had to be repaired.
func (m *Manager) SetFromSnapshot(j Job, s State) (repaired bool) {
	d, n := m.dbs[j.DB], newName(j.UUID)
	r := d.find(&n)
	if r == nil || r.state != s || r.differs(&j) {
		// That the company or the identity key was not asked for before is no mistake of memory.
		told := r != nil && r.state == s && !r.sortsElse(&j) && r.home.name == j.Channel
		return m.set(d, r, &n, &j, s) && !told
	}
	r.home.db.see(r)
	if r.home.name == j.Channel || !m.strays(r.home, j.Channel) {
		return false
	}
	// That its name shares a channel, and which one, is no mistake of memory.
	repaired = !r.home.shared
	m.replace(r, &j, s)
	return repaired
}

// Remove forgets a job and frees its slot. It reports whether the job was known.
func (m *Manager) Remove(k Key) bool {
	r := m.known(k)
	if r == nil {
		return false
	}
	m.remove(r)
	return true
}

// RemoveDB forgets a database with all its jobs and returns their number. A suspension ends with
// it.
func (m *Manager) RemoveDB(db string) int {
	n := m.RemoveAllBut(db, nil)
	delete(m.dbs, db)
	return n
}

// RemoveAllBut forgets the jobs of a database, except some, by their uuids, and returns their number.
// A job that waits is kept in the queue of its own channel.
func (m *Manager) RemoveAllBut(db string, kept []string) int {
	d := m.dbs[db]
	if d == nil {
		return 0
	}
	before := d.len()
	stay := d.records(kept)
	m.keep(d, stay)
	return before - len(stay)
}

// keep forgets all jobs of a database but some.
func (m *Manager) keep(d *database, stay []*record) {
	fresh := m.clear(d)
	for _, r := range stay {
		m.copy(fresh, r)
	}
}

// Lookup returns a job as it was last set. The state of a job that Next returned is Enqueued.
func (m *Manager) Lookup(k Key) (Job, State, bool) {
	r := m.known(k)
	if r == nil {
		return Job{}, Unknown, false
	}
	return r.job(), r.state, true
}

// Len returns the number of known jobs.
func (m *Manager) Len() int { return m.jobs }

// Jobs returns all known jobs of a database, or of all databases if db is empty, in no particular
// order. The loop may remove jobs, not add any.
func (m *Manager) Jobs(db string) iter.Seq2[Job, State] {
	return func(yield func(Job, State) bool) {
		more := true
		visit := func(r *record) bool {
			more = yield(r.job(), r.state)
			return more
		}
		for name, d := range m.dbs {
			if !more {
				return
			}
			if db == "" || db == name {
				d.each(visit)
			}
		}
	}
}

// BeginSnapshot begins the reading of a snapshot of a database: from now on, RemoveStale
// knows which jobs no Set or SetFromSnapshot has touched.
func (m *Manager) BeginSnapshot(db string) {
	d := m.dbs[db]
	if d == nil {
		return
	}
	d.snapshot++
	d.seen = 0
	d.placing = d.displaced
	if d.snapshot == 0 { // used up: 0 becomes "long ago"
		d.each(func(r *record) bool {
			r.snapshot = 0
			return true
		})
		d.snapshot = 1
	}
}

// RemoveStale forgets the stale jobs of a database, those that nothing has touched since
// BeginSnapshot, except some, by their uuids. It returns which of the latter are stale, and counts
// them as touched, and a number of those that it has forgotten, both in no particular order. If most
// of the database's were forgotten, jobs that wait are back in the queues of their own channels.
func (m *Manager) RemoveStale(db string, spared []string, number int) (left, removed []Key) {
	d := m.dbs[db]
	if d == nil || d.seen == d.len() {
		return nil, nil
	}
	for _, r := range d.records(spared) {
		if r.snapshot != d.snapshot {
			left = append(left, r.key())
			d.see(r)
		}
	}
	if !d.mostlyStale() {
		d.each(func(r *record) bool {
			if r.snapshot != d.snapshot {
				if len(removed) < number {
					removed = append(removed, r.key())
				}
				m.remove(r)
			}
			return true
		})
		return left, removed
	}
	number = min(number, d.len()-d.seen)
	var stay []*record
	d.each(func(r *record) bool {
		if r.snapshot == d.snapshot {
			stay = append(stay, r)
		} else if len(removed) < number {
			removed = append(removed, r.key())
		}
		return len(removed) < number || len(stay) < d.seen
	})
	m.keep(d, stay)
	return left, removed
}

// mostlyStale reports whether more jobs are stale than are not.
func (d *database) mostlyStale() bool { return d.len()-d.seen > d.seen }

func (m *Manager) known(k Key) *record {
	n := newName(k.UUID)
	return m.dbs[k.DB].find(&n)
}

func (m *Manager) insert(d *database, n *name, j *Job, s State) *record {
	r := d.add(n)
	m.jobs++
	m.assign(r, m.home(d, j.Channel), j)
	m.put(r, s)
	return r
}

// replace gives a known job new properties.
func (m *Manager) replace(r *record, j *Job, s State) {
	m.take(r)
	old := r.home
	old.db.companies.leave(r.company)
	old.db.identities.leave(r)
	m.assign(r, m.home(old.db, j.Channel), j)
	m.put(r, s)
	m.leave(old) // after moving in elsewhere, or a shared channel might be pruned in between
}

// transition applies a state to a job whose properties are as before.
func (m *Manager) transition(r *record, s State) bool {
	old := r.state
	if s.Running() && r.location == inRunning {
		r.home.count(r.state, -1)
		r.home.count(s, 1)
		r.state = s
		return s != old
	}
	stays := s == Failed && r.location == inFailed ||
		s == Pending && (r.location == inETAQueue || r.location == inOwnQueue && r.eta == 0)
	if stays {
		return false
	}
	// One of the moves: a pending job whose eta has come goes back to those that wait for theirs,
	// until the next pass. It does so in OCA's runner too, which has forgotten the eta and sees a
	// changed property (docs/contract.md 2.1).
	m.take(r)
	m.put(r, s)
	return true
}

func (m *Manager) remove(r *record) {
	m.take(r)
	m.jobs--
	r.home.db.drop(r)
	m.leave(r.home)
}

func (m *Manager) assign(r *record, h *home, j *Job) {
	r.home, r.id, r.priority, r.created, r.eta, r.company = h, j.ID, j.Priority, j.Created, j.ETA, j.Company
	h.db.companies.enter(r.company)
	h.jobs++
	h.channel.own++
	if h.shared {
		h.db.sharing++
	}
	m.identify(r, j.Identity)
}

func (m *Manager) home(d *database, name string) *home {
	if d.recent != nil && d.recent.name == name {
		return d.recent
	}
	h := d.homes[name]
	if h == nil {
		h = m.newHome(d, name)
	}
	d.recent = h
	return h
}

func (m *Manager) leave(h *home) {
	h.jobs--
	h.channel.own--
	if h.shared {
		h.db.sharing--
	}
	if h.jobs == 0 {
		m.closeHome(h)
	}
}

// put brings a job that is nowhere to the location that its state asks for.
func (m *Manager) put(r *record, s State) {
	own := r.home.channel
	top := own
	r.state = s
	r.home.count(s, 1)
	switch {
	case s.Running():
		r.location = inRunning
		for c := own; c != nil; c = c.parent {
			m.run(c, r, 1)
			top = c
		}
	case s == Failed:
		r.location = inFailed
		own.failed.push(r)
	case r.home.db.suspended:
		r.home.park(r)
		return // no channel has changed
	case r.eta != 0:
		r.location = inETAQueue
		own.eta.push(r)
	default:
		r.location = inOwnQueue
		own.ready.push(r)
	}
	m.settle(own, top)
}

// take takes a job out of its location, and its count out of every channel that has let it pass.
func (m *Manager) take(r *record) {
	own := r.home.channel
	top := own
	r.home.count(r.state, -1)
	switch {
	case r.location == inRunning:
		for c := own; c != nil; c = c.parent {
			m.run(c, r, -1)
			top = c
		}
	case r.location == inFailed:
		own.failed.remove(int(r.index))
	case r.parked():
		r.home.unpark(r)
		return
	case r.location == inETAQueue:
		own.eta.remove(int(r.index))
	default:
		for range r.location {
			m.occupy(top, r, -1)
			top = top.parent
		}
		top.ready.remove(r)
	}
	m.settle(own, top)
}
