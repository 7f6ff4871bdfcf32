package runner

import (
	"reflect"
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/upstream"
)

// shares are the policies that divide channels, as the tree asks for them.
type shares struct {
	set *policy.Set
	// pools is set where a policy names a pool, so that each job has to find room.
	pools bool
}

// Shared is that of [channels.Shares].
func (s shares) Shared(channel string) bool {
	return s.set.LimitsAny(channel) || s.set.PacesAnyDatabase(channel)
}

// Fair is that of [channels.Shares].
func (s shares) Fair(channel string) bool { return s.set.FairToAny(channel) }

// Share is that of [channels.Shares].
func (s shares) Share(channel, db string) (share channels.Share) {
	if p := s.set.Limit(channel, db); p != nil {
		share.Limit, share.Burst, share.Per, share.Source = p.Limit.Jobs, p.Limit.Burst, per(p.Limit.Per), p.String()
	}
	if p := s.set.Fair(channel, db); p != nil {
		share.Fair = per(p.Fair)
	}
	if p := s.set.Serialize(channel, db); p != nil {
		share.Serialize = p.String()
	}
	switch p := s.set.Pool(channel, db); {
	case p != nil:
		share.Gate = upstream.Class(*p.Pool).String()
	case s.pools && channel == "root":
		share.Gate = upstream.Class{}.String()
	}
	if p := s.set.RatePerDatabase(channel, db); p != nil {
		share.Rate, share.RateSource = p.Rate, p.String()
	}
	return share
}

// keys are those by which policies tell jobs apart, beside their databases.
func keys(policies []policy.Policy) (k driver.Keys) {
	for i := range policies {
		k.Companies = k.Companies || policies[i].Companies()
		k.Identities = k.Identities || policies[i].Serialize != ""
	}
	return k
}

// channelShares are the policies that divide channels, as a tree asks for them; nil if there is none.
func channelShares(list []policy.Policy) channels.Shares {
	if len(list) == 0 {
		return nil
	}
	return shares{policy.Compile(list), slices.ContainsFunc(list, func(p policy.Policy) bool { return p.Pool != nil })}
}

func per(p policy.Per) channels.Per {
	switch p {
	case policy.PerDatabase:
		return channels.PerDatabase
	case policy.PerCompany:
		return channels.PerCompany
	}
	return channels.PerNothing
}

// share puts the policies into force that divide channels, if they are others than before: it visits
// every job.
func (d *databases) share(policies []policy.Policy) {
	list := policy.Shares(policies)
	if reflect.DeepEqual(list, d.shares) {
		return
	}
	other := keys(list) != keys(d.shares)
	d.shares = list
	d.tree.SetShares(channelShares(list))
	if !other {
		return
	}
	for _, db := range d.byName { // whose rows tell more now, or less
		if db.session != nil {
			db.session.Resync()
		}
		d.derive(db)
	}
}
