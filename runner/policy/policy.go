// Package policy decides which policies of a configuration hold for a job. It is pure: it knows no
// clock, and nothing of what is done about a policy.
//
// A policy names channels, and can be narrowed to databases, and for time limits to functions. For each option, the first
// policy counts that matches the job and has the option; the others do not add to it.
package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// GraceDefault is the default of [Timeout.Grace].
const GraceDefault = 30 * time.Second

// Policy is what holds for the jobs of some channels.
type Policy struct {
	// Channels are globs of the full names of channels. At least one must match. A "*" matches dots,
	// too: "root.*" is every channel but root itself, "root*" is every channel.
	Channels []string

	// Database is a glob of the name of the database. Default: every database.
	Database string

	// Function is a glob of the model and the method of the job, "sale.order.action_confirm". It
	// narrows Timeout. Default: every function.
	Function string

	// Timeout is the time limit of an attempt. Default: this policy has none.
	Timeout *Timeout

	// Capacity is how many jobs of a channel may run at certain times, and Rate how many may start in a
	// time. Both count per channel, with what is below it. Function does not narrow them. Default: this
	// policy says nothing about it.
	Capacity []channels.Window
	Rate     *channels.Rate
	// Limit is how many jobs of one database, or company, may run at once. Default: this policy has
	// none.
	Limit *Limit

	// Fair says between whom a channel is shared fairly. Default: this policy does not say so.
	Fair Per

	// Serialize says of which jobs one may run at a time: those with the same value of this.
	// [ByIdentityKey] is all that there is. Default: this policy does not say so.
	Serialize By

	// Pool is where the jobs run. Default: this policy does not say so.
	Pool *Pool

	// Objective is how long the jobs may wait. Default: this policy does not say so.
	Objective *Objective
}

// Objective says for how long jobs may wait before what is reserved to visitors does not hold them back
// any more.
type Objective struct {
	// Wait is that time.
	Wait time.Duration
	// Percent is how many of a hundred jobs that wait may do so for at most that time without that anything
	// is done about the others. Default: 0, which means 100.
	Percent int
}

func (o *Objective) validate() error {
	switch {
	case o.Wait <= 0:
		return errors.New("objective: the time that jobs may wait must be positive")
	case o.Percent < 0 || o.Percent > 100:
		return fmt.Errorf("objective: %d%% is not between 1%% and 100%%", o.Percent)
	}
	return nil
}

// Missed reports whether too many of those that wait have done so for too long.
func (o *Objective) Missed(late, waiting int) bool {
	percent := o.Percent
	if percent == 0 {
		percent = 100
	}
	return late*100 > waiting*(100-percent)
}

// Timeout is a time limit of an attempt, and what is done when it has passed.
type Timeout struct {
	// After is the limit.
	After time.Duration
	// Warn is when operators are told that the limit comes near. Default: 0, they are not.
	Warn time.Duration
	// Cancel ends the attempt at the limit. Default: operators are told that the limit has passed.
	Cancel bool
	// Grace is how long the attempt is only asked to end, before its connection to the database is
	// closed. Default: [GraceDefault].
	Grace time.Duration
	// Retry has the job tried again that was ended, if it has retries left. Default: it stays failed.
	Retry bool
}

// String names the policy in messages: by its channels, and by what narrows it.
func (p *Policy) String() string {
	s := "policy " + strings.Join(p.Channels, " ")
	if p.Database != "" {
		s += " database " + p.Database
	}
	if p.Function != "" {
		s += " function " + p.Function
	}
	return s
}

// Validate reports the first mistake.
func (p *Policy) Validate() error {
	if len(p.Channels) == 0 {
		return errors.New("a policy without channels")
	}
	fail := func(format string, args ...any) error { return fmt.Errorf("%s: %w", p, fmt.Errorf(format, args...)) }
	for _, glob := range p.Channels {
		if !full(glob) {
			return fail("channel %q: channels of policies have full names: root, or what begins with root. or *, such as root.%s", glob, glob)
		}
	}
	for _, glob := range append([]string{p.Database, p.Function}, p.Channels...) {
		if _, err := path.Match(plainSlash.Replace(glob), ""); err != nil {
			return fail("glob %q: %w", glob, err)
		}
	}
	if p.Timeout == nil && p.Objective == nil && !p.shares() && !p.rules() {
		return fail("it has no option: give it a timeout, a limit, fair, serialize, a capacity, a rate, a pool or an objective")
	}
	if p.Timeout != nil {
		if err := p.Timeout.validate(); err != nil {
			return fail("%w", err)
		}
	}
	if p.Objective != nil {
		if p.Function != "" {
			return fail("function narrows timeout only: objective goes into a policy without it")
		}
		if err := p.Objective.validate(); err != nil {
			return fail("%w", err)
		}
	}
	if err := p.validateShares(); err != nil {
		return fail("%w", err)
	}
	if err := p.validateRules(); err != nil {
		return fail("%w", err)
	}
	return nil
}

