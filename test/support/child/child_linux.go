package child

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// endWithParent makes the kernel send a signal to the child when this process dies, also
// in a way that leaves it no time to clean up.
func endWithParent(attr *syscall.SysProcAttr, death syscall.Signal) { attr.Pdeathsig = death }

// Children returns the processes that pid has started.
func Children(pid int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // errors only on a bad pattern
	var found []int
	for _, stat := range stats {
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			continue
		}
		if parent, _ := parentAndState(child); parent == pid {
			found = append(found, child)
		}
	}
	return found
}

// Lives reports whether a process runs; one that nobody has waited for does not.
func Lives(pid int) bool {
	_, state := parentAndState(pid)
	return state != "" && state != "Z" && state != "X"
}

// parentAndState reads a line like "4711 (the name) S 1 ..."; the name may hold
// anything.
func parentAndState(pid int) (parent int, state string) {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, ""
	}
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) < 2 {
		return 0, ""
	}
	parent, err = strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0, ""
	}
	return parent, string(fields[0])
}
