//go:build race

package jobrunner

// costRace is what the race detector adds: now and then it keeps a pool from returning what was put
// there.
const costRace = 10
