package odoo

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// TestSessionBehindProxy: the cookies of a session are sent back although they are meant for the
// encrypted site that visitors see, and not for the address at which the server is reached.
func TestSessionBehindProxy(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookie, err := r.Cookie("session_id")
		if err == nil && cookie.Value == "bound" {
			return
		}
		http.SetCookie(w, &http.Cookie{Name: "session_id", Value: "bound", Secure: true, Domain: "odoo.example.com", Path: "/"})
		http.Redirect(w, r, "https://odoo.example.com"+r.URL.RequestURI(), http.StatusFound)
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	require.NoError(t, err)
	up := driver.Upstream{
		Name: server.URL, Scheme: "http", Host: u.Host, HostHeader: "odoo.example.com",
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	b := New(Options{}).begin(t.Context(), up, driver.Task{})
	require.NoError(t, b.err)
	require.Equal(t, http.StatusOK, b.status)
	require.Len(t, b.cookies, 1)
	require.Equal(t, "bound", b.cookies[0].Value)
}

// Of several cookies of one name the later counts.
func TestMergedCookies(t *testing.T) {
	cookie := func(name, value string) *http.Cookie { return &http.Cookie{Name: name, Value: value} }
	have := []*http.Cookie{cookie("a", "1"), cookie("b", "1")}
	require.Equal(t, []*http.Cookie{cookie("a", "2"), cookie("c", "2"), cookie("b", "1")}, merge(have, []*http.Cookie{cookie("a", "2"), cookie("c", "2")}))
	require.Empty(t, merge(nil, nil))
}
