package policy

import (
	"errors"
	"fmt"
)

// rules reports whether the policy says something about channels: when, or how often, their jobs start.
func (p *Policy) rules() bool { return len(p.Capacity) > 0 || p.Rate != nil }

// validateRules reports the first mistake in these options.
func (p *Policy) validateRules() error {
	if p.rules() && p.Function != "" {
		return errors.New("function narrows timeout only: a capacity or rate goes into a policy without it")
	}
	for _, w := range p.Capacity {
		if err := w.Validate(); err != nil {
			return fmt.Errorf("capacity: %w", err)
		}
	}
	if p.Rate != nil {
		if err := p.Rate.Validate(); err != nil {
			return fmt.Errorf("rate: %w", err)
		}
	}
	return nil
}

// Windows returns the policy whose capacities hold for a channel at certain times, by its full name; nil
// if none does. database is empty for a channel of all databases.
func (s *Set) Windows(channel, database string) *Policy {
	return s.ruling(channel, database, func(p *Policy) bool { return len(p.Capacity) > 0 })
}

// Rate returns the policy whose rate holds for a channel, as Windows does.
func (s *Set) Rate(channel, database string) *Policy {
	return s.ruling(channel, database, func(p *Policy) bool { return p.Rate != nil })
}

func (s *Set) ruling(channel, database string, has func(*Policy) bool) *Policy {
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
