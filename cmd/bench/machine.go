package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// machine returns what the figures depend on. PostgreSQL adds itself once it runs.
func machine() []fact {
	facts := []fact{
		{"processor", fmt.Sprintf("%s, %d cores", procField("/proc/cpuinfo", "model name"), runtime.NumCPU())},
		{"memory", procField("/proc/meminfo", "MemTotal")},
		{"kernel", firstLine("/proc/sys/kernel/osrelease")},
		{"Go", runtime.Version()},
	}
	return facts
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
	for _, f := range r.Machine {
		if f.Name == name {
			return
		}
	}
	r.Machine = append(r.Machine, fact{name, value})
}
