package runner

import (
	"cmp"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// modelFaults is how many faults a history of the model may have: any of them, at any moment. One takes
// seconds, and three gigabytes.
func modelFaults(t *testing.T) uint8 {
	n, err := strconv.ParseUint(cmp.Or(os.Getenv("JOBRUNNER_MODEL_FAULTS"), "1"), 10, 8)
	require.NoError(t, err)
	return uint8(n)
}

// explore explores a model, and returns how it violates a property: by a state that must not be, or by
// one that can never become quiet again. Of a model that is as it should be it reports the size.
func (m *modelMachine) explore(t *testing.T, goal func(modelWorld) bool) (violated, trace string) {
	t.Helper()
	began := time.Now()
	g := model.Explore(m.system())
	at := g.Violation
	if violated = g.Property; at < 0 {
		if at = g.Stuck(goal); at >= 0 {
			violated = modelStuck
		}
	}
	if at >= 0 {
		trace = g.Trace(at, m.show)
	}
	t.Logf("%s, %d jobs, %d faults: %d states, %d steps, depth %d, %s %s", m.generation.Name, m.databases, m.budget,
		g.States(), g.Steps, g.Depth(), time.Since(began).Round(time.Millisecond), violated)
	return violated, trace
}

// modelStuck is the violation of both properties of progress.
const modelStuck = "a slot is kept for ever, or a job never runs"

// oneJob and twoJobs are the two sizes: two nodes and one database, or two that share one slot.
func oneJob(g model.Generation, kinds modelFault, budget uint8) *modelMachine {
	return &modelMachine{generation: g, nodes: 2, databases: 1, capacity: 1, kinds: kinds, budget: budget, rules: realRules()}
}

func twoJobs(g model.Generation, kinds modelFault, budget uint8) *modelMachine {
	m := oneJob(g, kinds, budget)
	m.databases = 2
	return m
}

// harmless are the faults after which, in each generation, all slots become free and all jobs run, in any
// number and order. TestModelConditions shows what the others do.
var harmless = []struct {
	generation model.Generation
	kinds      modelFault
}{
	{model.WithLocks, faultsAll &^ faultKept},
	{model.WithoutLocks, faultsAll &^ faultDies},
	{model.Unguarded, faultNotSent | faultRefused | faultBreaks | faultSilent | faultKept | faultSession | faultGhost | faultResult},
}

// always is the goal where only safety counts.
func always(modelWorld) bool { return true }

// In no history does a job run twice at once or again, and none has more jobs run than there are slots;
// whatever fails. And unless it is one of the faults that TestModelConditions knows, all slots become free
// and all jobs run.
func TestModel(t *testing.T) {
	t.Parallel()
	holds := func(name string, goal func(modelWorld) bool, m *modelMachine) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			violated, trace := m.explore(t, goal)
			require.Empty(t, violated, "\n%s", trace)
		})
	}
	faults := modelFaults(t)
	for _, h := range harmless {
		g, kinds, byHand := h.generation, h.kinds, h.kinds|faultReload
		takeOver := kinds & (faultSession | faultMaintenance | faultReload | faultCrash)
		if faults == 1 {
			takeOver &^= faultMaintenance // which has the most states by far
		}
		if faults == 1 && g.Locks {
			// One fault alone is harmless. The others of this generation show what those of the next ones do.
			kinds, byHand, takeOver = faultsAll, faultsProcess|faultSession|faultMaintenance, faultSession
		}
		safe := faultsAll
		if faults > 1 && !g.Guarded {
			safe &^= faultMaintenance // together with a lost session
		}
		if kinds != safe {
			holds(g.Name+"/all faults", always, oneJob(g, safe, faults))
		}
		holds(g.Name+"/harmless faults", quiet, oneJob(g, kinds, faults))
		// A job may be put back by hand while its process waits for the answer: that process sends no second
		// request. Another one does, so there is only one.
		holds(g.Name+"/put back by hand", always, oneNode(oneJob(g, byHand|faultByHand, faults+1)))
		// Two databases have so many states that there is one fault fewer.
		holds(g.Name+"/two databases", quiet, twoJobs(g, takeOver, max(1, faults-1)))
		// What is over in a database that is never reached again keeps no slot from another one.
		holds(g.Name+"/one database out of reach", othersDone, apart(twoJobs(g, faultNotSent|faultRefused|faultSession, max(1, faults-1))))
	}
}
