package odoo

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Each look at jobs that wait is bounded by the server, before the engine gives it up after 30 s, and a
// single job may take longer than several.
func TestReleaseLimits(t *testing.T) {
	require.Positive(t, releaseLimit)
	require.Less(t, releaseLimit, releaseLimitOfOne)
	require.Less(t, releaseLimitOfOne, waitingLimit)
	require.Less(t, waitingLimit, 30*time.Second)
}
