package admin

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/policy"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// TestHistory: the history is answered as JSON and as a table, of what was asked for, and a stand-by says
// who leads.
func TestHistory(t *testing.T) {
	e := &fakerunner.Engine{Says: runner.Status{LeaderKnown: true, LeaderDetail: "node-b"}}
	k := fakerunner.RunWith(t, "default", e, zap.NewNop(), &history.Options{
		Dir: t.TempDir(), Logger: zap.NewNop(), Policies: []policy.Policy{{Channels: []string{"root"}, Objective: &policy.Objective{Wait: time.Millisecond, Percent: 90}}},
	})
	for i, method := range []string{"send", "=cmd()", "send"} {
		history.Observe(runner.Event{
			Kind: []runner.EventKind{runner.EventJobDone, runner.EventJobFailed, runner.EventJobRescued}[i], Runner: "default", Time: time.Now(),
			Database: "prod", Channel: "root.mail", Method: method, Wait: time.Second, Run: time.Minute,
		})
	}
	require.Eventually(t, func() bool {
		r, err := k.History().Query(t.Context(), history.Query{})
		return err == nil && r.Total.Attempts() == 3
	}, time.Minute, 10*time.Millisecond)

	ask := func(query string) (int, string) {
		_, w := fakerunner.Ask(t, adminMux("history"), http.MethodGet, "/jobrunner/history?"+query, nil, nil)
		return w.Code, w.Body.String()
	}
	status, body := ask("from=1h&channel=mail&limit=1")
	require.Equal(t, http.StatusOK, status, body)
	var doc api.History
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	require.Equal(t, "default", doc.Runner)
	require.False(t, doc.Leader)
	require.Equal(t, "node-b", doc.LeaderDetail)
	require.EqualValues(t, 3, doc.Total.Attempts)
	require.EqualValues(t, 1, doc.Total.Rescued)
	require.InEpsilon(t, 60, *doc.Total.RunMost, 1e-9)
	require.InEpsilon(t, 60, *doc.Total.Run95, .26)
	require.Equal(t, []api.HistoryObjective{{Policy: "policy root", Wait: .001, Target: .9, Attempts: 3, Late: 3}}, doc.Objectives)
	require.Len(t, doc.Groups, 1)
	require.Equal(t, 1, doc.More)
	require.Len(t, doc.Intervals, 13)

	for format, want := range map[string]string{"groups": "function", "intervals": "begin"} {
		status, body = ask("from=1h&csv=" + format)
		require.Equal(t, http.StatusOK, status)
		rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		require.NoError(t, err)
		require.Equal(t, want, rows[0][0])
		require.Len(t, rows[0], 14)
	}
	_, body = ask("csv=groups")
	require.Contains(t, body, "\n'=cmd(),1,", "no spreadsheet runs it")

	for query, says := range map[string]string{
		"from=soon": "neither a time", "to=x": "neither a time", "step=x": "not a duration", "step=7m": "multiple of", "by=colour": "none of", "csv=x": "neither",
		"from=1h&to=2h": "ends before", "limit=0": "not a number", "format=csv": "unknown parameter",
	} {
		status, body = ask(query)
		require.Equal(t, http.StatusBadRequest, status, query)
		require.Contains(t, body, says, query)
	}
	status, _ = ask("from=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + "&by=database")
	require.Equal(t, http.StatusOK, status)
}

// TestHistoryByException: the answer names so many exceptions, and counts the others.
func TestHistoryByException(t *testing.T) {
	k := fakerunner.RunWith(t, "default", new(fakerunner.Engine), zap.NewNop(), &history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	for i := range 6 {
		history.Observe(runner.Event{
			Kind: runner.EventJobFailed, Runner: "default", Time: time.Now(), Database: "prod", Channel: "root", Method: "f",
			Exception: []string{"A", "B", "C"}[i/2], Run: time.Second,
		})
	}
	require.Eventually(t, func() bool {
		r, err := k.History().Query(t.Context(), history.Query{})
		return err == nil && r.Total.Attempts() == 6
	}, time.Minute, 10*time.Millisecond)
	_, w := fakerunner.Ask(t, adminMux("history"), http.MethodGet, "/jobrunner/history?by=exception&limit=2", nil, nil)
	var doc api.History
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &doc))
	require.Len(t, doc.Exceptions, 2)
	require.Equal(t, "A", doc.Exceptions[0].Name)
	require.EqualValues(t, 2, doc.Exceptions[0].Failed)
	require.Equal(t, 1, doc.MoreExceptions)
	require.Len(t, doc.Groups, 2)
	require.Equal(t, 1, doc.More)

	none := newHistory(&history.Result{Exceptions: []history.Exception{{Name: "A"}}})
	require.NotNil(t, none.Exceptions[0].Counts, "no null for who reads it")
}

// TestHistoryOff: without a history, that is said.
func TestHistoryOff(t *testing.T) {
	fakerunner.Run(t, "default", new(fakerunner.Engine), zap.NewNop())
	_, w := fakerunner.Ask(t, adminMux("history"), http.MethodGet, "/jobrunner/history", nil, nil)
	require.Equal(t, http.StatusNotFound, w.Code)
	require.Contains(t, w.Body.String(), "history off")
}

// TestBurning: status names the objectives that are not kept, and what to do, and no others.
func TestBurning(t *testing.T) {
	since := time.Date(2030, 5, 6, 3, 30, 0, 0, time.UTC)
	list := newBurning([]history.Objective{
		{Policy: "policy root.stock", Wait: time.Hour, Target: .95},
		{Policy: "policy root.mail", Wait: time.Minute, Target: .95, Burn: &history.Burn{Since: since, Late: .5, Allowed: .05, Window: time.Hour}},
	})
	require.Equal(t, []api.BurningObjective{{
		Code: "objective_burns", Policy: "policy root.mail", Since: since, Late: .5, Allowed: .05, Window: 3600, Wait: 60,
		Text: "policy root.mail: 50% of the jobs of the last 1h waited longer than 1m0s, and its objective allows 5%: " +
			"caddy jobrunner history --from 2h --by channel shows where, and caddy jobrunner simulate whether more slots would help",
	}}, list)
	require.Nil(t, newBurning(nil))
}
