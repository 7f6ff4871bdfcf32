//go:build !race

package jobrunner

// costRace is what the race detector would add.
const costRace = 0
