package runner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// modelFault is a kind of fault.
type modelFault uint32

const (
	// faultNotSent: a request cannot be delivered, and faultRefused: a proxy answers in place of Odoo.
	faultNotSent modelFault = 1 << iota
	faultRefused
	// faultBreaks: the connection of a request breaks, and the request goes on without a client; faultSilent:
	// the client learns of it later, by TCP's keepalives; faultKept: it never does, because something in
	// between keeps its end of the connection open.
	faultBreaks
	faultSilent
	faultKept
	// faultLost: a server ends with what is in its backlog, and faultDies: a worker dies that has taken a
	// job.
	faultLost
	faultDies
	// faultHidden: a worker has locked its lock row inside a savepoint, where an inspection does not see it.
	faultHidden
	// faultSession: PostgreSQL ends a session; faultGhost: a session is lost, and PostgreSQL keeps its lock
	// for a while; faultResult: a session is lost after a statement, whose result is lost with it.
	faultSession
	faultGhost
	faultResult
	// faultMaintenance: PostgreSQL ends a maintenance connection.
	faultMaintenance
	// faultReload: an engine stops, as it does when its configuration changes, and its process lives on with
	// the requests; faultPanic: it ends in the middle; faultCrash: the process ends.
	faultReload
	faultPanic
	faultCrash
	// faultByHand: an operator sets a job to pending that runs. It is the last fault of a history.
	faultByHand
	// faultAgain: a user queues a job again that has ended.
	faultAgain

	faultsHTTP     = faultNotSent | faultRefused | faultBreaks | faultSilent | faultKept
	faultsOdoo     = faultLost | faultDies | faultHidden
	faultsPostgres = faultSession | faultGhost | faultResult | faultMaintenance
	faultsProcess  = faultReload | faultPanic | faultCrash
	faultsAll      = faultsHTTP | faultsOdoo | faultsPostgres | faultsProcess
)

// modelMachine is a model with its bounds.
type modelMachine struct {
	generation model.Generation
	nodes      int
	databases  int
	capacity   int
	// faults may happen, kinds of them, up to budget times in one run.
	kinds  modelFault
	budget uint8
	// late: a new leader may start before all of its databases have told what runs.
	late bool
	// limited: the operator has set a limit for started jobs, and long that a job may take longer.
	limited, long bool
	// apart: sessions of the first database that are lost are never made again, as far as progress goes.
	apart bool
	rules modelRules

	engine *engine
	judged map[judged]judgement
}

func (m *modelMachine) fingerprint() driver.Fingerprint {
	return driver.Fingerprint{Health: driver.Healthy, Locks: m.generation.Locks, Unguarded: !m.generation.Guarded}
}

// system is the model as a transition system.
func (m *modelMachine) system() *model.System[modelWorld] {
	var cfg Config
	if m.limited {
		cfg.RescueStartedAfter = modelLimit
	}
	m.engine = &engine{config: func() Config { return cfg }}
	m.judged = make(map[judged]judgement)
	start := modelWorld{faults: m.budget}
	for n := range m.nodes {
		start.nodes[n].up = true
	}
	for d := m.databases; d < modelDatabases; d++ {
		start.jobs[d].Row.State = model.Done
	}
	return &model.System[modelWorld]{
		Start: start, Steps: m.steps, Broken: func(w modelWorld) string { return modelBreaches[w.broken] },
	}
}

// stepper offers the steps of one state.
type stepper struct {
	m     *modelMachine
	from  modelWorld
	yield func(label string, fault bool, to modelWorld)
}

// offer offers one step of node n in database d.
func (s *stepper) offer(n, d int, label string, do func(*modelTurn)) {
	s.take(n, d, label, false, do)
}

// fault offers a fault, if it is among those that may still happen.
func (s *stepper) fault(kind modelFault, n, d int, label string, do func(*modelTurn)) {
	if s.from.faults == 0 || s.m.kinds&kind == 0 {
		return
	}
	s.take(n, d, label, true, func(t *modelTurn) {
		t.faults--
		do(t)
	})
}

func (s *stepper) take(n, d int, label string, fault bool, do func(*modelTurn)) {
	t := modelTurn{modelWorld: s.from, m: s.m, n: n, d: d}
	do(&t)
	s.m.watchOver(&s.from, &t)
	t.normalize()
	if t.modelWorld != s.from {
		s.yield(label, fault, t.modelWorld)
	}
}

