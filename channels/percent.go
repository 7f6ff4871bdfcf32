package channels

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// validatePercents finds channels that are to have a part of something that has no limit.
func validatePercents(wanted map[string]Config) error {
	for name, cfg := range wanted {
		if cfg.Percent == 0 {
			continue
		}
		parent := Parent(name)
		of, configured := wanted[parent]
		limited := of.Capacity != 0 || of.Percent != 0
		if !configured {
			above := Parent(parent)
			limited = parent == rootName || wanted[above].CapacityDefault != 0
		}
		if !limited {
			return fmt.Errorf("channel %s: %d%% of the capacity of %s, which has no limit", name, cfg.Percent, parent)
		}
	}
	return nil
}

// Parent returns the full name of the channel above one; empty for root.
func Parent(name string) string { return name[:max(0, strings.LastIndexByte(name, '.'))] }

// part is the percentage of the parent's capacity that is in force, at least 1.
func (c *channel) part() int {
	of := c.parent.slots()
	if of == math.MaxInt {
		return 1 // refused by Configure
	}
	return max(int(int64(of)*int64(c.percent)/100), 1)
}

// portion brings the capacity of a channel up to date that is a part of its parent's, and notes what
// its limits were.
func (m *Manager) portion(c *channel, changed map[*channel]limits) (new bool) {
	n := c.part()
	if c.capacity == n {
		return false
	}
	if _, ok := changed[c]; !ok {
		changed[c] = c.limits
	}
	c.capacity = n
	return true
}

// portions does so for all channels, after they have been configured.
func (m *Manager) portions(changed map[*channel]limits) {
	var parts []*channel
	for c := range m.configured {
		if c.percent != 0 {
			parts = append(parts, c)
		}
	}
	slices.SortFunc(parts, func(a, b *channel) int { return cmp.Compare(a.depth, b.depth) })
	for _, c := range parts {
		m.portion(c, changed)
	}
}

// spread does so for those below a channel whose capacity has changed.
func (m *Manager) spread(c *channel, changed map[*channel]limits) {
	if m.percents == 0 {
		return
	}
	for _, child := range c.children {
		if child.percent != 0 && m.portion(child, changed) {
			m.spread(child, changed)
		}
	}
}
