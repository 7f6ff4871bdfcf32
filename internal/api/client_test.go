package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// serve returns a client of a server, on TCP or on a socket.
func serve(t *testing.T, network string, h http.HandlerFunc) (*api.Client, string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	address := srv.Listener.Addr().String()
	if network == "unix" {
		path := filepath.Join(t.TempDir(), "admin.sock")
		var err error
		require.NoError(t, srv.Listener.Close())
		srv.Listener, err = new(net.ListenConfig).Listen(t.Context(), "unix", path)
		require.NoError(t, err)
		address = "unix/" + path + "|0660"
	}
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := api.NewClient(address)
	require.NoError(t, err)
	return c, address
}

func TestClientAsks(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			var asked, host, origin string
			c, address := serve(t, network, func(w http.ResponseWriter, r *http.Request) {
				asked, host, origin = r.Method+" "+r.URL.String(), r.Host, r.Header.Get("Origin")
				fmt.Fprint(w, `{"runners":[{"runner":"default","ready":true}]}`)
			})
			var raw []byte
			c.OnAnswer = func(b []byte) { raw = b }
			all, err := c.Status(t.Context(), "default")
			require.NoError(t, err)
			require.Equal(t, []api.Status{{Runner: "default", Ready: true}}, all)
			require.JSONEq(t, `{"runners":[{"runner":"default","ready":true}]}`, string(raw))
			require.Equal(t, "GET /jobrunner/status?runner=default", asked)
			if network == "unix" {
				require.Equal(t, "127.0.0.1", host)
				require.Empty(t, origin)
			} else {
				require.Equal(t, address, host)
				require.Equal(t, "http://"+address, origin)
			}
		})
	}
}

// TestClientRequests: every method asks what it should.
func TestClientRequests(t *testing.T) {
	var asked string
	c, _ := serve(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(err)
		}
		asked = strings.TrimSpace(r.Method + " " + strings.TrimPrefix(r.URL.String(), "/jobrunner/") + " " + string(body))
		if len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
			asked = "without a Content-Type"
		}
		fmt.Fprint(w, `{}`)
	})
	ctx := t.Context()
	by := api.Actor{Runner: "r", By: "me"}
	change := api.ChangeRequest{Actor: by, JobFilter: api.JobFilter{Database: "a", UUIDs: []string{"x"}}, DryRun: true}
	const changed = ` {"runner":"r","by":"me","database":"a","uuids":["x"],"dry_run":true}`
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for want, ask := range map[string]func() error{
		"GET databases?runner=r":      func() error { _, err := c.Databases(ctx, api.ListQuery{Runner: "r"}); return err },
		"GET channels":                func() error { _, err := c.Channels(ctx, api.ListQuery{}); return err },
		"GET upstreams":               func() error { _, err := c.Upstreams(ctx, ""); return err },
		"GET tasks?limit=7&offset=14": func() error { _, err := c.Tasks(ctx, api.ListQuery{Limit: 7, Offset: 14}); return err },
		"GET jobs?uuid=3f2a":          func() error { _, err := c.Jobs(ctx, api.JobQuery{UUID: "3f2a"}); return err },
		"GET jobs/3f2a?runner=r":      func() error { _, err := c.Job(ctx, "r", "", "3f2a"); return err },
		"GET jobs":                    func() error { _, err := c.Jobs(ctx, api.JobQuery{}); return err },
		"GET jobs?cursor=c&database=a&limit=7&runner=r&state=failed&state=done": func() error {
			_, err := c.Jobs(ctx, api.JobQuery{
				Runner: "r", JobFilter: api.JobFilter{Database: "a", States: []string{"failed", "done"}}, Cursor: "c", Limit: 7,
			})
			return err
		},
		"GET jobs/a%2Fb/x":        func() error { _, err := c.Job(ctx, "", "a/b", "x"); return err },
		"GET ready?runner=r":      func() error { _, err := c.Ready(ctx, "r"); return err },
		`POST requeue` + changed:  func() error { _, err := c.Requeue(ctx, change); return err },
		`POST cancel` + changed:   func() error { _, err := c.Cancel(ctx, change); return err },
		`POST set-done` + changed: func() error { _, err := c.SetDone(ctx, change); return err },
		`POST postpone {"all":true,"until":"2030-01-02T03:04:05Z"}`: func() error {
			_, err := c.Postpone(ctx, api.ChangeRequest{All: true, Until: until})
			return err
		},
		`POST pause {"runner":"r","by":"me","channel":"mail","for":"2h"}`: func() error {
			_, err := c.Pause(ctx, api.PauseRequest{Actor: by, Channel: "mail", For: "2h"})
			return err
		},
		`POST resume {"all":true}`:             func() error { _, err := c.Resume(ctx, api.PauseRequest{All: true}); return err },
		`POST drain {"upstream":"http://a"}`:   func() error { _, err := c.Drain(ctx, api.DrainRequest{Upstream: "http://a"}); return err },
		`POST undrain {"upstream":"http://a"}`: func() error { _, err := c.Undrain(ctx, api.DrainRequest{Upstream: "http://a"}); return err },
		`POST resync {"database":"a"}`:         func() error { _, err := c.Resync(ctx, api.ResyncRequest{Database: "a"}); return err },
	} {
		require.NoError(t, ask(), want)
		require.Equal(t, want, asked)
	}
}

