package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const nameWidth = 24

// result is what became of the jobs.
type result struct {
	tickets    []ticket
	elapsed    time.Duration // from the first commit to the last end
	leftBehind []odoostub.Leftover
	latencies  []time.Duration // of the jobs that were sent one at a time
	public     int             // the status that the public gets for the run route
	recorder   *odoostub.Recorder
}

// line is one line of the table. A line with a verdict decides the exit status.
type line struct {
	name, value string
	checked, ok bool
}

// report prints the table and reports whether everything held.
func (r *result) report(out io.Writer) bool { return table(out, r.lines()) }

// table prints lines and reports whether everything in them held.
func table(out io.Writer, lines []line) bool {
	all := true
	fmt.Fprintln(out)
	for _, l := range lines {
		verdict := ""
		if l.checked {
			verdict = "ok"
			if !l.ok {
				verdict, all = "WRONG", false
			}
		}
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("  %-*s %12s  %s", nameWidth, l.name, l.value, verdict), " "))
	}
	fmt.Fprintln(out)
	return all
}

// info is a line without a verdict.
func info(name, format string, args ...any) line {
	return line{name: name, value: fmt.Sprintf(format, args...)}
}

// check is a line of what has to be as wanted.
func check(name string, got, want int) line {
	return line{name: name, value: fmt.Sprint(got), checked: true, ok: got == want}
}

func (r *result) lines() []line {
	expectFailed, expectRetried := 0, 0
	for _, t := range r.tickets {
		if t.fails {
			expectFailed++
		}
		expectRetried += t.runs - 1
	}
	outcomes := r.recorder.CountOutcomes()
	lost, repeated := r.compare()
	duplicates := repeated + len(r.recorder.Overlaps())
	violations := r.recorder.Violations(capacities())

	lines := []line{
		info("jobs committed", "%d", len(r.tickets)),
		check("done", outcomes[odoostub.Done]-len(r.latencies), len(r.tickets)-expectFailed),
		check("failed on purpose", outcomes[odoostub.Failed], expectFailed),
		check("retried on purpose", outcomes[odoostub.Retried], expectRetried),
		check("lost", lost, 0),
		check("duplicates", duplicates, 0),
		check("channels above capacity", len(violations), 0),
		check("left behind", len(r.leftBehind), 0),
		check("run route, publicly", r.public, http.StatusNotFound),
	}
	for _, v := range violations {
		lines = append(lines, info("  "+v.Channel, "%d of %d", v.Max, v.Capacity))
	}
	servers, perServer := r.servers()
	for _, name := range servers {
		lines = append(lines, info("runs on "+name, "%d", perServer[name]))
	}
	for _, priority := range []int32{urgent, ordinary, idle} {
		lines = append(lines, info(fmt.Sprintf("median wait, priority %d", priority), "%.2f s", r.medianWait(priority).Seconds()))
	}
	return append(lines,
		info("throughput", "%.0f jobs/s", float64(len(r.tickets))/r.elapsed.Seconds()),
		info("dispatch latency p50", "%.1f ms", testbed.Milliseconds(testbed.Percentile(r.latencies, 50))),
		info("dispatch latency p99", "%.1f ms", testbed.Milliseconds(testbed.Percentile(r.latencies, 99))),
	)
}

// compare counts the jobs that were never run, and the runs and requests that there should not have
// been.
func (r *result) compare() (lost, repeated int) {
	for _, t := range r.tickets {
		runs := r.recorder.Executions(t.db, t.uuid)
		if runs == 0 {
			lost++
		}
		repeated += max(0, runs-t.runs, r.recorder.Requests(t.db, t.uuid)-t.runs)
	}
	return lost, repeated
}

// servers counts the executions by server.
func (r *result) servers() (names []string, executions map[string]int) {
	executions = make(map[string]int)
	for _, e := range r.recorder.AllExecutions() {
		executions[e.Server]++
	}
	return slices.Sorted(maps.Keys(executions)), executions
}

// medianWait is the median time from the commit of a job to its first request.
func (r *result) medianWait(priority int32) time.Duration {
	var waits []time.Duration
	for _, t := range r.tickets {
		at := r.recorder.FirstRequestAt(t.db, t.uuid)
		if t.priority == priority && !at.IsZero() {
			waits = append(waits, at.Sub(t.committed))
		}
	}
	return testbed.Percentile(waits, 50)
}

// capacities returns the capacity of each channel.
func capacities() map[string]int {
	out := make(map[string]int, len(tree))
	for _, c := range tree {
		out[c.Name] = c.Capacity
	}
	return out
}
