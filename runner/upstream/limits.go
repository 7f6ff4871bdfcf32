package upstream

import (
	"errors"
	"fmt"
	"time"
)

// RecheckInterval is when to ask again for room, while jobs wait for it: nothing tells when a visitor's
// request ends.
const RecheckInterval = 100 * time.Millisecond

// Limits bound the jobs of one server, so that its visitors are served first. A job is admitted to a
// server while its jobs are fewer than MaxJobs, and its jobs and its visitors' requests together fewer
// than Workers without Reserve. Of visitors, those count that the proxy of this process has under way
// there; where that is not known, none do. What runs is never ended.
type Limits struct {
	// Workers is how many requests the server can work on at once. Default: 0, not known, so that
	// visitors do not matter.
	Workers int
	// MaxJobs is how many jobs the server may run at once. Default: 0, no limit by itself.
	MaxJobs int
	// Reserve is how many of its workers jobs leave to visitors. It needs Workers. Default: 0, none.
	Reserve int
}

// Validate reports the first mistake.
func (l Limits) Validate() error {
	switch {
	case l.Workers < 0:
		return errors.New("workers must not be negative")
	case l.MaxJobs < 0:
		return errors.New("max_jobs must not be negative")
	case l.Reserve < 0:
		return errors.New("reserve must not be negative")
	case l.Workers == 0 && l.Reserve > 0:
		return errors.New("reserve needs workers: it is a part of these")
	case l.Workers > 0 && l.Reserve >= l.Workers:
		return fmt.Errorf("reserve %d leaves no worker of %d to jobs", l.Reserve, l.Workers)
	case l.Workers > 0 && l.MaxJobs > l.Workers-l.Reserve:
		return fmt.Errorf("max_jobs %d and reserve %d are together more than the %d workers", l.MaxJobs, l.Reserve, l.Workers)
	}
	return nil
}

// Most returns how many jobs a server runs at once without visitors; 0 if there is no limit.
func (l Limits) Most() int {
	switch {
	case l.Workers == 0:
		return l.MaxJobs
	case l.MaxJobs == 0:
		return l.Workers - l.Reserve
	}
	return min(l.MaxJobs, l.Workers-l.Reserve)
}

// room returns how many more jobs a server may be given that has so many jobs and visitors already. It
// is negative if it has more than it should.
func (l Limits) room(jobs, visitors int) int {
	room := unlimited
	if l.MaxJobs > 0 {
		room = l.MaxJobs - jobs
	}
	if l.Workers > 0 {
		room = min(room, l.Workers-l.Reserve-visitors-jobs)
	}
	return room
}

// unlimited is more room than anything needs.
const unlimited = 1 << 30

// full says why there is no room; empty if there is.
func (l Limits) full(jobs, visitors int) string {
	switch {
	case l.room(jobs, visitors) > 0:
		return ""
	case l.MaxJobs > 0 && jobs >= l.MaxJobs:
		return fmt.Sprintf("%d of at most %d jobs", jobs, l.MaxJobs)
	}
	s := fmt.Sprintf("%s and %s of visitors on %d workers", count(jobs, "job"), count(visitors, "request"), l.Workers)
	if l.Reserve > 0 {
		s += fmt.Sprintf(", of which %d are reserved to visitors", l.Reserve)
	}
	return s
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// Capacity returns how many jobs the servers bear in all without visitors, those that are down or drained
// aside, as far as they have limits.
func (p *Pool) Capacity() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		if p.states[name].up && !p.isDrained(name) {
			n += p.limitsOf(p.states[name]).Most()
		}
	}
	return n
}

// Room is how many more tasks the servers may be given now.
type Room struct {
	// Free is that number, as if none had been claimed that has not been sent yet.
	Free int
	// Reserved is how many more there would be if nothing were reserved to visitors.
	Reserved int
	// Jobs is how many of our requests are open there.
	Jobs int
	// Visited is set where visitors count, so that there may be more at any time.
	Visited bool
}

// Room returns how many more tasks the servers of a pool, or those of none, may be given now, those that
// are down or drained aside.
func (p *Pool) Room(pool string) (r Room) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range p.order {
		s := p.states[name]
		if s.Pool != pool || !s.up || p.isDrained(name) {
			continue
		}
		limits, visitors := p.limitsOf(s), s.visitors()
		open := limits
		open.Reserve = 0
		free := max(limits.room(s.inFlight, visitors), 0)
		r.Visited = r.Visited || limits.Workers > 0
		r.Free = min(r.Free+free, unlimited)
		r.Reserved += max(open.room(s.inFlight, visitors), 0) - free
		r.Jobs += s.inFlight
	}
	return r
}
