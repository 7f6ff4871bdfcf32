package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
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

// times are those of all processors together, in ticks: nil where the system does
// not tell. See proc(5).
type times []float64

// cpuTimes returns the times since the system was started.
func cpuTimes() times {
	name, rest, _ := strings.Cut(firstLine("/proc/stat"), " ")
	if name != "cpu" {
		return nil
	}
	var t times
	for field := range strings.FieldsSeq(rest) {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return nil
		}
		t = append(t, n)
	}
	return t
}

// stolenSince returns what a virtual machine has been kept waiting for, as a share
// of the processor time that it wanted. With more than a few percent, nothing that
// was measured meanwhile means much.
func (t times) stolenSince(before times) (share float64, ok bool) {
	const idle, iowait, steal = 3, 4, 7
	if len(t) <= steal || len(before) <= steal {
		return 0, false
	}
	var wanted float64
	for i := range steal + 1 {
		if i != idle && i != iowait {
			wanted += t[i] - before[i]
		}
	}
	if wanted <= 0 {
		return 0, false
	}
	return (t[steal] - before[steal]) / wanted, true
}
