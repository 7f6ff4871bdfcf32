package history

import (
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// burnKept is how many minutes are remembered of each objective, for the longest of burnWindows.
	burnKept = 360
	// burnHold is for how long an objective has to burn, or not to, until that is told, and burnLeast
	// how many late attempts are more than chance.
	burnHold  = 2 * time.Minute
	burnLeast = 5
	// burnMost is which part of the attempts is too late for any objective.
	burnMost = 0.9
)

// burnWindows are those of the alert rules in deploy/prometheus: an objective burns if factor times as many
// attempts as it allows were late in the long window, and in the short one, so that it is not over.
var burnWindows = [...]struct {
	long, short time.Duration
	factor      float64
}{{time.Hour, 5 * time.Minute, 6}, {6 * time.Hour, 30 * time.Minute, 2}}

// Burn is an objective that is not kept now.
type Burn struct {
	Since time.Time
	// Late is which part of the attempts of Window were late, and Allowed which part may be.
	Late, Allowed float64
	Window        time.Duration
}

// minutes counts the attempts of the last minutes.
type minutes [burnKept]struct {
	number         int64 // since the Unix epoch
	attempts, late uint32
}

func minute(at time.Time) int64 { return at.Unix() / 60 }

func (m *minutes) add(number int64, late bool) {
	slot := &m[((number%burnKept)+burnKept)%burnKept]
	switch {
	case slot.number > number:
		return // the clock was ahead; that minute is not forgotten for this one
	case slot.number < number:
		slot.number, slot.attempts, slot.late = number, 0, 0
	}
	slot.attempts++
	if late {
		slot.late++
	}
}

// sum counts the attempts of a window that ends now.
func (m *minutes) sum(now time.Time, window time.Duration) (attempts, late float64) {
	last := minute(now)
	first := last - int64(window/time.Minute)
	for i := range m {
		if slot := &m[i]; slot.number > first && slot.number <= last {
			attempts += float64(slot.attempts)
			late += float64(slot.late)
		}
	}
	return attempts, late
}

// counted is an objective with what is known of its last hours.
type counted struct {
	Objective

	minutes minutes
	// turning is since when the objective is in the other state than that which was told.
	turning time.Time
}

// burns says how an objective is not kept now; nil if it is.
func (c *counted) burns(now time.Time) *Burn {
	for _, w := range burnWindows {
		limit := min(w.factor*(1-c.Target), burnMost)
		attempts, late := c.minutes.sum(now, w.long)
		recent, recentLate := c.minutes.sum(now, w.short)
		if late >= burnLeast && late > limit*attempts && recentLate > limit*recent {
			return &Burn{Since: now, Late: late / attempts, Allowed: 1 - c.Target, Window: w.long}
		}
	}
	return nil
}

// check finds out whether an objective burns, and reports whether that has changed.
func (c *counted) check(now time.Time) bool {
	burn := c.burns(now)
	if (burn == nil) == (c.Burn == nil) {
		c.turning = time.Time{}
		if burn != nil {
			burn.Since = c.Burn.Since
			c.Burn = burn
		}
		return false
	}
	if c.turning.IsZero() || now.Before(c.turning) {
		c.turning = now
	}
	if now.Sub(c.turning) < burnHold {
		return false
	}
	c.Burn, c.turning = burn, time.Time{}
	return true
}

// Text says how an objective is not kept.
func (o *Objective) Text() string {
	return fmt.Sprintf("%s: %.0f%% of the jobs of the last %.0fh waited longer than %s, and its objective allows %.0f%%",
		o.Policy, 100*o.Burn.Late, o.Burn.Window.Hours(), o.Wait, 100*o.Burn.Allowed)
}

// watches reports whether there is an objective that could begin or end to burn; the caller holds the
// history's mu.
func (o *objectives) watches() bool { return len(o.list) > 0 || len(o.dropped) > 0 }

// check returns an event for each objective that has begun or ended to burn; the caller holds the history's mu.
func (o *objectives) check(now time.Time) (events []runner.Event) {
	tell := func(kind runner.EventKind, c *counted, detail string) {
		events = append(events, runner.Event{Kind: kind, Policy: c.Policy, Detail: detail})
	}
	for _, c := range o.dropped {
		tell(runner.EventObjectiveKept, c, c.Policy+": it has no such objective any more")
	}
	o.dropped = nil
	for _, c := range o.list {
		switch {
		case !c.check(now):
		case c.Burn != nil:
			tell(runner.EventObjectiveBurns, c, c.Text())
		default:
			tell(runner.EventObjectiveKept, c, c.Policy+": its objective is kept again")
		}
	}
	return events
}

// watch tells of objectives that have begun or ended to burn.
func (l *Log) watch() {
	now := l.now()
	l.mu.Lock()
	events, tell := l.objectives.check(now), l.options.Tell
	l.mu.Unlock()
	if tell == nil {
		return
	}
	for _, ev := range events {
		ev.Time, ev.Runner = now, l.name
		tell(ev)
	}
}

// beat is when the history has something to do although nothing ends: the end of an interval or, where an
// objective may burn, of a minute.
func (l *Log) beat(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	step := Step
	if l.objectives.watches() {
		step = time.Minute
	}
	return now.Truncate(step).Add(step).Sub(now)
}
