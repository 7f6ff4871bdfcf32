package command

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// aNight is one event of each kind, in the order in which a night could bring them.
func aNight() []runner.Event {
	const odoo = "http://10.0.0.5:8069"
	job := func(kind runner.EventKind, uuid string) runner.Event {
		return runner.Event{Kind: kind, Database: "prod", UUID: uuid, Channel: "root.mail", Model: "mail.mail", Method: "send"}
	}
	sent := func(kind runner.EventKind, uuid, outcome string, status int, detail string) runner.Event {
		ev := job(kind, uuid)
		ev.Upstream, ev.Outcome, ev.Status, ev.Detail = odoo, outcome, status, detail
		ev.Wait, ev.Run = 1200*time.Millisecond, 90*time.Second
		return ev
	}
	limited := func(kind runner.EventKind, detail string) runner.Event {
		ev := job(kind, running)
		ev.Upstream, ev.Detail = odoo, detail
		return ev
	}
	dispatched := sent(runner.EventDispatched, running, "", 0, "")
	dispatched.Run = 0
	blocked := job(runner.EventChannelBlocked, failed)
	blocked.Channel, blocked.Model, blocked.Method = "root.invoices", "", ""
	return []runner.Event{
		{Kind: runner.EventLeaderChanged, Detail: "leading"},
		{Kind: runner.EventUpstreamUp, Upstream: odoo},
		{Kind: runner.EventResynced, Database: "prod", Count: 12},
		{Kind: runner.EventDatabaseReady, Database: "prod"},
		{Kind: runner.EventNotifications, Database: "prod", Count: 3},
		{Kind: runner.EventClaimed, Database: "prod", Count: 2},
		dispatched,
		sent(runner.EventAnswered, running, "answered", 200, ""),
		sent(runner.EventJobDone, running, "answered", 200, ""),
		sent(runner.EventJobRetried, pending, "answered", 200, ""),
		sent(runner.EventJobFailed, failed, "answered", 200, ""),
		blocked,
		sent(runner.EventJobLost, pending, "broken", 0, "unexpected EOF"),
		sent(runner.EventJobRescued, pending, "dead", 0, ""),
		sent(runner.EventUnclaimed, pending, "", 0, "no Odoo server is healthy"),
		sent(runner.EventJobNotRun, pending, "refused", 404, "status 404 Not Found"),
		sent(runner.EventJobGone, pending, "", 0, "cancelled"),
		{Kind: runner.EventResyncRepaired, Database: "prod", Count: 1},
		{Kind: runner.EventDatabaseHeld, Database: "prod", Detail: "the last requests ended without their jobs having been run"},
		{Kind: runner.EventDatabaseUnhealthy, Database: "test", Detail: "the trigger queue_job_notify is missing"},
		{Kind: runner.EventDatabaseStandby, Database: "shop", Detail: "process 77, application odoo-14"},
		{Kind: runner.EventUpstreamUnhealthy, Upstream: odoo, Detail: "dial tcp 10.0.0.5:8069: connect: connection refused"},
		{Kind: runner.EventUpstreamDrained, Upstream: odoo, Detail: `"ana" (127.0.0.1:9) (update)`},
		{Kind: runner.EventUpstreamUndrained, Upstream: odoo, Detail: `"ana" (127.0.0.1:9)`},
		{Kind: runner.EventPaused, Channel: "root.mail", Detail: `"ana" (127.0.0.1:9) (lunch)`},
		{Kind: runner.EventResumed, Channel: "root.mail", Detail: `"ana" (127.0.0.1:9)`},
		{Kind: runner.EventDatabaseLost, Database: "prod", Detail: refused},
		{Kind: runner.EventLeaderChanged, Runner: "night", Detail: refused},
		limited(runner.EventTimeoutWarned, "it has run for 50s, the time limit of policy mail is 1m0s"),
		limited(runner.EventTimeoutReached, "it has run for 1m0s, the time limit of policy mail is 1m0s"),
		limited(runner.EventTimeoutCancelled, "it has run for 1m1s, the time limit of policy mail is 1m0s; what it does in the database was cancelled"),
		limited(runner.EventTimeoutTerminated, "it has run for 1m11s, the time limit of policy mail is 1m0s; its connection to the database was closed"),
		limited(runner.EventTimeoutStuck, "it has run for 1m31s, the time limit of policy mail is 1m0s; its connection to the database was closed"),
		{Kind: runner.EventDatabaseUpgrading, Database: "prod", Detail: "modules are being installed or upgraded"},
		{Kind: runner.EventDependentsReleased, Database: "prod", UUID: pending, Count: 2},
		{Kind: runner.EventObjectiveBurns, Detail: "policy root.mail: 50% of the jobs of the last 1h waited longer than 10m0s, and its objective allows 5%"},
		{Kind: runner.EventObjectiveKept, Detail: "policy root.mail: its objective is kept again"},
		limited(runner.EventJobQuarantined, "it was found dead in 3 attempts"),
	}
}

// TestEventsTranscript: what events prints of each kind, and when Caddy goes away.
func TestEventsTranscript(t *testing.T) {
	seen := map[runner.EventKind]bool{}
	for _, ev := range aNight() {
		seen[ev.Kind] = true
	}
	for _, kind := range runner.EventKinds() {
		require.True(t, seen[kind], "no event %s", kind)
	}
	for _, width := range []int{0, 60, 100, 160} {
		var srv *httptest.Server
		srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i, ev := range aNight() {
				ev.Time = time.Date(2026, 1, 5, 3, 30, i, 0, time.Local) // shown in the operator's own time
				if ev.Runner == "" {
					ev.Runner = "default"
				}
				data, err := json.Marshal(api.NewEvent(&ev))
				if err != nil {
					panic(err)
				}
				_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", ev.Kind, data)
			}
			_ = srv.Listener.Close() // it is asked again, and is not there any more
		}))
		checkTranscript(t, "events", srv.Listener.Addr().String(), []int{width}, [][]string{{"events"}})
		srv.Close()
	}
}
