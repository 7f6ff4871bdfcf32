package admin

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// queue lets so many jobs end that came together some time ago and ran one after the other.
func queue(t *testing.T, name string, n int, each time.Duration) (began time.Time) {
	t.Helper()
	began = time.Now().Add(-time.Duration(n+2) * each)
	for i := range n {
		sent := began.Add(time.Duration(i) * each)
		history.Observe(runner.Event{
			Kind: runner.EventJobDone, Runner: name, Time: sent.Add(each), Database: "prod", Channel: "root.mail", Method: "send",
			Wait: sent.Sub(began) + 10*time.Millisecond, Run: each - 10*time.Millisecond, Outcome: "answered",
		})
	}
	return began
}

// TestSimulation: what another capacity would have meant is answered beside what was, with what that
// assumes.
func TestSimulation(t *testing.T) {
	e := &fakerunner.Engine{Says: runner.Status{Leader: true, Upstreams: []runner.UpstreamStatus{{Name: "odoo", Up: true}}, Channels: []runner.ChannelStatus{
		{Status: channels.Status{FullName: "root"}}, {Status: channels.Status{FullName: "root.shop"}},
	}}}
	k := fakerunner.RunWith(t, "default", e, zap.NewNop(), &history.Options{Dir: t.TempDir(), Logger: zap.NewNop()})
	ask := func(query string) (int, string) {
		_, w := fakerunner.Ask(t, adminMux("simulate"), http.MethodGet, "/jobrunner/simulate?"+query, nil, nil)
		return w.Code, w.Body.String()
	}
	status, body := ask("set=root=2")
	require.Equal(t, http.StatusConflict, status)
	require.Contains(t, body, "too few")

	queue(t, "default", 60, 10*time.Second)
	require.Eventually(t, func() bool {
		r, err := k.History().Recording(t.Context(), time.Now().Add(-time.Hour), time.Now())
		return err == nil && len(r.Attempts) == 60
	}, time.Minute, 10*time.Millisecond)
	status, body = ask("set=root=2&set=mail=2")
	require.Equal(t, http.StatusOK, status, body)
	var doc api.Simulation
	require.NoError(t, json.Unmarshal([]byte(body), &doc))
	require.Equal(t, map[string]int{"root": 2, "root.mail": 2}, doc.Set)
	require.Equal(t, 60, doc.Jobs)
	require.Equal(t, 1, doc.MostWas)
	require.Equal(t, 2, doc.Most)
	require.Contains(t, doc.Assumes, "Odoo has workers for 2 jobs at once; at most 1 ran in that time")
	require.Len(t, doc.Channels, 2)
	mail := doc.Channels[1]
	require.Equal(t, "root.mail", mail.Channel)
	require.Equal(t, 0, mail.Was.Capacity)
	require.Equal(t, 2, mail.Would.Capacity)
	require.InDelta(t, 300, mail.Was.Wait50, 15)
	require.InDelta(t, mail.Was.Wait50, mail.Replayed.Wait50, 15)
	require.InDelta(t, 150, mail.Would.Wait50, 15)
	require.NotNil(t, mail.Would.Utilisation)

	status, body = ask("set=root.mial=2")
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, body, `there is no channel \"root.mial\" now, known are root, root.shop`)
	status, body = ask("set=root.ma=2")
	require.Equal(t, http.StatusNotFound, status, "a job is in root.mail, which is not below root.ma: %s", body)
	status, body = ask("set=max_capacity=2")
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "max_capacity is only where databases have their own channels")
	status, body = ask("set=root=2,shop=2")
	require.Equal(t, http.StatusOK, status, body)

	e.Says.Upstreams[0].Limits.MaxJobs = 1
	status, body = ask("set=root=2")
	require.Equal(t, http.StatusConflict, status)
	require.Contains(t, body, "servers bear 1")
	for query, says := range map[string]string{
		"set=x": "no channel with its capacity", "set=root=0": "no channel", "set==4": "no channel", "from=never": "neither a time", "to=x": "neither a time",
		"set=root=2,mail=3&set=root.mail=4": "set names root.mail twice, with 3 and with 4",
		"from=1h&to=2h":                     "ends before", "x=y": "unknown parameter",
	} {
		status, body = ask(query)
		require.Equal(t, http.StatusBadRequest, status, query)
		require.Contains(t, body, says, query)
	}
}

// TestSimulatedTrees: a capacity takes the place of whatever a channel had, in each database where each has
// its own channels.
func TestSimulatedTrees(t *testing.T) {
	st := &runner.Status{Channels: []runner.ChannelStatus{
		{Status: channels.Status{FullName: "root", Auto: true, Capacity: 7, Configured: true}},
	}}
	cfg := runner.Config{Channels: []channels.Config{{Name: "root", Capacity: 1, Auto: true}, {Name: "root.a", Percent: 50}, {Name: "root.b", Capacity: 1, Sequential: true}}}
	require.Equal(t, map[channels.ID]int{{Channel: "root"}: 7, {Channel: "root.a"}: 3, {Channel: "root.b"}: 1}, capacitiesOf(trees(cfg, st, nil)))
	require.Equal(t, map[channels.ID]int{{Channel: "root"}: 4, {Channel: "root.a"}: 2, {Channel: "root.b"}: 3, {Channel: "root.c"}: 5},
		capacitiesOf(trees(cfg, st, map[string]int{"root": 4, "root.b": 3, "root.c": 5})))
	require.True(t, cfg.Channels[0].Auto, "the configuration itself stays")

	st.Channels = []runner.ChannelStatus{
		{Status: channels.Status{DB: "a", FullName: "root", Capacity: 2, Configured: true}}, {Status: channels.Status{DB: "a", FullName: "root.mail", Configured: true, Capacity: 1}},
		{Status: channels.Status{DB: "b", FullName: "root", Capacity: 3, Configured: true}},
	}
	cfg = runner.Config{DatabaseChannels: &channels.Capacities{Max: 3}}
	require.Equal(t, map[channels.ID]int{{DB: "a", Channel: "root"}: 2, {DB: "a", Channel: "root.mail"}: 2, {DB: "b", Channel: "root"}: 3, {DB: "b", Channel: "root.mail"}: 2},
		capacitiesOf(trees(cfg, st, map[string]int{"root.mail": 2, maxCapacity: 8})))
	require.Equal(t, 3, cfg.DatabaseChannels.Max)
}
