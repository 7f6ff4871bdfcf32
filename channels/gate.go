package channels

import "slices"

// gates are what has to have room for a job beside its channels, servers for instance. All trees of a
// [Forest] share them.
type gates struct {
	named map[string]*gate
	// turned is set when one has opened or closed, until all trees know.
	turned bool
}

// gate lets so many jobs start as it has room for.
type gate struct {
	name string
	room int
	of   *gate // whose room it shares; nil: it has its own
	was  bool  // open, before set
}

// Room says how many more jobs may start that have to pass a gate; see [Share].
type Room struct {
	Gate string
	// Free is that number.
	Free int
	// Of names another gate. What starts takes the room of that one, and Free does not count.
	// Default: the gate has its own.
	Of string
}

func (g *gate) source() *gate {
	if g.of != nil {
		return g.of
	}
	return g
}

func (g *gate) open() bool { return g.source().room > 0 }

func (s *gates) get(name string) *gate {
	g := s.named[name]
	if g == nil {
		g = &gate{name: name}
		if s.named == nil {
			s.named = make(map[string]*gate)
		}
		s.named[name] = g
	}
	return g
}

// set changes what room there is.
func (s *gates) set(rooms []Room) {
	for _, g := range s.named {
		g.was = g.open()
	}
	for _, r := range rooms {
		g := s.get(r.Gate)
		g.room, g.of = r.Free, nil
		if r.Of != "" {
			g.of = s.get(r.Of)
		}
	}
	for _, g := range s.named {
		s.turned = s.turned || g.open() != g.was
	}
}

// gateOf returns the gate of jobs with these shares, that of the deepest channel that has one; nil if
// none has.
func (m *Manager) gateOf(shares []level) *gate {
	for _, s := range slices.Backward(shares) {
		if s.Gate != "" {
			return m.gates.get(s.Gate)
		}
	}
	return nil
}

// tallyOfGate returns the tally of a gate, in root. It counts nothing: it is reached while the gate is
// closed.
func (c *channel) tallyOfGate(g *gate) *tally {
	k := shareKey{gate: g}
	t := c.tallies[k]
	if t == nil {
		if c.tallies == nil {
			c.tallies = make(map[shareKey]*tally)
		}
		t = &tally{channel: c, key: k}
		if g.open() {
			t.limit = 1
		}
		c.tallies[k] = t
	}
	return t
}

// SetRooms says for how many more jobs there is room at each gate, until it is called again. Without,
// there is none. What starts takes room; what ends gives none back.
func (m *Manager) SetRooms(rooms []Room) {
	m.gates.set(rooms)
	if m.gates.turned {
		m.gates.turned = false
		m.regate()
		m.settle(m.root, m.root)
	}
}

// SetRooms is [Manager.SetRooms], for all trees together.
func (f *Forest) SetRooms(rooms []Room) {
	if f.shared != nil {
		f.shared.SetRooms(rooms)
		return
	}
	f.gates.set(rooms)
	f.regate()
}

// regate lets all trees know which gates are open.
func (f *Forest) regate() {
	if !f.gates.turned {
		return
	}
	f.gates.turned = false
	for _, t := range f.trees {
		t.regate()
		t.settle(t.root, t.root)
		f.settle(t)
	}
}

// spend takes the room for a job that root lets start.
func (m *Manager) spend(r *record) {
	if r.home.gate == nil {
		return
	}
	g := r.home.gate.source()
	if g.room--; g.room == 0 {
		m.gates.turned = true
		m.regate()
	}
}

// regate lets the queues know which gates are open. The rest is left to turn.
func (m *Manager) regate() {
	for _, g := range m.gates.named {
		t := m.root.tallies[shareKey{gate: g}]
		if t == nil || t.reached() != g.open() {
			continue
		}
		room := 1
		if t.reached() {
			t.limit = 1
		} else {
			t.limit, room = 0, -1
		}
		m.shift(t, room)
	}
}

// Waits reports whether a job waits that a gate, which is closed, alone holds back.
func (m *Manager) Waits(gate string) bool {
	t := m.gated(gate)
	if t == nil || !t.reached() {
		return false
	}
	for _, w := range t.waiting {
		if w.queue.shut == 1 && w.queue.queue.channel.passable() {
			return true
		}
	}
	return false
}

// passable reports whether the channel, and those above it, would let a job pass now.
func (c *channel) passable() bool {
	for ; c != nil; c = c.parent {
		if !c.hasCapacity() || c.pausedUntil != 0 {
			return false
		}
	}
	return true
}

// Gated reports whether jobs wait that a gate has to let pass, whatever else they wait for.
func (m *Manager) Gated(gate string) bool { return m.gated(gate) != nil }

// gated returns the tally of a gate that jobs have to pass; nil if none has to.
func (m *Manager) gated(name string) *tally {
	g := m.gates.named[name]
	if g == nil {
		return nil
	}
	return m.root.tallies[shareKey{gate: g}]
}

// Gate returns the name of the gate that a job has to pass; empty if there is none, or no such job.
func (f *Forest) Gate(k Key) string {
	m := f.find(k.DB)
	if m == nil {
		return ""
	}
	if r := m.known(k); r != nil && r.home.gate != nil {
		return r.home.gate.name
	}
	return ""
}

// Waits is [Manager.Waits], in any tree.
func (f *Forest) Waits(gate string) bool {
	return f.anyTree(func(m *Manager) bool { return m.Waits(gate) })
}

// Gated is [Manager.Gated], in any tree.
func (f *Forest) Gated(gate string) bool {
	return f.anyTree(func(m *Manager) bool { return m.Gated(gate) })
}

func (f *Forest) anyTree(is func(*Manager) bool) bool {
	if f.shared != nil {
		return is(f.shared)
	}
	for _, t := range f.trees {
		if is(t.Manager) {
			return true
		}
	}
	return false
}
