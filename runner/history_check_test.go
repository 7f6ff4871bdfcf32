package runner_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

const (
	// storedWithin is how old what a leader leaves behind may be: the interval, and the time until its
	// loop turns again.
	storedWithin = 4 * time.Second
	// stillWithin is how long it may take, of databases that are well, until the next request is sent or
	// ends, or the next job does, while none executes. The longest limits of the engine are ten minutes:
	// of a slot for a job of which nothing can be found out, and of a request to a server that answers
	// nothing. They begin at the latest when a leader has read the database: half a minute until locks
	// are given up without one, 45 s for the timeouts of a connection and of what it is asked first, 15 s
	// for a pause before it, 30 s of a hold, and two scans. So they run at the same time, and are
	// followed by none. The longest of 16,000 histories took 10 min 16 s.
	stillWithin = 12*time.Minute + 30*time.Second
	// endsWithin is how long it may take in all. How long jobs run is up to the history.
	endsWithin = 2 * time.Hour
	// foundFresh is for how long a session believes what it found before it took the lock.
	foundFresh = time.Second
	// claimedWithin is how long a claim may take.
	claimedWithin = 5 * time.Second
	// operatorAfter is when an operator begins to repair what the engine must leave to operators.
	operatorAfter = 40 * time.Second
)

// longestStill is the longest time without anything, in nanoseconds.
var longestStill atomic.Int64

// sent checks a request at the moment at which it is sent.
func (p *play) sent(s mock.Sent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := s.Run.Task.Key
	n := p.nodes[slices.IndexFunc(p.nodes, func(n *player) bool { return n.node == s.Run.Node })]
	if full {
		p.log.add("node %d sends %s", n.index, k)
	}
	if p.foreign[k] {
		p.failed("%s is sent while a worker of others runs it", k)
	}
	if since, ok := p.retired[k.DB]; ok && s.Locked[k.DB].After(since.Add(foundFresh)) {
		p.failed("%s is sent, and its database was retired before the lock was taken", k)
	}
	if n.leads.IsZero() || slices.ContainsFunc(p.nodes, func(o *player) bool { return o.leads.After(n.leads) }) {
		return // a leader that does not know yet that it is deposed
	}
	all, sub := map[channels.Key]bool{k: true}, map[channels.Key]bool{k: true}
	for _, r := range s.Live {
		if !n.counts(&r) || n.misled(&r, s.Locked[r.Task.DB]) {
			continue
		}
		all[r.Task.Key] = true
		if r.Job.Channel == "sub" && (!p.h.Trees || r.Task.DB == k.DB) {
			sub[r.Task.Key] = true
		}
	}
	if len(all) > p.h.Root {
		p.failed("%s is the %d. in root, of %d", k, len(all), p.h.Root)
	}
	if s.Run.Job.Channel == "sub" && len(sub) > p.h.Sub {
		p.failed("%s is the %d. in root.sub, of %d", k, len(sub), p.h.Sub)
	}
}

// counts reports whether a node has to know that a job takes a slot. What it cannot know is in
// docs/reliability.md, "Where the promise ends".
func (n *player) counts(r *mock.Run) bool {
	switch db := r.Task.DB; {
	case r.Node == n.node && r.Open() && !r.Opened.Before(n.began):
		return true // also if somebody has put it back meanwhile
	case r.Excused:
		return false
	case !r.Executing():
		return false
	case r.Node == n.node && !r.Opened.Before(n.leads), n.told[db]:
		return true
	case !n.retired[db].IsZero() || !n.was[db].Before(r.Opened):
		return false // a leader drops what is reserved for a database in which nothing may run
	default:
		return n.leftBehind(r)
	}
}

// leftBehind reports whether the leader that sent a request has had the time to tell the next one of it.
func (p *play) leftBehind(r *mock.Run) bool {
	for _, n := range p.nodes {
		for _, at := range n.deposed {
			if n.node == r.Node && !at.Before(r.Opened) {
				return r.Opened.Before(at.Add(-storedWithin))
			}
		}
	}
	return false
}

// misled reports whether the node has evidence that a job does not run, which does, and whose database
// was lost before the node could read that it runs, and is lost still: since the lock was taken, at
// locked if at all, not all of its jobs have been read, or its table is locked; or was when this request
// was claimed. Either the node's request was answered while the job goes on. Or the request of another
// engine broke, and was read only after the node had put the job back and sent it again, so that its own
// request was answered without running it. docs/reliability.md, "Where the promise ends".
func (n *player) misled(r *mock.Run, locked time.Time) bool {
	ours := r.Node == n.node && !r.Opened.Before(n.began)
	switch read := n.read[r.Task.DB]; {
	case r.Open(), !locked.IsZero() && !read.Before(locked) && time.Since(read) >= claimedWithin && !time.Now().Before(n.hidden[r.Task.DB]):
		return false
	case ours:
		return r.Result.Outcome == driver.Answered
	default:
		own := n.own[r.Task.Key]
		return !own.answered.IsZero() && !r.Started.Before(own.sent) && !r.Started.After(own.answered)
	}
}

