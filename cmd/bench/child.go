package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// childStartTimeout bounds the time until a child says where it listens.
	childStartTimeout = 20 * time.Second
	// childStopTimeout is how long a child may take to end before it is killed.
	childStopTimeout = 5 * time.Second
)

// child is this program again, in another role. A process of its own keeps its
// processor time apart and lets no garbage collector stop two parties at once.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	// said is the one line that it prints when it is ready.
	said []string
}

// startChild starts a role and waits until it is ready. It ends when its
// standard input is closed, so also when this process dies.
func startChild(ctx context.Context, role string, args ...string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	c := &child{cmd: exec.CommandContext(context.WithoutCancel(ctx), program, append([]string{role}, args...)...)}
	c.cmd.Stderr = os.Stderr
	// A group of its own: Ctrl-C is for the parent, which then stops it.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the %s: %w", role, err)
	}
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadString('\n')
		line <- text
	}()
	late := time.NewTimer(childStartTimeout)
	defer late.Stop()
	select {
	case text := <-line:
		if c.said = strings.Fields(text); len(c.said) > 0 {
			return c, nil
		}
		err = errors.New("it ended")
	case <-late.C:
		err = fmt.Errorf("nothing heard for %s", childStartTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return nil, errors.Join(fmt.Errorf("starting the %s: %w", role, err), c.stop())
}

// stop ends the child and waits until it is gone.
func (c *child) stop() error {
	_ = c.stdin.Close() // it may have ended
	late := time.AfterFunc(childStopTimeout, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("stopping a child: %w", err)
	}
	return nil
}
