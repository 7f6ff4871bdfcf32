package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// percentile returns the p-th percentile (nearest rank), 0 without values.
func percentile[T cmp.Ordered](values []T, p float64) T {
	if len(values) == 0 {
		var zero T
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(p*float64(len(sorted))/100 + 0.999999)
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// milliseconds of a duration, with fractions.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// clockTick is the unit of the times in /proc: 100 a second on every Linux.
const clockTick = 10 * time.Millisecond

// processTime returns the processor time that a process has used so far, by
// itself and by the kernel for it.
func processTime(pid int) (time.Duration, error) {
	line, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("reading the processor time: %w", err)
	}
	// The name in parentheses may hold anything; utime and stime are fields 14
	// and 15, the one after the name is 3.
	fields := bytes.Fields(line[bytes.LastIndexByte(line, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("reading the processor time: %d fields in the line of process %d", len(fields), pid)
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the processor time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
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