// watchOver checks the properties of safety.
func (m *modelMachine) watchOver(before *modelWorld, t *modelTurn) {
	working := 0
	for d := range m.databases {
		workers := t.jobs[d].Workers()
		if workers > 1 {
			t.violate(modelOverlap)
		}
		if workers > 0 {
			working++
		}
		if before.jobs[d].Row.State == model.Done && t.jobs[d].Row.State != model.Done && !t.again {
			t.violate(modelAgain)
		}
	}
	if working > m.capacity {
		t.violate(modelAbove)
	}
}

func nodeName(n int) string { return [...]string{"N", "M"}[n] }
func jobName(d int) string  { return [...]string{"a", "b"}[d] }

// steps are those that are possible in a state.
func (m *modelMachine) steps(w modelWorld, yield func(string, bool, modelWorld)) {
	s := &stepper{m: m, from: w, yield: yield}
	for d := range m.databases {
		s.odoo(d)
	}
	for n := range m.nodes {
		node := &w.nodes[n]
		if !node.up {
			s.offer(n, 0, nodeName(n)+" starts", func(t *modelTurn) { t.node().up = true })
			continue
		}
		s.process(n)
		s.maintenance(n)
		for d := range m.databases {
			if v := &node.views[d]; v.reply.kind != replyNone {
				s.offer(n, d, fmt.Sprintf("%s takes in the result: %s %s", nodeName(n), v.reply.kind, jobName(d)), (*modelTurn).receive)
			} else {
				s.session(n, d)
				s.statements(n, d)
			}
			s.task(n, d)
		}
	}
}

// odoo are the steps of the workers, of time, and of what is between a request and its client.
func (s *stepper) odoo(d int) {
	j := &s.from.jobs[d]
	if j.Row.State.Running() && !j.Row.Old {
		s.offer(0, d, "10 s have passed since the claim of "+jobName(d), func(t *modelTurn) { t.job().Row.Old = true })
	}
	if j.Row.State == model.Done {
		s.fault(faultAgain, 0, d, "a user queues "+jobName(d)+" again", func(t *modelTurn) {
			t.job().Row, t.again = model.Row{State: model.Pending}, true
			t.notify(false)
		})
	}
	for i := range j.Requests {
		r := j.Requests[i]
		if r.At == model.None || i > 0 && r == j.Requests[i-1] {
			continue
		}
		n := int(r.Client) - 1
		switch r.At {
		case model.Answered:
			s.end(n, d, i, "an answer about "+jobName(d)+" arrives", driver.Answered)
		case model.Cut:
			s.end(n, d, i, "a request for "+jobName(d)+" ends with its server", driver.Broken)
		default:
			s.work(d, i)
		}
		if r.Client > 0 {
			s.client(n, d, i)
		}
		if r.At == model.Waiting {
			s.fault(faultLost, 0, d, "the server ends in whose backlog "+jobName(d)+" waits", func(t *modelTurn) { t.job().Die(i) })
		} else if r.At < model.Answered {
			s.fault(faultDies, 0, d, "the worker of "+jobName(d)+" dies", func(t *modelTurn) { t.job().Die(i) })
		}
		if r.At == model.Executing && s.m.generation.Locks && !r.Hidden {
			s.fault(faultHidden, 0, d, "the lock of "+jobName(d)+" was taken inside a savepoint", func(t *modelTurn) {
				t.job().Requests[i].Hidden = true
				t.job().Sort()
			})
		}
	}
}

// work is the next step of a worker.
func (s *stepper) work(d, i int) {
	probe := s.from.jobs[d]
	label, changed := probe.Work(s.m.generation, i)
	s.offer(0, d, label+": "+jobName(d), func(t *modelTurn) {
		done := t.job().Row.State == model.Done
		if t.job().Work(s.m.generation, i); changed {
			t.notify(false)
		}
		if done && changed {
			t.violate(modelAgain)
		}
	})
}

// end is the end of a request that its client learns of.
func (s *stepper) end(n, d, i int, label string, outcome driver.Outcome) {
	s.offer(n, d, label+" at "+nodeName(n), func(t *modelTurn) {
		t.job().Drop(i)
		t.answered(outcome)
	})
}

