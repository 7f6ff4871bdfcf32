package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/model"
)

// A lift of ten floors, whose door must be closed while it moves, and which may break down.
type lift struct {
	floor        int
	open, broken bool
}

func liftSystem(guarded bool) *model.System[lift] {
	return &model.System[lift]{
		Steps: func(s lift, yield func(string, bool, lift)) {
			if s.broken {
				return
			}
			if s.floor < 9 && (!s.open || !guarded) {
				yield("up", false, lift{floor: s.floor + 1, open: s.open})
			}
			if s.floor > 0 && !s.open {
				yield("down", false, lift{floor: s.floor - 1})
			}
			yield("door", false, lift{floor: s.floor, open: !s.open})
			yield("break down", true, lift{floor: s.floor, open: s.open, broken: true})
		},
		Broken: func(s lift) string {
			if s.floor == 3 && s.open && !guarded {
				return "it moved with an open door"
			}
			return ""
		},
	}
}

func TestExploreFindsAllStates(t *testing.T) {
	g := model.Explore(liftSystem(true))
	require.Equal(t, -1, g.Violation)
	require.True(t, g.Full)
	require.Equal(t, 40, g.States())
	require.Equal(t, 11, g.Depth())
	require.Equal(t, 9+9+20+20, g.Steps)
}

func TestExploreFindsTheShortestWay(t *testing.T) {
	g := model.Explore(liftSystem(false))
	require.Equal(t, "it moved with an open door", g.Property)
	trace := g.Trace(g.Violation, func(s lift) string { return fmt.Sprint(s.floor) })
	require.Equal(t, 5, strings.Count(trace, "\n"), trace)
	require.Contains(t, trace, "  4. ")
	require.Equal(t, 1, strings.Count(trace, "door"))
}

func TestExploreStopsAtItsLimit(t *testing.T) {
	s := liftSystem(true)
	s.Limit = 10
	require.False(t, model.Explore(s).Full)
}

// Stuck is the nearest state from which only a fault would lead to the goal, if anything.
func TestStuck(t *testing.T) {
	g := model.Explore(liftSystem(true))
	top := func(s lift) bool { return s.floor == 9 && s.open }
	at := g.Stuck(top)
	require.Equal(t, lift{broken: true}, g.State(at))
	require.Contains(t, g.Trace(at, func(lift) string { return "" }), "FAULT break down")
	require.Equal(t, -1, g.Stuck(func(s lift) bool { return s.broken || top(s) }))
	require.Equal(t, 0, g.Stuck(func(lift) bool { return false }))
}
