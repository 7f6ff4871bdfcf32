package session

import (
	"testing"
	"time"

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

// What waits for a lock is told so by the server, before it is given up with the connection.
func TestLocksEndBeforeTheConnection(t *testing.T) {
	for _, timeout := range []time.Duration{
		claimTimeout, probeTimeout, upgradeTimeout, fingerprintTimeout, channelsTimeout, snapshotTimeout,
	} {
		require.Less(t, postgres.LockTimeout, timeout)
	}
}
