package channels

import (
	"fmt"
	"strings"
	"time"
)

// Config configures one channel.
type Config struct {
	// Name is the full name; "root" may be left out.
	Name string
	// Capacity is the number of jobs that may run at once in the channel and below it. 0 is
	// unlimited; a negative capacity never has room.
	Capacity int
	// Percent, if it is not 0, takes the place of Capacity: that much of the capacity that is in
	// force for the parent, rounded down and at least 1. It follows the parent. Default: 0.
	Percent int
	// Auto says that the owner of the tree changes the capacity of root by Resize. Capacity, at least 1,
	// is what it begins with. Only root can have it. Default: false.
	Auto bool
	// Min is how many of its parent's slots others may not take while the channel, or one below it, has a
	// job that runs or could start. The parent must have a capacity, and the minimums under it may be no
	// more than that in all. Where a window, a part or Auto leaves it less, those with a minimum go first.
	// Default: 0, none are kept.
	Min int
	// Sequential lets one job run after the other and stops at a failed one. It requires capacity
	// 1.
	Sequential bool
	// Throttle is the least time between two jobs that leave the channel. Default: none.
	Throttle time.Duration
	// Paused channels yield nothing, and neither does what is below them.
	Paused bool
	// CapacityDefault is the capacity of the channel's direct children that are not configured
	// themselves. Default: 0, unlimited; a negative one never has room. What is further down is
	// unlimited and shares the child's capacity (docs/contract.md 6.3).
	CapacityDefault int
	// SequentialDefault makes those children sequential. It requires CapacityDefault 1.
	SequentialDefault bool

	// ceiling bounds what rules may give; 0 does not.
	ceiling int
	// bounded is set where the capacity may be less than was asked for.
	bounded bool
}

// Validate reports what makes the configuration of a channel meaningless.
func (c Config) Validate() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("channel %s: %w", Normalize(c.Name), fmt.Errorf(format, args...))
	}
	switch {
	case c.Percent < 0 || c.Percent > 100:
		return fail("%d%% of the capacity of the channel above: it must be 1%% to 100%%", c.Percent)
	case c.Percent != 0 && c.Capacity != 0:
		return fail("a capacity in numbers and one in percent exclude each other")
	case c.Percent != 0 && Normalize(c.Name) == rootName:
		return fail("it has no parent of whose capacity it could have %d%%", c.Percent)
	case c.Auto && Normalize(c.Name) != rootName:
		return fail("only root can have the capacity auto")
	case c.Auto && c.Capacity < 1:
		return fail("auto begins with a capacity of at least 1")
	case c.Min < 0:
		return fail("min must not be negative")
	case c.Min > 0 && Normalize(c.Name) == rootName:
		return fail("min is a part of the slots of the channel above, and there is none")
	case c.Min > 0 && c.Capacity != 0 && c.Min > c.Capacity:
		return fail("min %d is more than its capacity, which is %d", c.Min, c.Capacity)
	case c.Sequential && (c.Capacity != 1 || c.Auto):
		return fail("a sequential channel must have a capacity of 1")
	case c.SequentialDefault && c.CapacityDefault != 1:
		return fail("sequential_default requires a capacity_default of 1")
	}
	return nil
}

func (c Config) limits() limits {
	return limits{
		capacity:   c.Capacity,
		percent:    c.Percent,
		min:        c.Min,
		auto:       c.Auto,
		ceiling:    c.ceiling,
		throttle:   c.Throttle.Microseconds(),
		sequential: c.Sequential,
		paused:     c.Paused,
	}
}

func (c Config) defaults() limits {
	return limits{capacity: c.CapacityDefault, sequential: c.SequentialDefault}
}

// Normalize returns the full name of a channel: with "root" in front, and "root" for the empty
// name. Names are case-sensitive, and neither spaces nor empty parts are dropped
// (docs/contract.md 2.7).
func Normalize(name string) string {
	switch {
	case name == "":
		return rootName
	case name == rootName || strings.HasPrefix(name, rootName+"."):
		return name
	default:
		return rootName + "." + name
	}
}
