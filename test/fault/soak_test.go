//go:build fault && soak

package fault

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/pgtest"
)

var (
	soakTime = flag.Duration("soak", 30*time.Minute, "how long to go on")
	soakSeed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "which faults happen")
)

// soakFaults happen to one test bed, in any order. The first node lives on through
// all of them, so that what it does not give back adds up.
var soakFaults = map[string]func(*testBed){
	"sessions terminated":   func(tb *testBed) { tb.terminate(tb.nodes[0], "true"); tb.terminate(tb.nodes[1], "true") },
	"PostgreSQL restarted":  func(tb *testBed) { require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Fast)) },
	"PostgreSQL aborted":    func(tb *testBed) { require.NoError(tb, tb.Postgres.Restart(tb.Context(), pgtest.Immediate)) },
	"connections reset":     func(tb *testBed) { tb.nodes[0].proxy.Reset() },
	"connections lost":      func(tb *testBed) { blackhole(tb, faultproxy.Both) },
	"backends frozen":       func(tb *testBed) { freezeBackends(tb, 8*time.Second) },
	"node killed":           func(tb *testBed) { tb.nodes[1].Kill(); tb.over(); tb.nodes[1].start() },
	"node stopped":          func(tb *testBed) { require.NoError(tb, tb.nodes[1].Stop()); tb.over(); tb.nodes[1].start() },
	"process paused":        func(tb *testBed) { pause(tb, tb.nodes[0], 30*time.Second) },
	"process paused, short": func(tb *testBed) { pause(tb, tb.nodes[0], 6*time.Second) },
	"workers killed":        func(tb *testBed) { killWorkers(tb, 5) },
	"Odoo killed": func(tb *testBed) {
		tb.Odoo[0].Crash()
		tb.wait(2 * time.Second)
		require.NoError(tb, tb.Odoo[0].Accept())
	},
	"requests cut": cutIdle,
	"Odoo answers 503": func(tb *testBed) {
		misbehave(tb, odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable})
	},
	"Odoo resets":   func(tb *testBed) { misbehave(tb, odoostub.Fault{Kind: odoostub.ResetAfterRead}) },
	"Odoo ignores":  func(tb *testBed) { misbehave(tb, odoostub.Fault{Kind: odoostub.Ignore}) },
	"reloaded":      reloadOften,
	"burst":         burst,
	"notifications": flood,
}

// pause stops a process for a while.
func pause(tb *testBed, n *node, d time.Duration) {
	n.signal(syscall.SIGSTOP)
	tb.wait(d)
	n.signal(syscall.SIGCONT)
}

// TestSoak lets faults happen at random for a long time, and then requires that
// nothing is left of them.
func TestSoak(t *testing.T) {
	fmt.Fprintf(os.Stdout, "soak for %s with -seed %d\n", *soakTime, *soakSeed)
	random := rand.New(rand.NewPCG(*soakSeed, 0))
	tb := newTestBed(t, fault{name: "soak", nodes: 2, proxied: true, fronted: true, cluster: &pgtest.Options{}})
	tb.begin()
	names := slices.Sorted(maps.Keys(soakFaults)) // the seed decides, not the map
	goroutines, heap := tb.nodes[0].usage()
	var worst report
	began := time.Now()
	for time.Since(began) < *soakTime {
		name := names[random.IntN(len(names))]
		tb.since = time.Time{}
		soakFaults[name](tb)
		if tb.since.IsZero() {
			tb.over()
		}
		r := report{name: name, bound: 60 * time.Second}
		tb.measure(&r)
		fmt.Fprintf(os.Stdout, "%6.0fs  %-24s served %5.1fs, repaired %5.1fs\n",
			time.Since(began).Seconds(), name, r.served.Seconds(), r.repaired.Seconds())
		require.Empty(t, r.broken(), "%s\n%s", name, tb.details())
		worst.served, worst.repaired = max(worst.served, r.served), max(worst.repaired, r.repaired)
		tb.untilBusy()
	}
	tb.load.stop()
	tb.until("all jobs are done", func() bool { return tb.unfinished() == 0 })
	worst.name, worst.bound = "all of them", 60*time.Second
	tb.judge(&worst)
	fmt.Fprintf(os.Stdout, "%s\n%s\n", header, worst)
	require.Empty(t, worst.broken(), tb.details())
	tb.until("goroutines and memory are as before", func() bool {
		g, h := tb.nodes[0].usage()
		fmt.Fprintf(os.Stdout, "goroutines %d, were %d; memory %d KiB, was %d KiB\n", g, goroutines, h>>10, heap>>10)
		return g <= goroutines+10 && h <= heap+heap/2+20<<20
	})
}

// usage returns the goroutines and the live bytes of a node.
func (n *node) usage() (goroutines, heap int) {
	n.tb.Helper()
	goroutines, err := n.Goroutines(n.tb.Context())
	require.NoError(n.tb, err)
	heap, err = n.LiveHeap(n.tb.Context())
	require.NoError(n.tb, err)
	return goroutines, heap
}
