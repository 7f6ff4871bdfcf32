package runjobguard

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
)

// spellings are paths that some Odoo takes for a route, as a visitor sends them.
var spellings = []string{
	"/queue_job/runjob", "/connector/runjob", "/queue_job/session", "/queue_job/runjob/",
	"/fr/queue_job/runjob", "/fr_BE/queue_job/runjob", "/zh_CN/connector/runjob", "/sr@latin/queue_job/runjob", "/en-uk/queue_job/runjob",
	"//x/queue_job/runjob", "//queue_job/runjob", "/queue_job//runjob", "///queue_job/runjob", "//x:80/fr/queue_job/runjob",
	"/queue%5Fjob/runjob", "/queue_job/%72unjob", "/%71%75%65%75%65_job/runjob", "/queue_job%2Frunjob", "/%2Fqueue_job/runjob",
	"/%2571ueue_job/runjob", "/web/../queue_job/runjob", "/queue_job/./runjob", "/queue_job/x/../runjob", "/queue_job/%2e/runjob",
	"/queue_job/runjob;x=1", "/queue_job/runjob%00", "/queue_job/runjob%20", "/..%2fqueue_job%5crunjob",
}

// innocent paths pass.
var innocent = []string{
	"/", "/web", "/queue_job/static/description/icon.png", "/queue_job", "/queue_jobs/runjob", "/my/queue_job", "/runjob",
	"/QUEUE_JOB/RUNJOB", "/shop/connector", "/100%25", "/a%252Fb", "/web/session/authenticate", "/queue_job/create_test_job",
	"/queue_job/x/runjob", "/blog/runjob/queue_job",
}

func serve(t *testing.T, target string) int {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "http://odoo.example.com"+target, http.NoBody)
	err := new(Handler).ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}))
	require.NoError(t, err)
	return w.Code
}

func TestHandler(t *testing.T) {
	for _, s := range spellings {
		require.Equal(t, http.StatusNotFound, serve(t, s), s)
		require.Equal(t, http.StatusNotFound, serve(t, s+"?db=prod&job_uuid=1"), s)
	}
	for _, s := range innocent {
		require.Equal(t, http.StatusNoContent, serve(t, s), s)
	}
}

// odooTakes is what Odoo and Werkzeug, old and new, do with the path that a proxy hands on: decode it
// once, perhaps take a host off, merge slashes, perhaps take a language off, and compare.
func odooTakes(escaped string) bool {
	routes := []string{"/queue_job/runjob", "/connector/runjob", "/queue_job/session"}
	for _, path := range []string{escaped, withoutHost(escaped)} {
		decoded, err := url.PathUnescape(path)
		if err != nil {
			continue
		}
		for strings.Contains(decoded, "//") {
			decoded = strings.ReplaceAll(decoded, "//", "/")
		}
		_, rest, _ := strings.Cut(strings.TrimPrefix(decoded, "/"), "/")
		for _, route := range routes {
			if decoded == route || "/"+rest == route {
				return true
			}
		}
	}
	return false
}

func withoutHost(path string) string {
	rest, ok := strings.CutPrefix(path, "//")
	if !ok {
		return path
	}
	_, rest, _ = strings.Cut(rest, "/")
	return "/" + rest
}

// FuzzGuard: what the reference takes for a route never passes.
func FuzzGuard(f *testing.F) {
	for _, s := range append(spellings, innocent...) {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(target, "/") {
			return
		}
		if r := (&http.Request{URL: u}); odooTakes(u.EscapedPath()) && !Closes(r) {
			t.Fatalf("%q passes", target)
		}
	})
}
