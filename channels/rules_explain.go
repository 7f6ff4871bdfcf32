package channels

import (
	"fmt"
	"time"
)

// shownCapacity is the capacity in force. 0 is unlimited, unless a window says so.
func (c *channel) shownCapacity() int {
	if c.ruling != nil && c.ruling.window != nil {
		return c.slots()
	}
	return c.capacity
}

// full fills in why a channel has no slot: a window, or its own capacity.
func (e *Explanation) full(c *channel) {
	e.Reason = ReasonChannelFull
	g := c.ruling
	if g == nil || g.window == nil {
		return
	}
	if own := c.capacity; g.window.Capacity > 0 && own != 0 && c.running >= own {
		return // it would have none without the window, too
	}
	e.Reason, e.Policy, e.Window, e.Until = ReasonWindow, g.WindowsOf, g.window, g.ends()
}

// rated fills in that a channel has no token for a job.
func (e *Explanation) rated(c *channel) {
	g := c.ruling
	e.Reason, e.Policy, e.Rate = ReasonRate, g.RateOf, g.Rate
	e.Until = time.UnixMicro(g.clock.wallAt(g.bucket.due(c.running - c.active + 1 + e.before()))).UTC()
}

// ends returns when another window is in force, zero if that does not change.
func (g *ruling) ends() time.Time {
	if len(g.Windows) == 0 || !g.changes {
		return time.Time{}
	}
	return time.UnixMicro(g.until).UTC()
}

// window says what the window in force means, and until when.
func (e *Explanation) window() string {
	s := fmt.Sprintf("%s lets no job of channel %s start", e.Policy, e.Channel)
	if e.Window.Capacity > 0 {
		s = fmt.Sprintf("%s lets %s of channel %s run at once", e.Policy, count(e.Capacity, "job", "jobs"), e.Channel)
	}
	if !e.Until.IsZero() {
		s += " until " + e.Window.clockTime(e.Until)
	}
	if e.Running > 0 {
		s += fmt.Sprintf(" (%d running)", e.Running)
	}
	return s
}

// clockTime writes a time as the clocks of the window's zone show it, with the name of the zone.
func (w *Window) clockTime(t time.Time) string {
	return t.In(w.Zone).Format("Mon 2 Jan 15:04 ") + w.Zone.String()
}

// spell writes the rate for people: 100 jobs in 1h.
func (r *Rate) spell() string {
	s := fmt.Sprintf("%s in %s", count(r.Starts, "job", "jobs"), shortDuration(r.Period))
	if r.PerDatabase {
		s = fmt.Sprintf("%s of each database in %s", count(r.Starts, "job", "jobs"), shortDuration(r.Period))
	}
	if r.Burst > 1 {
		s += fmt.Sprintf(", %d of them at once,", r.Burst)
	}
	return s
}

func shortDuration(d time.Duration) string {
	switch d {
	case time.Second:
		return "a second"
	case time.Minute:
		return "a minute"
	case time.Hour:
		return "an hour"
	case 24 * time.Hour:
		return "a day"
	default:
		return d.String()
	}
}

// describe fills in what the rules of a channel mean at present.
func (g *ruling) describe(c *channel, s *Status) {
	s.Windows, s.Rate = len(g.Windows) > 0, g.Rate
	if shown := *g; s.Windows {
		if shown.until <= g.clock.wall {
			shown.find() // no pass has done so, because nothing may start, or another process leads
		}
		s.Window, s.WindowUntil = shown.window, shown.ends()
	}
	if g.Rate == nil {
		return
	}
	g.bucket.refill(g.clock.now)
	whole, passed := int(g.bucket.level/g.bucket.token()), c.running-c.active
	s.Tokens = max(whole-passed, 0)
	if next := max(whole, passed) + 1; next <= g.bucket.rate.Burst {
		s.NextToken = time.UnixMicro(g.clock.wallAt(g.bucket.due(next))).UTC()
	}
}
