package channels

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// Status describes one channel.
type Status struct {
	// DB is the database whose own tree the channel belongs to; empty if all databases share one
	// tree.
	DB string
	// FullName begins with "root".
	FullName string
	// Configured is false for a channel that exists only because of a job or of a configured
	// channel below it.
	Configured bool
	// Capacity is the number of jobs that may run at once; 0: unlimited.
	Capacity   int
	Sequential bool
	Throttle   time.Duration
	// Paused is set by configuration, Stopped by [Manager.Pause].
	Paused, Stopped bool
	// Queued is the number of jobs that wait here, for a slot or for their eta. Jobs of channels
	// below that have come up to this one are among them.
	Queued int
	// PassedBy is how many of the Queued a share holds back, by a limit, a set or a gate, so that others
	// pass them.
	PassedBy int
	// Running is the number of jobs of this channel and those below that this one has let pass:
	// they run, or wait for a slot further up.
	Running int
	// Failed is the number of failed jobs of the channel itself.
	Failed int
	// PausedUntil is the end of the pause after the last job that a throttle asks for; the zero
	// time if there is none.
	PausedUntil time.Time
}

// String returns the line that OCA's runner logs: root(C:4,Q:0,R:0,F:0). The capacity of a channel
// without configuration is ∞ unless its parent hands one out.
func (s Status) String() string {
	capacity := strconv.Itoa(s.Capacity)
	if s.Capacity == 0 && !s.Configured {
		capacity = "∞"
	}
	return fmt.Sprintf("%s(C:%s,Q:%d,R:%d,F:%d)", s.FullName, capacity, s.Queued, s.Running, s.Failed)
}

// Channels returns every channel, sorted by full name.
func (m *Manager) Channels() []Status {
	all := m.root.tree(nil)
	slices.SortFunc(all, func(a, b *channel) int { return cmp.Compare(a.name, b.name) })
	statuses := make([]Status, len(all))
	for i, c := range all {
		statuses[i] = c.status()
	}
	return statuses
}

func (c *channel) status() Status {
	s := Status{
		FullName:   c.name,
		Configured: c.configured,
		Capacity:   c.capacity,
		Sequential: c.sequential,
		Throttle:   time.Duration(c.throttle) * time.Microsecond,
		Paused:     c.paused,
		Stopped:    c.stopped,
		Queued:     c.ready.len() + c.eta.len(),
		PassedBy:   c.ready.passedBy(),
		Running:    c.running,
		Failed:     c.failed.len(),
	}
	if c.pausedUntil != 0 {
		s.PausedUntil = time.UnixMicro(c.pausedUntil).UTC()
	}
	return s
}

// tree appends the channel and everything below it.
func (c *channel) tree(to []*channel) []*channel {
	to = append(to, c)
	for _, child := range c.children {
		to = child.tree(to)
	}
	return to
}
