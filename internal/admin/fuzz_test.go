package admin

import (
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// adminMux serves the admin API, with errors returned instead of answered.
func adminMux(target string) caddy.AdminHandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) (err error) {
		mux := http.NewServeMux()
		for _, route := range (API{}).Routes() {
			mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) { err = route.Handler.ServeHTTP(w, r) })
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			return Error(http.StatusNotFound, "nothing at %q", target) // Caddy's answer
		}
		mux.ServeHTTP(w, r)
		return err
	}
}

var adminActions = []string{"pause", "resume", "drain", "undrain", "requeue", "cancel", "set-done", "postpone", "resync"}

// FuzzAdmin: whatever is sent to the admin API, it answers properly, and nothing
// changes but by the POST of an action.
func FuzzAdmin(f *testing.F) {
	for i, s := range fakerunner.Seeds {
		f.Add(s.Method, s.Target, "application/json; charset=utf-8", []byte(s.Body), []int64{0, math.MaxInt64, math.MinInt64, -1e17}[i%4], []string{"a.b", "\xff\"\n", ""}[i%3])
	}
	f.Fuzz(func(t *testing.T, method, target, kind string, body []byte, micros int64, text string) {
		e, logs := fakerunner.RunFuzzed(t, micros, text)
		before := e.State(t)
		r, w := fakerunner.Ask(t, adminMux(target), method, target, map[string]string{"Content-Type": kind}, body)
		if r == nil {
			return
		}
		if w.Code < 300 || w.Code >= 400 {
			// The request's own mistakes are no failures of the server.
			fakerunner.CheckAnswer(t, w, logs, len(target)+len(body)+len(text))
		}
		if e.State(t) != before {
			require.Equal(t, http.MethodPost, r.Method)
			require.Contains(t, adminActions, strings.TrimPrefix(r.URL.Path, "/jobrunner/"))
			require.Equal(t, http.StatusOK, w.Code)
			require.Equal(t, 1, logs.Len(), "who did it is logged")
			require.True(t, json.Valid(body))
		}
	})
}
