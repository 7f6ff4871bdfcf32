package command

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestHistory: the command shows groups or intervals, and below them what they do not say.
func TestHistory(t *testing.T) {
	from := time.Date(2030, 5, 6, 0, 0, 0, 0, time.UTC)
	sums := api.HistorySums{Attempts: 12, Done: 9, Failed: 1, Retried: 1, Rescued: 1, Wait50: new(.5), Wait95: new(61.0), Run50: new(2.0), Run95: new(3700.0), RunMost: new(4000.0), Run: 9000}
	doc := api.History{
		Runner: "default", From: from, To: from.Add(2 * time.Hour), Step: 3600, Known: from.Add(time.Hour), LeaderDetail: "node-b", Total: sums, By: "function",
		Intervals: []api.HistoryInterval{{Begin: from}, {Begin: from.Add(time.Hour), HistorySums: sums}},
		Groups:    []api.HistoryGroup{{Name: "mail.mail.send\x1b", HistorySums: sums}, {HistorySums: api.HistorySums{Attempts: 1}}}, More: 3,
		Objectives: []api.HistoryObjective{{Policy: "policy root.mail", Wait: 600, Target: .95, Attempts: 80, Late: 10, Burns: true}, {Policy: "policy root.idle", Target: .9}},
		Folded:     7, Lost: 1, UnreadableIntervals: 2, Problem: "no space left on device", PutAside: "/x/history.db.corrupt-1",
	}
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RawQuery
		if r.URL.Query().Has("csv") {
			fmt.Fprintln(w, "function,attempts")
			return
		}
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	run := func(args ...string) string {
		return transcript(t, server.Listener.Addr().String(), 0, append([]string{"history"}, args...))
	}
	out := run("--channel", "root.mail", "--limit", "2")
	require.Equal(t, "by=function&channel=root.mail&from=24h&limit=2", asked)
	for _, want := range []string{
		"METHOD", "WAIT P95", "mail.mail.send\uFFFD  12        1       1        1         500ms     1m1s      2s       1h1m     1h6m     2h30m",
		"(unknown)", "3 more: --limit 5", "the history begins 2030-05-06T01:00:00Z", "ask the leader: node-b",
		"default: policy root.mail, since this Caddy started: 87.5% of 80 jobs waited no longer than 10m, the objective is 95%; it is not kept now",
		`7 attempts are under "other"`, "1 attempts could not be kept", "2 intervals cannot be read", "no space left", "put aside: /x/history.db.corrupt-1",
	} {
		require.Contains(t, out, want)
	}
	out = run("--intervals", "--limit", "1", "--from", "2h", "--step", "1h", "--by", "database")
	require.Equal(t, "by=database&from=2h&limit=1&step=1h", asked)
	require.Contains(t, out, "2030-05-06T01:00:00Z  12")
	require.NotContains(t, out, "2030-05-06T00:00:00Z  0")
	require.Contains(t, out, "1 more before")
	require.Equal(t, "function,attempts\nexit status 0\n", run("--csv"))
	require.Contains(t, asked, "csv=groups")
	run("--csv", "--intervals")
	require.Contains(t, asked, "csv=intervals")
	require.Contains(t, run("--json"), `"run_total_seconds":9000`)
	doc.Groups, doc.Known, doc.Leader = nil, time.Time{}, true
	out = run()
	require.Contains(t, out, "no job has ended between")
	require.Contains(t, out, "there is no history yet")
}

// TestHistoryByException: the limit is that of the lines, and the exceptions that are left out are counted.
func TestHistoryByException(t *testing.T) {
	from := time.Date(2030, 5, 6, 0, 0, 0, 0, time.UTC)
	at := func(hours, failed int) api.HistoryCount {
		return api.HistoryCount{Begin: from.Add(time.Duration(hours) * time.Hour), Failed: uint64(failed)}
	}
	doc := api.History{Runner: "default", From: from, To: from.Add(4 * time.Hour), Known: from, Leader: true, By: "exception", Exceptions: []api.HistoryException{
		{Name: "UserError", Failed: 5, Counts: []api.HistoryCount{at(0, 3), at(2, 2)}}, {Failed: 1, Counts: []api.HistoryCount{at(1, 1)}},
	}, MoreExceptions: 4}
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query().Get("limit")
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	run := func(args ...string) string {
		return transcript(t, server.Listener.Addr().String(), 0, append([]string{"history", "--by", "exception"}, args...))
	}
	require.Equal(t, "EXCEPTION  FAILED  FIRST                 LAST\n"+
		"UserError  5       2030-05-06T00:00:00Z  2030-05-06T02:00:00Z\n"+
		"(unknown)  1       2030-05-06T01:00:00Z  2030-05-06T01:00:00Z\n"+
		"4 more: --limit 6\nexit status 0\n", run("--limit", "2"))
	require.Equal(t, "2", asked)
	require.Equal(t, "INTERVAL              FAILED  EXCEPTION\n"+
		"2030-05-06T02:00:00Z  2       UserError\n"+
		"2030-05-06T01:00:00Z  1       (unknown)\n"+
		"1 more before: --limit 3, or a longer --step\nexit status 0\n", run("--intervals", "--limit", "2"))
	require.Equal(t, "1000", asked)
	run("--intervals", "--limit", "1500")
	require.Equal(t, "1500", asked)
	doc.Exceptions = nil
	require.Equal(t, "no job has failed between 2030-05-06T00:00:00Z and 2030-05-06T04:00:00Z\nexit status 0\n", run())
	require.Equal(t, "no job has failed between 2030-05-06T00:00:00Z and 2030-05-06T04:00:00Z\nexit status 0\n", run("--intervals"))
}

// TestBurningObjectives: status says which objectives are not kept, which changes its exit status as little as
// the state of the runner.
func TestBurningObjectives(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		doc := api.Statuses{Runners: []api.Status{{Runner: "default", State: api.Ready, Ready: true, Leader: true, Burning: []api.BurningObjective{{
			Code: "objective_burns", Since: time.Date(2030, 5, 6, 3, 30, 0, 0, time.UTC), Text: "policy root.mail: 50% of the jobs waited too long\x1b[2J",
		}}}}}
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	out := transcript(t, server.Listener.Addr().String(), 0, []string{"status"})
	require.Contains(t, out, "default: policy root.mail: 50% of the jobs waited too long\uFFFD[2J (since 2030-05-06T03:30:00Z (in ")
	require.Contains(t, out, "exit status 0\n")
}
