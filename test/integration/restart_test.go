package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/odoo"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// TestRestartOfOdoo stops the only server while requests wait in its backlog, with and without a lock
// table. Their jobs give their slots back at once, and the first job is done soon after the server's
// return: much sooner than the grace that they would wait for without the evidence of the connection.
// On a machine that does nothing else it takes less than two seconds.
func TestRestartOfOdoo(t *testing.T) {
	pg := apart(t)
	for _, gen := range []odoostub.Generation{odoostub.QueueJobLock, odoostub.QueueJob12} {
		t.Run(gen.String(), func(t *testing.T) {
			tb := newTestBedOn(t, pg, gen, 1, 0)
			tb.addServer(odoostub.Options{Name: "odoo", Workers: 2})
			tb.tree = "root:6"
			tb.startProcess(t.TempDir())
			tb.untilReady()
			tb.enqueue(tb.dbs[0], repeat(80, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 200}})...)
			tb.until("requests wait", func() bool { return tb.states()["done"] > 5 && tb.Odoo[0].Backlog() >= 2 })
			stopped := time.Now()
			tb.Odoo[0].Refuse()
			tb.until("all slots are free", func() bool {
				states := tb.states()
				return states["enqueued"] == 0 && states["started"] == 0
			})
			require.Less(t, time.Since(stopped), odoo.Grace)
			before := tb.states()["done"]
			require.NoError(t, tb.Odoo[0].Accept())
			back := time.Now()
			tb.until("a job is done", func() bool { return tb.states()["done"] > before })
			require.Less(t, time.Since(back), odoo.Grace)
			tb.untilStates(map[string]int{"done": 80})
			tb.neverTwice(map[string]int{"root": 6})
		})
	}
}
