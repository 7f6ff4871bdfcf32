package session

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/postgres"
)

// A rival must not take a session that reads for one that is frozen.
func TestNoStatementIsTakenForAFrozenSession(t *testing.T) {
	require.Less(t, snapshotTimeout+closeTimeout, postgres.BlockedAfter)
	for _, timeout := range []any{readTimeout, claimTimeout, unclaimTimeout, rescueTimeout} {
		require.Less(t, timeout, snapshotTimeout)
	}
	require.Less(t, SilenceLimit, postgres.SilentAfter)
}
