package channels

import (
	"maps"
	"slices"
	"strings"
)

// NamesPerDatabase bounds the channels that exist only because rows of one database name them, and
// NamesInAll those of all databases together. Rows decide on names, and a channel costs more than a
// job. A name counts as often as it has parts below the nearest channel that has a say of its own.
//
// Jobs with further names share one channel, called OthersName, below that nearest channel. It has
// the limits that a channel of their own would have had: mostly none, so that nothing changes for
// their order and start. Where the channel above has a capacity_default, they share what each of
// them would have had, so that none ever has more. The places are given back with the jobs.
const (
	NamesPerDatabase = 1000
	NamesInAll       = 5 * NamesPerDatabase
	OthersName       = "(others)"
)

// allowance is what is left of these bounds. All trees of a [Forest] share one.
type allowance struct{ each, all, used int }

func newAllowance() *allowance { return &allowance{each: NamesPerDatabase, all: NamesInAll} }

// place says where the jobs of a name belong.
type place struct {
	// anchor is the name of the nearest channel that has a say of its own, levels how many parts
	// of the name follow it.
	anchor string
	levels int
	// shut is set when only jobs that share a channel can be added below the anchor: it limits its
	// children one by one, and jobs of this name may already be among those that share.
	shut bool
}

// place finds it. It creates nothing.
func (m *Manager) place(name string) place {
	full := Normalize(name)
	p := place{anchor: rootName}
	c, anchor, end := m.root, m.root, len(rootName)
	depth := 0
	for end < len(full) {
		begin := end + 1
		end = len(full)
		if depth++; depth < maxDepth {
			if dot := strings.IndexByte(full[begin:], '.'); dot >= 0 {
				end = begin + dot
			}
		}
		if c != nil {
			c = c.children[full[begin:end]]
		}
		p.levels++
		if m.anchors(c, full[:end]) {
			p.anchor, p.levels, anchor = full[:end], 0, c
		}
	}
	p.shut = anchor != nil && anchor.defaults != limits{} && anchor.children[OthersName] != nil
	return p
}

// anchors reports whether a channel, nil if it does not exist, has a say of its own in what runs:
// it is configured, an operator has paused it, or its parent limits it.
func (m *Manager) anchors(c *channel, name string) bool {
	if c == nil {
		_, stopped := m.stopped[name]
		return stopped
	}
	return c.configured || c.stopped || c.parent.defaults != limits{}
}

// newHome makes the home of a name, or returns the one that it has to share.
func (m *Manager) newHome(d *database, name string) *home {
	p := m.place(name)
	shares := p.levels > 0 && (p.shut || d.names+p.levels > m.names.each || m.names.used+p.levels > m.names.all)
	if shares {
		name, p.levels = m.channel(p.anchor).othersName(), 0
		if h := d.homes[name]; h != nil {
			h.share()
			return h
		}
	}
	name = strings.Clone(name) // which may be a part of something big
	h := &home{db: d, channel: m.channel(name), name: name, levels: p.levels}
	h.shares = m.sharesOf(h)
	h.scope, h.gate = scopeOf(h.shares), m.gateOf(h.shares)
	d.homes[name] = h
	d.names += h.levels
	m.names.used += h.levels
	if shares {
		h.share()
	}
	return h
}

// closeHome forgets a home without jobs, and gives back what it took of the allowance.
func (m *Manager) closeHome(h *home) {
	d := h.db
	delete(d.homes, h.name)
	if d.recent == h {
		d.recent = nil
	}
	d.names -= h.levels
	m.names.used -= h.levels
	m.prune(h.channel)
}

// share lets a home take jobs of any name.
func (h *home) share() {
	if !h.shared {
		h.shared = true
		h.db.sharing += h.jobs
	}
}

func (c *channel) othersName() string {
	if others := c.children[OthersName]; others != nil {
		return others.name
	}
	return c.name + "." + OthersName
}

// strays reports whether a job is not where another name than that of its home belongs. One that shares
// a channel goes on doing so as long as that is the right one to share.
func (m *Manager) strays(h *home, name string) bool {
	if !h.shared {
		return h.channel.name != Normalize(name)
	}
	p := m.place(name)
	return p.levels == 0 || len(h.channel.name) != len(p.anchor)+1+len(OthersName) ||
		!strings.HasPrefix(h.channel.name, p.anchor) || h.channel.segment != OthersName
}

// Sharing returns how many jobs of a database share a channel because its rows name too many. Their
// [Job.Channel] is that channel.
func (m *Manager) Sharing(db string) int {
	if d := m.dbs[db]; d != nil {
		return d.sharing
	}
	return 0
}

// displace holds the jobs back of every database with jobs that share a channel: after the channels
// have changed, only their rows tell where they belong now. A snapshot that begins afterwards, and
// ends, lets them go.
func (m *Manager) displace() {
	for _, d := range m.dbs {
		if d.sharing > 0 {
			d.displaced, d.placing = true, false
			m.hold(d)
		}
	}
}

// Displaced returns the databases whose jobs are held back until a snapshot begins and ends, sorted:
// only their rows tell to which channels some of them belong.
func (m *Manager) Displaced() (dbs []string) {
	for name, d := range m.dbs {
		if d.displaced && !d.placing {
			dbs = append(dbs, name)
		}
	}
	slices.Sort(dbs)
	return dbs
}

// EndSnapshot says that all rows of a snapshot have been set: jobs that Displaced told of are where
// they belong.
func (m *Manager) EndSnapshot(db string) {
	if d := m.dbs[db]; d != nil && d.placing {
		d.displaced, d.placing = false, false
		m.hold(d)
	}
}

// Displaced is [Manager.Displaced].
func (f *Forest) Displaced() (dbs []string) {
	if f.shared != nil {
		return f.shared.Displaced()
	}
	for _, db := range slices.Sorted(maps.Keys(f.trees)) {
		dbs = append(dbs, f.trees[db].Displaced()...)
	}
	return dbs
}

// EndSnapshot is [Manager.EndSnapshot].
func (f *Forest) EndSnapshot(db string) {
	if m := f.find(db); m != nil {
		m.EndSnapshot(db)
		f.settle(f.trees[db])
	}
}

// Sharing is [Manager.Sharing].
func (f *Forest) Sharing(db string) int {
	if m := f.find(db); m != nil {
		return m.Sharing(db)
	}
	return 0
}