// client are the faults between a request and its client.
func (s *stepper) client(n, d, i int) {
	name := jobName(d)
	if s.from.jobs[d].Requests[i].At == model.Waiting {
		s.fault(faultNotSent, n, d, "the request of "+nodeName(n)+" for "+name+" cannot be delivered", func(t *modelTurn) {
			t.job().Drop(i)
			t.answered(driver.NotSent)
		})
		s.fault(faultRefused, n, d, "a proxy refuses the request of "+nodeName(n)+" for "+name, func(t *modelTurn) {
			t.job().Drop(i)
			t.answered(driver.Refused)
		})
	}
	s.fault(faultBreaks, n, d, "the request of "+nodeName(n)+" for "+name+" breaks", func(t *modelTurn) {
		t.job().Abandon(i)
		t.answered(driver.Broken)
	})
	s.fault(faultSilent, n, d, "the request of "+nodeName(n)+" for "+name+" is cut off silently", func(t *modelTurn) { t.job().Abandon(i) })
	s.fault(faultKept, n, d, "the request of "+nodeName(n)+" for "+name+" is cut off, and its connection kept", func(t *modelTurn) {
		t.job().Abandon(i)
		t.view().kept = true
	})
	if v := &s.from.nodes[n].views[d]; v.open && s.from.jobs[d].Row.State.Running() && s.awaited(d) {
		s.fault(faultByHand, n, d, "an operator puts "+name+" back, which runs", func(t *modelTurn) {
			t.job().Row = model.Row{State: model.Pending}
			t.notify(false)
			t.faults = 0
		})
	}
}

// awaited reports whether each request for a job has a client.
func (s *stepper) awaited(d int) bool {
	return !slices.ContainsFunc(s.from.jobs[d].Requests[:], func(r model.Request) bool { return r.At != model.None && r.Client == 0 })
}

// process are the ends of a process.
func (s *stepper) process(n int) {
	holds := slices.ContainsFunc(s.from.nodes[n].views[:], func(v modelView) bool { return v.held })
	s.fault(faultCrash, n, 0, nodeName(n)+" dies", func(t *modelTurn) { t.end(true) })
	if holds && s.m.kinds&faultGhost != 0 {
		s.fault(faultCrash, n, 0, "the host of "+nodeName(n)+" vanishes", func(t *modelTurn) {
			for d := range t.node().views {
				v := &t.node().views[d]
				v.ghost = v.ghost || v.held
			}
			t.end(true)
		})
	}
	s.fault(faultPanic, n, 0, "the engine of "+nodeName(n)+" panics", func(t *modelTurn) { t.end(false) })
	if !slices.ContainsFunc(s.from.nodes[n].views[:], func(v modelView) bool {
		return v.task.has && (v.task.phase == phaseClaiming || v.task.phase == phaseUnclaiming || v.task.phase == phaseAsked)
	}) {
		s.fault(faultReload, n, 0, "the engine of "+nodeName(n)+" stops, and another one follows", func(t *modelTurn) { t.end(false) })
	}
}

// maintenance are the steps of the maintenance connection.
func (s *stepper) maintenance(n int) {
	node, name := &s.from.nodes[n], nodeName(n)
	taken := slices.ContainsFunc(s.from.nodes[:], func(o modelNode) bool { return o.lock })
	switch {
	case node.leads && node.lock:
		s.fault(faultMaintenance, n, 0, "PostgreSQL ends the maintenance connection of "+name, func(t *modelTurn) { t.node().lock = false })
	case node.leads:
		s.offer(n, 0, name+" notices the end of its maintenance connection", func(t *modelTurn) {
			t.node().leads, t.node().lost = false, true
			for d := range t.node().views {
				t.node().views[d].vain = 0
			}
		})
	case !taken:
		s.offer(n, 0, name+" is elected", (*modelTurn).leading)
	case node.lost:
		s.offer(n, 0, name+" learns that the other one leads", (*modelTurn).resign)
	}
	if node.lost && slices.ContainsFunc(node.views[:], func(v modelView) bool { return v.served }) {
		s.offer(n, 0, name+" gives its databases up, 30 s without a leader", (*modelTurn).forgetAll)
	}
	if node.leads && !node.settled {
		s.offer(n, 0, name+" has settled", func(t *modelTurn) { t.m.settle(t.node(), false) })
		if s.m.late {
			s.offer(n, 0, name+" has waited long enough", func(t *modelTurn) { t.m.settle(t.node(), true) })
		}
	}
}

