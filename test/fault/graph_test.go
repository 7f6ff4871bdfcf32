//go:build fault

package fault

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// graphJobs is the size of the graph, and graphLayers how deep it is.
	graphJobs, graphLayers = 2000, 8
	// graphSeed decides which jobs depend on which, and which workers die.
	graphSeed = 20_261_126
	// graphLimit bounds the time until all jobs are done. Each layer may wait once for the end of a grace.
	graphLimit = 5 * time.Minute
)

// TestGraphOfDeadWorkers has workers die between the end of their job and the release of those that
// waited for it, at random, in a graph of 2,000 jobs: all run, none early, none twice, and the runner
// releases just those that the dead have left.
func TestGraphOfDeadWorkers(t *testing.T) {
	for _, deaths := range []int{0, 100} {
		t.Run(fmt.Sprintf("%d-deaths", deaths), func(t *testing.T) {
			tb := newTestBed(t, fault{name: "graph"})
			tb.more = "release_dependents"
			tb.addNode()
			tb.nodes[0].start()
			db := tb.Databases()[0]
			jobs := graphOf(rand.New(rand.NewPCG(graphSeed, uint64(deaths))), deaths) //nolint:gosec // the same each time
			_, err := odoostub.Enqueue(tb.Context(), tb.Pool(db), jobs)
			require.NoError(tb, err)
			began := time.Now()
			if !testbed.Within(graphLimit, func() bool { return tb.done(db) == graphJobs }) {
				t.Fatalf("not all jobs are done: %s", tb.states())
			}
			took := time.Since(began)

			ends, starts := make(map[string]time.Time), make(map[string]time.Time)
			for _, e := range tb.Recorder.AllExecutions() {
				require.NotContains(tb, starts, e.UUID, "twice")
				starts[e.UUID], ends[e.UUID] = e.Start, e.End
			}
			dependents, left := 0, 0
			for _, job := range jobs {
				for _, parent := range job.DependsOn {
					require.False(tb, starts[job.UUID].Before(ends[parent]), "%s began before its parent %s had ended", job.UUID, parent)
				}
				if len(job.DependsOn) == 0 {
					continue
				}
				dependents++
				byWorkers := tb.Recorder.Releases(db, job.UUID)
				require.LessOrEqual(tb, byWorkers, 1, "released twice by workers")
				left += 1 - byWorkers
			}
			fmt.Fprintf(os.Stdout, "graph of %d jobs, %d of which wait for others; %d workers died: %d jobs left waiting, %d released by the runner, all done after %.1f s\n",
				graphJobs, dependents, deaths, left, tb.released(), took.Seconds())
			require.Equal(tb, left, tb.released())
			require.Equal(tb, deaths == 0, left == 0)
			require.Empty(tb, tb.Recorder.Overlaps())
		})
	}
}

// graphOf makes a graph in layers: each job waits for one to three of the layer above it. So many workers die.
func graphOf(random *rand.Rand, deaths int) []odoostub.JobSpec {
	jobs := make([]odoostub.JobSpec, graphJobs)
	const layer = graphJobs / graphLayers
	for i := range jobs {
		jobs[i] = odoostub.JobSpec{UUID: odoostub.NewUUID(), Behaviour: odoostub.Behaviour{SleepMS: random.Int64N(10)}}
		if above := i/layer - 1; above >= 0 {
			for _, j := range random.Perm(layer)[:1+random.IntN(3)] {
				jobs[i].DependsOn = append(jobs[i].DependsOn, jobs[above*layer+j].UUID)
			}
		}
	}
	for _, i := range random.Perm(graphJobs - layer)[:deaths] { // nothing waits for those of the last layer
		jobs[i].Behaviour.KillAfterDone = true
	}
	return jobs
}

// released is what the node's metric says.
func (tb *testBed) released() (sum int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), queryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+tb.nodes[0].admin+"/metrics", nil)
	require.NoError(tb, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(tb, err)
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(name, "caddy_jobrunner_dependents_released_total{") {
			n, err := strconv.ParseFloat(value, 64)
			require.NoError(tb, err)
			sum += int(n)
		}
	}
	return sum
}
