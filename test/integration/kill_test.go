package integration

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// process is a Caddy in a process of its own: this test binary, see TestMain.
type process struct {
	*exec.Cmd
	t *testing.T
}

// startProcess starts a Caddy with the present configuration.
func (p *plant) startProcess() *process { return p.startProcessAt(p.TempDir()) }

// startProcessAt does so with a home directory, where Caddy's storage is.
func (p *plant) startProcessAt(home string) *process {
	cmd := p.caddyCommand(context.Background(), home, "run", "--config", p.writeConfig(), "--adapter", "caddyfile")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(p, cmd.Start())
	c := &process{Cmd: cmd, t: p.T}
	p.Cleanup(c.kill)
	p.until("Caddy listens", func() bool {
		conn, err := net.Dial("tcp", p.site)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

// kill ends the process as kill -9 does.
func (c *process) kill() {
	if c.ProcessState != nil {
		return
	}
	require.NoError(c.t, c.Process.Kill())
	_ = c.Wait()
}

// interrupt asks the process to end and waits until it has.
func (c *process) interrupt() {
	require.NoError(c.t, c.Process.Signal(syscall.SIGTERM))
	require.NoError(c.t, c.Wait())
}

func TestKilledCaddy(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 2, 2)
	// More capacity than workers, so that some jobs wait unread at Odoo when
	// Caddy dies: they are enqueued, and nobody knows of them any more.
	p.tree = "root:12"
	c := p.startProcess()
	for _, db := range p.dbs {
		p.enqueue(db, repeat(20, odoostub.JobSpec{Behaviour: odoostub.Behaviour{Gate: "end", SleepMS: 30}})...)
	}
	p.untilRunning(8)
	p.until("jobs are waiting at Odoo", func() bool { return p.states()["enqueued"] == 4 })
	c.kill()
	p.startProcess()
	p.gates.Open("end")
	p.untilStates(map[string]int{"done": 40})
	p.neverTwice(map[string]int{"root": 12})
	for _, x := range p.recorder.AllExecutions() {
		require.Equal(t, odoostub.Done, x.Outcome)
	}
	require.Len(t, p.recorder.AllExecutions(), 40, "every job ran exactly once")
}

func TestStoppedCaddy(t *testing.T) {
	p := newPlant(t, odoostub.QueueJobLock, 1, 1)
	c := p.startProcess()
	p.enqueue(p.dbs[0], repeat(100, odoostub.JobSpec{Behaviour: odoostub.Behaviour{SleepMS: 100}})...)
	p.untilRunning(4)
	c.interrupt()
	// Open requests were waited for, and nothing was claimed meanwhile.
	states := p.states()
	require.Zero(t, states["started"]+states["enqueued"], states)
	require.NotZero(t, states["pending"])
	p.startProcess()
	p.untilStates(map[string]int{"done": 100})
	p.exactlyOnce(map[string]int{"root": 4})
}

// TestTwoNodes: two Caddys run the same configuration, one of them leads. It is
// killed, and the other one goes on with what runs and what waits.
func TestTwoNodes(t *testing.T) {
	for _, gen := range odoostub.Generations() {
		t.Run(gen.String(), func(t *testing.T) {
			p := newPlant(t, gen, 1, 1)
			p.tree = "root:2"
			first := p.startProcess()
			p.untilReady()
			running := p.enqueue(p.dbs[0], gated("end"), gated("end"))
			p.enqueue(p.dbs[0], repeat(5, odoostub.JobSpec{})...)
			p.untilRunning(2)

			other := *p
			other.site, other.admin = freeAddress(t), freeAddress(t)
			other.startProcess()
			other.until("the second one stands by", func() bool {
				_, text := other.request(http.MethodGet, "/jobrunner/status", "")
				return strings.Contains(text, `"leader":false`) && strings.Contains(text, "caddy-jobrunner")
			})
			first.kill()
			other.untilReady()
			p.gates.Open("end")
			p.untilStates(map[string]int{"done": 7})
			p.neverTwice(map[string]int{"root": 2})
			for _, uuid := range running {
				require.Equal(t, 1, p.recorder.Executions(p.dbs[0], uuid))
			}
		})
	}
}
