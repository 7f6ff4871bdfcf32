package integration

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

func init() {
	caddy.RegisterModule(broken{})
}

// broken is another app of the configuration, whose start fails.
type broken struct{}

func (broken) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "broken", New: func() caddy.Module { return new(broken) }}
}

func (*broken) Start() error { return http.ErrNotSupported }
func (*broken) Stop() error  { return nil }

// loadBroken loads the present configuration with the broken app in it.
func (tb *testBed) loadBroken() {
	var cfg map[string]any
	require.NoError(tb, json.Unmarshal(tb.adapt(), &cfg))
	cfg["apps"].(map[string]any)["broken"] = map[string]any{}
	raw, err := json.Marshal(cfg)
	require.NoError(tb, err)
	require.ErrorContains(tb, caddy.Load(raw, true), http.ErrNotSupported.Error())
}

func TestReloadsUnderLoad(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 2, 2)
	tb.run()
	for _, db := range tb.dbs {
		tb.enqueue(db, repeat(200, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 20}})...)
	}
	held := tb.enqueue(tb.dbs[0], odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})
	before := runtime.NumGoroutine()
	for i := range 100 {
		tb.tree = []string{"root:4", "root:4,mail:1", "root:4,a.b.c:2:throttle=1"}[i%3]
		tb.load()
		if i%10 == 9 {
			tb.tree = "root:1"
			tb.loadBroken()
		}
	}
	tb.untilStates(map[string]int{"done": 400, "started": 1})
	require.Equal(t, 1, tb.Recorder.Requests(tb.dbs[0], held[0]), "the open request is untouched")
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 401})
	tb.exactlyOnce(map[string]int{"root": 4})
	testbed.Client.CloseIdleConnections()
	tb.until("goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before+10 })
}

func TestChangedCapacityIsInForceForTheNextJob(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 2)
	tb.tree = "root:2"
	tb.run()
	for _, gate := range []string{"a", "a", "a", "a", "a", "a", "b", "b", "b", "b"} {
		tb.enqueue(tb.dbs[0], odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: gate}})
	}
	tb.untilRunning(2)

	tb.tree = "root:5"
	tb.load()
	tb.untilRunning(5)

	status, body := tb.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", "6")
	require.Equal(t, http.StatusOK, status, body)
	tb.untilRunning(6)

	// Shrunk below what runs: nothing is killed, nothing new starts.
	status, body = tb.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", "1")
	require.Equal(t, http.StatusOK, status, body)
	tb.Gates.Open("a")
	tb.untilStates(map[string]int{"done": 6, "started": 1, "pending": 3})

	status, body = tb.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", `"x"`)
	require.GreaterOrEqual(t, status, 400, body)
	tb.Gates.Open("b")
	tb.untilStates(map[string]int{"done": 10})
	tb.exactlyOnce(map[string]int{"root": 6})
}

func TestRemovedAndAddedAgain(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(6, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	tb.untilRunning(4)
	tb.without = true
	tb.load()
	tb.without = false
	tb.load()
	tb.enqueue(tb.dbs[0], repeat(6, odoostub.JobSpec{})...)
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 12})
	tb.exactlyOnce(map[string]int{"root": 4})
}

func TestChangedConnection(t *testing.T) {
	tb := newTestBed(t, odoostub.QueueJobLock, 1, 1)
	tb.run()
	tb.enqueue(tb.dbs[0], repeat(6, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	tb.untilRunning(4)
	tb.dsn = strings.Replace(tb.dsn, "127.0.0.1", "localhost", 1)
	require.Contains(t, tb.dsn, "localhost")
	tb.load()
	tb.enqueue(tb.dbs[0], repeat(6, odoostub.JobSpec{})...)
	tb.Gates.Open("end")
	tb.untilStates(map[string]int{"done": 12})
	tb.exactlyOnce(map[string]int{"root": 4})
}
