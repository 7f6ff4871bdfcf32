//go:build fault

package fault

import (
	"slices"
	"testing"
)

// TestFaults is the whole suite.
func TestFaults(t *testing.T) {
	testFaults(t, slices.Concat(quickFaults, postgresFaults, sessionFaults, pooledFaults, caddyFaults, upstreamFaults, dataFaults, timeoutFaults, quarantineFaults, poolFaults))
}
