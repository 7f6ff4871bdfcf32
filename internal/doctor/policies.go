package doctor

import (
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/odooconf"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// limitTimeRealDefault is Odoo's default of limit_time_real.
const limitTimeRealDefault = 120 * time.Second

// policies compares the time limits of policies with what else ends jobs, or takes them for dead, and
// the options of each policy with those of the policies before it.
func (e *examination) policies() {
	list := e.subject.Config.Policies
	for i := range list {
		p := &list[i]
		if p.Timeout != nil {
			e.timeout(p)
		}
		if p.Fair != "" && !e.scarce(p) {
			e.add(foundIdlePolicy, "%s: its fair counts for no job, because no channel that it names has a capacity, a throttle or sequential, so all let their jobs pass at once: give one a capacity, or let the policy name root", p)
		}
		for _, option := range policyOptions {
			if !option.has(p) {
				continue
			}
			for j := range list[:i] {
				if first := &list[j]; option.has(first) && first.Covers(p) {
					e.add(foundIdlePolicy, "%s: its %s, because %s comes before it and matches all of its jobs: put what is specific before what is general",
						p, option.idle, first)
					break
				}
			}
		}
	}
}

// policyOptions are the options of policies, and what an idle one does not do.
var policyOptions = []struct {
	idle string
	has  func(*policy.Policy) bool
}{
	{"timeout limits no job", func(p *policy.Policy) bool { return p.Timeout != nil }},
	{"capacity limits no channel", func(p *policy.Policy) bool { return len(p.Capacity) > 0 }},
	{"rate limits no channel", (*policy.Policy).PacesChannels},
	{"rate per database limits no job", (*policy.Policy).PacesDatabases},
	{"fair counts for no job", func(p *policy.Policy) bool { return p.Fair != "" }},
	{"limit limits no job", func(p *policy.Policy) bool { return p.Limit != nil }},
	{"objective counts for no job", func(p *policy.Policy) bool { return p.Objective != nil }},
	{"pool counts for no job", func(p *policy.Policy) bool { return p.Pool != nil }},
	{"serialize counts for no job", func(p *policy.Policy) bool { return p.Serialize != "" }},
}

// scarce reports whether a policy names a channel in which jobs wait for slots, as far as is known.
func (e *examination) scarce(p *policy.Policy) bool {
	cfg := &e.subject.Config
	return cfg.DatabaseChannels != nil || p.Names("root") || slices.ContainsFunc(cfg.Channels, func(c channels.Config) bool {
		limited := c.Capacity != 0 || c.Throttle != 0 || c.Sequential
		return limited && p.Names(channels.Normalize(c.Name)) || c.CapacityDefault != 0
	})
}

// cancels reports whether a policy ends jobs of the database.
func (e *examination) cancels(database string) bool {
	return slices.ContainsFunc(e.subject.Config.Policies, func(p policy.Policy) bool {
		return p.Timeout != nil && p.Timeout.Cancel && p.In(database)
	})
}

// end is when an attempt is expected to have ended at the latest.
func end(t *policy.Timeout) time.Duration {
	switch {
	case !t.Cancel:
		return t.After
	case t.Grace == 0:
		return t.After + policy.GraceDefault
	}
	return t.After + max(t.Grace, 0)
}

// limitTimeReal is how long a request may take until Odoo kills its worker, with 0 for ever. Known is
// false without Odoo's configuration, and where servers are threaded, which kill none.
func (e *examination) limitTimeReal() (limit time.Duration, known bool) {
	conf := e.subject.Odoo
	if conf == nil || conf.Workers <= 0 {
		return 0, false
	}
	return configuredLimit(conf), true
}

// configuredLimit is Odoo's option limit_time_real.
func configuredLimit(conf *odooconf.Config) time.Duration {
	if conf.LimitTimeReal == nil {
		return limitTimeRealDefault
	}
	return time.Duration(*conf.LimitTimeReal) * time.Second
}

// timeout checks one time limit. Odoo kills a worker with everything in it, so that a limit above that
// never has its turn.
func (e *examination) timeout(p *policy.Policy) {
	end := end(p.Timeout)
	if limit, known := e.limitTimeReal(); known && limit > 0 && end >= limit {
		e.add(foundLateTimeout, "%s: Odoo kills a worker after limit_time_real, %s, before the time limit and its grace have passed, %s: raise limit_time_real, or lower the timeout",
			p, limit, end)
	}
	after := e.subject.Config.RescueStartedAfter
	if after > 0 && after <= end {
		e.add(foundEarlyRescue, "%s: rescue_started_after, %s, is not above the time limit and its grace, %s: a job that still runs would be run a second time before it is ended",
			p, after, end)
	}
	if after == 0 && p.Timeout.Cancel && p.Timeout.Retry && e.closes(p) {
		e.add(foundNoRescue, "%s: a job whose connection is closed, and whose worker is killed before it can answer, stays started and keeps its slot until it is requeued by hand, "+
			"because nothing proves that it has ended: set rescue_started_after, above limit_time_real", p)
	}
}

// closes reports whether a policy can end jobs of a database that is served.
func (e *examination) closes(p *policy.Policy) bool {
	for name, x := range e.served {
		if x.Unstoppable == "" && p.In(name) {
			return true
		}
	}
	return false
}