// session are the steps of a session on its way, and its faults.
func (s *stepper) session(n, d int) {
	v, name := &s.from.nodes[n].views[d], nodeName(n)+"'s session of "+jobName(d)
	free := !slices.ContainsFunc(s.from.nodes[:], func(o modelNode) bool { return o.views[d].held || o.views[d].ghost })
	switch {
	case !v.served:
	case v.link == linkNone && (free || s.m.rules.lawless):
		s.take(n, d, name+" gets its lock, and listens", s.m.apart && d == 0, func(t *modelTurn) {
			t.step(stepConnect)
			v := t.view()
			v.link, v.held, v.dirty = linkListens, true, false
			v.claim, v.read, v.unclaim, v.inspect, v.rescue, v.dead = false, false, false, false, false, modelRow{}
		})
	case v.link != linkNone && !v.held:
		s.offer(n, d, name+" notices that it is lost", func(t *modelTurn) {
			t.view().link = linkNone
			t.step(stepFail)
		})
	}
	if v.held {
		s.fault(faultSession, n, d, "PostgreSQL ends "+name, func(t *modelTurn) { t.view().held = false })
		s.fault(faultGhost, n, d, name+" is lost, and PostgreSQL does not know", func(t *modelTurn) { t.view().held, t.view().ghost = false, true })
	}
}

// statements are those that a session sends.
func (s *stepper) statements(n, d int) {
	v, name := &s.from.nodes[n].views[d], nodeName(n)
	if v.ghost {
		s.offer(n, d, "PostgreSQL ends the session that "+name+" has lost", func(t *modelTurn) { t.view().ghost = false })
	}
	if !v.held {
		return
	}
	switch v.link {
	case linkListens:
		s.send(n, d, "reads what runs in "+jobName(d), func(t *modelTurn) {
			v := t.view()
			if v.link, v.reply.kind = linkCounted, replyRunning; t.job().Row.State.Running() {
				v.reply.row = rowOf(t.job().Row)
			}
		})
		return
	case linkCounted:
		s.send(n, d, "reads a snapshot of "+jobName(d), func(t *modelTurn) {
			t.view().link, t.view().reply = linkServes, modelReply{kind: replySnapshot, row: rowOf(t.job().Row)}
		})
		return
	case linkNone, linkServes:
	}
	if v.claim {
		s.send(n, d, "claims "+jobName(d), func(t *modelTurn) {
			done := t.rules().claim(t.job(), freshAttempt(&t.modelWorld, t.d))
			for n := range t.nodes {
				if o := &t.nodes[n].views[t.d]; done && o.task.has && o.task.phase == phaseClaiming {
					o.vain = t.job().Row.Attempt // rows tell the time of a claim, not who made it
				}
			}
			t.view().claim = false
			t.wrote(replyClaimed, done)
		})
	}
	if v.unclaim {
		s.send(n, d, "puts "+jobName(d)+" back", func(t *modelTurn) {
			done := t.rules().unclaim(t.job(), t.view().task.attempt)
			t.view().unclaim = false
			t.wrote(replyUnclaimed, done)
		})
	}
	if v.rescue {
		s.send(n, d, "rescues "+jobName(d), func(t *modelTurn) {
			v := t.view()
			done := t.rules().rescue(t.job(), t.m.generation, model.Row{State: v.dead.state, Attempt: v.dead.attempt})
			v.rescue, v.dead = false, modelRow{}
			t.wrote(replyRescued, done)
		})
	}
	if v.read || v.dirty {
		s.offer(n, d, name+" reads "+jobName(d), func(t *modelTurn) {
			v := t.view()
			v.reply = modelReply{kind: replyRows, row: rowOf(t.job().Row), fresh: v.read}
			v.read, v.dirty = false, false
		})
	}
	if v.inspect {
		s.offer(n, d, name+" inspects "+jobName(d), (*modelTurn).look)
	}
}