func TestClientErrors(t *testing.T) {
	for name, test := range map[string]struct {
		status       int
		body, expect string
	}{
		"of the API":      {http.StatusNotFound, `{"error":"there is no runner \"x\""}`, `there is no runner "x"`},
		"of the router":   {http.StatusNotFound, "404 page not found\n", "this Caddy has no jobrunner module"},
		"of a proxy":      {http.StatusBadGateway, "<html>", "<html>"},
		"without a word":  {http.StatusForbidden, "", "forbidden"},
		"not ready is no": {http.StatusServiceUnavailable, `{"problems":["a"],"ready":false}`, `{"problems":["a"],"ready":false}`},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, "tcp", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			_, err := c.Tasks(t.Context(), api.ListQuery{})
			var failed *api.Error
			require.ErrorAs(t, err, &failed)
			require.Equal(t, test.status, failed.Status)
			require.Equal(t, test.expect, failed.Message)
		})
	}
	t.Run("no Caddy", func(t *testing.T) {
		c, err := api.NewClient("127.0.0.1:1")
		require.NoError(t, err)
		_, err = c.Status(t.Context(), "")
		require.ErrorContains(t, err, "refused")
	})
	t.Run("no JSON", func(t *testing.T) {
		c, _ := serve(t, "tcp", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
		_, err := c.Status(t.Context(), "")
		require.ErrorContains(t, err, "reading the answer: ")
	})
	for _, address := range []string{"localhost:1-9", "localhost:x"} {
		_, err := api.NewClient(address)
		require.ErrorContains(t, err, "admin API", address)
	}
}

func TestClientReady(t *testing.T) {
	var body string
	c, _ := serve(t, "tcp", func(w http.ResponseWriter, _ *http.Request) {
		if !strings.Contains(body, "true") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		fmt.Fprint(w, body)
	})
	for _, test := range []api.Readiness{{Ready: true}, {Problems: []string{"no Odoo server is healthy"}}} {
		raw, err := json.Marshal(test)
		require.NoError(t, err)
		body = string(raw)
		got, err := c.Ready(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, test, got)
	}
	body = `{"error":"busy"}`
	_, err := c.Ready(t.Context(), "")
	require.EqualError(t, err, "busy")
}

func TestClientEvents(t *testing.T) {
	var asked string
	c, _ := serve(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.RawQuery
		fmt.Fprint(w, ": connected\n\nevent: job_done\ndata: {\"event\":\"job_done\",\"uuid\":\"1\"}\n\n"+
			"event: end\ndata: {\"event\":\"end\"}\n\n")
	})
	var raws []string
	c.OnAnswer = func(raw []byte) { raws = append(raws, string(raw)) }
	var kinds []string
	each := func(ev api.Event) error { kinds = append(kinds, ev.Event+ev.UUID); return nil }
	require.NoError(t, c.Events(t.Context(), api.EventQuery{Runner: "r", Database: "a", Kinds: []string{"x", "y"}}, each))
	require.Equal(t, []string{"job_done1", api.EventEnd}, kinds)
	require.JSONEq(t, `{"event":"end"}`, raws[1])
	require.Equal(t, "database=a&event=x&event=y&runner=r", asked)

	stop := errors.New("enough")
	require.ErrorIs(t, c.Events(t.Context(), api.EventQuery{}, func(api.Event) error { return stop }), stop)
}

// TestClientEventsEnd: with the context, and with a refusal.
func TestClientEventsEnd(t *testing.T) {
	c, _ := serve(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("database") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, "data: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	err := c.Events(ctx, api.EventQuery{Database: "a"}, func(api.Event) error { cancel(); return nil })
	require.ErrorIs(t, err, context.Canceled)
	var failed *api.Error
	require.ErrorAs(t, c.Events(t.Context(), api.EventQuery{}, nil), &failed)
	require.Equal(t, http.StatusBadRequest, failed.Status)
}
