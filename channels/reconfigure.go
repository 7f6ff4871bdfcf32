package channels

import (
	"errors"
	"fmt"
	"maps"
)

// Configure replaces the configuration of all channels, at any time. A channel that cfgs does not
// name is unlimited, except root, which then has capacity 1. On an error nothing changes.
//
// No job is lost and none changes its channel. Running jobs stay counted, also above a smaller
// capacity. Where a channel becomes stricter (a capacity below what it has let pass, paused,
// sequential, a longer throttle), the jobs it has let pass but that do not run yet are called back
// to their own channels, so that the new rules hold for the very next job.
func (m *Manager) Configure(cfgs []Config) error {
	wanted := make(map[string]Config, len(cfgs))
	var errs []error
	for _, cfg := range cfgs {
		name := Normalize(cfg.Name)
		if _, ok := wanted[name]; ok {
			errs = append(errs, fmt.Errorf("channel %s is configured twice", name))
		}
		errs = append(errs, cfg.Validate())
		wanted[name] = cfg
	}
	errs = append(errs, validatePercents(wanted), validateMinimums(wanted))
	if err := errors.Join(errs...); err != nil {
		return err
	}

	other := !maps.Equal(m.wanted, wanted)
	m.wanted = wanted
	var back map[*channel][]*record
	if shares := m.effective(); other && (m.shares != nil || shares != nil) {
		back = m.gather() // what restricts, and who holds slots, may change
		m.shares = shares
	}
	touched := m.reconfigure(wanted)
	changed := make(map[*channel]limits) // and what the limits were before
	for c := range touched {
		m.relimit(c, wanted[c.name], changed)
		for _, child := range c.children {
			if !child.configured {
				m.relimit(child, Config{}, changed)
			}
		}
	}
	m.portions(changed)
	m.recall(changed)
	for c := range changed {
		m.settle(c, c)
	}
	for c := range touched {
		m.prune(c)
	}
	if back != nil {
		m.scatter(back)
	}
	if other {
		m.displace()
	}
	return nil
}

// reconfigure decides which channels are configured and what they hand out to their children, and
// returns those that are or were configured.
func (m *Manager) reconfigure(wanted map[string]Config) map[*channel]struct{} {
	touched := m.configured
	for c := range touched {
		c.configured, c.defaults = false, limits{}
	}
	m.configured = make(map[*channel]struct{}, len(wanted))
	m.percents = 0
	for name, cfg := range wanted {
		c := m.channel(name)
		c.configured, c.defaults = true, cfg.defaults()
		m.configured[c] = struct{}{}
		if cfg.Percent != 0 {
			m.percents++
		}
		touched[c] = struct{}{}
	}
	touched[m.root] = struct{}{}
	return touched
}

func (m *Manager) relimit(c *channel, cfg Config, changed map[*channel]limits) {
	wanted := c.unconfigured()
	if c.configured {
		wanted = cfg.limits()
	}
	if wanted.percent != 0 {
		wanted.capacity = c.capacity // portions finds out the new one
	}
	if c.limits == wanted {
		return
	}
	if _, ok := changed[c]; !ok {
		changed[c] = c.limits
	}
	if c.pausedUntil != 0 {
		// The pause counts from the last job, whatever the throttle was then.
		c.pausedUntil += wanted.throttle - c.throttle
		if wanted.throttle == 0 {
			c.pausedUntil = 0
		}
	}
	c.limits = wanted
}

// recall brings the jobs back that stricter channels have let pass and that wait further up.
func (m *Manager) recall(changed map[*channel]limits) {
	strict := make(map[*channel]struct{})
	for c, old := range changed {
		if c.running != 0 && c.stricter(old) {
			strict[c] = struct{}{}
		}
	}
	m.callBack(strict)
}

// callBack does that for all jobs that one of the channels has let pass.
func (m *Manager) callBack(strict map[*channel]struct{}) {
	above := make(map[*channel]struct{})
	for c := range strict {
		for p := c.parent; p != nil; p = p.parent {
			above[p] = struct{}{}
		}
	}
	back := make(map[*channel][]*record) // by their own channel
	tops := make(map[*channel]*channel)  // the highest one from which they come
	for c := range above {
		list, _ := c.ready.split(func(r *record) bool { return r.hasPassed(strict) })
		for _, r := range list {
			own := r.home.channel
			for p := own; p != c; p = p.parent {
				m.occupy(p, r, -1)
			}
			r.location = inOwnQueue
			back[own] = append(back[own], r)
			if top := tops[own]; top == nil || top.depth > c.depth {
				tops[own] = c
			}
		}
	}
	for own, list := range back {
		own.ready.take(list)
	}
	for own, top := range tops {
		m.settle(own, top)
	}
}

// stricter reports whether jobs that passed the channel under its old limits might not have passed
// under the present ones.
func (c *channel) stricter(old limits) bool {
	return c.paused && !old.paused ||
		c.sequential && !old.sequential ||
		c.throttle > old.throttle ||
		c.running > c.slots()
}

// hasPassed reports whether a job in a ready queue has passed one of the channels.
func (r *record) hasPassed(channels map[*channel]struct{}) bool {
	c := r.home.channel
	for range r.location {
		if _, ok := channels[c]; ok {
			return true
		}
		c = c.parent
	}
	return false
}
