package runner

import (
	"context"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Pause keeps jobs from being started. Jobs that run go on.
type Pause struct {
	// Database or Channel (its full name, with all below it) say what is paused;
	// with neither it is everything.
	Database, Channel string
	// Until is when the pause ends by itself. Zero: not before an operator ends it.
	Until time.Time
	// Since, By and Note say when, who and why.
	Since    time.Time
	By, Note string
}

// String describes the pause in one sentence without its subject.
func (p *Pause) String() string {
	s := "paused"
	if p.By != "" {
		s += " by " + p.By
	}
	if !p.Since.IsZero() {
		s += " since " + p.Since.UTC().Format(time.RFC3339)
	}
	if !p.Until.IsZero() {
		s += " until " + p.Until.UTC().Format(time.RFC3339)
	}
	if p.Note != "" {
		s += " (" + p.Note + ")"
	}
	return s
}

// Scope says what kind of thing is paused: "all", "database" or "channel".
func (p *Pause) Scope() string {
	switch {
	case p.Database != "":
		return "database"
	case p.Channel != "":
		return "channel"
	}
	return "all"
}

// sameAs reports whether two pauses concern the same thing.
func (p *Pause) sameAs(o *Pause) bool { return p.Database == o.Database && p.Channel == o.Channel }

// Drain keeps a server from getting new jobs.
type Drain = upstream.Drain

// Controls is everything that operators have ordered. At most one pause concerns
// the same thing, and at most one drain the same upstream.
type Controls struct {
	Pauses []Pause
	Drains []Drain
}

func (c Controls) clone() Controls {
	return Controls{Pauses: slices.Clone(c.Pauses), Drains: slices.Clone(c.Drains)}
}

// WithPause returns the controls with a pause added, or replaced.
func (c Controls) WithPause(p Pause) Controls {
	if p.Channel != "" {
		p.Channel = channels.Normalize(p.Channel)
	}
	c, _ = c.WithoutPause(p)
	c.Pauses = append(c.Pauses, p)
	return c
}

// WithoutPause returns the controls without the pause of the same thing as p, and
// whether there was one.
func (c Controls) WithoutPause(p Pause) (Controls, bool) {
	if p.Channel != "" {
		p.Channel = channels.Normalize(p.Channel)
	}
	n := len(c.Pauses)
	c = c.clone()
	c.Pauses = slices.DeleteFunc(c.Pauses, func(o Pause) bool { return o.sameAs(&p) })
	return c, len(c.Pauses) < n
}

// WithDrain returns the controls with a drain added, or replaced.
func (c Controls) WithDrain(d Drain) Controls {
	c, _ = c.WithoutDrain(d.Upstream)
	c.Drains = append(c.Drains, d)
	return c
}

// WithoutDrain returns the controls without the drain of an upstream, and
// whether there was one.
func (c Controls) WithoutDrain(upstream string) (Controls, bool) {
	n := len(c.Drains)
	c = c.clone()
	c.Drains = slices.DeleteFunc(c.Drains, func(d Drain) bool { return d.Upstream == upstream })
	return c, len(c.Drains) < n
}

// At returns the controls that are in force at a time.
func (c Controls) At(now time.Time) Controls {
	c = c.clone()
	c.Pauses = slices.DeleteFunc(c.Pauses, func(p Pause) bool { return !p.Until.IsZero() && !now.Before(p.Until) })
	return c
}

// pause returns the pause of exactly that thing.
func (c Controls) pause(database, channel string) *Pause {
	for i := range c.Pauses {
		if c.Pauses[i].Database == database && c.Pauses[i].Channel == channel {
			p := c.Pauses[i]
			return &p
		}
	}
	return nil
}

// expiry is when the next pause ends by itself; zero if none does.
func (c Controls) expiry() time.Time {
	var first time.Time
	for i := range c.Pauses {
		if u := c.Pauses[i].Until; !u.IsZero() && (first.IsZero() || u.Before(first)) {
			first = u
		}
	}
	return first
}

// Control puts everything that operators have ordered into force, in place of
// what they had ordered before. The runner does not store it anywhere.
func (r *Runner) Control(ctx context.Context, c Controls) error {
	c = c.clone()
	for i := range c.Pauses {
		// Without what tells equal times apart.
		p := &c.Pauses[i]
		p.Since, p.Until = p.Since.UTC().Round(0), p.Until.UTC().Round(0)
	}
	r.controls.Store(&c)
	return r.do(ctx, func(e *engine) { e.control(*r.controls.Load()) })
}

// Resync reads all jobs of a database anew, or of all databases if the name is
// empty. It returns how many databases have been told to.
func (r *Runner) Resync(ctx context.Context, database string) (n int, err error) {
	err = r.ask(ctx, func(e *engine) { n = e.resync(database) })
	return n, err
}

// resync has the jobs of a database read anew, or of all if the name is empty, and returns of how many.
func (e *engine) resync(database string) (n int) {
	for name, db := range e.databases.byName {
		switch {
		case database != "" && database != name:
		case db.session != nil && db.stage.known():
			db.session.Resync()
			n++
		case e.wake(db, session.Pressing):
			n++
		}
	}
	return n
}

// control applies controls, and tells what changed.
func (e *engine) control(c Controls) {
	c = c.At(time.Now())
	old := e.controls
	e.controls = c
	for i := range old.Pauses {
		p := &old.Pauses[i]
		if c.pause(p.Database, p.Channel) == nil {
			e.notes.pause(EventResumed, p)
			if p.Channel != "" {
				e.tree.Pause(p.Channel, false)
			}
		}
	}
	for i := range c.Pauses {
		p := &c.Pauses[i]
		if before := old.pause(p.Database, p.Channel); before == nil || *before != *p {
			e.notes.pause(EventPaused, p)
		}
		if p.Channel != "" {
			e.tree.Pause(p.Channel, true)
		}
	}
	e.pausedAll = c.pause("", "")
	e.databases.pause(c)
	e.wakeUnbarred(time.Now())
	drained, undrained := e.pool.Drain(c.Drains)
	for _, d := range drained {
		e.notes.drain(EventUpstreamDrained, d)
	}
	for _, d := range undrained {
		e.notes.drain(EventUpstreamUndrained, d)
	}
}

// expirePauses ends the pauses whose time is over.
func (e *engine) expirePauses(now time.Time) {
	if until := e.controls.expiry(); !until.IsZero() && !now.Before(until) {
		e.control(e.controls)
	}
}
