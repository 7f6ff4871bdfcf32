package testbed

import (
	"testing"
	"time"
)

// checkInterval is the time between two checks of the world outside.
const checkInterval = 50 * time.Millisecond

// Wait lets time pass: a fault, or an attack, that lasts.
func Wait(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.FailNow()
	}
}

// Within waits for a condition on the world outside of this process, and reports whether it came
// true in time.
func Within(d time.Duration, condition func() bool) bool {
	deadline := time.Now().Add(d)
	tick := time.NewTicker(checkInterval)
	defer tick.Stop()
	for !condition() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}
