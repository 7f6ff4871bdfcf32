package admin

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// TestSlowReadersMissEvents: no other reader waits for them.
func TestSlowReadersMissEvents(t *testing.T) {
	h := hub{readers: make(map[*reader]struct{})}
	slow := h.subscribe(func(ev *runner.Event) bool { return ev.Kind == runner.EventJobDone })
	for range streamBuffer + 7 {
		h.publish(runner.Event{Kind: runner.EventJobDone})
		h.publish(runner.Event{Kind: runner.EventJobFailed})
	}
	require.Len(t, slow.events, streamBuffer)
	require.EqualValues(t, 7, slow.dropped.Load())
	h.unsubscribe(slow)
	require.Zero(t, h.len())
}