// send offers a statement, also one whose result is lost.
func (s *stepper) send(n, d int, what string, do func(*modelTurn)) {
	s.offer(n, d, nodeName(n)+" "+what, do)
	s.fault(faultResult, n, d, nodeName(n)+" "+what+", and the result is lost", func(t *modelTurn) {
		do(t)
		t.view().held, t.view().reply = false, modelReply{}
	})
}

// wrote prepares the result of a statement.
func (t *modelTurn) wrote(kind modelKind, done bool) {
	if done {
		t.notify(true)
	}
	t.view().reply = modelReply{kind: kind, row: rowOf(t.job().Row), done: done}
}

// look is an inspection.
func (t *modelTurn) look() {
	found := t.rules().inspected(t.job(), t.m.generation)
	if found == model.Dead && t.job().Row.State == model.Started {
		for i := range t.job().Requests {
			if r := &t.job().Requests[i]; r.At == model.Gap {
				r.Inspected = true
			}
		}
		t.job().Sort()
	}
	t.view().inspect = false
	t.view().reply = modelReply{kind: replyInspected, row: rowOf(t.job().Row), found: found}
}

// task are the steps of the engine's loop with a job.
func (s *stepper) task(n, d int) {
	node, v, name := &s.from.nodes[n], &s.from.nodes[n].views[d], nodeName(n)+" and "+jobName(d)
	s.overdue(n, d)
	k := &v.task
	switch {
	case !k.has:
		if node.leads && node.settled && v.memory == memoryWaits && v.stage.known() && node.occupied() < s.m.capacity {
			s.offer(n, d, name+": a slot is given, a claim ordered", func(t *modelTurn) {
				v := t.view()
				v.memory, v.claim, v.task = memoryOccupies, true, modelTask{has: true, phase: phaseClaiming}
				if t.rules().early {
					t.dispatch()
				}
			})
		}
	case k.phase == phaseWatched:
		s.watched(n, d)
	}
}

// overdue are the ends of requests whose answers got lost on their way.
func (s *stepper) overdue(n, d int) {
	v, name := &s.from.nodes[n].views[d], nodeName(n)+" and "+jobName(d)
	if !v.open || slices.ContainsFunc(s.from.jobs[d].Requests[:], func(r model.Request) bool { return int(r.Client) == n+1 }) {
		return
	}
	if !v.kept {
		s.offer(n, d, name+": keepalives end the request", func(t *modelTurn) { t.answered(driver.Broken) })
		return
	}
	if k := &v.task; !k.has || k.phase != phaseOpen {
		return
	}
	if v.task.gone || v.task.row.known && v.task.row.state == model.Done {
		s.offer(n, d, name+": it has ended, the request is given up", func(t *modelTurn) { t.answered(driver.Broken) })
	}
	// The time that has passed is much longer than a worker needs for its second transaction.
	between := slices.ContainsFunc(s.from.jobs[d].Requests[:], func(r model.Request) bool { return r.At == model.Gap })
	putBack := s.m.generation.Locks && v.task.row.state == model.Pending && !between
	if v.served && v.stage.known() && s.m.generation.Guarded && !v.task.gone && (!v.task.row.known || v.task.row.state == model.Enqueued || putBack) {
		s.offer(n, d, name+": not started for long, the request is given up", func(t *modelTurn) { t.answered(driver.Broken) })
	}
}

// watched are the steps with a task that is watched.
func (s *stepper) watched(n, d int) {
	v, name := &s.from.nodes[n].views[d], nodeName(n)+" and "+jobName(d)
	k := &v.task
	s.offer(n, d, name+": a scan", (*modelTurn).scan)
	if k.waited == 0 {
		s.offer(n, d, name+": watched for 10 s", func(t *modelTurn) { t.view().task.waited = 1 })
	} else if k.waited == 1 && s.m.limited && (s.m.long || s.from.jobs[d].Workers() == 0) {
		s.offer(n, d, name+": watched for the operator's limit", func(t *modelTurn) { t.view().task.waited = 2 })
	}
	slow := slices.ContainsFunc(s.from.jobs[d].Requests[:], func(r model.Request) bool { return r.At == model.Gap && r.Inspected })
	if k.deadSince == 1 && (!slow || s.m.rules.unbounded) {
		s.offer(n, d, name+": 3 s since the inspection", func(t *modelTurn) { t.view().task.deadSince = 2 })
	}
}

