package command

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestForecast: each verdict has its words.
func TestForecast(t *testing.T) {
	doc := api.Forecast{
		Channels: []api.ChannelForecast{
			{Channel: "root", Waiting: 12, Scheduled: 340, PerHour: 90.4, Verdict: "drains", In: new(411.0), Least: new(355.0), Most: new(506.0)},
			{Channel: "root.a", Waiting: 1, Verdict: "later", Least: new(86400.0)}, {Channel: "root.b", Waiting: 1, Verdict: "never"},
			{Channel: "root.c", Waiting: 1, Verdict: "unknown"}, {Channel: "root.d", Verdict: "empty"},
		},
		Assumes: []string{"no more jobs come"},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	run := func(args ...string) string {
		return transcript(t, server.Listener.Addr().String(), 0, append([]string{"forecast"}, args...))
	}
	require.Equal(t, ""+
		"CHANNEL  WAITING  SCHEDULED  PER HOUR  EMPTY IN\n"+
		"root     12       340        90        6m51s (5m55s to 8m26s)\n"+
		"root.a   1        0          0         not within 24h\n"+
		"root.b   1        0          0         never at this rate\n"+
		"root.c   1        0          0         unknown, because no job has ended lately\n"+
		"root.d   0        0          0         no job waits\n"+
		"assumed: no more jobs come\nexit status 0\n", run())
	doc.Channels[0].Database = "prod"
	require.Contains(t, run(), "DATABASE")
	require.Contains(t, run("--json"), `"arrivals_per_hour":90.4`)
	doc.Channels = nil
	require.Equal(t, "no job waits\nexit status 0\n", run())
}
