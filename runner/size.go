package runner

import (
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// sizeDelay is for how long the servers have to be able to bear another number of jobs before root
// follows: a server that restarts changes nothing.
const sizeDelay = 30 * time.Second

// size is the capacity of a root channel that follows the servers.
type size struct {
	auto     bool
	capacity int // in force; 0 before any server was known
	// other is what the servers have borne since then, unless it is 0.
	other int
	since time.Time
	// first is when the first server was known. The others may be found one after the other, so that at
	// first, more counts at once.
	first time.Time
}

// configure returns the channels with the capacity that is in force.
func (s *size) configure(cfgs []channels.Config) []channels.Config {
	i := slices.IndexFunc(cfgs, func(c channels.Config) bool { return c.Auto })
	if i < 0 {
		*s = size{}
		return cfgs
	}
	s.auto, s.other = true, 0
	cfgs = slices.Clone(cfgs)
	cfgs[i].Capacity = max(s.capacity, 1)
	return cfgs
}

// follow takes in how many jobs the servers bear, and reports whether the capacity is another one now.
// While none takes jobs, it stays.
func (s *size) follow(bear int, now time.Time) bool {
	switch {
	case bear == 0 || bear == s.capacity:
		s.other = 0
		return false
	case s.capacity == 0:
		s.first = now
	case bear > s.capacity && now.Sub(s.first) < sizeDelay:
	case bear != s.other:
		s.other, s.since = bear, now
		return false
	case now.Sub(s.since) < sizeDelay:
		return false
	}
	s.capacity, s.other = bear, 0
	return true
}

// resize has root follow the servers.
func (e *engine) resize(now time.Time) {
	if e.size.auto && e.size.follow(e.pool.Capacity(), now) {
		e.tree.Resize(e.size.capacity)
		e.log().Info("the capacity of root follows the servers", zap.Int("capacity", e.size.capacity))
	}
}

// resizeNow does so at once, with limits that a reload has changed.
func (e *engine) resizeNow(now time.Time) {
	if e.pool.Capacity() != 0 {
		e.size.capacity = 0
		e.resize(now)
	}
}

// validateAuto finds a root channel that is to follow servers of which nothing is known.
func (c Config) validateAuto() error {
	if c.Server.Most() == 0 && slices.ContainsFunc(c.Channels, func(ch channels.Config) bool { return ch.Auto }) {
		return errors.New("channel root: auto is the sum of what the servers bear: give server workers or max_jobs")
	}
	return nil
}
