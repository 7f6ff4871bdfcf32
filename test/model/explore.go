package model

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// System is a transition system. Its states are values that can be compared.
type System[S comparable] struct {
	// Start is the state at the beginning.
	Start S
	// Steps calls yield for each step that is possible in a state, always in the same order. A fault
	// is a step that happens to a system, and that progress must not depend on.
	Steps func(s S, yield func(label string, fault bool, to S))
	// Broken says which property a state violates, empty if none. Nothing is explored beyond it.
	Broken func(s S) string
	// Limit bounds the number of states. Default: none.
	Limit int
}

// Graph is what [Explore] has found: all states, in the order of their distance from the start.
type Graph[S comparable] struct {
	system *System[S]
	states []S
	// parents and depths are those of the shortest way to each state.
	parents []int32
	depths  []int32
	// calm are the steps that are no faults, of all states one after the other; those of state i end at
	// ends[i].
	calm []int32
	ends []int
	// Violation is the first state that violates a property, and -1 if none does; Property says which.
	Violation int
	Property  string
	// Steps is the number of steps that have been taken.
	Steps int
	// Full is false if the limit was reached.
	Full bool
}

// Explore visits all states that can be reached, the nearest first, until one violates a property.
func Explore[S comparable](system *System[S]) *Graph[S] {
	g := &Graph[S]{system: system, Violation: -1, Full: true}
	seen := newIndex(&g.states)
	seen.add(system.Start)
	g.parents, g.depths = append(g.parents, -1), append(g.depths, 0)
	for i := 0; i < len(g.states); i++ { //nolint:intrange // it grows meanwhile
		if g.Property = system.Broken(g.states[i]); g.Property != "" {
			g.Violation = i
			return g
		}
		if system.Limit > 0 && len(g.states) > system.Limit {
			g.Full = false
			return g
		}
		first := len(g.calm)
		system.Steps(g.states[i], func(_ string, fault bool, to S) {
			g.Steps++
			at, isNew := seen.add(to)
			if isNew {
				g.parents, g.depths = append(g.parents, int32(i)), append(g.depths, g.depths[i]+1) //nolint:gosec // memory ends before
			}
			if !fault && int(at) != i && !slices.Contains(g.calm[first:], at) {
				g.calm = append(g.calm, at)
			}
		})
		g.ends = append(g.ends, len(g.calm))
	}
	return g
}

// States is the number of states.
func (g *Graph[S]) States() int { return len(g.states) }

// Depth is how many steps the farthest state is away from the start.
func (g *Graph[S]) Depth() int { return int(g.depths[len(g.depths)-1]) }

// Stuck returns the nearest state from which no goal can be reached without a fault, and -1 if there is
// none. Where there is none, each run in which every step that stays possible is taken some day reaches
// a goal after its last fault: no end and no circle keeps it away.
func (g *Graph[S]) Stuck(goal func(S) bool) int {
	reaches := make([]bool, len(g.states))
	var todo []int32
	back, starts := g.reversed()
	for i := range g.states {
		if goal(g.states[i]) {
			reaches[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range back[starts[i]:starts[i+1]] {
			if !reaches[from] {
				reaches[from] = true
				todo = append(todo, from)
			}
		}
	}
	return slices.Index(reaches, false)
}

// reversed returns, for each state, those that lead to it without a fault.
func (g *Graph[S]) reversed() (back []int32, starts []int) {
	starts = make([]int, len(g.states)+2)
	for _, to := range g.calm {
		starts[to+2]++
	}
	for i := 2; i < len(starts); i++ {
		starts[i] += starts[i-1]
	}
	back = make([]int32, len(g.calm))
	begin := 0
	for i, end := range g.ends {
		for _, to := range g.calm[begin:end] {
			back[starts[to+1]] = int32(i)
			starts[to+1]++
		}
		begin = end
	}
	return back, starts
}

// State returns a state by its number.
func (g *Graph[S]) State(i int) S { return g.states[i] }

// Trace tells how a state is reached in the fewest steps, one numbered line for each. show describes a
// state.
func (g *Graph[S]) Trace(to int, show func(S) string) string {
	var way []int
	for i := to; i >= 0; i = int(g.parents[i]) {
		way = append(way, i)
	}
	slices.Reverse(way)
	var b strings.Builder
	fmt.Fprintf(&b, "  0. %-58s %s\n", "start", show(g.states[way[0]]))
	for n := 1; n < len(way); n++ {
		want, found := g.states[way[n]], ""
		g.system.Steps(g.states[way[n-1]], func(label string, fault bool, to S) {
			if to == want && found == "" {
				if found = label; fault {
					found = "FAULT " + label
				}
			}
		})
		fmt.Fprintf(&b, "%3d. %-58s %s\n", n, found, show(want))
	}
	return b.String()
}

// index finds the number of a state. It keeps no second copy of it: of equal hashes, the next number
// that is free is taken.
type index[S comparable] struct {
	states *[]S
	seed   maphash.Seed
	byHash map[uint64]int32
}

func newIndex[S comparable](states *[]S) *index[S] {
	return &index[S]{states: states, seed: maphash.MakeSeed(), byHash: map[uint64]int32{}}
}

// add returns the number of a state, and whether it is new.
func (x *index[S]) add(s S) (at int32, isNew bool) {
	for h := maphash.Comparable(x.seed, s); ; h++ {
		at, found := x.byHash[h]
		if !found {
			at = int32(len(*x.states)) //nolint:gosec // memory ends before
			x.byHash[h] = at
			*x.states = append(*x.states, s)
			return at, true
		}
		if (*x.states)[at] == s {
			return at, false
		}
	}
}
