package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
)

// machine returns what the figures depend on. PostgreSQL adds itself once it runs.
func machine() []fact {
	return []fact{
		{"processor", fmt.Sprintf("%s, %d cores", procField("/proc/cpuinfo", "model name"), runtime.NumCPU())},
		{"memory", procField("/proc/meminfo", "MemTotal")},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"Go", runtime.Version()},
	}
}

// procField returns the first value of a name in a file of "name : value" lines.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

// know adds a fact, once.
func (r *report) know(name, value string) {
	if !slices.ContainsFunc(r.Machine, func(f fact) bool { return f.Name == name }) {
		r.Machine = append(r.Machine, fact{name, value})
	}
}

// cpuTimes returns the times of all processors since the system was started; zero
// where the system does not tell.
func cpuTimes() procfs.CPUStat {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return procfs.CPUStat{}
	}
	stat, err := fs.Stat()
	if err != nil {
		return procfs.CPUStat{}
	}
	return stat.CPUTotal
}

// stolen returns what a virtual machine has been kept waiting for, as a share of
// the processor time that it wanted. With more than a few percent, nothing that
// was measured meanwhile means much.
func stolen(before, after procfs.CPUStat) (share float64, ok bool) {
	wanted := func(s procfs.CPUStat) float64 { return s.User + s.Nice + s.System + s.IRQ + s.SoftIRQ + s.Steal }
	all := wanted(after) - wanted(before)
	return (after.Steal - before.Steal) / all, all > 0
}
