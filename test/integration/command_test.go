package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// command runs "caddy jobrunner ..." in a process of its own and returns what it
// prints, and its exit status.
func (p *plant) command(args ...string) (out string, code int) {
	p.Helper()
	return p.caddy(append([]string{"jobrunner"}, append(args, "--address", p.admin)...)...)
}

// caddyCommand is any command of Caddy's in a process of its own, this test binary
// (see TestMain), with a home directory where its storage is.
func (p *plant) caddyCommand(ctx context.Context, home string, args ...string) *exec.Cmd {
	p.Helper()
	self, err := os.Executable()
	require.NoError(p, err)
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), beCaddy+"=1", "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	return cmd
}

// caddy runs any command of Caddy's to its end.
func (p *plant) caddy(args ...string) (out string, code int) {
	p.Helper()
	ctx, cancel := p.patient()
	defer cancel()
	cmd := p.caddyCommand(ctx, p.TempDir(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(p, err)
	}
	return stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
}

// commands requires the exit status and what is printed.
func (p *plant) commands(want int, contains string, args ...string) string {
	p.Helper()
	out, code := p.command(args...)
	require.Equal(p, want, code, "%v: %s", args, out)
	require.Contains(p, out, contains, "%v", args)
	return out
}

func TestCommands(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.tree = "root:2,mail:1"
	p.run()
	p.untilReady()
	db, upstream := p.dbs[0], "http://"+p.odoo[0].Addr()
	failed := p.enqueue(db, in("old", odoostub.JobSpec{State: "failed"}), in("old", odoostub.JobSpec{State: "failed"}))
	running := p.enqueue(db, gated("end"))
	p.untilRunning(1)
	p.until("known", func() bool {
		_, text := p.request("GET", "/jobrunner/status", "")
		return strings.Contains(text, `"failed":2`)
	})

	p.commands(0, "this node", "status")
	p.commands(0, "queue_job+lock", "databases")
	p.commands(0, "root.mail", "channels")
	p.commands(0, upstream, "upstreams")
	p.commands(0, running[0], "tasks")
	p.commands(0, failed[1], "jobs", "--state", "failed")
	out := p.commands(0, "more: --cursor ", "jobs", "--limit", "1")
	require.NotContains(t, out, "\x1b", "no colours where there is no terminal")
	p.commands(0, "running on "+upstream, "why", db, running[0])
	p.commands(4, "there is no job", "why", db, odoostub.NewUUID())
	for _, args := range [][]string{{"status"}, {"databases"}, {"channels"}, {"upstreams"}, {"tasks"}, {"jobs"}, {"why", db, failed[0]}} {
		out, code := p.command(append(args, "--json")...)
		require.Zero(t, code, out)
		require.NoError(t, json.Unmarshal([]byte(out), new(map[string]any)), out)
	}

	p.commands(0, "channel root.mail is paused by operator (127.0.0.1", "pause", "--channel", "mail", "--for", "2h", "--by", "operator", "--note", "lunch")
	p.commands(0, "lunch", "status")
	p.commands(0, "done", "resume", "--channel", "mail")
	p.commands(4, "nothing was changed", "resume", "--channel", "mail")
	p.commands(1, "exactly one", "pause")

	p.commands(0, "done", "drain", upstream)
	p.commands(3, "no Odoo server is healthy", "status")
	p.gates.Open("end")
	p.commands(0, "can be stopped", "drain", upstream, "--wait")
	p.commands(0, "done", "undrain", upstream)
	p.commands(4, "no upstream", "drain", "http://nowhere:1")

	p.commands(0, "would be changed: 2", "requeue", "--channel", "old", "--dry-run")
	p.commands(0, "changed: 1", "requeue", "--database", db, failed[0])
	p.commands(0, "changed: 1", "set-done", "--state", "failed", "--limit", "1")
	p.commands(4, "changed: 0", "cancel", "--state", "failed")
	p.commands(1, "or say all", "cancel")
	p.commands(0, "read anew: 1", "resync")
	p.untilStates(map[string]int{"done": 3})
	late := p.enqueue(db, odoostub.JobSpec{ETA: time.Now().Add(time.Hour)})
	p.commands(0, "changed: 1", "postpone", "--state", "pending", "--for", "2h")
	p.commands(0, "changed: 1", "cancel", late[0], "--database", db)
	p.untilStates(map[string]int{"done": 3, "cancelled": 1})

	for want, args := range map[string][]string{"pause": {""}, "wait_dependencies": {"jobs", "--state", ""}} {
		out, code := p.caddy(append([]string{"__complete", "jobrunner"}, args...)...)
		require.Zero(t, code, out)
		require.Contains(t, out, want)
	}
	p.admin = freeAddress(t)
	p.commands(1, "refused", "status")
}

func TestEventsCommand(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.run()
	p.untilReady()
	cmd := p.caddyCommand(t.Context(), p.TempDir(), "jobrunner", "events", "--event", "job_done", "--json", "--address", p.admin)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	lines := make(chan string, 1)
	go func() {
		var ev struct {
			Event    string
			Database string
		}
		_ = json.NewDecoder(out).Decode(&ev)
		lines <- fmt.Sprint(ev.Event, " ", ev.Database)
	}()
	// The command may not listen yet when the first jobs run.
	p.until("the event is printed", func() bool {
		p.enqueue(p.dbs[0], odoostub.JobSpec{})
		select {
		case line := <-lines:
			return line == "job_done "+p.dbs[0]
		default:
			return false
		}
	})
}
