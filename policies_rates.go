package jobrunner

import (
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// CapacityWindow is how many jobs may run at once at certain times of the week.
//
//	{"slots": 1, "days": "mon-fri", "hours": "08:00-20:00", "zone": "Europe/Brussels"}
type CapacityWindow struct {
	// The number of jobs, at least 0: with 0, none starts. Default: 0.
	Slots int `json:"slots"`

	// The days on which the window opens: `mon-fri`, `sat,sun` or `daily`. Default: none, and a window
	// without days is refused.
	Days string `json:"days,omitempty"`

	// When it opens and when it closes: `08:00-20:00`; `22:00-06:00`, which is on the next day;
	// `00:00-24:00`. Where clocks are put forward across one of these times, it is the first instant
	// that exists; where they are put back, the first of the two. Default: none, and a window without
	// hours is refused.
	Hours string `json:"hours,omitempty"`

	// The time zone, by its name in the IANA database: `Europe/Brussels`, `UTC`. Default: none, and a
	// window without a zone is refused.
	Zone string `json:"zone,omitempty"`
}

// Rate limits how many jobs start in a time, by a token bucket. Starts count, not jobs that run, and a
// job that could not be sent has not started. A new leader does not know what the last one has
// started: it begins as if that had been as much as possible.
//
//	{"starts": 100, "period": "1h", "burst": 20}
type Rate struct {
	// How many jobs may start in each period, evenly spread, 1 to 1000000. Default: none, and a rate
	// without it is refused.
	Starts int `json:"starts,omitempty"`

	// The period, `1s` to `24h`. Default: none, and a rate without it is refused.
	Period caddy.Duration `json:"period,omitempty"`

	// How many may start at once after a time in which fewer have started than may, 1 to 1000000.
	// Default: `1`.
	Burst int `json:"burst,omitempty"`

	// What is counted separately: `database`. Jobs of a database that may not start one now are passed
	// by those of others. Default: all jobs of the channel are counted together.
	Per string `json:"per,omitempty"`
}

// configRules gives the engine's policy the options that say when, and how often, jobs start.
func (p *Policy) configRules(out *policy.Policy) error {
	for _, w := range p.Capacity {
		window, err := channels.ParseWindow(strconv.Itoa(w.Slots), w.Days, w.Hours, w.Zone)
		if err != nil {
			return fmt.Errorf("%s: capacity: %w", out, err)
		}
		out.Capacity = append(out.Capacity, window)
	}
	if r := p.Rate; r != nil {
		if r.Per != "" && r.Per != string(policy.PerDatabase) {
			return fmt.Errorf("%s: rate: %q is not %s", out, r.Per, policy.PerDatabase)
		}
		out.Rate = &channels.Rate{Starts: r.Starts, Period: time.Duration(r.Period), Burst: r.Burst, PerDatabase: r.Per != ""}
	}
	return nil
}

// parseCapacity reads: capacity <jobs> <days> <from>-<to> <time zone>.
func (p *Policy) parseCapacity(d *caddyfile.Dispenser) error {
	var slots string
	var w CapacityWindow
	if !d.AllArgs(&slots, &w.Days, &w.Hours, &w.Zone) {
		return wrongArguments(d, "capacity")
	}
	window, err := channels.ParseWindow(slots, w.Days, w.Hours, w.Zone)
	if err != nil {
		return d.WrapErr(fmt.Errorf("capacity: %w", err))
	}
	w.Slots = window.Capacity
	p.Capacity = append(p.Capacity, w)
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// parseRate reads: rate <jobs>/<unit> [burst <jobs>] [per database].
func (p *Policy) parseRate(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return wrongArguments(d, "rate")
	}
	rate, err := channels.ParseRate(args[0])
	if err != nil {
		return d.WrapErr(err)
	}
	rest := args[1:]
	if len(rest) >= 2 && rest[0] == "burst" {
		if rate.Burst, err = strconv.Atoi(rest[1]); err != nil || rate.Burst < 1 {
			return d.Errf("rate: a burst of %q: it must be a whole number, at least 1", rest[1])
		}
		rest = rest[2:]
	}
	p.Rate = &Rate{Starts: rate.Starts, Period: caddy.Duration(rate.Period), Burst: rate.Burst}
	if len(rest) == 2 && rest[0] == "per" {
		p.Rate.Per, rest = rest[1], nil
	}
	if len(rest) > 0 {
		return wrongArguments(d, "rate")
	}
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
