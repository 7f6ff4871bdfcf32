package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
)

const (
	// startTimeout bounds the time until the configuration is in force.
	startTimeout = 60 * time.Second
	// stopTimeout is how long Caddy may take to end before it is killed.
	stopTimeout = 60 * time.Second
	// pollInterval is the time between two checks of what is waited for.
	pollInterval = 20 * time.Millisecond
)

// selfVariable, in the environment, makes this program a Caddy.
const selfVariable = "JOBRUNNER_BE_CADDY"

// IsCaddy reports whether this program was started as a Caddy by [Start] or
// [Command]; it must do nothing then but call Caddy's own main function.
func IsCaddy() bool { return os.Getenv(selfVariable) != "" }

// Options describe a Caddy to start.
type Options struct {
	Config

	// Binary is Caddy with the module. Default: this program; see [IsCaddy].
	Binary string
	// Dir is the folder of the Caddyfile and of the log. The caller removes it.
	Dir string
	// Home is the folder of Caddy's storage. Default: Dir.
	Home string
	// Log is the file to which the output is appended. Default: caddy.log in Dir.
	Log string
	// Environment holds further variables ("NAME=value").
	Environment []string
}

// Caddy is a Caddy in a process of its own, with nothing of the user's own Caddy
// in reach.
type Caddy struct {
	*child.Process
	Admin
	Options

	// File is the Caddyfile. It stays as it was at the start.
	File string
	// Began is when the process was started.
	Began time.Time
}

// raceExit shortens how long a program with the race detector sleeps before it ends well: a second, which
// each of the many commands of a test would wait for.
const raceExit = " atexit_sleep_ms=50"

// Command prepares a command of Caddy's. An empty binary is this program.
func Command(ctx context.Context, binary, home string, args ...string) (*exec.Cmd, error) {
	var self []string
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		self = []string{selfVariable + "=1"}
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	// PG* variables are meant for another PostgreSQL.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PG") })
	cmd.Env = slices.Concat(cmd.Env, self, []string{
		"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home, "GORACE=" + os.Getenv("GORACE") + raceExit,
	})
	return cmd, nil
}

// Start starts a Caddy and waits until its configuration is in force. ctx bounds
// the start only: an interrupt must not kill Caddy, but have it stopped.
func Start(ctx context.Context, o Options) (*Caddy, error) {
	if err := o.setAddresses(); err != nil {
		return nil, err
	}
	o.Home, o.Log = cmp.Or(o.Home, o.Dir), cmp.Or(o.Log, filepath.Join(o.Dir, "caddy.log"))
	c := &Caddy{Options: o, Admin: Admin(o.Config.Admin), File: filepath.Join(o.Dir, "Caddyfile")}
	if err := os.WriteFile(c.File, o.Caddyfile(), 0o600); err != nil {
		return nil, fmt.Errorf("writing the Caddyfile: %w", err)
	}
	log, err := os.OpenFile(o.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening caddy's log: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	cmd, err := Command(context.WithoutCancel(ctx), o.Binary, o.Home, "run", "--config", c.File, "--adapter", "caddyfile")
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(cmd.Env, o.Environment...)
	c.Began = time.Now()
	if c.Process, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		return nil, err
	}
	if err := c.WaitFor(ctx, startTimeout, "its configuration", c.Answers); err != nil {
		c.Kill()
		return nil, err
	}
	return c, nil
}

// WaitFor waits until something holds. It fails when Caddy has ended, or the time
// is over.
func (c *Caddy) WaitFor(ctx context.Context, limit time.Duration, what string, holds func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for !holds(ctx) {
		var err error
		select {
		case <-c.Done():
			err = errors.New("it has ended: " + c.State())
		case <-ctx.Done():
			err = fmt.Errorf("after %s: %w", limit, ctx.Err())
		case <-tick.C:
			continue
		}
		return fmt.Errorf("waiting for %s of caddy: %w\n%s", what, err, c.Tail())
	}
	return nil
}

// WaitReady waits until Caddy says of itself that all its runners can do their
// work, and that the named databases are served.
func (c *Caddy) WaitReady(ctx context.Context, limit time.Duration, databases ...string) error {
	what := "readiness"
	if len(databases) > 0 {
		what += " for " + strings.Join(databases[:min(len(databases), 3)], ", ")
	}
	return c.WaitFor(ctx, limit, what, func(ctx context.Context) bool {
		if ready, err := c.Ready(ctx); err != nil || !ready {
			return false
		}
		states, err := c.Databases(ctx)
		return err == nil && !slices.ContainsFunc(databases, func(db string) bool { return states[db] != "ready" })
	})
}

// Load puts another configuration in force. The addresses stay as they are.
func (c *Caddy) Load(ctx context.Context, cfg Config) error {
	cfg.Admin, cfg.Site = c.Config.Admin, c.Config.Site
	c.Config = cfg
	return c.Admin.Load(ctx, cfg.Caddyfile())
}

// Stop ends Caddy as a service manager does, and waits until it has ended.
func (c *Caddy) Stop() error {
	if err := c.Process.Stop(syscall.SIGTERM, stopTimeout); err != nil {
		return fmt.Errorf("stopping caddy: %w\n%s", err, c.Tail())
	}
	return nil
}

// Output returns what Caddy has written to its log.
func (c *Caddy) Output() string {
	text, err := os.ReadFile(c.Log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail returns the last lines of the log, without those on single jobs.
func (c *Caddy) Tail() string {
	const lines = 60
	all := slices.DeleteFunc(strings.Split(c.Output(), "\n"), func(line string) bool {
		return strings.Contains(line, "asking Odoo to run job") || strings.Contains(line, "jobrunner.attempt")
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
