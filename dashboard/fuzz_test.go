package dashboard

import (
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/admin"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// FuzzDashboard does the same with the pages and actions of the dashboard, which
// also must not be had by a page of another site.
func FuzzDashboard(f *testing.F) {
	for i, s := range fakerunner.Seeds {
		f.Add(s.Method, s.Target, []byte(s.Body), "same-origin", "http://admin", i%4 != 3, int64(i)<<58, "x")
	}
	for _, page := range []string{"", "/", "/data", "/failures", "/history", "/waiting?database=prod", "/why?database=prod&uuid=known", "/job?database=prod&uuid=known", "/jobs?database=prod&state=done", "/app.js", "s", "/x"} {
		f.Add("GET", "/jobrunner"+page, []byte{}, "", "", true, int64(math.MaxInt64), "\xff")
	}
	f.Add("POST", "/jobrunner/pause", []byte(`{"all": true}`), "cross-site", "http://evil", true, int64(0), "")
	f.Add("POST", "/jobrunner/capacity", []byte(`{"channel": "root", "capacity": 4}`), "same-origin", "http://admin", true, int64(0), "")
	f.Add("POST", "/jobrunner/pause", []byte(`{"all": true}`), "", "null", true, int64(0), "")
	f.Fuzz(func(t *testing.T, method, target string, body []byte, site, origin string, actions bool, micros int64, text string) {
		e, logs := fakerunner.RunFuzzed(t, micros, text)
		before := e.State(t)
		h := &Handler{Actions: actions, Admin: "127.0.0.1:1"} // where nobody answers
		require.NoError(t, h.Provision(caddy.Context{}))
		next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errNotOurs })
		page := func(w http.ResponseWriter, r *http.Request) error {
			err := h.ServeHTTP(w, r, next)
			if errors.Is(err, errNotOurs) {
				assert.Empty(t, w.Header(), "the rest of the site is not ours")
				return admin.Error(http.StatusNotFound, "%w", err)
			}
			return err
		}
		header := map[string]string{"Content-Type": "application/json", "Sec-Fetch-Site": site, "Origin": origin}
		if len(site) < 100 { // some requests come without
			header[actionHeader] = "1"
		}
		r, w := fakerunner.Ask(t, page, method, target, header, body)
		if r == nil {
			return
		}
		fakerunner.CheckAnswer(t, w, logs, len(target)+len(body)+len(text))
		if e.State(t) != before {
			require.Equal(t, http.MethodPost, r.Method)
			require.True(t, actions)
			require.Equal(t, "1", r.Header.Get(actionHeader))
			require.Contains(t, actionPages, strings.TrimPrefix(r.URL.Path, "/jobrunner/"))
			require.Contains(t, []string{"", "same-origin", "none"}, site)
			if site == "" {
				require.Contains(t, []string{"", "http://admin", "https://admin"}, origin)
			}
			require.Equal(t, http.StatusOK, w.Code)
		}
	})
}

var errNotOurs = errors.New("not ours")
