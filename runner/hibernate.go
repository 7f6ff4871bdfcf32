package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// Defaults and least values of [Hibernate].
const (
	HibernatePollDefault  = 2 * time.Second
	HibernateCheckDefault = time.Minute

	HibernateLeast      = 10 * time.Second
	HibernatePollLeast  = 500 * time.Millisecond
	HibernateCheckLeast = 10 * time.Second
)

// hibernateInterval is the time between two looks for databases that could sleep.
const hibernateInterval = 5 * time.Second

// Hibernate has databases sleep that have nothing to do, although there are enough connections.
type Hibernate struct {
	// After is how long a database must have had nothing to do, at least 10 s.
	After time.Duration
	// Poll is the time between two looks at what was written to those that sleep, at least 500 ms.
	// Default: 2 s.
	Poll time.Duration
	// Check is how long one sleeps at most, at least 10 s. Default: 1 min.
	Check time.Duration
	// MaxAwake is how many databases have connections at the same time, at most. Default: 0, as many
	// as there are connections for.
	MaxAwake int
}

// withDefaults returns it with the blanks filled in.
func (h Hibernate) withDefaults() Hibernate {
	if h.Poll == 0 {
		h.Poll = HibernatePollDefault
	}
	if h.Check == 0 {
		h.Check = HibernateCheckDefault
	}
	return h
}

// Validate reports the first mistake.
func (h Hibernate) Validate() error {
	h = h.withDefaults()
	switch {
	case h.After < HibernateLeast:
		return fmt.Errorf("the time must be at least %s", HibernateLeast)
	case h.Poll < HibernatePollLeast:
		return fmt.Errorf("poll must be at least %s", HibernatePollLeast)
	case h.Check < HibernateCheckLeast:
		return fmt.Errorf("check must be at least %s", HibernateCheckLeast)
	case h.Check < h.Poll:
		return errors.New("check must not be shorter than poll")
	case h.MaxAwake < 0:
		return errors.New("max_awake must not be negative")
	}
	return nil
}

// String writes it as a Caddyfile does.
func (h Hibernate) String() string {
	h = h.withDefaults()
	text := fmt.Sprintf("%s, poll %s, check %s", h.After, h.Poll, h.Check)
	if h.MaxAwake > 0 {
		text += fmt.Sprintf(", max_awake %d", h.MaxAwake)
	}
	return text
}

// naps is how databases sleep, with the defaults where they do so only because others need their
// connections.
func (e *engine) naps() Hibernate {
	if h := e.config().Hibernate; h != nil {
		return h.withDefaults()
	}
	return Hibernate{}.withDefaults()
}

// hibernates reports whether databases sleep although there are enough connections: nothing would wake
// them where PostgreSQL does not count what is written.
func (e *engine) hibernates() bool {
	c := &e.connections
	return e.config().Hibernate != nil && c.known && !c.limits.Uncounted
}

// hibernate has those databases sleep that have had nothing to do for long.
func (e *engine) hibernate(now time.Time) {
	r := &e.rotation
	if r.hibernateAt = now.Add(timing.Jitter(hibernateInterval)); !e.hibernates() || e.ending() {
		return
	}
	after := e.naps().After
	engaged := e.engaged()
	for db := range e.databases.served {
		since := db.useful
		if db.slept == nil && db.entered.After(since) {
			since = db.entered
		}
		if now.Sub(since) >= after && !engaged[db.Name] && e.idle(db, now) {
			e.layDown(db)
		}
	}
}
