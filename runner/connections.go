package runner

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

const (
	// ConnectionsLeast is the least that [Config.Connections] may be: the maintenance connection, one
	// for operators, and one for a database.
	ConnectionsLeast = 3
	// operatorsLimit bounds the connections that operators cause at the same time.
	operatorsLimit = 4
	// operatorsPart is the part of all connections that operators may have, one of so many.
	operatorsPart = 8
	// freePart and sparePart are the parts of a limit, each one of so many, that are left to others: at
	// least freePart of it, and at least sparePart of it beyond what they hold.
	freePart, sparePart = 4, 8
	// peakSpan is how long, at least, what others held counts. It counts twice as long at most. Much
	// longer would keep the runner small long after a peak, shorter have its limit swing.
	peakSpan = time.Minute
)

// ConnectionsAllowed is how many connections a runner takes at most, its maintenance connection and
// those of operators among them, if its configuration does not say: what PostgreSQL allows, less
// what stays free for others. serverOthers and roleOthers are how many connections others hold, of
// all and of those of the role. It returns 0 if there is no limit.
func ConnectionsAllowed(l driver.Limits, serverOthers, roleOthers int) (n int, why string) {
	for _, c := range []struct {
		of, others int
		what       string
	}{
		{l.Server, serverOthers, "max_connections leaves to ordinary roles"},
		{l.Role, roleOthers, "CONNECTION LIMIT allows the role"},
	} {
		if c.of <= 0 {
			continue
		}
		left := max(part(c.of, freePart), c.others+part(c.of, sparePart))
		if got := max(ConnectionsLeast, c.of-left); n == 0 || got < n {
			n = got
			why = fmt.Sprintf("of the %d connections that %s, this runner takes at most %d; others hold up to %d", c.of, c.what, got, c.others)
		}
	}
	return n, why
}

// part is one of so many parts, rounded up.
func part(n, of int) int { return (n + of - 1) / of }

// operatorsOf is how many of so many connections operators may have.
func operatorsOf(n int) int { return max(1, min(operatorsLimit, n/operatorsPart)) }

// SessionsOf is how many databases can have a connection at the same time if a runner may have n.
func SessionsOf(n int) int { return max(1, n-1-operatorsOf(n)) }

// connections is how many connections the runner may have, and who gets them.
type connections struct {
	config    func() Config
	queue     session.Queue
	operators operators

	// limits are what PostgreSQL allows, if that is known; server and role what others hold of it that
	// are no runners, siblings what other runners of the role hold, and others what counts of these now.
	limits                 driver.Limits
	known                  bool
	server, role, siblings peak
	others                 int
	// most is how many it may have, 0 without a limit, and why says where that comes from.
	most int
	why  string
	// told is set once it has been said that databases cannot hibernate.
	told bool
}

// measured takes in how many connections there may be and are, since this process leads for so long.
// Those of a leader before it, which PostgreSQL may still have to close, do not count for longer than
// they last.
func (c *connections) measured(l driver.Limits, leads time.Duration, now time.Time) {
	ours := c.used()
	siblings := max(0, l.Runners-ours)
	if leads >= usurperLimit {
		c.siblings.add(siblings, now)
	}
	siblings = max(siblings, c.siblings.most())
	l.Runners = max(l.Runners, ours) // they may go by another name
	if l.Uncounted && c.config().Hibernate != nil && !c.told {
		c.config().Logger.Warn("hibernate does nothing, because PostgreSQL does not count what is written: set track_counts on")
	}
	c.told = l.Uncounted && c.config().Hibernate != nil
	c.limits, c.known = l, true
	c.server.add(l.ServerUsed-l.Runners, now)
	c.role.add(l.RoleUsed-l.Runners, now)
	c.others = siblings
	c.apply()
}

// apply puts the limit into force.
func (c *connections) apply() {
	switch n := c.config().Connections; {
	case n == 0 && c.config().Pooler != nil: // PostgreSQL's limits are the pooler's affair
		c.most, c.why = 0, ""
	case n > 0:
		c.most, c.why = n, fmt.Sprintf("connections lets this runner take at most %d", n)
	case c.known:
		c.most, c.why = ConnectionsAllowed(c.limits, c.server.most()+c.others, c.role.most()+c.others)
	default:
		c.most, c.why = 0, ""
	}
	sessions, why, operators := 0, c.why, operatorsLimit
	if c.most > 0 {
		sessions, operators = SessionsOf(c.most), operatorsOf(c.most)
	}
	if h := c.config().Hibernate; h != nil && h.MaxAwake > 0 && (sessions == 0 || h.MaxAwake < sessions) {
		sessions, why = h.MaxAwake, fmt.Sprintf("max_awake of hibernate lets %d databases be connected at a time", h.MaxAwake)
	}
	c.operators.allow(operators)
	c.queue.Limit(sessions, why)
}

// used is how many connections the runner has or is making, the maintenance connection among them.
func (c *connections) used() int { return 1 + c.queue.Pressure().Held + c.operators.count() }

// peak is the most that there was lately.
type peak struct {
	now, before int
	since       time.Time
}

func (p *peak) add(n int, at time.Time) {
	switch passed := at.Sub(p.since); {
	case passed >= 2*peakSpan:
		p.now, p.before, p.since = 0, 0, at
	case passed >= peakSpan:
		p.now, p.before, p.since = 0, p.now, at
	}
	p.now = max(p.now, n)
}

func (p *peak) most() int { return max(p.now, p.before) }

// operators bounds the connections that operators cause. Its methods are safe for concurrent use.
type operators struct {
	mu          sync.Mutex // guards the following
	limit, held int
	waiting     []chan struct{}
}

// allow sets how many there may be.
func (o *operators) allow(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limit = n
	o.grant()
}

// grant lets as many in as may. The caller holds mu.
func (o *operators) grant() {
	for len(o.waiting) > 0 && o.held < o.limit {
		o.held++
		close(o.waiting[0])
		o.waiting = o.waiting[1:]
	}
}

// enter waits until there may be one more. Unless it fails, leave has to follow.
func (o *operators) enter(ctx context.Context) error {
	o.mu.Lock()
	turn := make(chan struct{})
	o.waiting = append(o.waiting, turn)
	o.grant()
	o.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, w := range o.waiting {
		if w == turn {
			o.waiting = append(o.waiting[:i], o.waiting[i+1:]...)
			return fmt.Errorf("wait for other operators: %w", context.Cause(ctx))
		}
	}
	return nil // its turn came in this moment
}

func (o *operators) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.held--
	o.grant()
}

// count is how many there are.
func (o *operators) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// status describes the connections.
func (c *connections) status() ConnectionsStatus {
	p := c.queue.Pressure()
	return ConnectionsStatus{
		Limit: c.most, Reason: c.why, Used: c.used(), Waiting: p.Waiting, Longest: p.Longest, Refused: p.Refused,
	}
}

// urgency is how urgent it is that a database gets a connection: its jobs wait, or may be doing so. What
// is written while it has none does not show, unless it is asleep, or waits to be checked. One that has just
// had its turn does not go first again.
func (e *engine) urgency(db *database) session.Urgency {
	if !db.left && e.tree.Unfinished(db.Name) > 0 {
		return session.Pressing
	}
	return session.Unknown
}
