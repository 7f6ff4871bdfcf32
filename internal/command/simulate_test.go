package command

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestSimulate: what was is beside what would have been, with what that assumes.
func TestSimulate(t *testing.T) {
	from := time.Date(2030, 5, 6, 0, 0, 0, 0, time.UTC)
	was := api.Use{Capacity: 3, Sent: 90, Left: 2, Wait50: 61, Wait95: 200, Busy: 2.7, Utilisation: new(.9)}
	would := api.Use{Capacity: 4, Sent: 91, Left: 1, Wait50: 61, Wait95: 12, Busy: 2.8, Utilisation: new(.7)}
	free := api.Use{Sent: 3, Busy: .25}
	doc := api.Simulation{
		Runner: "default", From: from, To: from.Add(time.Hour), Jobs: 93, Assumes: []string{"the moon is round"},
		Channels: []api.SimulatedChannel{{Channel: "root.mail", Was: was, Would: would}, {Channel: "root.free", Was: free, Would: free}},
	}
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RawQuery
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	run := func(args ...string) string {
		return transcript(t, server.Listener.Addr().String(), 0, append([]string{"simulate"}, args...))
	}
	require.Equal(t, ""+
		"CHANNEL    CAPACITY  JOBS     WAIT P50  WAIT P95     BUSY       LEFT\n"+
		"root.mail  3 > 4     90 > 91  1m1s      3m20s > 12s  90% > 70%  2 > 1\n"+
		"root.free  ∞         3        0s        0s           0.2        0\n"+
		"93 jobs between 2030-05-06T00:00:00Z and 2030-05-06T01:00:00Z; what was, and what would have been\n"+
		"assumed: the moon is round\nexit status 0\n", run("--set", "root.mail=4,root=9", "--from", "2h"))
	require.Equal(t, "from=2h&set=root.mail%3D4&set=root%3D9", asked)
	doc.Channels[0].Database = "prod"
	require.Contains(t, run("--set", "root=9"), "DATABASE")
	require.Contains(t, run("--set", "root=9", "--json"), `"assumes":["the moon is round"]`)
	out := run()
	require.Contains(t, out, "say what, as in: --set root.mail=4")
	require.Contains(t, out, "exit status 1")
}
