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
func (p *plant) loadBroken() {
	var cfg map[string]any
	require.NoError(p, json.Unmarshal(p.adapt(), &cfg))
	cfg["apps"].(map[string]any)["broken"] = map[string]any{}
	raw, err := json.Marshal(cfg)
	require.NoError(p, err)
	require.ErrorContains(p, caddy.Load(raw, true), http.ErrNotSupported.Error())
}

func TestReloadsUnderLoad(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 2, 2)
	p.run()
	for _, db := range p.dbs {
		p.enqueue(db, repeat(200, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 20}})...)
	}
	held := p.enqueue(p.dbs[0], odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})
	before := runtime.NumGoroutine()
	for i := range 100 {
		p.tree = []string{"root:4", "root:4,mail:1", "root:4,a.b.c:2:throttle=1"}[i%3]
		p.load()
		if i%10 == 9 {
			p.tree = "root:1"
			p.loadBroken()
		}
	}
	p.untilStates(map[string]int{"done": 400, "started": 1})
	require.Equal(t, 1, p.recorder.Requests(p.dbs[0], held[0]), "the open request is untouched")
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 401})
	p.exactlyOnce(map[string]int{"root": 4})
	http.DefaultClient.CloseIdleConnections()
	p.until("goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before+10 })
}

func TestChangedCapacityIsInForceForTheNextJob(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 2)
	p.tree = "root:2"
	p.run()
	for _, gate := range []string{"a", "a", "a", "a", "a", "a", "b", "b", "b", "b"} {
		p.enqueue(p.dbs[0], odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: gate}})
	}
	p.untilRunning(2)

	p.tree = "root:5"
	p.load()
	p.untilRunning(5)

	status, body := p.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", "6")
	require.Equal(t, http.StatusOK, status, body)
	p.untilRunning(6)

	// Shrunk below what runs: nothing is killed, nothing new starts.
	status, body = p.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", "1")
	require.Equal(t, http.StatusOK, status, body)
	p.gates.Open("a")
	p.untilStates(map[string]int{"done": 6, "started": 1, "pending": 3})

	status, body = p.request(http.MethodPatch, "/config/apps/jobrunner/runners/default/channels/root/capacity", `"x"`)
	require.GreaterOrEqual(t, status, 400, body)
	p.gates.Open("b")
	p.untilStates(map[string]int{"done": 10})
	p.exactlyOnce(map[string]int{"root": 6})
}

func TestRemovedAndAddedAgain(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.run()
	p.enqueue(p.dbs[0], repeat(6, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	p.untilRunning(4)
	p.without = true
	p.load()
	p.without = false
	p.load()
	p.enqueue(p.dbs[0], repeat(6, odoostub.JobSpec{})...)
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 12})
	p.exactlyOnce(map[string]int{"root": 4})
}

func TestChangedConnection(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	p.run()
	p.enqueue(p.dbs[0], repeat(6, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end"}})...)
	p.untilRunning(4)
	p.dsn = strings.Replace(p.dsn, "127.0.0.1", "localhost", 1)
	require.Contains(t, p.dsn, "localhost")
	p.load()
	p.enqueue(p.dbs[0], repeat(6, odoostub.JobSpec{})...)
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 12})
	p.exactlyOnce(map[string]int{"root": 4})
}
