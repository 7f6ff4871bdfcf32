//go:build fault

package fault

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
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
		name: "servers come and go, root takes what they bear", bound: 60 * time.Second,
		prepare: func(tb *testBed) { tb.more = "channel root auto\nserver {\nmax_jobs 3\n}\n" },
		runners: func(tb *testBed) []testbed.Runner {
			return []testbed.Runner{{Databases: tb.ID + "_*", Channels: "root.mail:3,root.slow:2,root.one:1"}}
		},
		capacities: map[string]int{"root": 6, "root.mail": 3, "root.slow": 2, "root.one": 1},
		strike:     comeAndGo,
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

// comeAndGo has servers go for a moment, which changes nothing, and one for so long that root loses what
// it bore, and gets it back.
func comeAndGo(tb *testBed) {
	root := func() int {
		var doc api.Channels
		require.NoError(tb, tb.nodes[0].Decode(tb.Context(), "/jobrunner/channels", &doc))
		require.Equal(tb, "root", doc.Channels[0].Channel)
		require.True(tb, doc.Channels[0].Auto)
		return doc.Channels[0].Capacity
	}
	require.Equal(tb, 6, root())
	for _, s := range tb.Odoo {
		s.Crash()
		tb.wait(3 * time.Second)
		require.Equal(tb, 6, root(), "a server may be back in a moment")
		require.NoError(tb, s.Accept())
	}
	tb.Odoo[1].Crash()
	tb.until("root has lost what the server bore", func() bool { return root() == 3 })
	require.NoError(tb, tb.Odoo[1].Accept())
	tb.until("root has it again", func() bool { return root() == 6 })
}

// killPool kills the server of the pool with all that it runs, and starts it again.
func killPool(tb *testBed) {
	tb.Odoo[1].Crash()
	tb.wait(5 * time.Second)
	require.NoError(tb, tb.Odoo[1].Accept())
}
