package runner

import (
	"fmt"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// validateRules finds what a policy says of channels that these cannot have.
func (c Config) validateRules(p *policy.Policy) error {
	if c.DatabaseChannels != nil {
		return nil
	}
	return p.ValidateShared()
}

// govern puts into force what policies say of channels. Rates begin without tokens if anything of that
// has changed, and go on if nothing has.
func (e *engine) govern(policies []policy.Policy) {
	var b strings.Builder
	for i := range policies {
		if p := &policies[i]; len(p.Capacity) > 0 || p.PacesChannels() {
			fmt.Fprintln(&b, p, p.Capacity, p.Rate)
		}
	}
	said := b.String()
	if said == e.rules {
		return
	}
	e.rules = said
	e.tree.Govern(channelRules(policies))
}

// channelRules are what policies say of channels, as a tree asks for them.
func channelRules(policies []policy.Policy) func(db, channel string) channels.Rules {
	set := policy.Compile(policies)
	return func(db, channel string) (r channels.Rules) {
		if p := set.Windows(channel, db); p != nil {
			r.Windows, r.WindowsOf = p.Capacity, p.String()
		}
		if p := set.Rate(channel, db); p != nil {
			r.Rate, r.RateOf = p.Rate, p.String()
		}
		return r
	}
}

// refund gives back the tokens of a task that the scheduler has chosen, and for which nothing was
// sent. One that was claimed by a grant took none: there were no rates then.
func (e *engine) refund(key channels.Key, t *task) {
	if !t.chosen.IsZero() && !t.granted {
		e.tree.Refund(key)
	}
}
