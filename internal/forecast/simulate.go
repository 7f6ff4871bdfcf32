package forecast

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

const (
	// lagMost bounds what is taken for the time of a claim.
	lagMost = 200 * time.Millisecond
	// unexplainedShare is how much of the waiting the tree has to explain for a simulation to mean
	// something, and unexplainedLeast how long jobs must have waited for other reasons for that to count.
	unexplainedShare = .2
	unexplainedLeast = time.Second
	// simulateLeast is how many jobs a simulation needs.
	simulateLeast = 20
)

// ErrRefused is the error of a simulation that would mislead.
var ErrRefused = errors.New("this cannot be simulated")

// Question asks what another tree would have made of recorded jobs.
type Question struct {
	// Jobs are those that were sent or had to wait between From and Until, with when they were sent.
	Jobs        []Job
	From, Until time.Time
	// Same makes the tree that there was, Other the other one.
	Same, Other func() (*channels.Forest, error)
	// Own says that each database has its own tree.
	Own bool
	// Bear is how many jobs Odoo's servers bear at once; 0 if that is not known.
	Bear int
}

// Answer compares what was with what would have been.
type Answer struct {
	// Was is what was recorded, Same what the simulation makes of the tree that there was, and Other of the
	// other one, by channel.
	Was, Same, Other []Use
	// Lag is the time that a claim takes.
	Lag time.Duration
	// Most is how many jobs ran at once, and would have.
	MostWas, MostOther int
}

// Simulate answers a question. It fails with [ErrRefused] where something else than slots kept jobs waiting,
// or where the servers could not bear what the other tree would start.
func Simulate(ctx context.Context, q Question) (*Answer, error) {
	if len(q.Jobs) < simulateLeast {
		return nil, fmt.Errorf("%w: %d jobs were recorded in that time, which are too few to tell anything", ErrRefused, len(q.Jobs))
	}
	was := make([]time.Time, len(q.Jobs))
	for i := range q.Jobs {
		was[i] = q.Jobs[i].Sent
	}
	a := &Answer{Was: Measure(q.Jobs, was, q.From, q.Until, q.Own), Lag: lagOf(q.Jobs, q.From)}
	replay := func(build func() (*channels.Forest, error)) ([]time.Time, []Use, error) {
		tree, err := build()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		sent, err := Replay(ctx, tree, q.Jobs, q.From, q.Until, a.Lag)
		if err != nil {
			return nil, nil, err
		}
		return sent, Measure(q.Jobs, sent, q.From, q.Until, q.Own), nil
	}
	same, use, err := replay(q.Same)
	if err != nil {
		return nil, err
	}
	a.Same = use
	if err := explained(q.Jobs, was, same, q.From, q.Until); err != nil {
		return nil, err
	}
	other, use, err := replay(q.Other)
	if err != nil {
		return nil, err
	}
	a.Other = use
	a.MostWas, a.MostOther = atOnce(q.Jobs, was), atOnce(q.Jobs, other)
	if q.Bear > 0 && a.MostOther > q.Bear && a.MostOther > a.MostWas {
		return nil, fmt.Errorf("%w: %d jobs would run at once, and Odoo's servers bear %d: their workers would be the limit, and not slots", ErrRefused, a.MostOther, q.Bear)
	}
	return a, nil
}

// lagOf is what a claim takes: about the least that a job has waited, which no scheduler could save.
func lagOf(jobs []Job, from time.Time) time.Duration {
	var waits []time.Duration
	for i := range jobs {
		if !jobs[i].Sent.Before(from) {
			waits = append(waits, max(jobs[i].Sent.Sub(jobs[i].Ready), 0))
		}
	}
	slices.Sort(waits)
	return min(quantile(waits, .01), lagMost)
}

// explained reports an error if jobs waited much longer than the tree that there was explains.
func explained(jobs []Job, was, same []time.Time, from, until time.Time) error {
	var waited, explained time.Duration
	n := 0
	for i := range jobs {
		if was[i].Before(from) || !was[i].Before(until) {
			continue
		}
		n++
		waited += max(was[i].Sub(jobs[i].Ready), 0)
		if same[i].IsZero() {
			explained += until.Sub(jobs[i].Ready)
		} else {
			explained += max(same[i].Sub(jobs[i].Ready), 0)
		}
	}
	rest := waited - explained
	if n == 0 || rest < time.Duration(n)*unexplainedLeast || float64(rest) < unexplainedShare*float64(waited) {
		return nil
	}
	return fmt.Errorf("%w: of the time that jobs waited, %.0f%% were not for a slot: Odoo's workers or servers, pauses, "+
		"a restart or another channel configuration were the limit", ErrRefused, 100*float64(rest)/float64(waited))
}

// atOnce is how many jobs ran at the same time at most.
func atOnce(jobs []Job, sent []time.Time) int {
	var e edges
	for i := range jobs {
		if !sent[i].IsZero() {
			e.add(sent[i], sent[i].Add(jobs[i].Run))
		}
	}
	return e.most()
}
