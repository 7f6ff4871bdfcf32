package doctor

import (
	"slices"
	"time"

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
}

// cancels reports whether a policy ends jobs of the database.
func (e *examination) cancels(database string) bool {
	return slices.ContainsFunc(e.subject.Config.Policies, func(p policy.Policy) bool {
		return p.Timeout != nil && p.Timeout.Cancel && p.In(database)
	})
}

// timeout checks one time limit. Odoo kills a worker with everything in it, so that a limit above that
// never has its turn; a threaded server kills none.
func (e *examination) timeout(p *policy.Policy) {
	end := p.Timeout.After
	if p.Timeout.Cancel {
		end += max(p.Timeout.Grace, 0)
		if p.Timeout.Grace == 0 {
			end += policy.GraceDefault
		}
	}
	if conf := e.subject.Odoo; conf != nil && conf.Workers > 0 {
		limit := limitTimeRealDefault
		if conf.LimitTimeReal != nil {
			limit = time.Duration(*conf.LimitTimeReal) * time.Second
		}
		if limit > 0 && end >= limit {
			e.add(foundLateTimeout, "%s: Odoo kills a worker after limit_time_real, %s, before the time limit and its grace have passed, %s: raise limit_time_real, or lower the timeout",
				p, limit, end)
		}
	}
	if after := e.subject.Config.RescueStartedAfter; after > 0 && after <= end {
		e.add(foundEarlyRescue, "%s: rescue_started_after, %s, is not above the time limit and its grace, %s: a job that still runs would be run a second time before it is ended",
			p, after, end)
	}
}
