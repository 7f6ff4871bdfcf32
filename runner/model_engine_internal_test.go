package runner

import (
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// modelTurn is one step that is being taken: the state that it makes, for node n and database d.
type modelTurn struct {
	modelWorld

	m    *modelMachine
	n, d int
	// again is set if a user has queued a job that had ended.
	again bool
}

func (t *modelTurn) node() *modelNode   { return &t.nodes[t.n] }
func (t *modelTurn) view() *modelView   { return &t.nodes[t.n].views[t.d] }
func (t *modelTurn) job() *model.Job    { return &t.jobs[t.d] }
func (t *modelTurn) client() uint8      { return uint8(t.n + 1) }
func (t *modelTurn) rules() *modelRules { return &t.m.rules }

// violate notes that a property is violated.
func (t *modelTurn) violate(b modelBreach) {
	if t.broken == modelSafe {
		t.broken = b
	}
}

// notify tells the sessions that listen of a change, but not the one that has made it.
func (t *modelTurn) notify(byUs bool) {
	for n := range t.nodes {
		if v := &t.nodes[n].views[t.d]; v.held && v.link != linkNone && (!byUs || n != t.n) {
			v.dirty = true
		}
	}
}

// step takes in what happened to a database.
func (t *modelTurn) step(what step) {
	v := t.view()
	was := v.stage
	v.stage = t.rules().after(was, what)
	if was.known() && !v.stage.known() {
		t.lose()
	}
}

func (t *modelTurn) lose() {
	v := t.view()
	if !v.task.has {
		return
	}
	switch v.task.phase {
	case phaseClaiming:
		v.task, v.memory = modelTask{}, memoryWaits
	case phaseUnclaiming, phaseAsked, phaseWatched:
		t.rest()
	case phaseOpen, phaseParked:
		if t.rules().frees && v.task.phase == phaseOpen {
			v.memory = memoryNone
		}
	}
}

func (t *modelTurn) rest() {
	v := t.view()
	j := t.m.judge(v)
	switch {
	case j.concluded && (j.finding == idle || j.finding == unstarted) && !t.rules().keeps:
		v.task.phase, v.memory = phaseParked, memoryWaits
	case v.task.phase != phaseWatched:
		t.watch()
	}
	if t.rules().frees {
		v.memory = memoryNone
	}
}

func (t *modelTurn) watch() { t.view().task.phase, t.view().task.waited = phaseWatched, 0 }

// applyRow takes in a row. fresh: it answers the order to read.
func (t *modelTurn) applyRow(row modelRow, fresh, inherit bool) {
	v := t.view()
	k := &v.task
	if !k.has {
		t.applyToTree(row, inherit)
		return
	}
	switch k.phase {
	case phaseClaiming, phaseUnclaiming:
		return
	case phaseOpen:
		k.row, k.gone = row, false
		return
	case phaseAsked:
		if !fresh && !t.rules().stale {
			if row.state.Running() {
				return
			}
			v.read = false
		}
	case phaseParked:
	case phaseWatched:
		if !k.row.known || k.row.attempt != row.attempt {
			k.waited = 0
		}
	}
	k.row = row
	if row.state.Running() {
		t.stillRunning(row)
		return
	}
	t.settle()
}

func (t *modelTurn) applyToTree(row modelRow, inherit bool) {
	v := t.view()
	switch {
	case row.state.Running(), row.state == model.Pending && inherit && v.open && !t.rules().forgetful:
		t.adopt(row)
	case row.state == model.Pending:
		v.memory = memoryWaits
	default:
		v.memory = memoryNone
	}
}

func (t *modelTurn) adopt(row modelRow) {
	v := t.view()
	v.task, v.memory = modelTask{has: true, phase: phaseWatched, row: row}, memoryOccupies
	if v.open {
		t.join()
		v.task.attempt, v.task.ours = v.attempt, true
	} else if v.vain != 0 && row.state == model.Enqueued && row.attempt == v.vain {
		v.task.attempt, v.task.ours = v.vain, true
	}
}

func (t *modelTurn) join() { t.view().task.phase, t.view().task.sent = phaseOpen, true }

func (t *modelTurn) applyGone() {
	v := t.view()
	if !v.task.has {
		v.memory = memoryNone
		return
	}
	v.task.row, v.task.gone = modelRow{}, true
	t.settle()
}

func (t *modelTurn) settle() {
	v := t.view()
	if v.memory = memoryNone; !v.task.gone && v.task.row.state == model.Pending {
		v.memory = memoryWaits
	}
	v.task = modelTask{}
}

func (t *modelTurn) stillRunning(modelRow) {
	v := t.view()
	j := t.m.judge(v)
	if v.task.phase == phaseAsked && j.ours && !v.task.stuck && j.finding == unstarted {
		t.putBackOrder()
		return
	}
	if v.task.phase != phaseWatched {
		t.watch()
	}
	v.memory = memoryOccupies
}

// putBackOrder is engine.unclaim.
func (t *modelTurn) putBackOrder() {
	v := t.view()
	if !v.served || !v.stage.known() {
		t.rest()
		return
	}
	v.task.phase, v.unclaim = phaseUnclaiming, true
}

func (t *modelTurn) ask() {
	v := t.view()
	if !v.stage.known() {
		t.rest()
		return
	}
	v.task.phase, v.read, v.reply.fresh = phaseAsked, true, false
}

func (t *modelTurn) snapshot(row modelRow) {
	v := t.view()
	t.step(stepLoad)
	finished := row.state == model.Done // a snapshot holds none of these
	if !finished {
		t.applyRow(row, false, true)
	} else if !v.task.has {
		t.applyGone()
	}
	t.step(stepLoaded)
	v.told, v.vain = true, 0
	if k := &v.task; finished && k.has {
		switch k.phase {
		case phaseOpen:
			v.read = true
		case phaseParked:
			v.memory = memoryNone
			t.ask()
		case phaseWatched:
			t.ask()
		case phaseClaiming, phaseUnclaiming, phaseAsked:
		}
	}
}

func (t *modelTurn) claimed(r *modelReply) {
	v := t.view()
	v.vain = 0
	k := &v.task
	scheduled := k.has && (k.phase == phaseClaiming || t.rules().early)
	switch {
	case r.done:
		if !scheduled {
			v.task = modelTask{has: true}
		}
		if k.attempt, k.ours = r.row.attempt, true; t.rules().early {
			return
		}
		v.memory = memoryOccupies
		if !scheduled {
			t.putBackOrder()
			return
		}
		t.dispatch()
	case !k.has || k.phase != phaseClaiming:
	case r.row.state.Running():
		v.task = modelTask{}
		t.applyRow(r.row, false, false)
	default:
		k.row = r.row
		t.settle()
	}
}

func (t *modelTurn) dispatch() {
	v := t.view()
	v.task.phase, v.task.row, v.task.gone, v.task.sent = phaseOpen, modelRow{}, false, true
	if v.open && !t.rules().forgetful {
		return // that one is waited for
	}
	if v.open {
		t.violate(modelTwiceOpen)
		return
	}
	v.open, v.attempt = true, v.task.attempt
	t.job().Send(t.client())
}

func (t *modelTurn) answered(outcome driver.Outcome) {
	v := t.view()
	v.open, v.attempt, v.kept = false, 0, false
	k := &v.task
	if !k.has || k.phase != phaseOpen {
		return
	}
	k.result = uint8(outcome) + 1
	settled := k.gone || k.row.known && !k.row.state.Running()
	if !settled {
		k.row = modelRow{}
	}
	switch {
	case !v.served:
		k.gone = true
		t.settle()
	case settled:
		t.settle()
	case outcome == driver.NotSent && k.attempt != 0:
		t.putBackOrder()
	default:
		t.ask()
	}
}

func (t *modelTurn) unclaimed(r *modelReply) {
	k := &t.view().task
	switch {
	case !k.has || k.phase != phaseUnclaiming:
	case !r.done:
		k.stuck = true
		t.ask()
	default:
		k.row, k.gone, k.result = r.row, false, 0
		t.settle()
	}
}

// scan checks a task that is watched.
func (t *modelTurn) scan() {
	v := t.view()
	v.task.deadAgain = false
	if v.stage.known() && !t.decide() && t.m.generation.Locks {
		v.inspect = true
	}
}

func (t *modelTurn) decide() bool {
	v := t.view()
	k := &v.task
	j := t.m.judge(v)
	switch j.finding {
	case mayExecute:
		return false
	case idle:
		if !k.row.known && !k.gone {
			t.ask()
			return true
		}
		t.settle()
	case unstarted:
		if !j.ours {
			k.ours, k.result, k.attempt = false, 0, k.row.attempt
		}
		t.putBackOrder()
	case undecided:
	case dead:
		v.rescue, v.dead = true, k.row
	}
	return true
}

func (t *modelTurn) inspected(r *modelReply) {
	k := &t.view().task
	if !k.has || k.phase != phaseWatched {
		return
	}
	real := t.view().real()
	t.rules().inspect(real, &driver.Liveness{Row: *r.row.real(), Verdict: driver.Verdict(r.found)}, modelNow)
	k.alive, k.deadAgain = real.alive, real.deadAgain
	switch {
	case real.deadSince.IsZero():
		k.deadSince, k.deadAt = 0, modelRow{}
	case real.deadSince.Equal(modelNow):
		k.deadSince, k.deadAt = 1, r.row
	}
	if driver.Verdict(r.found) != driver.Dead {
		t.applyRow(r.row, false, false)
		return
	}
	k.row = r.row
	t.decide()
}

func (t *modelTurn) rescued(r *modelReply) {
	if !r.done {
		return
	}
	k := &t.view().task
	if k.has && k.phase == phaseWatched && k.result != 0 && k.row.known && k.row.state == model.Enqueued {
		k.row, k.gone, k.result = r.row, false, 0
		t.settle()
		return
	}
	t.applyRow(r.row, false, false)
}

// receive takes in the result of a statement.
func (t *modelTurn) receive() {
	v := t.view()
	r := v.reply
	v.reply = modelReply{}
	switch r.kind {
	case replyRunning:
		if r.row.known {
			t.applyRow(r.row, false, false)
		}
	case replySnapshot:
		t.snapshot(r.row)
	case replyRows:
		t.applyRow(r.row, r.fresh, false)
	case replyClaimed:
		t.claimed(&r)
	case replyUnclaimed:
		t.unclaimed(&r)
	case replyInspected:
		t.inspected(&r)
	case replyRescued:
		t.rescued(&r)
	case replyNone:
	}
}

// forget drops a database: its session ends, and with it its lock. A request that is open lives on.
func (t *modelTurn) forget() {
	v := t.view()
	left := modelView{open: v.open, attempt: v.attempt, kept: v.kept, ghost: v.ghost}
	if v.task.has && v.task.phase == phaseOpen {
		left.task, left.memory = v.task, memoryOccupies
	}
	*v = left
}

// leading takes in that this node leads, and which databases there are.
func (t *modelTurn) leading() {
	node := t.node()
	node.leads, node.lock, node.lost, node.settled = true, true, false, false
	for d := range t.m.databases {
		v := &node.views[d]
		if v.told = v.served && v.stage.known(); !v.served {
			v.served, v.stage = true, stageConnecting
		}
	}
}

// resign takes in that another one does.
func (t *modelTurn) resign() {
	node := t.node()
	node.leads, node.lock, node.lost, node.settled = false, false, false, false
	t.forgetAll()
}

func (t *modelTurn) forgetAll() {
	for t.d = range t.m.databases {
		t.forget()
	}
}

// end is the end of a process, or of the engine in it. Of the latter the open requests live on.
func (t *modelTurn) end(process bool) {
	node := t.node()
	t.forgetAll()
	*node = modelNode{up: !process, views: node.views}
	for d := range node.views {
		v := &node.views[d]
		v.task, v.memory = modelTask{}, memoryNone
		if !process {
			continue
		}
		v.open, v.attempt, v.kept = false, 0, false
		t.jobs[d].Leave(t.client())
	}
}
