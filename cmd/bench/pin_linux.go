package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// pin keeps all threads of a process, and those of the processes that it has started, on some
// processors. Threads that are made meanwhile may be missed the first time.
func pin(pid, from, to int) error {
	var set unix.CPUSet
	for i := from; i < to; i++ {
		set.Set(i)
	}
	all, err := procfs.AllProcs()
	if err != nil {
		return fmt.Errorf("listing processes: %w", err)
	}
	for range 2 {
		for _, p := range all {
			if stat, err := p.Stat(); err != nil || p.PID != pid && (stat.PPID != pid || pid == os.Getpid()) {
				continue // it has ended, or is somebody else's
			}
			threads, err := procfs.AllThreads(p.PID)
			if err != nil {
				continue // it has ended
			}
			for _, thread := range threads {
				if err := unix.SchedSetaffinity(thread.PID, &set); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("keeping process %d on processors %d to %d: %w", p.PID, from, to-1, err)
				}
			}
		}
	}
	return nil
}
