package jobrunner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// fuzzedEngine shows rows with anything in them, and counts what changes it.
type fuzzedEngine struct {
	deskEngine
	micros  int64
	text    string
	changed int
}

func (e *fuzzedEngine) detail(uuid string) driver.Detail {
	return driver.Detail{
		Row: driver.Row{
			Job:      channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}, Channel: e.text, Created: e.micros, ETA: -e.micros},
			RawState: e.text, Enqueued: e.micros,
		},
		Model: e.text, Exception: e.text, Started: time.UnixMicro(e.micros), Done: time.UnixMicro(-e.micros),
	}
}

func (e *fuzzedEngine) Tasks(context.Context) ([]runner.TaskStatus, error) {
	return []runner.TaskStatus{{Key: channels.Key{DB: "prod", UUID: e.text}, Channel: e.text, Since: time.UnixMicro(e.micros)}}, nil
}

func (e *fuzzedEngine) Jobs(context.Context, runner.JobQuery) (runner.JobPage, error) {
	return runner.JobPage{Jobs: []driver.Detail{e.detail("known"), e.detail(e.text)}, Next: "next"}, nil
}

func (e *fuzzedEngine) Why(_ context.Context, key channels.Key) (runner.Why, error) {
	d := e.detail(key.UUID)
	return runner.Why{Key: key, Found: key.UUID == "known", Code: "behind", Until: time.UnixMicro(e.micros), Since: time.UnixMicro(e.micros), Detail: &d}, nil
}

func (e *fuzzedEngine) Change(_ context.Context, c runner.JobChange) (runner.ChangeResult, error) {
	e.changed++
	return runner.ChangeResult{Changed: 1, Jobs: []channels.Key{{DB: c.Database, UUID: "known"}}}, nil
}

func (e *fuzzedEngine) Resync(context.Context, string) (int, error) {
	e.changed++
	return 1, nil
}

// state is everything that a request can change.
func (e *fuzzedEngine) state(t *testing.T) string {
	t.Helper()
	raw, err := json.Marshal(e.Controls())
	require.NoError(t, err)
	return fmt.Sprint(e.changed, " ", string(raw))
}

// fuzzed puts such an engine into the place of the real ones, and returns it with
// what is logged.
func fuzzed(t *testing.T, micros int64, text string) (*fuzzedEngine, *observer.ObservedLogs) {
	t.Helper()
	e := &fuzzedEngine{micros: micros, text: text}
	e.Says = fakerunner.Status(time.Now())
	e.Says.Controls = runner.Controls{}
	e.Says.Channels = append(e.Says.Channels, runner.ChannelStatus{Status: channels.Status{FullName: "root." + text, Capacity: 1}, Oldest: time.UnixMicro(micros)})
	e.Says.Counts = append(e.Says.Counts, channels.Count{DB: "prod", Channel: "root." + text, Pending: 1})
	core, logs := observer.New(zap.DebugLevel)
	r := fakerunner.Run(t, "default", e, zap.New(core))
	_, err := r.Order(t.Context(), func(runner.Controls) runner.Controls {
		return runner.Controls{Pauses: []runner.Pause{{Channel: "root.paused"}}, Drains: []runner.Drain{{Upstream: "http://b:1"}}}
	})
	require.NoError(t, err)
	sharedData.expire()
	sharedFailures.expire()
	return e, logs
}

// answerWriter is a connection's end: events are read until the first flush.
type answerWriter struct {
	*httptest.ResponseRecorder
	hangUp context.CancelFunc
}

func (w answerWriter) Flush()                           { w.hangUp() }
func (w answerWriter) SetReadDeadline(time.Time) error  { return nil }
func (w answerWriter) SetWriteDeadline(time.Time) error { return nil }

// ask sends a request to a handler, whose errors are answered as Caddy's admin
// endpoint answers them. It is nil for a request that no server would accept.
func ask(t *testing.T, h caddy.AdminHandlerFunc, method, target string, header map[string]string, body []byte) (*http.Request, *httptest.ResponseRecorder) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://admin"+target, bytes.NewReader(body))
	if err != nil || r.URL.Host != "admin" {
		return nil, nil
	}
	r.RemoteAddr = "127.0.0.1:1"
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	if err := h(answerWriter{w, cancel}, r); err != nil {
		var shown caddy.APIError
		require.ErrorAs(t, err, &shown, "every error has a status")
		require.GreaterOrEqual(t, shown.HTTPStatus, 400)
		require.NotEmpty(t, shown.Message)
		first, _ := utf8.DecodeRuneInString(shown.Message)
		require.False(t, unicode.IsUpper(first), shown.Message)
		require.NoError(t, dashboardError(w, err))
	}
	return r, w
}