// freshAttempt tells a claim from all that is remembered.
func freshAttempt(w *modelWorld, d int) uint8 {
	latest := uint8(0)
	eachAttempt(w, d, func(a *uint8) { latest = max(latest, *a) })
	return latest + 1
}

// eachAttempt visits all that tells claims of a job apart.
func eachAttempt(w *modelWorld, d int, visit func(*uint8)) {
	visit(&w.jobs[d].Row.Attempt)
	for n := range w.nodes {
		v := &w.nodes[n].views[d]
		for _, a := range []*uint8{
			&v.attempt, &v.vain, &v.task.attempt, &v.task.row.attempt, &v.task.deadAt.attempt, &v.dead.attempt, &v.reply.row.attempt,
		} {
			visit(a)
		}
	}
}

// normalize makes states equal that differ only in names: those of claims, and those of nodes.
func (t *modelTurn) normalize() {
	w := &t.modelWorld
	if t.m.nodes == 2 && nodeKey(&w.nodes[1]) > nodeKey(&w.nodes[0]) {
		w.nodes[0], w.nodes[1] = w.nodes[1], w.nodes[0]
		for d := range w.jobs {
			for i := range w.jobs[d].Requests {
				if r := &w.jobs[d].Requests[i]; r.Client > 0 {
					r.Client = 3 - r.Client
				}
			}
			w.jobs[d].Sort()
		}
	}
	for d := range t.m.databases {
		if w.jobs[d].Row.State != model.Enqueued && w.jobs[d].Row.State != model.Started {
			w.jobs[d].Row.Old = false
		}
		var names [32]uint8
		last := uint8(0)
		eachAttempt(w, d, func(a *uint8) {
			if *a == 0 {
				return
			}
			if names[*a] == 0 {
				last++
				names[*a] = last
			}
			*a = names[*a]
		})
	}
}

// nodeKey orders nodes, as far as it goes.
func nodeKey(n *modelNode) (key uint64) {
	bits := []bool{n.leads, n.lock, n.lost, n.settled, n.up}
	for d := range n.views {
		v := &n.views[d]
		bits = append(bits, v.held, v.ghost, v.open, v.served, v.told, v.task.has, v.claim, v.read, v.inspect, v.rescue, v.dirty)
	}
	for _, b := range bits {
		if key <<= 1; b {
			key |= 1
		}
	}
	for d := range n.views {
		v := &n.views[d]
		key = key<<12 | uint64(v.link)<<10 | uint64(v.task.phase)<<7 | uint64(v.memory)<<5 | uint64(v.stage)
	}
	return key
}

func (k modelKind) String() string {
	return [...]string{"", "what runs in", "a snapshot of", "the row of", "a claim of", "putting back of", "an inspection of", "a rescue of"}[k]
}

// show describes a state in a line.
func (m *modelMachine) show(w modelWorld) string {
	var b strings.Builder
	for d := range m.databases {
		fmt.Fprintf(&b, "%s: %s; ", jobName(d), &w.jobs[d])
	}
	for n := range w.nodes {
		node := &w.nodes[n]
		fmt.Fprintf(&b, "%s:", nodeName(n))
		if node.leads {
			b.WriteString(" leads")
		}
		for d := range m.databases {
			if v := &node.views[d]; v.task.has {
				fmt.Fprintf(&b, " %s %s", jobName(d), [...]string{"claiming", "open", "unclaiming", "asked", "watched", "parked"}[v.task.phase])
			}
		}
		if n == 0 {
			b.WriteString("; ")
		}
	}
	return b.String()
}

// quiet is the goal of all: each job has run, and a node that leads keeps no slot.
func quiet(w modelWorld) bool {
	for d := range w.jobs {
		if w.jobs[d].Row.State != model.Done {
			return false
		}
		for n := range w.nodes {
			if v := &w.nodes[n].views[d]; w.nodes[n].leads && (v.task.has || v.memory == memoryOccupies) {
				return false
			}
		}
	}
	return true
}

// othersDone is the goal of what the first database must not keep from the second.
func othersDone(w modelWorld) bool { return w.jobs[1].Row.State == model.Done }
