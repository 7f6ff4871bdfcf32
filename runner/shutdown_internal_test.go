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
	closed := func(c chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for p, want := range map[phase]struct{ quiet, drained bool }{
		phaseClaiming:   {},
		phaseUnclaiming: {},
		phaseAsked:      {}, // it may have to be put back
		phaseOpen:       {quiet: true},
		phaseWatched:    {quiet: true, drained: true},
		phaseParked:     {quiet: true, drained: true},
	} {
		s := shutdown{quiet: make(chan struct{}), drained: make(chan struct{})}
		s.check(map[channels.Key]*task{{UUID: "a"}: {phase: p}, {UUID: "b"}: {phase: phaseParked}})
		require.Equal(t, want.quiet, closed(s.quiet), phaseNames[p])
		require.Equal(t, want.drained, closed(s.drained), phaseNames[p])
		s.check(nil)
		s.check(nil)
		require.True(t, closed(s.quiet) && closed(s.drained))
	}
}
