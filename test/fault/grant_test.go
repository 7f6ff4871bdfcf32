//go:build fault

package fault

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// streamed is how many jobs come one by one.
	streamed = 30
	// grantStatements, grantLines and grantIdle bound what the nodes do in any second of a stream,
	// which has some thirty jobs, and how much of a processor they use after it.
	grantStatements, grantLines = 300, 200
	grantIdle                   = 0.05
	// grantPatience is how long the jobs may take to be done when what was wrong is over.
	grantPatience = 40 * time.Second
)

// grantFault is a row of the table of TestGrants.
type grantFault struct {
	name string
	// sql changes the database before the nodes start, prepare the rest.
	sql     string
	prepare func(*grantBed)
	// strike is what happens. Default: a stream of single jobs.
	strike func(*grantBed)
	// judge finds what the common bounds do not show.
	judge func(*grantBed)

	gen odoostub.Generation
	// channels and options are those of the runner. Default: root:1, and no options.
	channels, options string
	// capacities are those of the channels. Default: root 1.
	capacities map[string]int
	nodes      int
	// undone says that the jobs cannot be done, unserved that the database cannot be served, and
	// unused that no grant can be used.
	undone, unserved, unused bool
	// statements replaces grantStatements.
	statements int
}

// grantReport is what became of it: one line of output.
type grantReport struct {
	grantFault
	statements

	jobs, open, overlaps, twice, above, lines int
	idle                                      float64
	notes                                     []string
}

const grantHeader = "grant                                              jobs  open overlaps twice above  granted  statements/s  lines/s  idle"

func (r grantReport) String() string {
	verdict := "ok"
	if broken := r.broken(); len(broken) > 0 {
		verdict = "NOT: " + strings.Join(broken, ", ")
	}
	return fmt.Sprintf("%-48s %6d %5d %8d %5d %5d %8d %13d %8d %4.1f%%  %s  %s", r.name, r.jobs, r.open, r.overlaps, r.twice, r.above,
		r.granted, r.busiest, r.lines, 100*r.idle, verdict, strings.Join(r.notes, "; "))
}

// broken lists the promises that were not kept.
func (r grantReport) broken() (list []string) {
	for what, is := range map[string]bool{
		"jobs left":              r.open > 0 && !r.undone && !r.unserved,
		"overlapping executions": r.overlaps > 0,
		"jobs done twice":        r.twice > 0,
		"above capacity":         r.above > 0,
		"no grant was used":      r.granted == 0 && !r.unused && !r.unserved,
		"statements":             r.busiest > max(r.grantFault.statements, grantStatements),
		"lines in the log":       r.lines > grantLines,
		"busy when idle":         r.idle > grantIdle,
	} {
		if is {
			list = append(list, what)
		}
	}
	return list
}

// run has it happen and reports what became of the jobs.
func (f grantFault) run(t *testing.T) (*grantBed, grantReport) {
	b := newGrantBed(t, f)
	if f.unserved {
		require.False(b, b.serves(3*time.Second))
	} else {
		require.True(b, b.serves(patience), "the database is served")
	}
	switch {
	case f.unserved:
	case f.strike == nil:
		b.stream(streamed)
	default:
		f.strike(b)
	}
	patient := grantPatience
	if f.undone || f.unserved {
		patient = time.Second
	}
	open := func() int {
		return b.count("SELECT count(*) FROM queue_job WHERE state NOT IN ('done', 'failed', 'cancelled')")
	}
	testbed.Within(patient, func() bool { return open() == 0 })
	b.mayFail = false
	r := grantReport{grantFault: f, jobs: len(b.uuids), open: open()}
	r.overlaps, r.twice = len(b.Recorder.Overlaps()), len(b.Recorder.Duplicates())
	for _, v := range b.Recorder.Violations(f.capacities) {
		r.above += v.Max - v.Capacity
	}
	if f.judge != nil {
		f.judge(b)
	}
	r.idle = b.idle()
	r.statements, r.lines, r.notes = b.statements(), b.lines(), b.notes
	return b, r
}

// TestGrants lets single jobs be claimed by a grant while something is wrong with their database,
// their PostgreSQL or their Caddys.
func TestGrants(t *testing.T) {
	fmt.Fprintln(os.Stdout, grantHeader)
	for _, f := range slices.Concat(grantRows, grantTriggers, grantFaults) {
		if f.channels == "" {
			f.channels = "root:1"
		}
		if f.capacities == nil {
			f.capacities = map[string]int{"root": 1}
		}
		t.Run(strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
			b, r := f.run(t)
			fmt.Fprintln(os.Stdout, r)
			if broken := r.broken(); len(broken) > 0 {
				t.Errorf("%s: %s", f.name, strings.Join(broken, ", "))
				for _, n := range b.nodes {
					t.Logf("--- the end of the log\n%s", n.Tail())
				}
			}
		})
	}
}
