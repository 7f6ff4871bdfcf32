package session

import (
	"slices"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// orders is what a session is to do next.
type orders struct {
	claims   []string
	reads    []string
	unclaims []driver.Task
	inspects []string
	rescues  []driver.Liveness
	// cancels and terminates are the attempts to end, causes why some have been.
	cancels, terminates []driver.Task
	causes              []driver.Cause
	releases            []release
	// failUnclaims and failRescues are to end failed in place of being put back.
	failUnclaims condemned[driver.Task]
	failRescues  condemned[driver.Liveness]
	// failStopped are dead attempts that were to be ended, and are not to be tried again.
	failStopped condemned[driver.Liveness]
	// resync asks for a snapshot now, channels for the database's channels, upgrade for a check
	// whether it is being upgraded.
	resync, channels, upgrade bool
	// poll says that something was written to the database.
	poll bool
	// sleep asks for the end of the session, if there is nothing to do but what is barred.
	sleep  bool
	barred []string
	// read is the number of the last order to read; see [Session.Read].
	read uint64
}

// condemned are tasks that are to end failed, with the text for each.
type condemned[T any] struct {
	tasks []T
	why   []string
}

func (c *condemned[T]) add(t T, why string) {
	c.tasks, c.why = append(c.tasks, t), append(c.why, why)
}

func (o *orders) empty() bool {
	return len(o.claims) == 0 && len(o.reads) == 0 && len(o.unclaims) == 0 &&
		len(o.inspects) == 0 && len(o.rescues) == 0 && len(o.releases) == 0 &&
		len(o.cancels) == 0 && len(o.terminates) == 0 && len(o.causes) == 0 &&
		len(o.failUnclaims.tasks) == 0 && len(o.failRescues.tasks) == 0 && len(o.failStopped.tasks) == 0 &&
		!o.resync && !o.channels && !o.upgrade && !o.sleep && !o.poll
}

// Claim orders to mark jobs enqueued, which [Listener.Claimed] answers.
func (s *Session) Claim(uuids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.claims = append(s.todo.claims, uuids...)
	s.wake()
}

// DropClaims takes back the claims that have not been made yet, and returns them.
func (s *Session) DropClaims() (uuids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	uuids, s.todo.claims = s.todo.claims, nil
	return uuids
}

// Read orders a read of jobs, which [Listener.Rows] answers, and returns its number: rows that
// arrive with that number or a later one were read after this call.
func (s *Session) Read(uuids ...string) (number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.read++
	s.todo.reads = append(s.todo.reads, uuids...)
	s.wake()
	return s.todo.read
}

// Unread takes back an order to read a job, if it has not been carried out yet.
func (s *Session) Unread(uuid string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.todo.reads, uuid); i >= 0 {
		s.todo.reads = slices.Delete(s.todo.reads, i, i+1)
	}
}

// Unclaim orders to put a task back to pending, which [Listener.Unclaimed] answers.
func (s *Session) Unclaim(t driver.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.unclaims = append(s.todo.unclaims, t)
	s.wake()
}

// Inspect orders to inspect these tasks, in place of those that have not been inspected yet.
// [Listener.Inspected] answers.
func (s *Session) Inspect(uuids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.inspects = uuids
	s.wake()
}

// Rescue orders to put dead tasks back, which [Listener.Rescued] answers.
func (s *Session) Rescue(dead ...driver.Liveness) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.rescues = append(s.todo.rescues, dead...)
	s.wake()
}

// Stop orders to end an attempt, which [Listener.Stopped] answers; with terminate, by its connection.
// An attempt that is to be ended already is not ordered twice: it reports whether this is an order.
func (s *Session) Stop(t driver.Task, terminate bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := &s.todo.cancels
	if terminate {
		to = &s.todo.terminates
	}
	if slices.ContainsFunc(*to, func(o driver.Task) bool { return o.Same(&t) }) {
		return false
	}
	*to = append(*to, t)
	s.wake()
	return true
}

// Account orders to write down why attempts were ended, which [Listener.Accounted] answers.
func (s *Session) Account(causes ...driver.Cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.causes = append(s.todo.causes, causes...)
	s.wake()
}

// FailUnclaimed orders to fail a task that Unclaim would put back, which [Listener.Unclaimed]
// answers. The driver must be capable of quarantine.
func (s *Session) FailUnclaimed(t driver.Task, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.failUnclaims.add(t, why)
	s.wake()
}

// FailDead orders to fail a task that Rescue would put back, which [Listener.Rescued] answers. The
// driver must be capable of quarantine.
func (s *Session) FailDead(dead driver.Liveness, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.failRescues.add(dead, why)
	s.wake()
}

// FailStopped orders to fail a task that Rescue would put back, because it was ended and is not to be
// tried again, which [Listener.Rescued] answers. The driver must be capable of stopping.
func (s *Session) FailStopped(dead driver.Liveness, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.failStopped.add(dead, why)
	s.wake()
}

// Resync orders a snapshot.
func (s *Session) Resync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.resync = true
	s.wake()
}

// ReloadChannels orders to read the database's channels.
func (s *Session) ReloadChannels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.todo.channels = true
	s.wake()
}

// wake ends the wait for notifications. The caller holds mu.
func (s *Session) wake() {
	if s.interrupt != nil {
		s.interrupt()
	}
}

// take returns the orders and leaves none.
func (s *Session) take() orders {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.todo
	s.todo = orders{read: o.read}
	return o
}
