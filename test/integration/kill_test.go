package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

func TestKilledCaddy(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 2, 2)
	// More capacity than workers, so that some jobs wait unread at Odoo when
	// Caddy dies: they are enqueued, and nobody knows of them any more.
	tb.tree = "root:12"
	c := tb.startProcess(tb.TempDir())
	for _, db := range tb.dbs {
		tb.enqueue(db, repeat(20, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end", SleepMS: 30}})...)
	}
	tb.untilRunning(8)
	tb.until("jobs are waiting at Odoo", func() bool { return tb.states()["enqueued"] == 4 })
	c.Kill()
	tb.startProcess(tb.TempDir())
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 40})
	tb.neverTwice(map[string]int{"root": 12})
	for _, x := range tb.Recorder.AllExecutions() {
		require.Equal(t, odoostub.Done, x.Outcome)
	}
	require.Len(t, tb.Recorder.AllExecutions(), 40, "every job ran exactly once")
}

func TestStoppedCaddy(t *testing.T) {
	tb := newTestBedOn(t, apart(t), odoostub.QueueJobLock, 1, 1)
	c := tb.startProcess(tb.TempDir())
	tb.enqueue(tb.dbs[0], repeat(100, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 100}})...)
	tb.untilRunning(4)
	require.NoError(t, c.Stop())
	// Open requests were waited for, and nothing was claimed meanwhile.
	states := tb.states()
	require.Zero(t, states["started"]+states["enqueued"], states)
	require.NotZero(t, states["pending"])
	tb.startProcess(tb.TempDir())
	tb.untilStates(map[string]int{"done": 100})
	tb.exactlyOnce(map[string]int{"root": 4})
}

// TestTwoNodes: two Caddys run the same configuration, one of them leads. It is
// killed, and the other one goes on with what runs and what waits.
func TestTwoNodes(t *testing.T) {
	pg := apart(t)
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBedOn(t, pg, gen, 1, 1)
			tb.tree = "root:2"
			first := tb.startProcess(tb.TempDir())
			tb.untilReady()
			running := tb.enqueue(tb.dbs[0], gated("end"), gated("end"))
			tb.enqueue(tb.dbs[0], repeat(5, odoostub.JobSpec{})...)
			tb.untilRunning(2)

			other := tb.beside()
			other.startProcess(tb.TempDir())
			other.until("the second one stands by", func() bool {
				_, text := other.request(http.MethodGet, "/jobrunner/status", "")
				return strings.Contains(text, `"leader":false`) && strings.Contains(text, "caddy-jobrunner")
			})
			first.Kill()
			other.untilReady()
			tb.Gates.Open("end")
			tb.untilStates(map[string]int{"done": 7})
			tb.neverTwice(map[string]int{"root": 2})
			for _, uuid := range running {
				require.Equal(t, 1, tb.Recorder.Executions(tb.dbs[0], uuid))
			}
		})
	}
}
