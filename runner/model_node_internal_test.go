package runner

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/exchange"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// The model of docs/model.md: what one node knows and does. The steps follow the engine's, method by
// method, and carry their names. What they decide, the engine's own functions decide: evidence.judge,
// engine.evidence with task.request, task.lock and saysOf, task.inspectedAs, stage.after and
// stage.known, leadership.settle and database.settling.

const (
	modelNodes     = 2
	modelDatabases = 2 // with one job each
)

// modelWorld is a state of the model. Its values are small, so that equal states are equal values.
type modelWorld struct {
	jobs  [modelDatabases]model.Job
	nodes [modelNodes]modelNode
	// faults is how many may still happen.
	faults uint8
	broken modelBreach
}

// modelBreach is a property of safety that is violated.
type modelBreach uint8

const (
	modelSafe modelBreach = iota
	modelOverlap
	modelAgain
	modelTwiceOpen
	modelAbove
)

var modelBreaches = [...]string{
	modelOverlap: "two workers run one job at once", modelAgain: "a finished job is put back, or run again",
	modelTwiceOpen: "a job is sent while this process waits for an answer about it", modelAbove: "more jobs run than the channel has slots",
}

// modelNode is a process, with its maintenance connection and its databases.
type modelNode struct {
	up bool
	// leads is what it believes, and lock whether PostgreSQL agrees.
	leads, lock bool
	// lost: the maintenance connection is lost.
	lost, settled bool
	views         [modelDatabases]modelView
}

// modelLink is how far a session is.
type modelLink uint8

const (
	linkNone modelLink = iota
	// linkListens: it holds the lock and listens.
	linkListens
	// linkCounted: it has read what runs.
	linkCounted
	// linkServes: it has read the snapshot, and carries orders out.
	linkServes
)

// modelMemory is what the channel tree knows of a job.
type modelMemory uint8

const (
	memoryNone modelMemory = iota
	memoryWaits
	memoryOccupies
)

// modelView is what a node has of a database.
type modelView struct {
	served, told bool
	stage        stage
	link         modelLink
	// held: the session's backend lives, and has the database's lock. ghost: an earlier one does.
	held, ghost bool
	memory      modelMemory
	task        modelTask
	// open: the process waits for the answer to a request that was sent for attempt.
	open    bool
	attempt uint8
	// kept: the connection of that request never ends by itself.
	kept bool
	// vain is the claim that was made while one of ours was under way whose result got lost; it counts as
	// ours (database.claimedInVain).
	vain uint8
	// dirty: a notification has arrived.
	dirty bool
	// What the session is to do.
	claim, read, unclaim, inspect, rescue bool
	dead                                  modelRow
	reply                                 modelReply
}

// modelRow is a row as it was read.
type modelRow struct {
	known   bool
	state   model.State
	attempt uint8
}

// modelTask is a task.
type modelTask struct {
	has         bool
	phase       phase
	ours, sent  bool
	attempt     uint8
	row         modelRow
	gone, stuck bool
	// result is how the exchange ended, plus one.
	result uint8
	// waited is 1 when lostGrace has passed since it is watched, 2 when the operator's limit has.
	waited uint8
	// deadSince is 1 after an inspection that found it dead, and 2 when deadApart has passed since.
	deadSince        uint8
	deadAgain, alive bool
	deadAt           modelRow
}

// modelReply is the result of a statement that the engine has not taken in yet.
type modelReply struct {
	kind modelKind
	row  modelRow
	// done: it has changed the row. fresh: it answers the order to read.
	done, fresh bool
	found       model.Finding
}

type modelKind uint8

const (
	replyNone modelKind = iota
	replyRunning
	replySnapshot
	replyRows
	replyClaimed
	replyUnclaimed
	replyInspected
	replyRescued
)

// modelRules are the decisions, each in the form in which a mutation can replace it.
type modelRules struct {
	judge   func(*evidence) finding
	inspect func(*task, *driver.Liveness, time.Time)
	lock    func(*task, time.Time) driver.Verdict
	after   func(stage, step) stage
	settle  func(*leadership, time.Time, func() bool)
	// The statements.
	claim     func(j *model.Job, attempt uint8) bool
	unclaim   func(j *model.Job, attempt uint8) bool
	inspected func(j *model.Job, g model.Generation) model.Finding
	rescue    func(j *model.Job, g model.Generation, found model.Row) bool
	// What the engine does beyond its decisions: it sends a job when its claim has been committed; it
	// believes a row only if it was read after the exchange; it waits for the open requests of another
	// engine of the process; a lost session frees no slot that its evidence does not free; what nothing
	// executes does not keep its slot.
	early, stale, forgetful, frees, keeps bool
	// lawless: PostgreSQL's lock of a database excludes nobody.
	lawless bool
	// unbounded: a worker may take longer for its second transaction than lies between two inspections.
	unbounded bool
}

