package runner

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
)

// What the end of an engine waits for: for statements that are under way a second, for requests as long
// as it may.
func TestWhatTheEndWaitsFor(t *testing.T) {
	t.Parallel()
	for p, want := range map[phase]struct{ quiet, drained bool }{
		phaseClaiming:   {},
		phaseUnclaiming: {},
		phaseAsked:      {}, // it may have to be put back
		phaseOpen:       {quiet: true},
		phaseWatched:    {quiet: true, drained: true},
		phaseParked:     {quiet: true, drained: true},
	} {
		s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{})}
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: p}, {UUID: "b"}: {phase: phaseParked}}, causesWritten)
		require.Equal(t, want.quiet, closed(s.quiet), phaseNames[p])
		require.Equal(t, want.drained, closed(s.drained), phaseNames[p])
		s.check(nil, causesWritten)
		s.check(nil, causesWritten)
		require.True(t, closed(s.quiet) && closed(s.drained))
	}
}

// What is being written into rows is waited for, too: at the very end only for what is on its way.
func TestTheEndWaitsForCauses(t *testing.T) {
	t.Parallel()
	for writing, want := range map[causes]struct{ drained, finished bool }{
		causesWritten:  {true, true},
		causesStranded: {false, true},
		causesOrdered:  {false, false},
	} {
		last := make(chan struct{})
		s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{}), last: []chan struct{}{last}}
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: phaseAsked}}, writing)
		require.False(t, closed(last))
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: phaseParked}}, writing)
		require.True(t, closed(s.quiet))
		require.Equal(t, want.drained, closed(s.drained))
		require.Equal(t, want.finished, closed(last))
		s.check(nil, writing)
	}
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
