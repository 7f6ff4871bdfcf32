// Package caddyproc runs a real Caddy binary as a child process, with nothing of
// the user's own Caddy in reach. The demonstration and the benchmarks use it.
package caddyproc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// startTimeout bounds the time until the admin API answers.
	startTimeout = 60 * time.Second
	// stopTimeout is how long Caddy may take to end before it is killed.
	stopTimeout = 10 * time.Second
	// pollInterval is the time between two looks at what is waited for.
	pollInterval = 20 * time.Millisecond
)

// Process is a running Caddy.
type Process struct {
	// Binary is the program, File its Caddyfile.
	Binary, File string

	admin string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	began time.Time
}

// Options describe a Caddy to start.
type Options struct {
	// Binary is Caddy with the module, Arguments what stands before `run`.
	Binary    string
	Arguments []string
	// Dir holds everything that Caddy writes; the caller removes it.
	Dir string
	// Admin is the address of the admin endpoint in the Caddyfile.
	Admin string
	// Caddyfile is the configuration.
	Caddyfile []byte
}

// Start writes the configuration and runs the binary until the admin endpoint
// answers. ctx bounds the start only: an interrupt must not kill Caddy, but have
// it stopped.
func Start(ctx context.Context, o Options) (*Process, error) {
	p := &Process{
		Binary: o.Binary, File: filepath.Join(o.Dir, "Caddyfile"),
		admin: o.Admin, ended: make(chan struct{}),
	}
	if err := os.WriteFile(p.File, o.Caddyfile, 0o600); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	output, err := os.Create(filepath.Join(o.Dir, "caddy.out"))
	if err != nil {
		return nil, fmt.Errorf("opening caddy's output: %w", err)
	}
	defer output.Close() // the child has its own descriptor

	args := append(slices.Clone(o.Arguments), "run", "--config", p.File, "--adapter", "caddyfile")
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), o.Binary, args...)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	// PG* variables are meant for another PostgreSQL.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
	p.cmd.Env = append(p.cmd.Env, "HOME="+o.Dir, "XDG_CONFIG_HOME="+o.Dir, "XDG_DATA_HOME="+o.Dir)
	// A group of its own: Ctrl-C is for the parent, which then stops Caddy.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.Binary, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended stands in its output
		close(p.ended)
	}()
	if err := p.WaitFor(ctx, startTimeout, p.answers); err != nil {
		return nil, errors.Join(fmt.Errorf("starting caddy: %w\n%s", err, Tail(output.Name())), p.Stop())
	}
	return p, nil
}

// answers reports whether the admin API is there.
func (p *Process) answers(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.AdminURL("/config/"), nil)
	if err != nil {
		return false, fmt.Errorf("asking the admin API: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, nil //nolint:nilerr // not there yet
	}
	return resp.StatusCode == http.StatusOK, resp.Body.Close()
}

// WaitFor polls until what is waited for holds, Caddy has ended, or the time is over.
func (p *Process) WaitFor(ctx context.Context, limit time.Duration, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if ok, err := holds(ctx); ok || err != nil {
			return err
		}
		select {
		case <-p.ended:
			return errors.New("caddy has ended")
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", limit, ctx.Err())
		case <-tick.C:
		}
	}
}

// AdminURL returns the address of a path of the admin API.
func (p *Process) AdminURL(path string) string { return "http://" + p.admin + path }

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Began is when the process was started.
func (p *Process) Began() time.Time { return p.began }

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Stop ends Caddy as a service manager does, and waits until it is gone.
func (p *Process) Stop() error {
	select {
	case <-p.ended:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping caddy: %w", err)
	}
	late := time.NewTimer(stopTimeout)
	defer late.Stop()
	select {
	case <-p.ended:
		return nil
	case <-late.C:
		_ = p.cmd.Process.Kill() // it ended at this very moment, or it ends now
		<-p.ended
		return fmt.Errorf("stopping caddy: killed it after %s", stopTimeout)
	}
}

// FreePort returns a TCP port of 127.0.0.1 that nobody uses now.
func FreePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("finding a free port: %s is no TCP address", l.Addr())
	}
	return addr.Port, nil
}

// Tail returns the last lines of a file, for error messages.
func Tail(file string) string {
	const lines = 15
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
