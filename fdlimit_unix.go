//go:build unix

package jobrunner

import (
	"math"
	"syscall"
)

// fileLimit is how many files the process may have open, and false if it is not known.
func fileLimit() (int, bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return 0, false
	}
	return int(limit.Cur), true
}
