package testbed

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"
)

// Percentile returns the p-th percentile (nearest rank), 0 without values.
func Percentile[T cmp.Ordered](values []T, p float64) T {
	if len(values) == 0 {
		var zero T
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p * float64(len(sorted)) / 100))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Milliseconds of a duration, with fractions.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// clockTick is the unit of the times in /proc: 100 a second on every Linux.
const clockTick = 10 * time.Millisecond

// ProcessorTime returns the processor time that a process of this Linux has used
// so far, by itself and by the kernel for it.
func ProcessorTime(pid int) (time.Duration, error) {
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
