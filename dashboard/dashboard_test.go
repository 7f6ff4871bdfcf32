package dashboard

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/caddytest"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

func TestMain(m *testing.M) {
	os.Exit(caddytest.Main(m))
}

// desk runs Caddy with a dashboard and returns the address of the page.
func desk(t *testing.T, e fakerunner.Operated, directive string) string {
	t.Helper()
	fakerunner.Run(t, "default", e, zap.NewNop())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	l.Close()
	raw, err := caddytest.Adapt("{\n\tadmin off\n\tauto_https off\n}\nhttp://" + address + " {\n" + directive + "\n}\n")
	require.NoError(t, err)
	require.NoError(t, caddy.Load(raw, true))
	t.Cleanup(func() {
		require.NoError(t, caddy.Stop())
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + address
}

// send sends a request and returns its answer and body.
func send(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: http.DefaultTransport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(b)
}

func TestDashboardPages(t *testing.T) {
	e := fakerunner.NewDesk()
	site := desk(t, e, "jobrunner_dashboard")
	res, _ := send(t, http.MethodGet, site+"/jobrunner", "")
	require.Equal(t, http.StatusPermanentRedirect, res.StatusCode)
	require.Equal(t, "jobrunner/", res.Header.Get("Location"))
	res, body := send(t, http.MethodGet, site+"/jobrunner/", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, policy, res.Header.Get("Content-Security-Policy"))
	require.NotContains(t, body, "http:", "no outside resources")
	require.NotContains(t, body, "https:")
	for file, kind := range map[string]string{"app.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8", "explorer.js": "text/javascript; charset=utf-8", "history.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"} {
		res, _ := send(t, http.MethodGet, site+"/jobrunner/"+file, "")
		require.Equal(t, kind, res.Header.Get("Content-Type"))
		require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
		res, _ = send(t, http.MethodGet, site+"/jobrunner/"+file, "", "If-None-Match", res.Header.Get("ETag"))
		require.Equal(t, http.StatusNotModified, res.StatusCode)
	}
	for _, c := range []struct {
		method, page string
		status       int
	}{
		{"GET", "nothing", 404}, {"POST", "", 405}, {"POST", "data", 405}, {"GET", "pause", 405},
		{"POST", "pause", 403}, {"GET", "data?x=1", 400}, {"GET", "why", 400}, {"GET", "why?database=prod&uuid=x", 404},
		{"GET", "why?database=prod&uuid=known", 200}, {"GET", "why?runner=none&database=prod&uuid=known", 404},
		{"GET", "jobs?database=prod&state=failed", 200}, {"GET", "jobs?x=1", 400}, {"GET", "jobs?state=sleeping", 400},
		{"GET", "jobs?runner=none&database=prod", 404}, {"GET", "job", 400}, {"GET", "job?database=prod&uuid=x", 404},
		{"GET", "job?database=prod&uuid=known", 200}, {"POST", "job", 405}, {"GET", "requeue", 405}, {"POST", "requeue", 403},
		{"POST", "cancel", 403}, {"POST", "set-done", 403}, {"POST", "capacity", 403}, {"POST", "postpone", 404},
		{"GET", "waiting?database=prod", 200}, {"GET", "history?runner=default", 200}, {"GET", "history?runner=none", 404}, {"HEAD", "data", 200},
	} {
		res, body := send(t, c.method, site+"/jobrunner/"+c.page, "")
		require.Equal(t, c.status, res.StatusCode, "%s %s: %s", c.method, c.page, body)
	}
	res, _ = send(t, http.MethodGet, site+"/jobrunners", "")
	require.Empty(t, res.Header.Get("Content-Security-Policy"), "the rest of the site is not ours")
}

func TestDashboardData(t *testing.T) {
	e := fakerunner.NewDesk()
	site := desk(t, e, "jobrunner_dashboard /ops/jobs {\n\tnodes https://b.example/ops/jobs/\n}")
	res, body := send(t, http.MethodGet, site+"/ops/jobs/data", "")
	require.Equal(t, "false", res.Header.Get("X-Jobrunner-Actions"))
	require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
	var data struct {
		Runners []struct {
			Status    api.Status
			Databases []api.Database
			Channels  []api.Channel
			Tasks     []api.Task
		}
	}
	require.NoError(t, json.Unmarshal([]byte(body), &data))
	require.Len(t, data.Runners, 1)
	require.Contains(t, body, `"nodes":["https://b.example/ops/jobs/"]`)
	r := data.Runners[0]
	require.Equal(t, "default", r.Status.Runner)
	require.Len(t, r.Databases, 3)
	require.Len(t, r.Channels, 3)
	require.Equal(t, "old", r.Tasks[0].UUID, "the oldest first")

	before := e.Asked()
	for range 50 {
		send(t, http.MethodGet, site+"/ops/jobs/data", "")
	}
	require.Less(t, e.Asked()-before, 10, "visitors share answers")

	_, body = send(t, http.MethodGet, site+"/ops/jobs/failures", "")
	var failures struct{ Groups []failureGroup }
	require.NoError(t, json.Unmarshal([]byte(body), &failures))
	require.Len(t, failures.Groups, 2)
	require.Equal(t, "KeyError", failures.Groups[0].Exception, "the newest first")
	require.Equal(t, 2, failures.Groups[1].Count)
	require.Equal(t, []string{"UserError0", "UserError1"}, failures.Groups[1].Jobs)
}

// TestDashboardActions: only with the option, only from the page itself.
func TestDashboardActions(t *testing.T) {
	e := fakerunner.NewDesk()
	site := desk(t, e, "jobrunner_dashboard {\n\tactions\n}")
	page := site + "/jobrunner/pause"
	ok := []string{"Content-Type", "application/json", actionHeader, "1", "Origin", site, "Sec-Fetch-Site", "same-origin"}
	with := func(name, value string) []string { return append(append([]string{}, ok...), name, value) }
	for name, c := range map[string]struct {
		header []string
		body   string
		status int
	}{
		"without the header":     {ok[:2], `{"channel": "root"}`, 403},
		"from another site":      {with("Sec-Fetch-Site", "cross-site"), `{"channel": "root"}`, 403},
		"from a sister site":     {with("Sec-Fetch-Site", "same-site"), `{"channel": "root"}`, 403},
		"another origin":         {append(ok[:4:4], "Origin", "http://evil.example"), `{"channel": "root"}`, 403},
		"no origin at all: null": {append(ok[:4:4], "Origin", "null"), `{"channel": "root"}`, 403},
		"a form":                 {with("Content-Type", "application/x-www-form-urlencoded"), `{"channel": "root"}`, 415},
		"too large":              {ok, `{"note": "` + strings.Repeat("x", 1<<20) + `"}`, 413},
		"unknown field":          {ok, `{"chanel": "root"}`, 400},
		"nothing named":          {ok, `{}`, 400},
		"no runner of that name": {ok, `{"runner": "x", "channel": "root"}`, 404},
	} {
		res, body := send(t, http.MethodPost, page, c.body, c.header...)
		require.Equal(t, c.status, res.StatusCode, "%s: %s", name, body)
		require.Empty(t, e.Controls().Pauses, "%s: nothing changed", name)
	}
	res, body := send(t, http.MethodPost, page, `{"channel": "root.mail", "note": "printer"}`, ok...)
	require.Equal(t, http.StatusOK, res.StatusCode, body)
	require.Len(t, e.Controls().Pauses, 1)
	require.Equal(t, "root.mail", e.Controls().Pauses[0].Channel)
	require.Equal(t, "dashboard, 127.0.0.1", e.Controls().Pauses[0].By)
	_, body = send(t, http.MethodGet, site+"/jobrunner/data", "")
	require.Contains(t, body, `"note":"printer"`, "it is to be seen at once")
	res, body = send(t, http.MethodPost, site+"/jobrunner/resume", `{"channel": "root.mail"}`, ok...)
	require.Equal(t, http.StatusOK, res.StatusCode, body)
	require.Empty(t, e.Controls().Pauses)
	res, _ = send(t, http.MethodPost, site+"/jobrunner/drain", `{"upstream": "http://a:1"}`, ok...)
	require.Equal(t, http.StatusOK, res.StatusCode)
	res, _ = send(t, http.MethodPost, site+"/jobrunner/undrain", `{"upstream": "http://a:1"}`, ok...)
	require.Equal(t, http.StatusOK, res.StatusCode)
}

func TestDashboardCaddyfile(t *testing.T) {
	for _, bad := range []string{
		"jobrunner_dashboard a", "jobrunner_dashboard /a /b", "jobrunner_dashboard {\n\tx\n}", "jobrunner_dashboard {\n\tactions\n\tactions\n}",
		"jobrunner_dashboard {\n\tactions on\n}",
		"jobrunner_dashboard {\n\tnodes\n}", "jobrunner_dashboard {\n\tnodes javascript:alert(1)\n}", "jobrunner_dashboard {\n\tnodes https://a.example https://u:p@b.example\n}",
		"jobrunner_dashboard {\n\tnodes https://a.example\n\tnodes https://b.example\n}", "jobrunner_dashboard /a/*b",
		"jobrunner_dashboard {\n\tadmin\n}", "jobrunner_dashboard {\n\tadmin a:1 b:1\n}", "jobrunner_dashboard {\n\tadmin a:1\n\tadmin b:1\n}",
		"jobrunner_dashboard {\n\tadmin localhost:1-9\n}",
	} {
		_, err := caddytest.Adapt(":1 {\n" + bad + "\n}")
		require.ErrorContains(t, err, "Caddyfile:", bad)
	}
	raw, err := caddytest.Adapt(":1 {\n\treverse_proxy a:1\n\tjobrunner_dashboard /x/ {\n\tactions\n\tnodes https://b.example/x/\n\tadmin unix//run/admin.sock\n}\n}")
	require.NoError(t, err)
	require.Contains(t, string(raw), `{"match":[{"path":["/x","/x/*"]}],"handle":[{"actions":true,"admin":"unix//run/admin.sock","handler":"jobrunner_dashboard","nodes":["https://b.example/x/"],"path":"/x/"}]},{"handle":[{"handler":"reverse_proxy"`)
}

func TestHistory(t *testing.T) {
	h := history{runners: make(map[string]*[historyPoints]point)}
	now := time.Unix(1_000_000_000, 0)
	at := func(ago time.Duration, kind runner.EventKind, d time.Duration) {
		h.note(runner.Event{Time: now.Add(-ago), Kind: kind, Runner: "r", Wait: d, Run: d})
	}
	at(2*time.Hour, runner.EventJobDone, time.Second)
	for range 99 {
		at(30*time.Minute, runner.EventJobDone, time.Second)
	}
	at(30*time.Minute, runner.EventJobFailed, time.Hour)
	at(30*time.Minute, runner.EventJobRetried, time.Second)
	at(0, runner.EventJobRetried, time.Second)
	at(time.Minute, runner.EventJobNotRun, time.Second)
	p := h.plots("r", now)
	require.Len(t, p.Done, historyPoints)
	var done, failed, back uint32
	for i := range p.Done {
		done, failed, back = done+p.Done[i], failed+p.Failed[i], back+p.Back[i]
	}
	require.Equal(t, [3]uint32{99, 1, 3}, [3]uint32{done, failed, back}, "what is older than an hour is forgotten")
	i := historyPoints - 1 - int(30*time.Minute/historyStep)
	require.InDelta(t, 1, *p.Run50[i], .6)
	require.Nil(t, p.Run50[0])
	require.NotNil(t, p.Wait50[historyPoints-1])
	require.Nil(t, p.Wait50[historyPoints-3], "what was not started has not been waited for")
	var all latencies
	for range 2 {
		all.add(48 * time.Hour)
	}
	require.Greater(t, *all.quantile(1), 86400.0, "what is longer than the longest counts as that")
	for n := range 2 * historyRunners {
		h.note(runner.Event{Time: now, Kind: runner.EventJobDone, Runner: string(rune('a' + n))})
	}
	require.LessOrEqual(t, len(h.runners), historyRunners)
}
