package fakerunner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// nameLimit bounds the texts by which people sign what they do, in bytes.
const nameLimit = 200

// Fuzzed shows rows with anything in them, and counts what changes it.
type Fuzzed struct {
	Desk
	micros  int64
	text    string
	changed int
}

func (e *Fuzzed) detail(uuid string) driver.Detail {
	return driver.Detail{
		Row: driver.Row{
			Job:      channels.Job{Key: channels.Key{DB: "prod", UUID: uuid}, Channel: e.text, Created: e.micros, ETA: -e.micros},
			RawState: e.text, Enqueued: e.micros,
		},
		Model: e.text, Exception: e.text, Started: time.UnixMicro(e.micros), Done: time.UnixMicro(-e.micros),
	}
}

// Tasks lists one task.
func (e *Fuzzed) Tasks(context.Context) ([]runner.TaskStatus, error) {
	return []runner.TaskStatus{{Key: channels.Key{DB: "prod", UUID: e.text}, Channel: e.text, Since: time.UnixMicro(e.micros)}}, nil
}

// Jobs lists two jobs.
func (e *Fuzzed) Jobs(context.Context, runner.JobQuery) (runner.JobPage, error) {
	return runner.JobPage{Jobs: []driver.Detail{e.detail("known"), e.detail(e.text)}, Next: "next"}, nil
}

// Job says the same as Why.
func (e *Fuzzed) Job(ctx context.Context, key channels.Key) (runner.Why, error) {
	return e.Why(ctx, key)
}

// Why knows one job.
func (e *Fuzzed) Why(_ context.Context, key channels.Key) (runner.Why, error) {
	d := e.detail(key.UUID)
	return runner.Why{Key: key, Found: key.UUID == "known", Code: "behind", Until: time.UnixMicro(e.micros), Since: time.UnixMicro(e.micros), Detail: &d}, nil
}

// Change counts.
func (e *Fuzzed) Change(_ context.Context, c runner.JobChange) (runner.ChangeResult, error) {
	e.changed++
	return runner.ChangeResult{Changed: 1, Jobs: []channels.Key{{DB: c.Database, UUID: "known"}}}, nil
}

// Resync counts.
func (e *Fuzzed) Resync(context.Context, string) (int, error) {
	e.changed++
	return 1, nil
}

// State is everything that a request can change.
func (e *Fuzzed) State(t *testing.T) string {
	t.Helper()
	raw, err := json.Marshal(e.Controls())
	require.NoError(t, err)
	return fmt.Sprint(e.changed, " ", string(raw))
}

// RunFuzzed puts such an engine to work, and returns it with what is logged.
func RunFuzzed(t *testing.T, micros int64, text string) (*Fuzzed, *observer.ObservedLogs) {
	t.Helper()
	e := &Fuzzed{micros: micros, text: text}
	e.Says = Status(time.Now())
	e.Says.Controls = runner.Controls{}
	e.Says.Channels = append(e.Says.Channels, runner.ChannelStatus{Status: channels.Status{FullName: "root." + text, Capacity: 1}, Oldest: time.UnixMicro(micros)})
	e.Says.Counts = append(e.Says.Counts, channels.Count{DB: "prod", Channel: "root." + text, Pending: 1})
	core, logs := observer.New(zap.DebugLevel)
	r := Run(t, "default", e, zap.New(core))
	_, err := r.Order(t.Context(), func(runner.Controls) runner.Controls {
		return runner.Controls{Pauses: []runner.Pause{{Channel: "root.paused"}}, Drains: []runner.Drain{{Upstream: "http://b:1"}}}
	})
	require.NoError(t, err)
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

// Ask sends a request to a handler, whose errors are answered as Caddy's admin
// endpoint answers them. It is nil for a request that no server would accept.
func Ask(t *testing.T, h caddy.AdminHandlerFunc, method, target string, header map[string]string, body []byte) (*http.Request, *httptest.ResponseRecorder) {
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
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(shown.HTTPStatus)
		require.NoError(t, json.NewEncoder(w).Encode(map[string]string{"error": shown.Message}))
	}
	return r, w
}

// CheckAnswer looks at what everybody may rely on.
func CheckAnswer(t *testing.T, w *httptest.ResponseRecorder, logs *observer.ObservedLogs, size int) {
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
		require.Contains(t, []int{400, 403, 404, 405, 413, 415, 502, 503}, w.Code, w.Body.String())
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

// Seeds are requests to the admin API that get far.
var Seeds = []struct{ Method, Target, Body string }{
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
