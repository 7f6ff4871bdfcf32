package runner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// With a guard the model finds nothing, and without it a history that violates a property. Each of these is
// a decision, a condition of a statement, or a duty of the engine.
func TestModelMutations(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		m      *modelMachine
		goal   func(modelWorld) bool
		change func(*modelRules)
		want   string
	}{
		"a rescue after one inspection": {
			m: oneJob(model.WithLocks, faultBreaks, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) {
				r.lock = func(t *task, _ time.Time) driver.Verdict {
					if !t.deadSince.IsZero() {
						return driver.Dead
					}
					return driver.Uncertain
				}
			},
		},
		"a rescue after two inspections of different states": {
			m: oneJob(model.WithLocks, faultCrash, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) {
				r.inspect = func(t *task, l *driver.Liveness, now time.Time) {
					t.deadAt = lookedAt{l.Row.State, l.Row.Enqueued}
					t.inspectedAs(l, now)
				}
			},
		},
		"a rescue that does not try the lock": {
			m: oneJob(model.WithLocks, faultBreaks|faultHidden, 2), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) {
				r.rescue = func(j *model.Job, _ model.Generation, found model.Row) bool {
					if j.Row.State != found.State || j.Row.Attempt != found.Attempt || !j.Row.Old {
						return false
					}
					j.Row.State = model.Pending
					return true
				}
			},
		},
		"a rescue that does not test the state": {
			m: oneJob(model.WithLocks, faultBreaks, 1), want: modelBreaches[modelAgain],
			change: func(r *modelRules) {
				r.rescue = func(j *model.Job, _ model.Generation, _ model.Row) bool {
					if j.Locked() {
						return false
					}
					j.Row.State = model.Pending
					return true
				}
			},
		},
		"no rescue": {
			m: oneJob(model.WithLocks, faultDies, 1), want: modelStuck,
			change: func(r *modelRules) { r.judge = instead(dead, mayExecute) },
		},
		"a started job counts as dead after a while, without a lock table": {
			m: oneJob(model.WithoutLocks, faultBreaks, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) {
				r.judge = func(ev *evidence) finding {
					if !ev.open && ev.row == rowStarted && ev.waited >= lostGrace {
						return dead
					}
					return ev.judge()
				}
			},
		},
		"a job is put back whose request broke, where Odoo is not guarded": {
			m: oneJob(model.Unguarded, faultBreaks, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) { r.judge = instead(undecided, unstarted) },
		},
		"a broken request counts as one that was answered": {
			m: oneJob(model.Unguarded, faultBreaks, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) {
				r.judge = func(ev *evidence) finding {
					if ev.ours && ev.request == requestUnknown {
						ev.request = requestEnded
					}
					return ev.judge()
				}
			},
		},
		"what was not delivered is not put back": {
			m: oneJob(model.Unguarded, faultNotSent, 1), want: modelStuck,
			change: func(r *modelRules) {
				r.judge, r.unclaim = instead(unstarted, mayExecute), func(*model.Job, uint8) bool { return false }
			},
		},
		"a job is put back without a test of its state": {
			m: oneJob(model.WithoutLocks, faultBreaks, 1), want: modelBreaches[modelAgain],
			change: func(r *modelRules) {
				r.unclaim = func(j *model.Job, _ uint8) bool {
					j.Row = model.Row{State: model.Pending}
					return true
				}
			},
		},
		"a job is sent before its claim is committed": {
			m: oneJob(model.Unguarded, faultCrash, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) { r.early = true },
		},
		"two nodes hold the lock of a database, and claims do not test the state": {
			m: oneJob(model.WithoutLocks, faultMaintenance, 1), want: modelBreaches[modelAgain],
			change: func(r *modelRules) {
				r.lawless = true
				r.claim = func(j *model.Job, attempt uint8) bool {
					j.Row = model.Row{State: model.Enqueued, Attempt: attempt}
					return true
				}
			},
		},
		"a row counts, and not the open request": {
			m: oneNode(oneJob(model.WithoutLocks, faultReload|faultByHand, 2)), want: modelBreaches[modelTwiceOpen],
			change: func(r *modelRules) { r.forgetful = true },
		},
		"a new leader does not wait for what runs": {
			m: twoJobs(model.WithoutLocks, faultCrash, 1), want: modelBreaches[modelAbove],
			change: func(r *modelRules) {
				r.settle = func(l *leadership, _ time.Time, _ func() bool) { l.settled = true }
			},
		},
		"a lost session frees its slots": {
			m: twoJobs(model.WithLocks, faultSession, 1), want: modelBreaches[modelAbove],
			change: func(r *modelRules) { r.frees = true },
		},
		"what is over keeps its slot while its session is lost": {
			m: apart(twoJobs(model.WithLocks, faultSession, 1)), want: modelStuck, goal: othersDone,
			change: func(r *modelRules) { r.keeps = true },
		},
		"a lost session counts as served": {
			m: oneJob(model.WithLocks, faultSession, 1), want: modelStuck,
			change: func(r *modelRules) {
				r.after = func(s stage, what step) stage {
					if what == stepFail || what == stepConnect {
						return s
					}
					return s.after(what)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.goal == nil {
				c.goal = quiet
			}
			control := c.goal
			if c.want != modelStuck {
				control = always
			}
			violated, trace := c.m.explore(t, control)
			require.Empty(t, violated, "with the guard\n%s", trace)
			c.change(&c.m.rules)
			violated, trace = c.m.explore(t, c.goal)
			t.Logf("\n%s", trace)
			require.Equal(t, c.want, violated)
		})
	}
}

