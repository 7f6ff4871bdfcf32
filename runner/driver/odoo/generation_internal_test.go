package odoo

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A server in recovery cannot be had within a test's time; what it answers can.
func TestObstacleOfRecovery(t *testing.T) {
	t.Parallel()
	g := generation{contract: queueJob}
	require.Equal(t, "the server is in recovery: connect to the primary",
		g.obstacle(catalog{Recovering: true}, module{state: "installed"}))
}
