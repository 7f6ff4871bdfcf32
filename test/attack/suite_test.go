//go:build attack

package attack

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// The bounds of every attack that does not say otherwise.
const (
	memoryBound = 150 << 20
	lateBound   = 50 * time.Millisecond
)

// attack is one row of the suite's table.
type attack struct {
	name string
	// prepare changes the installation before the nodes are started.
	prepare func(*bed)
	// strike is what the attacker does.
	strike func(*bed)
	// judge counts what he has gained, when all is over.
	judge func(*bed)

	// late is how long the good tenant's jobs may take to start. Default: 50 ms.
	late time.Duration
	// unpromised says why a bound need not be met: SECURITY.md has it.
	unpromised string
	// floor tells that PostgreSQL itself makes everybody wait. What a client without a runner waits
	// meanwhile is measured beside it, and is not the runner's.
	floor bool
	// nodes is the number of Caddys. Default: 1.
	nodes int
	// tcp lets them reach PostgreSQL by TCP instead of its socket.
	tcp bool
	// runner is one of the attacker's, besides that of the good tenant, in the same
	// Caddy. Default: both share one.
	runner func(*bed) testbed.Runner
}

// report is what became of it: one line of the suite's output.
type report struct {
	attack
	memory       uint64
	quiet, under time.Duration
	least        time.Duration // what PostgreSQL itself takes, where that is measured
	jobs, rows   int
	log          int64
	notes        []string
}

const header = "attack                                                    memory (of 150)   p99 quiet  p99 attacked  (of)    rows (of 0)  log"

func (r report) String() string {
	verdict := "ok"
	if len(r.broken()) > 0 {
		verdict = "NOT: " + strings.Join(r.broken(), ", ")
		if r.unpromised != "" {
			verdict += " (not promised: " + r.unpromised + ")"
		}
	}
	return fmt.Sprintf("%-56s %6d MB %17.1f ms %9.1f ms %6d ms %9d  %6d kB  %s  %s", r.name, r.memory>>20,
		testbed.Milliseconds(r.quiet), testbed.Milliseconds(r.under), r.bound().Milliseconds(), r.rows, r.log>>10, verdict,
		strings.Join(r.notes, "; "))
}

func (r report) bound() time.Duration { return r.least + cmp.Or(r.late, lateBound) }

// broken lists the bounds that were not met.
func (r report) broken() (list []string) {
	if r.memory > memoryBound {
		list = append(list, "memory")
	}
	if r.under > r.bound() {
		list = append(list, "late")
	}
	if r.rows > 0 {
		list = append(list, "rows of others")
	}
	return list
}

// run has an attack happen under load and reports what became of the others.
func (a attack) run(t *testing.T) (*bed, report) {
	b := newBed(t, a)
	if a.prepare != nil {
		a.prepare(b)
	}
	for range max(a.nodes, 1) {
		b.start()
	}
	if a.floor {
		b.floor.start()
	}
	b.load.start()
	b.until("the good tenant's jobs are run", func() bool { return b.Recorder.CountOutcomes()["done"] >= 20 })
	calm := time.Now()
	b.wait(quiet)
	idle := make([]uint64, len(b.nodes))
	for i, n := range b.nodes {
		b.forgetPeak(n)
		idle[i], _ = b.memory(n)
	}
	log, began := b.logSize(), time.Now()
	if a.floor {
		b.floor.forget()
	}
	a.strike(b)
	b.wait(settle)
	ended := time.Now()
	r := report{attack: a}
	if a.floor {
		r.least = b.floor.stop()
		b.note("without a runner %.1f ms", testbed.Milliseconds(r.least))
	}
	for i, n := range b.nodes {
		_, peak := b.memory(n)
		r.memory = max(r.memory, peak-min(peak, idle[i]))
	}
	r.log = b.logSize() - log
	b.load.stop()
	testbed.Within(40*time.Second, func() bool { return b.load.changed() == 0 })
	r.quiet, _ = b.load.p99(calm, began)
	r.under, r.jobs = b.load.p99(began, ended)
	b.rows += b.load.changed()
	if a.judge != nil {
		a.judge(b)
	}
	r.rows, r.notes = b.rows, b.notes
	return b, r
}

// TestAttacks is the whole suite. One attack happens at a time, because it is
// measured what it does to others.
func TestAttacks(t *testing.T) {
	fmt.Fprintln(os.Stdout, header)
	for _, a := range slices.Concat(ownerAttacks, sizeAttacks, clusterAttacks, falseAttacks, visitorAttacks) {
		t.Run(strings.ReplaceAll(a.name, " ", "-"), func(t *testing.T) {
			b, r := a.run(t)
			fmt.Fprintln(os.Stdout, r)
			if broken := r.broken(); len(broken) > 0 && a.unpromised == "" {
				t.Errorf("%s: %s\n--- the end of the log\n%s", a.name, strings.Join(broken, ", "), b.caddy().Tail())
			}
		})
	}
}
