package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
)

// TestRemedies: what to do is a command that can be typed as it is.
func TestRemedies(t *testing.T) {
	for _, test := range []struct {
		why  api.Why
		want string
	}{
		{api.Why{Runner: "default", Why: "paused_all", Pause: &api.Pause{Scope: "all"}}, "to end that: caddy jobrunner resume --all"},
		{
			api.Why{Runner: "night", Why: "paused_database", Pause: &api.Pause{Scope: "database", Database: "prod"}},
			"to end that: caddy jobrunner resume --database prod --runner night",
		},
		{api.Why{Why: "paused_channel", Pause: &api.Pause{Scope: "channel", Channel: "root.mail"}}, "to end that: caddy jobrunner resume --channel root.mail"},
		{api.Why{Why: "upstreams_drained"}, "to end that: caddy jobrunner undrain SERVER; caddy jobrunner upstreams lists them"},
		{api.Why{Why: "no_upstream"}, "start Odoo, or correct its address; caddy jobrunner doctor examines it"},
		{
			api.Why{Why: "no_leader"},
			"check that PostgreSQL runs, and postgres, postgres_password and pg_hba.conf; caddy jobrunner doctor examines them",
		},
		{
			api.Why{
				Why: "sequential_failed", Database: "prod", Blocker: failed,
				Text: "job prod/" + pending + " waits: channel root.seq is sequential and job shop/" + failed + " failed in it",
			},
			"to go on: caddy jobrunner requeue --database shop " + failed + ", or cancel, or set-done",
		},
		{api.Why{Why: "failed", Database: "prod", UUID: failed}, "to run it again: caddy jobrunner requeue --database prod " + failed},
		{
			api.Why{Why: "quarantined", Database: "prod", UUID: failed, Runner: "night"},
			"to run it again: caddy jobrunner requeue --database prod " + failed + " --runner night",
		},
		{
			api.Why{Why: "database_upgrading"},
			"the job starts by itself after the upgrade; if that was forgotten, finish it, or cancel it in Odoo's Apps",
		},
		{
			api.Why{Why: "database_standby"},
			"if that is Odoo's own runner, switch it off with channels = root:0 in [queue_job] and restart Odoo",
		},
		{api.Why{Why: "behind"}, ""},
	} {
		require.Equal(t, test.want, remedy(&test.why), test.why.Why)
	}
	require.Equal(t, "caddy jobrunner undrain http://10.0.0.5:8069 --runner night", undrain("night", "http://10.0.0.5:8069"))
}

// TestAttempts: a job whose max_retries are 0 is tried for ever.
func TestAttempts(t *testing.T) {
	require.Equal(t, "3 of 5", attempts(3, 5, " of "))
	require.Equal(t, "0/5", attempts(0, 5, "/"))
	require.Equal(t, "3", attempts(3, 0, " of "))
}

// TestUnexamined: a secret that only Caddy's user may read is no mistake in the configuration.
func TestUnexamined(t *testing.T) {
	for text, want := range map[string]string{
		"loading the configuration: x": "error: loading the configuration: x; Caddyfile was examined\n",
		"open /etc/caddy/secret: permission denied": "error: open /etc/caddy/secret: permission denied; " +
			"Caddyfile was examined: try it as the user that Caddy runs as, with sudo -u caddy\n",
	} {
		var out bytes.Buffer
		complain(&out, unexamined(errors.New(text), "Caddyfile"))
		require.Equal(t, want, out.String())
	}
}

// TestPartialDryRun: what a dry run has not looked at is said, and nothing found so far is not nothing.
func TestPartialDryRun(t *testing.T) {
	answer := api.ChangeAnswer{Runner: "default", DryRun: true, Partial: true, Changed: 7}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	run := func() string {
		return transcript(t, server.Listener.Addr().String(), 0, []string{"requeue", "--dry-run", "--name", "rare"})
	}
	require.Contains(t, run(), "jobs that would be changed: at least 7\nthese are those found so far")
	answer.Changed = 0
	require.Contains(t, run(), "at least 0\n")
	require.Contains(t, run(), "exit status 0\n")
	answer.Partial = false
	require.NotContains(t, run(), "exit status 0\n")
}
