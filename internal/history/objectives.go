package history

import (
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
)

// objectiveCache bounds the pairs of database and channel of which it is known which objective holds.
const objectiveCache = 10_000

// Objective is how well the jobs of one policy have kept its objective, since this process began.
type Objective struct {
	// Policy names it.
	Policy string
	Wait   time.Duration
	// Target is which part of the jobs is to wait no longer than that.
	Target float64
	// Attempts is how many were sent and have ended, and Late how many of them had waited longer.
	Attempts, Late uint64
	// Burn says how it is not kept now; nil if it is.
	Burn *Burn
}

// objectives count how well policies keep their objectives. Those of all jobs have none that could be
// missed a little, and are not counted.
type objectives struct {
	set  *policy.Set
	list []*counted
	of   map[*policy.Objective]*counted
	// known are those that were found, nil where there is none.
	known map[[2]string]*counted
	// dropped are those that burned when a configuration without them came.
	dropped []*counted
}

// configure makes the objectives of policies those that count. What is known of one that stays is kept.
func (o *objectives) configure(policies []policy.Policy) {
	old, dropped := o.list, o.dropped
	*o = objectives{set: policy.Compile(policies), of: make(map[*policy.Objective]*counted), known: make(map[[2]string]*counted)}
	for i := range policies {
		p := &policies[i]
		if p.Objective == nil || p.Objective.Percent == 0 || p.Objective.Percent == 100 {
			continue
		}
		next := &counted{Objective: Objective{Policy: p.String(), Wait: p.Objective.Wait, Target: float64(p.Objective.Percent) / 100}}
		for i, was := range old {
			if was != nil && was.Policy == next.Policy && was.Wait == next.Wait {
				target := next.Target
				*next, old[i] = *was, nil
				next.Target = target
			}
		}
		o.list = append(o.list, next)
		o.of[p.Objective] = next
	}
	for _, was := range append(old, dropped...) {
		if was != nil && was.Burn != nil {
			o.dropped = append(o.dropped, was)
		}
	}
}

// add counts an attempt.
func (o *objectives) add(n *note) {
	if len(o.list) == 0 || n.wait <= 0 {
		return
	}
	at := [2]string{n.series.Channel, n.series.Database}
	found, ok := o.known[at]
	if !ok {
		if len(o.known) >= objectiveCache {
			clear(o.known)
		}
		found = o.of[o.set.Objective(at[0], at[1])]
		o.known[at] = found
	}
	if found == nil {
		return
	}
	found.Attempts++
	late := n.wait > found.Wait
	if late {
		found.Late++
	}
	found.minutes.add(minute(time.Unix(0, n.at)), late)
}

// Objectives says how well the policies have kept their objectives, those of all jobs left out.
func (l *Log) Objectives() (list []Objective) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.objectives.list {
		list = append(list, o.Objective)
	}
	return list
}