func realRules() modelRules {
	return modelRules{
		judge: (*evidence).judge, inspect: (*task).inspectedAs, lock: (*task).lock, after: stage.after, settle: (*leadership).settle,
		claim: (*model.Job).Claim, unclaim: (*model.Job).Unclaim, inspected: (*model.Job).Inspect, rescue: (*model.Job).Rescue,
	}
}

// modelNow is when everything is decided; what happened before is dated back.
var modelNow = time.Unix(1_700_000_000, 0)

// modelLimit is the operator's limit for started jobs, where there is one.
const modelLimit = time.Hour

var (
	modelWaited = [...]time.Duration{0, lostGrace, modelLimit}
	modelApart  = [...]time.Duration{0, 0, deadApart}
	modelStates = [...]channels.State{
		model.Pending: channels.Pending, model.Enqueued: channels.Enqueued, model.Started: channels.Started, model.Done: channels.Done,
	}
)

// real is the row as the engine knows it.
func (r modelRow) real() *driver.Row {
	if !r.known {
		return nil
	}
	return &driver.Row{State: modelStates[r.state], Enqueued: int64(r.attempt)}
}

// rowOf is a row of the engine in the model.
func rowOf(r model.Row) modelRow { return modelRow{known: true, state: r.State, attempt: r.Attempt} }

// real is the task as the engine has it.
func (v *modelView) real() *task {
	k := &v.task
	t := &task{
		phase: k.phase, attempt: driver.Task{Enqueued: int64(k.attempt)}, ours: k.ours, sent: k.sent, row: k.row.real(), gone: k.gone,
		since: modelNow.Add(-modelWaited[k.waited]), deadAgain: k.deadAgain, alive: k.alive,
	}
	if v.open && k.phase == phaseOpen {
		t.exchange = &exchange.Exchange{}
	}
	if k.result > 0 {
		t.result = &driver.Result{Outcome: driver.Outcome(k.result - 1)}
	}
	if k.deadSince > 0 {
		t.deadSince = modelNow.Add(-modelApart[k.deadSince])
		t.deadAt = lookedAt{modelStates[k.deadAt.state], int64(k.deadAt.attempt)}
	}
	return t
}

// judgement is a finding with what led to it.
type judgement struct {
	finding         finding
	ours, concluded bool
}

// judge has the engine's evidence judged by the rules. db is false if it is not served.
func (m *modelMachine) judge(v *modelView) judgement {
	key := judged{v.task, v.open, v.served}
	if j, ok := m.judged[key]; ok {
		return j
	}
	var db *database
	if v.served {
		db = &database{fingerprint: m.fingerprint()}
	}
	t := v.real()
	ev := m.engine.evidence(db, t, modelNow)
	ev.lock = m.rules.lock(t, modelNow)
	j := judgement{m.rules.judge(&ev), ev.ours, ev.concluded()}
	m.judged[key] = j
	return j
}

// judged is what a judgement depends on.
type judged struct {
	task         modelTask
	open, served bool
}

// occupied counts the slots of a node.
func (n *modelNode) occupied() (slots int) {
	for d := range n.views {
		if n.views[d].memory == memoryOccupies {
			slots++
		}
	}
	return slots
}

// settling is whether a new leader should wait.
func (n *modelNode) settling() bool {
	for d := range n.views {
		v := &n.views[d]
		if db := (&database{told: v.told, stage: v.stage}); v.served && db.settling() {
			return true
		}
	}
	return false
}

// settle is leadership.settle, within the time that it may wait; late is beyond it.
func (m *modelMachine) settle(n *modelNode, late bool) {
	l := leadership{settled: n.settled, settleBy: modelNow.Add(time.Second)}
	if late {
		l.settleBy = modelNow
	}
	m.rules.settle(&l, modelNow, n.settling)
	n.settled = l.settled
}
