package jobrunner

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Limit says how many jobs of one database, or company, may run at once in a channel, those of the
// channels below it included. Jobs over the limit wait, and others pass them. A job has to satisfy the
// limits of its own channel and of those above it.
//
//	{"jobs": 2, "per": "database", "burst": true}
type Limit struct {
	// The number of jobs, at least 1. Default: none, and a limit without it is refused.
	Jobs int `json:"jobs,omitempty"`

	// What is counted separately: `database`, or `company`, which is each company of each database.
	// Default: none, and a limit without it is refused.
	Per string `json:"per,omitempty"`

	// Lets more jobs run while no other database, or company, could use the slots. Default: false.
	Burst bool `json:"burst,omitempty"`
}

// configShares gives the engine's policy the options that divide channels.
func (p *Policy) configShares(to *policy.Policy) {
	if l := p.Limit; l != nil {
		to.Limit = &policy.Limit{Jobs: l.Jobs, Per: policy.Per(l.Per), Burst: l.Burst}
	}
	to.Fair = policy.Per(p.Fair)
	to.Serialize, to.Pool = policy.By(p.Serialize), p.Pool.config()
}

// parseFair reads: fair database|company.
func (p *Policy) parseFair(d *caddyfile.Dispenser) error { return p.parseWord(d, &p.Fair) }

// parseSerialize reads: serialize identity_key.
func (p *Policy) parseSerialize(d *caddyfile.Dispenser) error { return p.parseWord(d, &p.Serialize) }

// parseWord reads an option that has one word.
func (p *Policy) parseWord(d *caddyfile.Dispenser, to *string) error {
	if err := parseString(d, to); err != nil {
		return err
	}
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// parseLimit reads: limit <n> per database|company [burst].
func (p *Policy) parseLimit(d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) < 3 || len(args) > 4 || args[1] != "per" || len(args) == 4 && args[3] != "burst" {
		return wrongArguments(d, "limit")
	}
	l := &Limit{Per: args[2], Burst: len(args) == 4}
	if l.Jobs, err = strconv.Atoi(args[0]); err != nil || l.Jobs <= 0 {
		return d.Errf("limit: %q is not a positive whole number", args[0])
	}
	p.Limit = l
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}
