package channels

import (
	"fmt"
	"slices"
	"strings"
)

// floors is what a channel keeps for those below it that have a minimum.
type floors struct {
	// kept is how many slots these are at present.
	kept int
	// shut is set while no others are left.
	shut bool
}

// floor is what the minimum of a channel means at present. The channel above counts it.
type floor struct {
	// used is how many jobs of the channel, and of those below it, the channel above has let pass.
	used int
	// open is how many keys with such jobs wait in the queue of the channel above, and may go.
	open int
	// kept is how many slots are kept for it.
	kept int
}

// noShares are shares of nobody. With them, queues tell jobs apart.
type noShares struct{}

func (noShares) Share(string, string) Share { return Share{} }
func (noShares) Shared(string) bool         { return false }
func (noShares) Fair(string) bool           { return false }

// minimums reports whether a channel has one.
func (m *Manager) minimums() bool {
	for _, cfg := range m.wanted {
		if cfg.Min != 0 {
			return true
		}
	}
	return false
}

// effective returns the shares that follow from those that were given.
func (m *Manager) effective() Shares {
	if m.given == nil && m.minimums() {
		return noShares{}
	}
	return m.given
}

// validateMinimums finds channels that are to have slots of something that has not as many.
func validateMinimums(wanted map[string]Config) error {
	sums := make(map[string]int)
	for name, cfg := range wanted {
		sums[Parent(name)] += cfg.Min
	}
	for parent, sum := range sums {
		switch n, changes := capacityIn(wanted, parent); {
		case changes || sum == 0 || parent == "":
		case n == 0:
			return fmt.Errorf("min of %s: there is nothing to keep, because channel %s has no limit", childrenWithMin(wanted, parent), parent)
		case sum > n:
			return fmt.Errorf("min of %s: %d in all is more than the capacity of channel %s, which is %d", childrenWithMin(wanted, parent), sum, parent, n)
		}
	}
	return nil
}

// capacityIn returns the capacity that a configuration gives a channel, 0 for none, and whether that is
// no number but follows something else.
func capacityIn(wanted map[string]Config, name string) (n int, changes bool) {
	if cfg, ok := wanted[name]; ok {
		return cfg.Capacity, cfg.Auto || cfg.Percent != 0 || cfg.bounded
	}
	if name == rootName {
		return 1, false
	}
	return wanted[Parent(name)].CapacityDefault, false
}

func childrenWithMin(wanted map[string]Config, parent string) string {
	var names []string
	for name, cfg := range wanted {
		if cfg.Min != 0 && Parent(name) == parent {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// lay has a channel keep slots, if one below it has a minimum.
func (c *channel) lay() {
	c.floors = nil
	for _, child := range c.children {
		if child.min > 0 && child.configured {
			c.floors = new(floors)
		}
	}
}

// floored returns the channel right below this one through which a job comes, if that has a minimum.
func (c *channel) floored(r *record) *channel {
	if c.floors == nil || r.home.channel == c {
		return nil
	}
	k := r.home.channel
	for k.parent != c {
		k = k.parent
	}
	if k.min == 0 {
		return nil
	}
	return k
}

// keep adds a job to those that the channel has let pass, or takes it off, for what it keeps.
func (c *channel) keep(r *record, by int) {
	if c.floors == nil {
		return
	}
	if k := c.floored(r); k != nil {
		was := k.below()
		if k.floor.used += by; k.below() != was {
			c.rearrange(func(o *channel) bool { return o == k })
		}
		c.lift(k)
	}
	c.shut()
}

// below reports whether the channel above has let fewer of its jobs pass than its minimum.
func (c *channel) below() bool { return c.floor.used < c.min }

// claim is how many slots are to be kept for a channel: as long as a job of it runs, or could start, what
// it lacks.
func (c *channel) claim() int {
	most := min(c.min, c.slots())
	if c.paused || c.stopped || c.sequential && c.failed.len() > 0 || most <= c.floor.used {
		return 0
	}
	if c.floor.used == 0 && c.floor.open == 0 && c.ready.empty() {
		return 0
	}
	return most - c.floor.used
}

// lift brings up to date what is kept for a channel below. It reports whether that has changed.
func (c *channel) lift(k *channel) (changed bool) {
	n := k.claim()
	if n == k.floor.kept {
		return false
	}
	c.floors.kept += n - k.floor.kept
	k.floor.kept = n
	c.shut()
	return true
}

// shut brings up to date whether others have to wait.
func (c *channel) shut() {
	shut := c.floors.kept > 0 && c.slots()-c.running <= c.floors.kept
	if shut == c.floors.shut {
		return
	}
	c.floors.shut = shut
	c.rearrange(func(o *channel) bool { return o == nil || !o.below() })
}

// rearrange brings the keys up to date that wait in the queue of the channel, by the channels below with a
// minimum that they come through. It visits all keys: one, unless shares tell databases apart.
func (c *channel) rearrange(concerned func(*channel) bool) {
	for _, k := range c.ready.shared.keys {
		if concerned(k.key.child) {
			k.arrange()
		}
	}
}

// barred reports whether its jobs have to leave the free slots of the channel to others.
func (k *keyQueue) barred() bool {
	f := k.queue.channel.floors
	return f != nil && f.shut && (k.key.child == nil || !k.key.child.below())
}

// opened notes that a key may go, or may not any more.
func (k *keyQueue) opened(may bool) {
	child := k.key.child
	if child == nil {
		return
	}
	if may {
		child.floor.open++
	} else {
		child.floor.open--
	}
	k.queue.channel.lift(child)
}

// kept says for whom the channel keeps slots, as far as that concerns a job: "1 for root.mail". It is
// empty if the job could have a slot as soon as one is free.
func (c *channel) kept(r *record) string {
	if c.floors == nil || !c.floors.shut {
		return ""
	}
	if k := c.floored(r); k != nil && k.below() {
		return ""
	}
	var list []string
	for _, child := range c.children {
		if child.floor.kept > 0 {
			list = append(list, fmt.Sprintf("%d for %s", child.floor.kept, child.name))
		}
	}
	slices.Sort(list)
	return strings.Join(list[:min(len(list), keptShown)], ", ")
}

// keptShown bounds the channels that an explanation names.
const keptShown = 5

// crowded reports whether the jobs that go before one leave it no slot. ahead has those of them that come
// through channels with a minimum, by these channels.
func (c *channel) crowded(r *record, before int, ahead map[*channel]int) bool {
	free := c.slots() - c.running
	if c.floors == nil {
		return before >= free
	}
	kept := 0 // how many of those before it take what is kept for them
	for k, n := range ahead {
		kept += min(n, k.floor.kept)
	}
	if k := c.floored(r); k != nil && ahead[k] < k.floor.kept {
		return kept >= free // others leave it what is kept for it, if there is as much
	}
	return before-kept >= free-c.floors.kept
}