// Where a promise has a condition, the model finds a history that needs it.
func TestModelConditions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		m      *modelMachine
		change func(*modelRules)
		want   string
	}{
		"lock table: a worker dies, and something keeps its connection open": {
			m: oneJob(model.WithLocks, faultDies|faultKept, 2), want: modelStuck,
		},
		"lock table: a worker takes longer for its second transaction than two inspections": {
			m: oneJob(model.WithLocks, faultBreaks, 1), want: modelBreaches[modelOverlap],
			change: func(r *modelRules) { r.unbounded = true },
		},
		"an answer never arrives, something keeps its connection open, and the job is queued again": {
			m: oneJob(model.WithoutLocks, faultKept|faultAgain, 2), want: modelStuck,
		},
		"lock table: an answer never arrives, something keeps its connection open, and the job is queued again": {
			m: oneJob(model.WithLocks, faultKept|faultAgain, 2),
		},
		"an answer never arrives, and the job is queued again": {m: oneJob(model.WithoutLocks, faultSilent|faultAgain, 2)},
		"no lock table: a worker dies":                         {m: oneJob(model.WithoutLocks, faultDies, 1), want: modelStuck},
		"no lock table: a worker dies, and the operator has set a limit": {
			m: limited(oneJob(model.WithoutLocks, faultDies, 1), false),
		},
		"no lock table: a job takes longer than the operator's limit": {
			m: limited(oneJob(model.WithoutLocks, faultBreaks, 1), true), want: modelBreaches[modelOverlap],
		},
		"unguarded: a worker dies":                  {m: oneJob(model.Unguarded, faultDies, 1), want: modelStuck},
		"unguarded: a server ends with its backlog": {m: oneJob(model.Unguarded, faultLost, 1), want: modelStuck},
		"unguarded: the result of a claim is lost":  {m: oneJob(model.Unguarded, faultResult, 1)},
		"unguarded: the result of a claim is lost while a leader that is none any more makes another one": {
			m: oneJob(model.Unguarded, faultGhost|faultMaintenance, 2), want: modelBreaches[modelOverlap],
		},
		"unguarded: leadership is lost during a claim":                  {m: oneJob(model.Unguarded, faultMaintenance, 1), want: modelStuck},
		"unguarded: a process ends":                                     {m: oneJob(model.Unguarded, faultCrash, 1), want: modelStuck},
		"unguarded: an engine panics":                                   {m: oneJob(model.Unguarded, faultPanic, 1), want: modelStuck},
		"unguarded: an engine stops":                                    {m: oneJob(model.Unguarded, faultReload, 1)},
		"unguarded: an engine stops, and its request is refused":        {m: oneJob(model.Unguarded, faultReload|faultRefused, 2), want: modelStuck},
		"a new leader starts before all databases have told what runs":  {m: late(twoJobs(model.WithoutLocks, faultCrash, 1)), want: modelBreaches[modelAbove]},
		"another node leads when an operator puts back a job that runs": {m: oneJob(model.WithLocks, faultReload|faultByHand, 2), want: modelBreaches[modelOverlap]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.change != nil {
				c.change(&c.m.rules)
			}
			violated, trace := c.m.explore(t, quiet)
			t.Logf("\n%s", trace)
			require.Equal(t, c.want, violated)
		})
	}
}

// instead replaces one finding by another.
func instead(what, by finding) func(*evidence) finding {
	return func(ev *evidence) finding {
		if f := ev.judge(); f != what {
			return f
		}
		return by
	}
}

func oneNode(m *modelMachine) *modelMachine {
	m.nodes = 1
	return m
}

// apart is a model whose first database may never be reached again; a leader does not wait for it for ever.
func apart(m *modelMachine) *modelMachine {
	m.apart, m.late = true, true
	return m
}

func late(m *modelMachine) *modelMachine {
	m.late = true
	return m
}

func limited(m *modelMachine, long bool) *modelMachine {
	m.limited, m.long = true, long
	return m
}
