//go:build !race

package jobrunner

// What the race detector would add, and by what it would multiply.
const (
	costRace = 0
	costBusy = 1
)
