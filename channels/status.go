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
	Capacity int
	// Min is how many slots of the channel above others may not take while this one has jobs.
	Min        int
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
	// Percent is how much of its parent's capacity Capacity is; 0: it is a number.
	Percent int
	// Auto is whether Capacity is changed by Resize.
	Auto bool
	// Window is the window of a policy that is in force instead of Capacity, nil if none is.
	// WindowUntil is when another one is in force, or none; zero if that does not change.
	// Windows is whether there are any, open or not.
	Window      *Window
	WindowUntil time.Time
	Windows     bool
	// Rate is how many jobs may start in a time, nil without limit. Tokens is how many more may pass
	// now, and at NextToken it is one more; zero if there are as many as there can be.
	Rate      *Rate
	Tokens    int
	NextToken time.Time
	// Rated is how many databases have jobs that wait for the rate of their database, in the channel or
	// below it, and RatedUntil when the first of them may start one; zero if that is not known. Rates is
	// whether there are rates of databases.
	Rated      int
	RatedUntil time.Time
	Rates      bool
}

// LimitedBy returns what keeps jobs waiting that are queued in the channel, if that is a policy: "window"
// or "rate", and until when; zero if that does not end by itself. It returns "" if that is nothing, or
// something else.
func (s *Status) LimitedBy() (by string, until time.Time) {
	switch {
	case s.Rated > 0:
		return "rate", s.RatedUntil
	case s.Queued == 0:
		return "", time.Time{}
	case s.Window != nil && s.Running >= s.Window.Capacity:
		return "window", s.WindowUntil
	case s.Rate != nil && s.Tokens == 0:
		return "rate", s.NextToken
	}
	return "", time.Time{}
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
		Min:        c.min,
		Percent:    c.percent,
		Auto:       c.auto,
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
	if c.ruling != nil {
		c.ruling.describe(c, &s)
	}
	c.tolls.describe(&s)
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
