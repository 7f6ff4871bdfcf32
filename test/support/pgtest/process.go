package pgtest

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

// process is a started server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended, once done is closed
}

// startProcess starts cmd such that it ends with this process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	endWithParent(cmd.SysProcAttr)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.supervise(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// supervise starts and waits on one and the same thread: the kernel takes the
// end of the thread that started the process for the end of its parent.
func (p *process) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	if p.err == nil {
		p.err = fmt.Errorf("exit status 0")
	}
	close(p.done)
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// killTree kills the process and its children, and waits until all are gone.
// The server's children are in sessions of their own, so that there is no
// process group to kill.
func (p *process) killTree() {
	pid := p.cmd.Process.Pid
	// Errors here mean that the process has ended by itself.
	_ = p.signal(syscall.SIGSTOP) // no more children from here on
	victims := children(pid)
	_ = p.signal(syscall.SIGKILL)
	for _, child := range victims {
		_ = syscall.Kill(child, syscall.SIGKILL)
	}
	<-p.done
	for end := time.Now().Add(deathTimeout); time.Now().Before(end); time.Sleep(deathInterval) {
		if !slices.ContainsFunc(victims, lives) {
			return
		}
	}
}
