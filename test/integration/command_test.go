package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// command runs "caddy jobrunner ..." in a process of its own and returns what it
// prints, and its exit status.
func (tb *testBed) command(args ...string) (out string, code int) {
	tb.Helper()
	return tb.caddy(append([]string{"jobrunner"}, append(args, "--address", tb.admin)...)...)
}

// caddyCommand is any command of Caddy's in a process of its own, this test binary
// (see TestMain), with a home directory where its storage is.
func (tb *testBed) caddyCommand(ctx context.Context, home string, args ...string) *exec.Cmd {
	tb.Helper()
	cmd, err := testbed.Command(ctx, "", home, args...)
	require.NoError(tb, err)
	return cmd
}

// caddy runs any command of Caddy's to its end.
func (tb *testBed) caddy(args ...string) (out string, code int) {
	tb.Helper()
	ctx, cancel := tb.patient()
	defer cancel()
	cmd := tb.caddyCommand(ctx, tb.TempDir(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(tb, err)
	}
	return stdout.String() + stderr.String(), cmd.ProcessState.ExitCode()
}

// commands requires the exit status and what is printed.
func (tb *testBed) commands(want int, contains string, args ...string) string {
	tb.Helper()
	out, code := tb.command(args...)
	require.Equal(tb, want, code, "%v: %s", args, out)
	require.Contains(tb, out, contains, "%v", args)
	return out
}

func TestCommands(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.tree = "root:2,mail:1"
	tb.run()
	tb.untilReady()
	db, upstream := tb.dbs[0], "http://"+tb.Odoo[0].Addr()
	failed := tb.enqueue(db, in("old", odoostub.JobSpec{State: "failed"}), in("old", odoostub.JobSpec{State: "failed"}))
	running := tb.enqueue(db, gated("end"))
	tb.untilRunning(1)
	tb.until("known", func() bool {
		_, text := tb.request("GET", "/jobrunner/status", "")
		return strings.Contains(text, `"failed":2`)
	})

	tb.commands(0, "this node", "status")
	tb.commands(0, "queue_job+lock", "databases")
	tb.commands(0, "root.mail", "channels")
	tb.commands(0, upstream, "upstreams")
	tb.commands(0, running[0], "tasks")
	tb.commands(0, failed[1], "jobs", "--state", "failed")
	out := tb.commands(0, "more: --after ", "jobs", "--limit", "1")
	require.NotContains(t, out, "\x1b", "no colours where there is no terminal")
	tb.commands(0, "running on "+upstream, "why", db, running[0])
	tb.commands(0, "job "+running[0]+" in database "+db, "why", running[0][:13])
	tb.commands(0, failed[0], "jobs", "--uuid", failed[0][:13])
	tb.commands(4, "there is no job", "why", db, odoostub.NewUUID())
	tb.commands(0, "2 more: --offset 1", "channels", "--limit", "1")
	for _, args := range [][]string{{"status"}, {"databases"}, {"channels"}, {"upstreams"}, {"tasks"}, {"jobs"}, {"why", db, failed[0]}} {
		out, code := tb.command(append(args, "--json")...)
		require.Zero(t, code, out)
		require.NoError(t, json.Unmarshal([]byte(out), new(map[string]any)), out)
	}

	tb.commands(0, "channel root.mail is paused by \"operator\" (127.0.0.1", "pause", "--channel", "mail", "--for", "2h", "--by", "operator", "--note", "lunch")
	tb.commands(0, "lunch", "status")
	tb.commands(0, "done", "resume", "--channel", "mail")
	tb.commands(4, "nothing was changed", "resume", "--channel", "mail")
	tb.commands(1, "exactly one", "pause")

	const mistyped = `there is no channel "root.mial" now, known are root, root.mail, root.old`
	tb.commands(4, mistyped, "requeue", "--channel", "mial")
	tb.commands(4, mistyped, "cancel", "--channel", "mial", "--dry-run")
	tb.commands(0, mistyped, "jobs", "--channel", "mial")
	tb.commands(0, mistyped, "history", "--channel", "mial")
	tb.commands(4, mistyped, "simulate", "--set", "root.mial=4")
	require.NotContains(t, tb.commands(0, "no such job", "jobs", "--channel", "mail"), "there is no channel")
	require.NotContains(t, tb.commands(4, "changed: 0", "requeue", "--channel", "mail"), "there is no channel")

	tb.commands(0, "done", "drain", upstream)
	tb.commands(3, "no Odoo server is healthy", "status")
	tb.Gates.Open("end")
	tb.commands(0, "can be stopped", "drain", upstream, "--wait")
	tb.commands(0, "done", "undrain", upstream)
	tb.commands(4, "no Odoo server", "drain", "http://nowhere:1")

	tb.commands(0, "would be changed: 2", "requeue", "--channel", "old", "--dry-run")
	tb.commands(0, "changed: 1", "requeue", "--database", db, failed[0][:13])
	tb.commands(0, "changed: 1", "set-done", "--state", "failed", "--limit", "1")
	tb.commands(4, "changed: 0", "cancel", "--state", "failed")
	tb.commands(1, "or say --all", "cancel")
	tb.commands(0, "read anew: 1", "resync")
	tb.untilStates(map[string]int{"done": 3})
	late := tb.enqueue(db, odoostub.JobSpec{ETA: time.Now().Add(time.Hour)})
	tb.commands(0, "changed: 1", "postpone", "--state", "pending", "--for", "2h")
	tb.commands(0, "changed: 1", "cancel", late[0], "--database", db)
	tb.untilStates(map[string]int{"done": 3, "cancelled": 1})

	for want, args := range map[string][]string{"pause": {""}, "wait_dependencies": {"jobs", "--state", ""}} {
		out, code := tb.caddy(append([]string{"__complete", "jobrunner"}, args...)...)
		require.Zero(t, code, out)
		require.Contains(t, out, want)
	}
	tb.admin = freeAddress(t)
	tb.commands(1, "refused", "status")
}

func TestEventsCommand(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.untilReady()
	cmd := tb.caddyCommand(t.Context(), tb.TempDir(), "jobrunner", "events", "--event", "job_done", "--json", "--address", tb.admin)
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
	tb.until("the event is printed", func() bool {
		tb.enqueue(tb.dbs[0], odoostub.JobSpec{})
		select {
		case line := <-lines:
			return line == "job_done "+tb.dbs[0]
		default:
			return false
		}
	})
}
