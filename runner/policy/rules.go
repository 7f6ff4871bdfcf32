package policy

import (
	"errors"
	"fmt"
)

// rules reports whether the policy says when, or how often, jobs start.
func (p *Policy) rules() bool { return len(p.Capacity) > 0 || p.Rate != nil }

// PacesChannels reports whether it has a rate of channels, and PacesDatabases whether it has one of each
// database in them. These are two options.
func (p *Policy) PacesChannels() bool { return p.Rate != nil && !p.Rate.PerDatabase }

// PacesDatabases is described at PacesChannels.
func (p *Policy) PacesDatabases() bool { return p.Rate != nil && p.Rate.PerDatabase }

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

// ValidateShared reports what the policy says of the channels of one database, which cannot be where the
// channels are those of all databases.
func (p *Policy) ValidateShared() error {
	const one = "the channels are those of all databases: leave database out of this policy, or use channels database"
	switch {
	case p.Database == "":
	case len(p.Capacity) > 0:
		return fmt.Errorf("%s: capacity: %s", p, one)
	case p.PacesChannels():
		return fmt.Errorf("%s: rate: %s", p, one)
	}
	return nil
}

// Windows returns the policy whose capacities hold for a channel at certain times, by its full name; nil
// if none does. database is empty for a channel of all databases.
func (s *Set) Windows(channel, database string) *Policy {
	return s.first(channel, database, func(p *Policy) bool { return len(p.Capacity) > 0 })
}

// Rate returns the policy whose rate holds for a channel, as Windows does.
func (s *Set) Rate(channel, database string) *Policy {
	return s.first(channel, database, (*Policy).PacesChannels)
}

// RatePerDatabase returns the policy whose rate holds for the jobs of a database in a channel; nil if none
// does.
func (s *Set) RatePerDatabase(channel, database string) *Policy {
	return s.first(channel, database, (*Policy).PacesDatabases)
}

// PacesAnyDatabase reports whether a policy has a rate of databases in a channel, whatever the database.
func (s *Set) PacesAnyDatabase(channel string) bool { return s.any(channel, (*Policy).PacesDatabases) }
