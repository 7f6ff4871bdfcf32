// Package child runs programs as child processes. On Linux they do not outlive
// this process, however it ends.
package child

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

const (
	// deathTimeout is how long killed processes may take to disappear.
	deathTimeout  = 5 * time.Second
	deathInterval = 5 * time.Millisecond
)

// Process is a started program. It is safe for concurrent use.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended, once done is closed
}

// Start starts cmd in a process group of its own, because a signal from the
// terminal is for this process. The kernel sends the signal death to it when
// this process dies; only Linux does that.
func Start(cmd *exec.Cmd, death syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	endWithParent(cmd.SysProcAttr, death)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.supervise(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

// supervise starts and waits on one and the same thread: the kernel takes the
// end of the thread that started the process for the end of its parent.
func (p *Process) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process exists; a stopped one does.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// State tells how the process ended: "exit status 0", "signal: killed".
func (p *Process) State() string {
	<-p.done
	return p.cmd.ProcessState.String()
}

// Signal sends a signal. It fails when the process has ended.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop asks the process to end by a signal, and waits until it has. It is killed
// when it takes longer than limit, and that is an error, as is an exit status
// other than 0. A process that had ended before is not.
func (p *Process) Stop(s syscall.Signal, limit time.Duration) error {
	if !p.Running() {
		return nil
	}
	_ = p.Signal(s) // fails only if it ends at this very moment
	return p.Wait(limit)
}

// Wait waits until the process has ended by itself, and kills it when that takes
// longer than limit.
func (p *Process) Wait(limit time.Duration) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-p.done:
		return p.err
	case <-late.C:
		p.Kill()
		return fmt.Errorf("killed it after %s", limit)
	}
}

// Kill ends the process as kill -9 does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // fails only if it has ended
	<-p.done
}

// KillTree kills the process and its children, and waits until all are gone. It
// is for children that are in sessions of their own, so that there is no process
// group to kill.
func (p *Process) KillTree() {
	pid := p.PID()
	_ = p.Signal(syscall.SIGSTOP) // no more children from here on; it may have ended
	victims := Children(pid)
	_ = p.Signal(syscall.SIGKILL)
	for _, victim := range victims {
		_ = syscall.Kill(victim, syscall.SIGKILL)
	}
	<-p.done
	for end := time.Now().Add(deathTimeout); time.Now().Before(end); time.Sleep(deathInterval) {
		if !slices.ContainsFunc(victims, Lives) {
			return
		}
	}
}
