//go:build race

package jobrunner

// Where the race detector is on, pools lose now and then what was put into them, and the machine is
// slow and shared with other tests, so that fewer jobs share a statement: costRace is what that adds
// to the allocations, costBusy by what the other bounds are multiplied. Without the detector,
// `go test -run TestCostOfAJob -v .` is strict.
const (
	costRace = 30
	costBusy = 2
)