// checkAnswer looks at what everybody may rely on.
func checkAnswer(t *testing.T, w *httptest.ResponseRecorder, logs *observer.ObservedLogs, size int) {
	t.Helper()
	for name, values := range w.Header() {
		require.NotContains(t, name+strings.Join(values, ""), "\n")
		require.NotContains(t, name+strings.Join(values, ""), "\r")
	}
	require.Less(t, w.Body.Len(), 1<<18+100*size, "an answer is bounded")
	kind := w.Header().Get("Content-Type")
	if kind == "application/json" {
		require.True(t, json.Valid(w.Body.Bytes()), w.Body.String())
	}
	if w.Code >= 400 {
		require.Equal(t, "application/json", kind)
		require.Contains(t, []int{400, 403, 404, 405, 413, 415, 503}, w.Code, w.Body.String())
	}
	for _, entry := range logs.All() {
		require.Equal(t, "action", entry.Message, "what comes from outside stands in fields")
		for _, f := range entry.Context {
			if f.Key == "by" || f.Key == "note" {
				require.Less(t, len(f.String), 2*nameLimit)
				require.False(t, strings.ContainsFunc(f.String, unicode.IsControl))
			}
		}
	}
}

// adminMux serves the admin API, with errors returned instead of answered.
func adminMux(target string) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) (err error) {
		mux := http.NewServeMux()
		for _, route := range (adminAPI{}).Routes() {
			mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { err = route.Handler.ServeHTTP(w, r) })
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			return apiError(http.StatusNotFound, "nothing at %q", target) // Caddy's answer
		}
		mux.ServeHTTP(w, r)
		return err
	}
}

var adminActions = []string{"pause", "resume", "drain", "undrain", "requeue", "cancel", "set-done", "postpone", "resync"}

// adminSeeds are bodies and queries that get far.
var adminSeeds = []struct{ method, target, body string }{
	{"GET", "/jobrunner/status", ""},
	{"HEAD", "/jobrunner/ready?runner=default", ""},
	{"GET", "/jobrunner/live?x=%zz", ""},
	{"GET", "/jobrunner/channels?runner=%0d%0aX:1", ""},
	{"GET", "/jobrunner/tasks", ""},
	{"GET", "/jobrunner/jobs?state=failed,pending&state=done&older_than=2d&limit=99999999999999999999&cursor=!", ""},
	{"GET", "/jobrunner/jobs?limit=1000&channel=a&exception=b&database=c&cursor=MSBh", ""},
	{"GET", "/jobrunner/jobs/prod/known", ""},
	{"GET", "/jobrunner/jobs/prod/..%2f%00", ""},
	{"GET", "/jobrunner/events?event=job_done,job_failed&database=prod", ""},
	{"DELETE", "/jobrunner/pause", "{}"},
	{"POST", "/jobrunner/pause", `{"channel": "root.a\u0000", "for": "2d", "note": "x\ny"}`},
	{"POST", "/jobrunner/pause", `{"all": true, "until": "9999-12-31T23:59:59-23:59", "by": "me"}`},
	{"POST", "/jobrunner/pause", `{"database": "prod"}}`},
	{"POST", "/jobrunner/resume", `{"channel": "root.paused"}`},
	{"POST", "/jobrunner/drain", `{"upstream": "http://a:1", "runner": "default"}`},
	{"POST", "/jobrunner/undrain", `{"upstream": "http://b:1"} {}`},
	{"POST", "/jobrunner/requeue", `{"database": "prod", "uuids": ["known"], "states": ["failed"], "dry_run": true}`},
	{"POST", "/jobrunner/postpone", `{"states": ["pending"], "until": "0000-01-01T00:00:00+23:59", "limit": -1}`},
	{"POST", "/jobrunner/postpone", `{"all": true, "for": "999999999999d"}`},
	{"POST", "/jobrunner/cancel", `null`},
	{"POST", "/jobrunner/set-done", strings.Repeat("[", 20000)},
	{"POST", "/jobrunner/resync", `{"database": "", "by": "\u2028"}`},
}

