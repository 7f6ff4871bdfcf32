package channels

import (
	"hash/maphash"
	"slices"
)

// identities are the identity keys of the jobs of one database, where a share asks for them. Most jobs
// are the only one of their identity key. They are in the queues as if they had none, because a
// queue for each would cost more than a job does. Only when there is a second one, both move into
// one.
type identities struct {
	of     map[*record]uint64 // without those that have none
	lone   map[uint64]*record // the only job of an identity key and a scope, by both
	groups map[uint64]*group  // of those that have, or had, several
}

// group is the jobs of one identity key in one scope, of which one may run at a time.
type group struct {
	jobs    int
	source  string
	running []*record // those that root has let pass
}

// scope is a set of channels over which identity keys count. A nil scope is none.
type scope struct {
	source string
	hash   uint64 // tells the keys of scopes apart
}

var scopeSeed = maphash.MakeSeed()

// scopeOf returns the scope of jobs with these shares, nil if they have none: the one of the highest
// channel that has one, because it takes in those below.
func scopeOf(shares []level) *scope {
	for i := range shares {
		if source := shares[i].Serialize; source != "" {
			return &scope{source: source, hash: maphash.String(scopeSeed, source)}
		}
	}
	return nil
}

// identify notes the identity key of a job that is nowhere yet. If another job has it, both are told
// apart from all others from now on.
func (m *Manager) identify(r *record, identity uint64) {
	if identity == 0 {
		return
	}
	x := &r.home.db.identities
	if x.of == nil {
		x.of = make(map[*record]uint64)
	}
	x.of[r] = identity
	id, ok := x.id(r)
	if !ok {
		return
	}
	first := x.lone[id]
	switch {
	case first == nil:
		x.join(r, id)
	case first.location.inReady() && !first.parked():
		c := first.home.channel.ancestor(first.location)
		c.ready.remove(first)
		x.join(r, id)
		c.ready.push(first)
		m.settle(c, c)
	default:
		x.join(r, id)
		if first.location == inRunning {
			m.serialize(first, 1)
			m.settle(m.root, m.root)
		}
	}
}

// id returns what stands for the identity key of a job and its scope, and false if it lacks one.
func (x *identities) id(r *record) (id uint64, ok bool) {
	identity := x.of[r]
	if identity == 0 || r.home.scope == nil {
		return 0, false
	}
	return identity ^ r.home.scope.hash, true
}

// join counts a job among those of its identity key.
func (x *identities) join(r *record, id uint64) {
	if g := x.groups[id]; g != nil {
		g.jobs++
		return
	}
	if _, ok := x.lone[id]; !ok {
		if x.lone == nil {
			x.lone = make(map[uint64]*record)
		}
		x.lone[id] = r
		return
	}
	delete(x.lone, id)
	if x.groups == nil {
		x.groups = make(map[uint64]*group)
	}
	x.groups[id] = &group{jobs: 2, source: r.home.scope.source}
}

// leave forgets the identity key of a job that is nowhere any more.
func (x *identities) leave(r *record) {
	if x.of[r] == 0 {
		return
	}
	if id, ok := x.id(r); ok {
		if g := x.groups[id]; g == nil {
			delete(x.lone, id)
		} else if g.jobs--; g.jobs == 0 {
			delete(x.groups, id)
		}
	}
	if delete(x.of, r); len(x.of) == 0 {
		*x = identities{} // a map that was large stays so
	}
}

// regroup counts all jobs of a database anew, after scopes have changed.
func (x *identities) regroup() {
	x.lone, x.groups = nil, nil
	for r := range x.of {
		if id, ok := x.id(r); ok {
			x.join(r, id)
		}
	}
}

// group returns the one that a job belongs to; nil if no other job has its identity key.
func (r *record) group() *group {
	x := &r.home.db.identities
	if len(x.groups) == 0 {
		return nil
	}
	id, ok := x.id(r)
	if !ok {
		return nil
	}
	return x.groups[id]
}

// serialize adds a job to those of its identity key that root has let pass, or takes it off.
func (m *Manager) serialize(r *record, by int) {
	g := r.group()
	if g == nil {
		return
	}
	if by > 0 {
		g.running = append(g.running, r)
	} else {
		i := slices.Index(g.running, r)
		g.running = slices.Delete(g.running, i, i+1)
	}
	m.add(m.root.tallyOfGroup(g), by)
}

// tallyOfGroup returns the tally of a group, in root.
func (c *channel) tallyOfGroup(g *group) *tally {
	k := shareKey{group: g}
	t := c.tallies[k]
	if t == nil {
		if c.tallies == nil {
			c.tallies = make(map[shareKey]*tally)
		}
		t = &tally{channel: c, key: k, limit: 1}
		c.tallies[k] = t
	}
	return t
}

// serialized returns what holds a job back in the queue of the channel, or will: that another one with
// its identity key runs, or goes first. It returns nil if nothing does.
func (c *channel) serialized(r *record) *ShareUse {
	g := r.group()
	if g == nil {
		return nil
	}
	use := &ShareUse{Channel: c.name, Limit: 1, Running: len(g.running), Source: g.source}
	if len(g.running) > 0 {
		use.Blocker = g.running[0].key()
		return use
	}
	if k := c.ready.shared.keys[c.ready.shared.keyOf(r)]; k != nil && k.first().before(r) {
		use.Blocker = k.first().key()
		return use
	}
	return nil
}