// check checks what must hold at any time at which nothing moves.
func (p *play) check() {
	if o := p.Overlaps(); len(o) > 0 {
		p.fail("overlap: %s", o[0])
	}
	if v := p.Violations(); len(v) > 0 {
		p.fail("misuse of the driver: %s", v[0])
	}
	now := time.Now()
	for _, n := range p.nodes {
		a, err := n.runner.Audit(context.Background())
		if err != nil {
			continue // between two engines
		}
		for _, f := range a.Faults {
			p.fail("node %d: %s", n.index, f)
		}
		for _, s := range a.Slots {
			switch {
			case s.Because == "":
				p.fail("node %d: nothing justifies the slot of %s", n.index, s.Key)
			case s.Limit > 0 && now.Sub(s.Since) > s.Limit:
				p.fail("node %d: the slot of %s is held for %s, because %s", n.index, s.Key, now.Sub(s.Since), s.Because)
			}
		}
		if a.Startable {
			p.fail("node %d: something could start and does not", n.index)
		}
	}
}

// end repairs everything, and requires that every job ends then. What is repaired first does not need
// what is repaired last.
func (p *play) end() {
	well := slices.Clone(p.dbs)
	p.log.add("repairing")
	p.Up()
	p.SetBusy()
	hangs := 0
	for i := range 2 {
		p.UpstreamFault(fmt.Sprintf("odoo%d", i), func(f *mock.UpstreamFaults) {
			if hangs == 0 && f.Hang {
				hangs++ // one goes on: the other one is enough
				return
			}
			*f = mock.UpstreamFaults{}
		})
	}
	if i := p.h.Broken; i >= 0 && i < len(p.dbs) {
		well = slices.Delete(well, i, i+1)
		p.log.add("all but %s", p.dbs[i])
		// Where nothing can be proven a started job keeps its slot, as without a lock table.
		p.Fault(p.dbs[i], func(f *mock.Faults) {
			switch f.InspectErr = nil; {
			case errors.Is(f.ReadErr, driver.ErrUpgrading):
				lockTable(f, nil) // or operators could not change rows either
			case !errors.Is(f.RescueErr, driver.ErrUpgrading):
				f.RescueErr = nil
			}
		})
	}
	if refused := slices.ContainsFunc(p.nodes, func(n *player) bool { return !n.refused.Load() }); !refused {
		p.nodes[0].refused.Store(false)
	}
	for _, db := range well {
		p.wellAgain(db)
	}
	p.allEnd(well)
	if p.verdict() != nil {
		return
	}
	p.log.add("repairing the rest")
	for _, db := range p.dbs {
		p.wellAgain(db)
	}
	p.serversResume()
	for _, n := range p.nodes {
		n.refused.Store(false)
	}
	p.allEnd(p.dbs)
	if p.verdict() != nil {
		return
	}
	for _, db := range p.dbs {
		for _, row := range p.Rows(db) {
			if row.State == channels.Unknown {
				p.touch(row.Key)
				p.SetState(row.Key, channels.Done)
			}
		}
	}
	p.nothingLeft()
}

// allEnd requires that the jobs of some databases end.
func (p *play) allEnd(dbs []string) {
	began := time.Now()
	stirred, stirs := began, 0
	for wait := 2 * time.Second; ; wait = min(wait*5/4, 30*time.Second) {
		p.settle(wait)
		p.check()
		k, state := p.unended(dbs)
		if k.UUID == "" || p.verdict() != nil {
			return
		}
		now := time.Now()
		if n, busy := p.stirs(); busy || n != stirs {
			stirred, stirs = now, n
		}
		still := now.Sub(stirred)
		for was := longestStill.Load(); was < int64(still) && !longestStill.CompareAndSwap(was, int64(still)); was = longestStill.Load() {
		}
		if still > stillWithin || now.Sub(began) > endsWithin {
			p.fail("%s is %s for ever", k, state)
			return
		}
		if now.Sub(began) > operatorAfter {
			p.endAllForeign(p.dbs)
			p.operate(p.dbs)
		}
	}
}

// stirs counts the requests that have been sent and that have ended, and the jobs that have; busy
// reports whether one executes.
func (p *play) stirs() (n int, busy bool) {
	for _, r := range p.Runs() {
		n++
		if !r.Closed.IsZero() {
			n++
		}
		busy = busy || r.Executing()
	}
	for _, db := range p.dbs {
		for _, row := range p.Rows(db) {
			if row.State.Finished() {
				n++
			}
		}
	}
	return n, busy
}

