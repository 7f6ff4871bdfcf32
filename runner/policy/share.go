package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Per is what a share counts separately.
type Per string

// PerCompany counts the jobs of each company of each database, PerDatabase those of each database.
const (
	PerDatabase Per = "database"
	PerCompany  Per = "company"
)

func (p Per) validate(option string) error {
	switch p {
	case PerDatabase, PerCompany:
		return nil
	case "":
		return fmt.Errorf("%s: it does not say per what: %s or %s", option, PerDatabase, PerCompany)
	}
	return fmt.Errorf("%s: %q is neither %s nor %s", option, p, PerDatabase, PerCompany)
}

// By is what [Policy.Serialize] compares.
type By string

// ByIdentityKey is the key by which the application knows jobs that are the same task.
const ByIdentityKey By = "identity_key"

// Limit is how many jobs of one database, or company, a channel may run at once, those of the channels
// below it included.
type Limit struct {
	// Jobs is the number.
	Jobs int
	// Per says what it counts separately.
	Per Per
	// Burst lets more run while no other database, or company, could use the slots. Default: false.
	Burst bool
}

func (l *Limit) validate() error {
	switch {
	case l.Jobs == 0:
		return errors.New("limit: the number of jobs is missing")
	case l.Jobs < 0:
		return errors.New("limit must be positive")
	}
	return l.Per.validate("limit")
}

// shares reports whether the policy has an option that divides a channel.
func (p *Policy) shares() bool {
	return p.Limit != nil || p.Fair != "" || p.Serialize != "" || p.Pool != nil || p.PacesDatabases()
}

// Companies reports whether it counts the jobs of companies.
func (p *Policy) Companies() bool {
	return p.Limit != nil && p.Limit.Per == PerCompany || p.Fair == PerCompany
}

// Pool is a set of servers that run jobs.
type Pool struct {
	// Pool is its name.
	Pool string
	// Fallback has other servers run the jobs while none of the pool is healthy. Default: they wait.
	Fallback bool
}

// validateShares reports the first mistake in these options.
func (p *Policy) validateShares() error {
	if !p.shares() {
		return nil
	}
	if p.Function != "" {
		return errors.New("function narrows timeout only: what divides a channel goes into a policy without it")
	}
	if p.Fair != "" {
		if err := p.Fair.validate("fair"); err != nil {
			return err
		}
	}
	if p.Serialize != "" && p.Serialize != ByIdentityKey {
		return fmt.Errorf("serialize: %q is not %s", p.Serialize, ByIdentityKey)
	}
	if p.Pool != nil && p.Pool.Pool == "" {
		return errors.New("pool: its name is missing")
	}
	if p.Limit != nil {
		return p.Limit.validate()
	}
	return nil
}

// Limit returns the policy whose limit holds for the jobs of a database in a channel, by its full name;
// nil if none does.
func (s *Set) Limit(channel, database string) *Policy {
	return s.first(channel, database, func(p *Policy) bool { return p.Limit != nil })
}

// Fair returns the policy that says between whom a channel is shared fairly, for the jobs of a
// database; nil if none does.
func (s *Set) Fair(channel, database string) *Policy {
	return s.first(channel, database, func(p *Policy) bool { return p.Fair != "" })
}

// Serialize returns the policy that says of which jobs one may run at a time, for the jobs of a
// database; nil if none does.
func (s *Set) Serialize(channel, database string) *Policy {
	return s.first(channel, database, func(p *Policy) bool { return p.Serialize != "" })
}

// Pool returns the policy that says where the jobs of a database run that are in a channel; nil if none
// does.
func (s *Set) Pool(channel, database string) *Policy {
	return s.first(channel, database, func(p *Policy) bool { return p.Pool != nil })
}

// Objective returns how long the jobs of a database in a channel may wait: what holds for the channel or,
// where no policy has one for it, for the channel above; nil if none does.
func (s *Set) Objective(channel, database string) *Objective {
	for s != nil {
		if p := s.first(channel, database, func(p *Policy) bool { return p.Objective != nil }); p != nil {
			return p.Objective
		}
		i := strings.LastIndexByte(channel, '.')
		if i < 0 {
			break
		}
		channel = channel[:i]
	}
	return nil
}

// first returns the first policy that matches and has an option.
func (s *Set) first(channel, database string, has func(*Policy) bool) *Policy {
	if s == nil {
		return nil
	}
	for i := range s.policies {
		if p := &s.policies[i]; has(p) && p.holds(Job{Channel: channel, Database: database}) {
			return p
		}
	}
	return nil
}

// LimitsAny reports whether a policy has a limit for a channel, whatever the database, and FairToAny
// whether one says that it is shared fairly.
func (s *Set) LimitsAny(channel string) bool {
	return s.any(channel, func(p *Policy) bool { return p.Limit != nil })
}

// FairToAny is described at LimitsAny.
func (s *Set) FairToAny(channel string) bool {
	return s.any(channel, func(p *Policy) bool { return p.Fair != "" })
}

func (s *Set) any(channel string, has func(*Policy) bool) bool {
	return s != nil && slices.ContainsFunc(s.policies, func(p Policy) bool { return has(&p) && p.Names(channel) })
}

// Shares returns those of the policies that divide channels, as far as they do.
func Shares(policies []Policy) (list []Policy) {
	for _, p := range policies {
		if p.shares() {
			p.Timeout, p.Objective, p.Capacity = nil, nil, nil
			if p.PacesChannels() {
				p.Rate = nil
			}
			list = append(list, p)
		}
	}
	return list
}
