package jobrunner

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// Policy says what holds for the jobs of some channels beyond the channels' limits. For each option,
// the first policy of the list counts that matches the job and has the option. A change applies to
// running jobs, too.
//
//	{
//		"channels": ["root.export.*"],
//		"database": "prod_*",
//		"timeout": {"after": "15m", "warn": "12m", "cancel": true, "grace": "30s", "retry": true}
//	}
type Policy struct {
	// Globs of the full names of channels, of which one must match. They begin with `root` or `*`.
	// A `*` matches dots, too: `root.*` is every channel but `root` itself, and `root*` every
	// channel. Default: none, and a policy without channels is refused.
	Channels []string `json:"channels,omitempty"`

	// A glob of the database's name. Placeholders are resolved. Default: every database.
	Database string `json:"database,omitempty"`

	// A glob of the job's model and method, such as `sale.order.*`. It narrows `timeout`. Of a job
	// that this process has found running, instead of having sent it, the function is not known:
	// where the limit depends on it, such a job has none. A policy with it has no other option.
	// Default: every function.
	Function string `json:"function,omitempty"`

	// The time limit of an attempt at a job. Default: none by this policy.
	Timeout *Timeout `json:"timeout,omitempty"`

	// How many jobs of one database, or company, may run at once. Default: no limit by this policy.
	Limit *Limit `json:"limit,omitempty"`

	// Between whom a channel is shared fairly: `database`, or `company`, which is each company of each
	// database. Whose jobs have run for the least time goes first; priority and eta hold among the jobs
	// of one. It counts where the channel is root, or has a capacity, a rate, a throttle or sequential.
	// Default: the order of all jobs decides.
	Fair string `json:"fair,omitempty"`

	// `identity_key` lets at most one of the jobs that have the same identity key, in one database, run
	// at a time, over all channels of the policy and what is below them. Jobs without one are not
	// concerned. Default: this policy does not say so.
	Serialize string `json:"serialize,omitempty"`

	// The pool of servers that runs the jobs. That of the job's channel counts; where no policy names
	// one for it, that of the channel above. Default: not by this policy; where none names a pool, the
	// servers that belong to no pool.
	Pool *PolicyPool `json:"pool,omitempty"`

	// How long jobs may wait before they may use workers that are reserved to visitors. That of the job's
	// channel counts; where no policy has one for it, that of the channel above. Default: not by this
	// policy; where none has one, ten minutes for every job.
	Objective *Objective `json:"objective,omitempty"`
	// How many jobs of a channel, with those below it, may run at once at certain times of the week.
	// Of the windows in the list, the first counts that is open; while none is, the channel has its own
	// capacity. What runs goes on. A policy with `database` can have it only where each database has
	// its own channels. Default: none by this policy.
	Capacity []CapacityWindow `json:"capacity,omitempty"`

	// How many jobs of a channel, with those below it, may start in a time: all together, or those of
	// each database. These are two options, of which a channel can have both. A policy with `database`
	// can have a rate of all together only where each database has its own channels. Default: no limit
	// by this policy.
	Rate *Rate `json:"rate,omitempty"`
}

// Timeout limits how long an attempt at a job may take, from when it was sent to Odoo, the time
// that it waits for a worker included.
//
//	{"after": "15m", "warn": "12m", "cancel": true, "grace": "30s", "retry": true}
type Timeout struct {
	// The limit, at least `1s`. When it has passed, that is told, and with `cancel` the attempt is
	// ended. Default: none, and a time limit without it is refused.
	After caddy.Duration `json:"after,omitempty"`

	// When to tell that the limit comes near, at least `1s` and below the limit. Default: never.
	Warn caddy.Duration `json:"warn,omitempty"`

	// Ends the attempt at the limit: its statement is cancelled, again and again, and after `grace`
	// its connection to PostgreSQL is closed. The slot stays taken until Odoo has let the job go.
	// Default: false, the limit is only told.
	Cancel bool `json:"cancel,omitempty"`

	// How long statements are cancelled before the connection is closed, at least `1s`. Requires
	// `cancel`. Default: `30s`.
	Grace caddy.Duration `json:"grace,omitempty"`

	// Tries an attempt that was ended again, as long as the job has retries left. Requires `cancel`.
	// Default: false, the job stays failed.
	Retry bool `json:"retry,omitempty"`
}

// leastTimeout is the least that the durations of a time limit may be.
const leastTimeout = time.Second

// config returns the policy as the engine takes it.
func (p *Policy) config() (policy.Policy, error) {
	out := policy.Policy{Channels: p.Channels, Database: p.Database, Function: p.Function}
	if t := p.Timeout; t != nil {
		out.Timeout = &policy.Timeout{
			After: time.Duration(t.After), Warn: time.Duration(t.Warn), Cancel: t.Cancel,
			Grace: time.Duration(t.Grace), Retry: t.Retry,
		}
	}
	if o := p.Objective; o != nil {
		out.Objective = &policy.Objective{Wait: time.Duration(o.Wait), Percent: o.Percent}
	}
	p.configShares(&out)
	return out, p.configRules(&out)
}