func (t *Timeout) validate() error {
	switch {
	case t == nil:
		return nil
	case t.After == 0:
		return errors.New("timeout: the limit itself, after, is missing")
	case t.After < 0:
		return errors.New("timeout must be positive")
	case t.Warn < 0:
		return errors.New("warn must not be negative")
	case t.Grace < 0:
		return errors.New("grace must not be negative")
	case t.Warn >= t.After:
		return fmt.Errorf("warn: %s is not below the timeout of %s", t.Warn, t.After)
	case t.Grace > 0 && !t.Cancel:
		return errors.New("grace needs cancel: without it, nothing is done to the job")
	case t.Retry && !t.Cancel:
		return errors.New("retry needs cancel: without it, the job goes on")
	}
	return nil
}

// full reports whether a glob can match the full name of a channel, and looks like one.
func full(glob string) bool {
	if strings.HasPrefix(glob, "*") {
		return true
	}
	rest, ok := strings.CutPrefix(glob, "root")
	return ok && (rest == "" || strings.ContainsAny(rest[:1], `.*?[\`))
}

// Job is what policies are matched against.
type Job struct {
	// Channel is the full name.
	Channel, Database string
	// Function is the model and the method, with a dot between them; empty if it is not known.
	Function string
}

// Set is the policies of a configuration, in their order. A nil set has none.
type Set struct{ policies []Policy }

// Compile makes a set of valid policies. It returns nil if there is none.
func Compile(policies []Policy) *Set {
	if len(policies) == 0 {
		return nil
	}
	s := &Set{}
	for _, p := range policies {
		if p.Timeout != nil {
			t := *p.Timeout
			if t.Cancel && t.Grace == 0 {
				t.Grace = GraceDefault
			}
			p.Timeout = &t
		}
		s.policies = append(s.policies, p)
	}
	return s
}

// Timeout returns the policy whose time limit holds for a job, nil if none does. If it depends on the
// function of the job, which is not known, none does: a limit that was meant for others could end it.
func (s *Set) Timeout(job Job) *Policy {
	if s == nil {
		return nil
	}
	for i := range s.policies {
		p := &s.policies[i]
		switch {
		case p.Timeout == nil || !p.holds(job):
		case p.Function != "" && job.Function == "":
			return nil
		case p.Function == "" || matches(p.Function, job.Function):
			return p
		}
	}
	return nil
}

// holds reports whether a policy matches the channel and the database.
func (p *Policy) holds(job Job) bool {
	return p.In(job.Database) && p.Names(job.Channel)
}

// In reports whether the policy matches jobs of the database.
func (p *Policy) In(database string) bool { return p.Database == "" || matches(p.Database, database) }

// Names reports whether a policy names the channel, by its full name.
func (p *Policy) Names(channel string) bool {
	return slices.ContainsFunc(p.Channels, func(glob string) bool { return matches(glob, channel) })
}

// Covers reports whether every job that other matches is matched by p, so that other never counts
// where p comes first. Of globs with character classes, only those that are the same cover each other.
func (p *Policy) Covers(other *Policy) bool {
	if !covers(p.Database, other.Database) || !covers(p.Function, other.Function) {
		return false
	}
	for _, glob := range other.Channels {
		if !slices.ContainsFunc(p.Channels, func(own string) bool { return covers(own, glob) }) {
			return false
		}
	}
	return true
}

// covers reports whether a glob matches all that another one does; an empty one matches everything.
func covers(glob, other string) bool {
	switch {
	case glob == "" || glob == other:
		return true
	case other == "" || strings.ContainsAny(glob, `?[\`) || strings.ContainsAny(other, `[\`):
		return false
	}
	return matches(glob, other) // stars of the one take in those of the other
}

// matches reports whether a name matches a glob of [path.Match], in which a slash is a character like
// any other.
func matches(glob, name string) bool {
	ok, err := path.Match(plainSlash.Replace(glob), plainSlash.Replace(name))
	return ok && err == nil
}

// plainSlash hides slashes from path.Match. PostgreSQL's texts cannot contain NUL.
var plainSlash = strings.NewReplacer("/", "\x00")
