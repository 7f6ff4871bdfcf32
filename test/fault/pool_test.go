//go:build fault

package fault

import (
	"time"

	"github.com/stretchr/testify/require"
)

// poolFaults happen to the servers of a pool, and to what runs there.
var poolFaults = []fault{
	{
		name: "servers of a pool killed, and back", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = pool(tb, 1) + policyOf("root.mail root.slow", "heavy") },
		strike:  killPool,
	},
	{
		name: "servers of a pool with fallback killed, and back", bound: 40 * time.Second,
		prepare: func(tb *testBed) { tb.more = pool(tb, 1) + policyOf("root.mail root.slow", "heavy fallback") },
		strike:  killPool,
	},
	{
		name: "reloads that move channels and servers to other pools", bound: 10 * time.Second,
		strike: func(tb *testBed) {
			n := tb.nodes[0]
			for i, deadline := 0, time.Now().Add(10*time.Second); time.Now().Before(deadline); i++ {
				n.more = []string{
					pool(tb, 1) + policyOf("root.mail root.slow", "heavy"),
					pool(tb, 0) + policyOf("root.mail root.slow", "heavy"),
					pool(tb, 0) + policyOf("root.one", "heavy fallback"),
					"",
				}[i%4]
				n.reload()
				tb.wait(200 * time.Millisecond)
			}
			require.Zero(tb, n.logged("panic"))
		},
	},
}

// pool is one with one of the servers, which may run fewer jobs than the channels let pass.
func pool(tb *testBed, server int) string {
	return "pool heavy " + tb.Odoo[server].Addr() + " {\nmax_jobs 3\n}\n"
}

func policyOf(channels, pool string) string {
	return "policy " + channels + " {\npool " + pool + "\n}\n"
}

// killPool kills the server of the pool with all that it runs, and starts it again.
func killPool(tb *testBed) {
	tb.Odoo[1].Crash()
	tb.wait(5 * time.Second)
	require.NoError(tb, tb.Odoo[1].Accept())
}