// check refuses what a policy may not be, however it was configured.
func (p *Policy) check() (cfg policy.Policy, err error) {
	for _, glob := range append([]string{p.Database, p.Function}, p.Channels...) {
		if err := checkText("glob of a policy", glob); err != nil {
			return cfg, err
		}
	}
	if cfg, err = p.config(); err != nil {
		return cfg, err
	}
	if t := p.Timeout; t != nil {
		if err := errors.Join(
			checkDuration("timeout", t.After, leastTimeout),
			checkDuration("warn", t.Warn, leastTimeout),
			checkDuration("grace", t.Grace, leastTimeout),
		); err != nil {
			return cfg, fmt.Errorf("%s: %w", &cfg, err)
		}
	}
	if o := p.Objective; o != nil {
		if err := checkDuration("objective", o.Wait, leastTimeout); err != nil {
			return cfg, fmt.Errorf("%s: %w", &cfg, err)
		}
	}
	return cfg, cfg.Validate()
}

// policies turns the list into what the engine takes.
func (r *Runner) policies() ([]policy.Policy, error) {
	var list []policy.Policy
	for i := range r.Policies {
		p := r.Policies[i]
		var err error
		if p.Database, err = resolve("policy database", p.Database); err != nil {
			return nil, fmt.Errorf("policies[%d]: %w", i, err)
		}
		cfg, err := p.check()
		if err != nil {
			return nil, fmt.Errorf("policies[%d]: %w", i, err)
		}
		list = append(list, cfg)
	}
	return list, nil
}

// checkPolicies refuses policies that do not fit the channels of their block, each where it begins.
// Whether they fit what odoo_config and placeholders say, only the server knows.
func (r *Runner) checkPolicies(where []caddyfile.Dispenser) error {
	if r.DatabaseChannels != nil || r.OdooConfig != "" && len(r.Channels) == 0 {
		return nil
	}
	for i := range where {
		p := &r.Policies[i]
		if hasPlaceholder(p.Database) {
			continue
		}
		cfg, err := p.config()
		if err == nil {
			err = cfg.ValidateShared()
		}
		if err != nil {
			return where[i].WrapErr(err)
		}
	}
	return nil
}

// parsePolicy reads: policy <glob>... { <options> }.
func (r *Runner) parsePolicy(d *caddyfile.Dispenser) error {
	p := Policy{Channels: d.RemainingArgs()}
	if len(p.Channels) == 0 {
		return wrongArguments(d, "policy")
	}
	if err := parseOptions(d, "policy", "a policy", policyOptions, &p); err != nil {
		return err
	}
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	r.Policies = append(r.Policies, p)
	return nil
}

// parseOptions reads a block by the parsers of its options. kind is what errors call it that name one
// which it does not have.
func parseOptions[T any](d *caddyfile.Dispenser, block, kind string, options map[string]func(*T, *caddyfile.Dispenser) error, to *T) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := checkOption(d, seen, block); err != nil {
			return err
		}
		if repeated[d.Val()] {
			delete(seen, d.Val())
		}
		parse, ok := options[d.Val()]
		if !ok {
			return d.Errf("unrecognized option of %s: %s%s", kind, d.Val(), known(options))
		}
		if err := parse(to, d); err != nil {
			return err
		}
	}
	return nil
}

// repeated are the options that a block may have several lines of.
var repeated = map[string]bool{"capacity": true}

// policyOptions are the options of a policy's block. A parser starts at the option's name.
var policyOptions = map[string]func(*Policy, *caddyfile.Dispenser) error{
	"database":  func(p *Policy, d *caddyfile.Dispenser) error { return parseString(d, &p.Database) },
	"function":  func(p *Policy, d *caddyfile.Dispenser) error { return parseString(d, &p.Function) },
	"timeout":   (*Policy).parseTimeout,
	"limit":     (*Policy).parseLimit,
	"fair":      (*Policy).parseFair,
	"serialize": (*Policy).parseSerialize,
	"pool":      (*Policy).parsePool,
	"objective": (*Policy).parseObjective,
	"capacity":  (*Policy).parseCapacity,
	"rate":      (*Policy).parseRate,
}

// parseTimeout reads: timeout <duration> { <what is done> }.
func (p *Policy) parseTimeout(d *caddyfile.Dispenser) (err error) {
	t := new(Timeout)
	p.Timeout = t
	if t.After, err = parseFirst(d); err != nil {
		return err
	}
	if err := parseOptions(d, "timeout", "timeout", timeoutOptions, t); err != nil {
		return err
	}
	if _, err := p.check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// timeoutOptions are the options of a time limit's block. A parser starts at the option's name.
var timeoutOptions = map[string]func(*Timeout, *caddyfile.Dispenser) error{
	"warn":   func(t *Timeout, d *caddyfile.Dispenser) (err error) { t.Warn, err = parsePositive(d); return err },
	"cancel": func(t *Timeout, d *caddyfile.Dispenser) error { return parseFlag(d, &t.Cancel) },
	"grace":  func(t *Timeout, d *caddyfile.Dispenser) (err error) { t.Grace, err = parsePositive(d); return err },
	"retry":  func(t *Timeout, d *caddyfile.Dispenser) error { return parseFlag(d, &t.Retry) },
}

// parseFirst reads the one argument of an option that may have a block.
func parseFirst(d *caddyfile.Dispenser) (caddy.Duration, error) {
	option := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return 0, wrongArguments(d, option)
	}
	v, err := caddy.ParseDuration(args[0])
	switch {
	case err != nil:
		return 0, d.Errf(badDuration, option, args[0])
	case v <= 0:
		return 0, d.Errf("%s must be positive", option)
	}
	return caddy.Duration(v), nil
}
