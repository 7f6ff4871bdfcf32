package jobrunner

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// Server says what one Odoo server can bear, so that its visitors are served first. A server gets one
// more job while its jobs are fewer than `max_jobs`, and its jobs and its visitors' requests together
// are fewer than `workers` without `reserve`. Of visitors, those requests count that this Caddy has
// under way there, at the address to which jobs go. What runs is never ended for it. Jobs that no
// server may take wait, and are not claimed.
//
//	{"workers": 8, "max_jobs": 5, "reserve": 2}
type Server struct {
	// How many requests the server works on at once: `workers` of Odoo's configuration. Default: not
	// known, so that visitors do not matter.
	Workers int `json:"workers,omitempty"`

	// How many jobs the server may run at once. Default: no limit by itself.
	MaxJobs int `json:"max_jobs,omitempty"`

	// How many of its workers jobs leave to visitors. Requires `workers`. When a job has waited for
	// ten minutes, or for as long as `objective` of its policy says, one job at a time may use what is
	// reserved. Default: 0, none.
	Reserve int `json:"reserve,omitempty"`
}

// config turns server into what the engine takes, without limits if there is none.
func (s *Server) config() (upstream.Limits, error) {
	if s == nil {
		return upstream.Limits{}, nil
	}
	l := upstream.Limits{Workers: s.Workers, MaxJobs: s.MaxJobs, Reserve: s.Reserve}
	if err := l.Validate(); err != nil {
		return l, fmt.Errorf("server: %w", err)
	}
	if l.Most() == 0 {
		return l, errors.New("server: it has no limit: give it workers or max_jobs")
	}
	return l, nil
}

// String writes the limits that are set as a Caddyfile does.
func (s *Server) String() string {
	var options []string
	for _, o := range []struct {
		name  string
		value int
	}{{"workers", s.Workers}, {"max_jobs", s.MaxJobs}, {"reserve", s.Reserve}} {
		if o.value > 0 {
			options = append(options, fmt.Sprintf("%s %d", o.name, o.value))
		}
	}
	return strings.Join(options, ", ")
}

// parseServer reads: server { <limits> }.
func (r *Runner) parseServer(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return wrongArguments(d, "server")
	}
	r.Server = new(Server)
	if err := parseOptions(d, "server", "server", serverOptions, r.Server); err != nil {
		return err
	}
	if _, err := r.Server.config(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// serverOptions are the options of a server's block. A parser starts at the option's name.
var serverOptions = map[string]func(*Server, *caddyfile.Dispenser) error{
	"workers":  func(s *Server, d *caddyfile.Dispenser) (err error) { s.Workers, err = parseNumber(d, 1); return err },
	"max_jobs": func(s *Server, d *caddyfile.Dispenser) (err error) { s.MaxJobs, err = parseNumber(d, 1); return err },
	"reserve":  func(s *Server, d *caddyfile.Dispenser) (err error) { s.Reserve, err = parseNumber(d, 0); return err },
}

// parseNumber reads the one argument of an option, a whole number that is not below least.
func parseNumber(d *caddyfile.Dispenser, least int) (int, error) {
	option := d.Val()
	n, err := parseInteger(d)
	if err == nil && n < least {
		err = d.Errf("%s: %d is too small, it must be at least %d", option, n, least)
	}
	return n, err
}

// parseInteger reads the one argument of an option, a whole number.
func parseInteger(d *caddyfile.Dispenser) (int, error) {
	return parseValue(d, func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", text)
		}
		return n, nil
	})
}

// Objective says how long jobs may wait for a server before they may use workers that are reserved to
// visitors, one job at a time.
//
//	{"wait": "10m", "percent": 95}
type Objective struct {
	// How long a job may wait, from when it could start, while no job that could start finds room; at
	// least `1s`. Default: none, and an objective without it is refused.
	Wait caddy.Duration `json:"wait,omitempty"`

	// Of a hundred jobs that wait, so many may have waited for at most that time, and the others for longer,
	// without that anything is done about it. Default: 100, so that one that has waited for longer is enough.
	Percent int `json:"percent,omitempty"`
}

// parseObjective reads: objective wait [<percent>%] <duration>.
func (p *Policy) parseObjective(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) < 2 || len(args) > 3 || args[0] != "wait" {
		return wrongArguments(d, "objective")
	}
	o := new(Objective)
	if len(args) == 3 {
		number, ok := strings.CutSuffix(args[1], "%")
		if o.Percent, err = strconv.Atoi(number); err != nil || !ok || o.Percent <= 0 {
			return d.Errf("objective: %q is not a percentage such as 95%%", args[1])
		}
	}
	wait, err := caddy.ParseDuration(args[len(args)-1])
	if err != nil {
		return d.Errf(badDuration, "objective", args[len(args)-1])
	}
	o.Wait = caddy.Duration(wait)
	p.Objective = o
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
