//go:build !unix

package jobrunner

// fileLimit is how many files the process may have open, and false if it is not known.
func fileLimit() (int, bool) { return 0, false }
