package channels

import (
	"math"
	"strings"
)

const (
	rootName = "root"

	// never is later than every time.
	never = math.MaxInt64

	// maxDepth bounds the tree because names come from rows, and location counts levels in one
	// byte. Below it, what is left of a name is one segment.
	maxDepth = 100
)

// limits is what a channel's configuration means for the jobs that pass it.
type limits struct {
	capacity   int
	min        int   // of the parent's slots that others may not take
	percent    int   // of the parent's, which capacity follows; 0: it does not
	auto       bool  // only shown; see Config
	ceiling    int   // what rules can give at most; 0: anything
	throttle   int64 // microseconds
	sequential bool
	paused     bool
}

// channel is one node of the tree. See the package documentation.
type channel struct {
	name     string
	segment  string // last part of the name
	parent   *channel
	children map[string]*channel
	depth    int

	limits
	configured bool
	stopped    bool    // held back by Pause
	defaults   limits  // of children that are not configured
	ruling     *ruling // what rules mean for it; nil without

	ready       queue
	eta         heap[*record, etaOrder]
	failed      heap[*record, readyOrder]
	running     int                 // jobs from here or below that this channel has let pass
	active      int                 // those of them that root has let pass, too
	own         int                 // jobs whose own channel this is, wherever they are
	pausedUntil int64               // end of the throttle pause in microseconds, 0: none
	tallies     map[shareKey]*tally // of the keys with a limit that have jobs here or below
	floors      *floors             // what is kept for the children; nil: none of them has a minimum
	floor       floor
	tolls       *tolls // of the databases with a rate; nil if no policy has one for the channel

	// What follows is derived from the above by settle.
	timer      int64 // when the next pass has to check it
	timerIndex int
	wake       int64 // what the subtree contributes to Wakeup
	wakeIndex  int   // in the parent's wakes
	wakes      heap[*channel, wakeOrder]
	dirtyIndex int // in Manager.dirty, -1: a pass has nothing to do here
}

func newChannel(parent *channel, segment string) *channel {
	c := &channel{
		name:       segment,
		segment:    segment,
		parent:     parent,
		timer:      never,
		timerIndex: -1,
		wake:       never,
		wakeIndex:  -1,
		dirtyIndex: -1,
	}
	if parent != nil {
		c.name = parent.name + "." + segment
		c.depth = parent.depth + 1
		if parent.children == nil {
			parent.children = make(map[string]*channel)
		}
		parent.children[segment] = c
	}
	c.limits = c.unconfigured()
	return c
}

// unconfigured returns the limits of the channel as long as no configuration names it: those its
// parent hands out, by default none. Root has capacity 1.
func (c *channel) unconfigured() limits {
	if c.parent == nil {
		return limits{capacity: 1}
	}
	return c.parent.defaults
}

// hasCapacity is docs/contract.md 2.2 and 2.4.
func (c *channel) hasCapacity() bool {
	if c.paused || c.stopped || c.sequential && c.failed.len() > 0 {
		return false
	}
	return c.running < c.slots()
}

// canYield reports whether a pass would take a job out of the ready queue.
func (c *channel) canYield() bool {
	return !c.ready.empty() && c.pausedUntil == 0 && c.hasCapacity() && !c.heldBack() && c.affords()
}

// heldBack reports whether a sequential channel waits for a job with an eta: only the one with the
// earliest eta is compared (docs/contract.md 2.4).
func (c *channel) heldBack() bool {
	return c.sequential && c.eta.len() > 0 && c.eta.first().before(c.ready.first())
}

// ancestor returns the channel that many levels above.
func (c *channel) ancestor(levels location) *channel {
	for ; levels > 0; levels-- {
		c = c.parent
	}
	return c
}

// wakeOrder is the order of channels by their contribution to the wake-up time.
type wakeOrder struct{}

func (wakeOrder) before(a, b *channel) bool   { return a.wake < b.wake }
func (wakeOrder) moved(c *channel, index int) { c.wakeIndex = index }

// timerOrder is the order of channels by the time at which they need a check.
type timerOrder struct{}

func (timerOrder) before(a, b *channel) bool   { return a.timer < b.timer }
func (timerOrder) moved(c *channel, index int) { c.timerIndex = index }

// arrange brings item, now at index (-1: not in the heap), to where it belongs.
func arrange[T any, O order[T]](h *heap[T, O], item T, index int, wanted bool) {
	switch {
	case !wanted && index >= 0:
		h.remove(index)
	case wanted && index < 0:
		h.push(item)
	case wanted:
		h.fix(index)
	}
}

// find returns the channel of a name, or nil.
func (m *Manager) find(name string) *channel {
	return m.walk(name, func(c *channel, segment string) *channel { return c.children[segment] })
}

// channel returns the channel of a name and creates what is missing.
func (m *Manager) channel(name string) *channel {
	return m.walk(name, func(c *channel, segment string) *channel {
		if child := c.children[segment]; child != nil {
			return child
		}
		child := newChannel(c, segment)
		_, child.stopped = m.stopped[child.name]
		m.govern(child)
		m.share(child)
		return child
	})
}

func (m *Manager) walk(name string, child func(*channel, string) *channel) *channel {
	c := m.root
	rest, more := strings.CutPrefix(Normalize(name), rootName+".")
	for more && c != nil {
		segment := rest
		more = false
		if c.depth < maxDepth-1 {
			segment, rest, more = strings.Cut(rest, ".")
		}
		c = child(c, segment)
	}
	return c
}

// prune removes the channel, and what is above it, if only jobs that are gone needed it. Without
// this, channels made by a typing error would stay for ever.
func (m *Manager) prune(c *channel) {
	for c.parent != nil && !c.configured && c.own == 0 && len(c.children) == 0 {
		m.ungovern(c)
		m.restTolls(c)
		delete(c.parent.children, c.segment)
		c = c.parent
	}
}