// unended returns a job that has not ended.
func (p *play) unended(dbs []string) (k channels.Key, state channels.State) {
	for _, db := range dbs {
		for _, row := range p.Rows(db) {
			if row.State != channels.Unknown && !row.State.Finished() && row.State != channels.Failed {
				return row.Key, row.State
			}
		}
	}
	return k, state
}

// operate is what docs/reliability.md asks of operators: to put back what nothing proves dead.
func (p *play) operate(dbs []string) {
	live := map[channels.Key]bool{}
	for _, r := range p.Live() {
		if r.Open() && slices.Index(p.dbs, r.Task.DB) == p.h.Broken {
			p.serversResume() // a request that is open counts, where the row cannot be read
		}
		live[r.Task.Key] = live[r.Task.Key] || r.Executing() || r.Open() || r.Waiting && p.base[r.Task.DB] == unguarded
	}
	for k := range p.touched {
		if live[k] {
			p.serversResume() // a request may hang for a job that has been put back
			break
		}
	}
	broken := map[channels.Key]bool{}
	for _, r := range p.Runs() {
		if !r.Closed.IsZero() && (r.Result.Outcome == driver.Broken || r.Result.Outcome == driver.Unavailable) {
			broken[r.Task.Key] = true
		}
	}
	p.mu.Lock()
	disturbed := p.disturbed
	young := time.Now() // what was claimed before may be that of a former leader
	for _, n := range p.nodes {
		if !n.leads.IsZero() {
			young = n.leads.Add(time.Minute + 2*time.Second)
		}
	}
	p.mu.Unlock()
	for _, db := range dbs {
		for _, row := range p.Rows(db) {
			k := row.Key
			if p.base[db] == unguarded && row.State == channels.Enqueued {
				p.serversResume()
			}
			if p.base[db] != withLocks && row.State == channels.Pending && live[k] {
				p.serversResume() // another leader has put it back while its request hangs
			}
			lost := row.State == channels.Started && p.base[db] != withLocks || row.State == channels.Started && row.Enqueued == 0
			// Its connection may have been closed for its time limit: docs/policies.md.
			lost = lost || row.State == channels.Started && p.h.Limited && broken[k]
			lost = lost || row.State == channels.Enqueued && (row.Enqueued == 0 && p.touched[k] ||
				p.base[db] == unguarded && (disturbed || broken[k] || p.touched[k] || time.UnixMicro(row.Enqueued).Before(young)))
			if lost && !live[k] {
				p.touch(k)
				p.SetState(k, channels.Pending)
			}
		}
	}
}

// tasks counts what the nodes take for under way.
func (p *play) tasks() (n int) {
	for _, node := range p.nodes {
		if a, err := node.runner.Audit(context.Background()); err == nil {
			n += a.Tasks
		}
	}
	return n
}

// serversResume restarts the servers.
func (p *play) serversResume() {
	for i := range 2 {
		p.UpstreamFault(fmt.Sprintf("odoo%d", i), func(f *mock.UpstreamFaults) { *f = mock.UpstreamFaults{} })
	}
}

// nothingLeft checks that the nodes are idle, and that one leads.
func (p *play) nothingLeft() {
	for until := time.Now().Add(endsWithin); len(p.Live()) > 0 && time.Now().Before(until); {
		p.settle(5 * time.Second) // somebody set the row of a job that goes on
	}
	p.settle(45 * time.Second) // what is examined now and then is examined once more
	for until := time.Now().Add(stillWithin); p.tasks() > 0 && time.Now().Before(until); {
		p.settle(5 * time.Second) // a connection has died while all jobs were being read
	}
	p.check()
	leaders := 0
	for _, n := range p.nodes {
		st, err := n.runner.Status(context.Background())
		a, err2 := n.runner.Audit(context.Background())
		if err != nil || err2 != nil {
			p.fail("node %d: %w %w", n.index, err, err2)
			return
		}
		if st.Leader {
			leaders++
		}
		if a.Tasks > 0 || n.register.Len() > 0 {
			p.fail("node %d: %d tasks and %d requests are left, of them parked %d: %v", n.index, a.Tasks, n.register.Len(), a.Parked, a.Slots)
		}
		for _, ch := range st.Channels {
			if ch.Running+ch.Queued > 0 {
				p.fail("node %d: channel %s", n.index, ch)
			}
		}
		for _, up := range st.Upstreams {
			if !up.Up || up.InFlight > 0 {
				p.fail("node %d: server %+v", n.index, up)
			}
		}
	}
	if leaders != 1 {
		p.fail("%d leaders", leaders)
	}
}
