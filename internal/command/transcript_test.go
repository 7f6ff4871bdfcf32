package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// refused is what the driver of PostgreSQL says when it cannot connect.
const refused = "connect to postgres: connection lost: failed to connect to `user=odoo database=postgres`:\n" +
	"\t10.0.0.9:5432 (db): dial error: dial tcp 10.0.0.9:5432: connect: connection refused\n" +
	"\t10.0.0.9:5432 (db): dial error: dial tcp 10.0.0.9:5432: connect: connection refused"

// scenes are runners in good and bad states, at one moment.
func scenes(now time.Time) map[string]runner.Status {
	fresh := func(name string, state runner.DatabaseState) runner.DatabaseStatus {
		return runner.DatabaseStatus{Name: name, State: state, Connected: now.Add(-time.Hour), Heard: now}
	}
	up := []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Up: true, InFlight: 1}}
	good := runner.Status{
		Leader: true, LeaderKnown: true, Databases: []runner.DatabaseStatus{fresh("prod", runner.DatabaseReady)}, Upstreams: up,
		Channels: []runner.ChannelStatus{{Status: channels.Status{FullName: "root", Configured: true, Capacity: 4, Running: 1}}},
		Counts:   []channels.Count{{DB: "prod", Channel: "root", Started: 1}},
	}
	held := good
	held.Databases = []runner.DatabaseStatus{fresh("prod", runner.DatabaseHeld)}
	held.Databases[0].Detail, held.Databases[0].Pending = "the last requests ended without their jobs having been run", 12
	held.Counts = []channels.Count{{DB: "prod", Channel: "root", Pending: 12}}
	part := good
	part.Databases = append([]runner.DatabaseStatus{{Name: "lost", State: runner.DatabaseUnreachable, Detail: strings.ReplaceAll(refused, "postgres", "lost")}}, good.Databases...)
	down := good
	down.Upstreams = []runner.UpstreamStatus{{Name: "http://10.0.0.5:8069", Reason: "connection refused"}}
	paused := good
	paused.Controls = runner.Controls{Pauses: []runner.Pause{{Since: now.Add(-time.Hour), By: `"ana" (127.0.0.1:9)`, Note: "upgrade"}}}
	many := good
	many.Databases = nil
	for i := range 300 {
		many.Databases = append(many.Databases, fresh(fmt.Sprintf("customer%03d", i), runner.DatabaseReady))
	}
	return map[string]runner.Status{
		"good": good, "held": held, "one of two lost": part, "no server": down, "paused": paused, "300 databases": many,
		"no database":     {Leader: true, LeaderKnown: true, Upstreams: up},
		"PostgreSQL down": {LeaderDetail: refused, Upstreams: up},
		"stand-by":        {LeaderKnown: true, LeaderDetail: "process 77 from 10.0.0.2, application caddy-jobrunner", Upstreams: up},
	}
}

// TestTranscripts: what people see, at the widths of terminals and in a pipe. With UPDATE set in the
// environment, the files are written anew, for a person to read.
func TestTranscripts(t *testing.T) {
	now := time.Date(2026, time.November, 26, 3, 0, 0, 0, time.UTC)
	job := api.Job{
		Runner: "default", Database: "prod", UUID: "3f2a9b54-6c1e-4d0c-9a7e-5b8f0f6f2a11", Channel: "root.mail", State: "failed",
		Model: "mail.mail", Method: "send", Exception: "odoo.exceptions.ValidationError\x1b[2J", Retry: 1, MaxRetries: 5,
	}
	for name, st := range scenes(now) {
		answers := map[string]any{
			"status":    api.Statuses{Runners: []api.Status{api.NewStatus("default", &st, now)}},
			"databases": api.Databases{Databases: api.NewDatabases("default", &st, now)},
			"channels":  api.Channels{Channels: api.NewChannels("default", &st, now)},
			"upstreams": api.Upstreams{Upstreams: api.NewUpstreams("default", &st)},
			"tasks":     api.Tasks{Tasks: []api.Task{{Runner: "default", Database: "prod", UUID: job.UUID, Phase: "open", Channel: "root.mail", Model: job.Model, Method: job.Method, Upstream: "http://10.0.0.5:8069"}}},
			"jobs":      api.JobPage{Jobs: []api.Job{job}},
		}
		if name == "PostgreSQL down" {
			answers["jobs"] = api.JobPage{Jobs: []api.Job{}, Problems: []string{"a: " + refused, "b: " + refused, "c: " + refused, "d: " + refused}}
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = json.NewEncoder(w).Encode(answers[strings.TrimPrefix(r.URL.Path, "/jobrunner/")])
		}))
		var all bytes.Buffer
		for _, width := range []int{60, 100, 160, 0} {
			for _, cmd := range []string{"status", "databases", "channels", "upstreams", "tasks", "jobs"} {
				if cmd == "databases" && len(st.Databases) > 10 {
					continue
				}
				fmt.Fprintf(&all, "$ caddy jobrunner %s   (%d columns)\n%s\n", cmd, width, transcript(t, srv.Listener.Addr().String(), width, cmd))
			}
		}
		srv.Close()
		require.NotContains(t, all.String(), "\x1b", "nothing controls the terminal")
		require.NotContains(t, all.String(), job.UUID[:20]+"…", "no uuid is cut")
		file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
		if os.Getenv("UPDATE") != "" {
			require.NoError(t, os.MkdirAll("testdata", 0o755))
			require.NoError(t, os.WriteFile(file, all.Bytes(), 0o600))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, string(want), all.String(), file)
	}
}

// transcript runs a command and returns what it prints, with its exit status.
func transcript(t *testing.T, address string, width int, name string) string {
	t.Helper()
	root := &cobra.Command{}
	addCommands(root)
	cmd, _, err := root.Find([]string{name})
	require.NoError(t, err)
	require.NoError(t, cmd.ParseFlags([]string{"--address", address}))
	var out bytes.Buffer
	cmd.SetOut(&out)
	c, err := newCall(cmd, caddycmd.Flags{FlagSet: cmd.Flags()}, nil)
	require.NoError(t, err)
	c.ctx, c.out.width = t.Context(), width
	code, err := c.exit(map[string]func(*call) (int, error){
		"status": (*call).status, "databases": (*call).databases, "channels": (*call).channels,
		"upstreams": (*call).upstreams, "tasks": (*call).tasks, "jobs": (*call).jobs,
	}[name](c))
	if err != nil {
		complain(&out, err)
	}
	fmt.Fprintf(&out, "exit status %d\n", code)
	return out.String()
}
