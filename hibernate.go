package jobrunner

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Hibernate closes the connections to databases that have nothing to do, for PostgreSQL clusters with
// very many databases. Such a database is `asleep`: it is connected again when something was
// written to it, when the next eta of its jobs comes near, and from time to time. PostgreSQL must
// count what is written (`track_counts`, which is on by default); where it does not, databases stay
// connected.
//
//	{"after": "10m", "poll": "2s", "check": "1m", "max_awake": 200}
type Hibernate struct {
	// How long a database must have had no job to run, at least `10s`. Required.
	After caddy.Duration `json:"after,omitempty"`

	// The time between two looks at what was written to those that are asleep, one query for all of
	// them, at least `500ms`. Default: `2s`.
	Poll caddy.Duration `json:"poll,omitempty"`

	// How long a database sleeps at most, at least `10s`. PostgreSQL up to 14 can count what a
	// connection has written only when that does something more, or ends. Of more than four
	// databases a second for which that is over, some sleep longer. Default: `1m`.
	Check caddy.Duration `json:"check,omitempty"`

	// How many databases may be connected at the same time. Default: as many as there are
	// connections for.
	MaxAwake int `json:"max_awake,omitempty"`
}

// config is what the runner takes; nil for nil.
func (h *Hibernate) config() *runner.Hibernate {
	if h == nil {
		return nil
	}
	return &runner.Hibernate{
		After: time.Duration(h.After), Poll: time.Duration(h.Poll), Check: time.Duration(h.Check), MaxAwake: h.MaxAwake,
	}
}

// check refuses durations that cannot be meant.
func (h *Hibernate) check() error {
	if h == nil {
		return nil
	}
	return errors.Join(
		checkDuration("hibernate", h.After, runner.HibernateLeast), checkDuration("poll", h.Poll, runner.HibernatePollLeast), checkDuration("check", h.Check, runner.HibernateCheckLeast),
	)
}

// parseHibernate reads: hibernate <duration> { <options> }.
func (r *Runner) parseHibernate(d *caddyfile.Dispenser) (err error) {
	h := new(Hibernate)
	if h.After, err = parseFirst(d); err != nil {
		return err
	}
	if err := parseOptions(d, "hibernate", "hibernate", hibernateOptions, h); err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	if err := h.config().Validate(); err != nil {
		return d.WrapErr(fmt.Errorf("hibernate: %w", err))
	}
	r.Hibernate = h
	return nil
}

// hibernateOptions are the options of its block. A parser starts at the option's name.
var hibernateOptions = map[string]func(*Hibernate, *caddyfile.Dispenser) error{
	"poll":  func(h *Hibernate, d *caddyfile.Dispenser) (err error) { h.Poll, err = parsePositive(d); return err },
	"check": func(h *Hibernate, d *caddyfile.Dispenser) (err error) { h.Check, err = parsePositive(d); return err },
	"max_awake": func(h *Hibernate, d *caddyfile.Dispenser) (err error) {
		h.MaxAwake, err = parseNumber(d, 1)
		return err
	},
}