// FuzzAdmin: whatever is sent to the admin API, it answers properly, and nothing
// changes but by the POST of an action.
func FuzzAdmin(f *testing.F) {
	for i, s := range adminSeeds {
		f.Add(s.method, s.target, "application/json; charset=utf-8", []byte(s.body), []int64{0, math.MaxInt64, math.MinInt64, -1e17}[i%4], []string{"a.b", "\xff\"\n", ""}[i%3])
	}
	f.Fuzz(func(t *testing.T, method, target, kind string, body []byte, micros int64, text string) {
		e, logs := fuzzed(t, micros, text)
		before := e.state(t)
		r, w := ask(t, adminMux(target), method, target, map[string]string{"Content-Type": kind}, body)
		if r == nil {
			return
		}
		if w.Code < 300 || w.Code >= 400 {
			// The request's own mistakes are no failures of the server.
			checkAnswer(t, w, logs, len(target)+len(body)+len(text))
		}
		if e.state(t) != before {
			require.Equal(t, http.MethodPost, r.Method)
			require.Contains(t, adminActions, strings.TrimPrefix(r.URL.Path, "/jobrunner/"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, 1, logs.Len(), "who did it is logged")
			require.True(t, json.Valid(body))
		}
		reg := prometheus.NewRegistry()
		require.NoError(t, registerMetrics(reg))
		_, err := reg.Gather()
		require.NoError(t, err)
	})
}

// FuzzDashboard does the same with the pages and actions of the dashboard, which
// also must not be had by a page of another site.
func FuzzDashboard(f *testing.F) {
	for i, s := range adminSeeds {
		f.Add(s.method, s.target, []byte(s.body), "same-origin", "http://admin", i%4 != 3, int64(i)<<58, "x")
	}
	for _, page := range []string{"", "/", "/data", "/failures", "/history", "/waiting?database=prod", "/why?database=prod&uuid=known", "/app.js", "s", "/x"} {
		f.Add("GET", "/jobrunner"+page, []byte{}, "", "", true, int64(math.MaxInt64), "\xff")
	}
	f.Add("POST", "/jobrunner/pause", []byte(`{"all": true}`), "cross-site", "http://evil", true, int64(0), "")
	f.Add("POST", "/jobrunner/pause", []byte(`{"all": true}`), "", "null", true, int64(0), "")
	f.Fuzz(func(t *testing.T, method, target string, body []byte, site, origin string, actions bool, micros int64, text string) {
		e, logs := fuzzed(t, micros, text)
		before := e.state(t)
		d := &Dashboard{Actions: actions}
		require.NoError(t, d.Provision(caddy.Context{}))
		next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errNotOurs })
		page := func(w http.ResponseWriter, r *http.Request) error {
			err := d.ServeHTTP(w, r, next)
			if errors.Is(err, errNotOurs) {
				assert.Empty(t, w.Header(), "the rest of the site is not ours")
				return apiError(http.StatusNotFound, "%w", err)
			}
			return err
		}
		header := map[string]string{"Content-Type": "application/json", "Sec-Fetch-Site": site, "Origin": origin}
		if len(site) < 100 { // some requests come without
			header[dashboardHeader] = "1"
		}
		r, w := ask(t, page, method, target, header, body)
		if r == nil {
			return
		}
		checkAnswer(t, w, logs, len(target)+len(body)+len(text))
		if e.state(t) != before {
			require.Equal(t, http.MethodPost, r.Method)
			require.True(t, actions)
			require.Equal(t, "1", r.Header.Get(dashboardHeader))
			require.Contains(t, dashboardActions, strings.TrimPrefix(r.URL.Path, "/jobrunner/"))
			require.Contains(t, []string{"", "same-origin", "none"}, site)
			if site == "" {
				require.Contains(t, []string{"", "http://admin", "https://admin"}, origin)
			}
			require.Equal(t, http.StatusOK, w.Code)
		}
	})
}

var errNotOurs = errors.New("not ours")
