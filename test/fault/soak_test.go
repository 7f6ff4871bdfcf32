//go:build fault && soak

package fault

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
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

// soakFaults happen to one plant, in any order. The first node lives on through
// all of them, so that what it does not give back adds up.
var soakFaults = map[string]func(*plant){
	"sessions terminated":   func(p *plant) { p.terminate(p.nodes[0], "true"); p.terminate(p.nodes[1], "true") },
	"PostgreSQL restarted":  func(p *plant) { require.NoError(p, p.pg.Restart(p.Context(), pgtest.Fast)) },
	"PostgreSQL aborted":    func(p *plant) { require.NoError(p, p.pg.Restart(p.Context(), pgtest.Immediate)) },
	"connections reset":     func(p *plant) { p.nodes[0].proxy.Reset() },
	"connections lost":      func(p *plant) { blackhole(p, faultproxy.Both) },
	"backends frozen":       func(p *plant) { freezeBackends(p, 8*time.Second) },
	"node killed":           func(p *plant) { p.nodes[1].kill(); p.over(); p.nodes[1].start() },
	"node stopped":          func(p *plant) { p.nodes[1].interrupt(); p.over(); p.nodes[1].start() },
	"process paused":        func(p *plant) { pause(p, p.nodes[0], 30*time.Second) },
	"process paused, short": func(p *plant) { pause(p, p.nodes[0], 6*time.Second) },
	"workers killed":        func(p *plant) { killWorkers(p, 5) },
	"Odoo killed":           func(p *plant) { p.odoo[0].Crash(); p.wait(2 * time.Second); require.NoError(p, p.odoo[0].Accept()) },
	"requests cut":          cutIdle,
	"Odoo answers 503": func(p *plant) {
		misbehave(p, odoostub.Fault{Kind: odoostub.Answer, Status: http.StatusServiceUnavailable})
	},
	"Odoo resets":   func(p *plant) { misbehave(p, odoostub.Fault{Kind: odoostub.ResetAfterRead}) },
	"Odoo ignores":  func(p *plant) { misbehave(p, odoostub.Fault{Kind: odoostub.Ignore}) },
	"reloaded":      reloadOften,
	"burst":         burst,
	"notifications": flood,
}

// pause stops a process for a while.
func pause(p *plant, n *node, d time.Duration) {
	n.signal(syscall.SIGSTOP)
	p.wait(d)
	n.signal(syscall.SIGCONT)
}

// TestSoak lets faults happen at random for a long time, and then requires that
// nothing is left of them.
func TestSoak(t *testing.T) {
	fmt.Fprintf(os.Stdout, "soak for %s with -seed %d\n", *soakTime, *soakSeed)
	random := rand.New(rand.NewPCG(*soakSeed, 0))
	p := newPlant(t, fault{name: "soak", nodes: 2, proxied: true, fronted: true, cluster: &pgtest.Options{}})
	p.begin()
	names := slices.Sorted(maps.Keys(soakFaults)) // the seed decides, not the map
	goroutines, heap := p.nodes[0].usage()
	var worst report
	began := time.Now()
	for time.Since(began) < *soakTime {
		name := names[random.IntN(len(names))]
		p.since = time.Time{}
		soakFaults[name](p)
		if p.since.IsZero() {
			p.over()
		}
		r := report{name: name, bound: 60 * time.Second}
		p.measure(&r)
		fmt.Fprintf(os.Stdout, "%6.0fs  %-24s served %5.1fs, repaired %5.1fs\n",
			time.Since(began).Seconds(), name, r.served.Seconds(), r.repaired.Seconds())
		require.Empty(t, r.broken(), "%s\n%s", name, p.details())
		worst.served, worst.repaired = max(worst.served, r.served), max(worst.repaired, r.repaired)
		p.untilBusy()
	}
	p.load.stop()
	p.until("all jobs are done", func() bool { return p.unfinished() == 0 })
	worst.name, worst.bound = "all of them", 60*time.Second
	p.judge(&worst)
	fmt.Fprintf(os.Stdout, "%s\n%s\n", header, worst)
	require.Empty(t, worst.broken(), p.details())
	p.until("goroutines and memory are as before", func() bool {
		g, h := p.nodes[0].usage()
		fmt.Fprintf(os.Stdout, "goroutines %d, were %d; memory %d KiB, was %d KiB\n", g, goroutines, h>>10, heap>>10)
		return g <= goroutines+10 && h <= heap+heap/2+20<<20
	})
}

// usage returns the goroutines and the live bytes of a node.
func (n *node) usage() (goroutines, heap int) {
	n.p.Helper()
	profile := func(path string) string {
		res, err := http.Get("http://" + n.admin + "/debug/pprof/" + path)
		require.NoError(n.p, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(n.p, err)
		return string(body)
	}
	_, err := fmt.Sscanf(profile("goroutine?debug=1"), "goroutine profile: total %d", &goroutines)
	require.NoError(n.p, err)
	_, after, found := strings.Cut(profile("heap?debug=1&gc=1"), "# HeapAlloc = ")
	require.True(n.p, found)
	_, err = fmt.Sscanf(after, "%d", &heap)
	require.NoError(n.p, err)
	return goroutines, heap
}
