package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
)

const (
	// defaultStartTimeout bounds one start of the server, crash recovery included.
	defaultStartTimeout = 60 * time.Second
	// stopTimeout is how long a stop may take before the server is killed.
	stopTimeout = 20 * time.Second
	// readyInterval is the time between two attempts to connect to a starting server.
	readyInterval = 20 * time.Millisecond
	// portAttempts is how often another port is tried when the one that was
	// free a moment ago has been taken.
	portAttempts = 5
)

// Options says what cluster to start. The zero value is right for tests.
type Options struct {
	// Dir is the folder in which the cluster's own folder is made. Default:
	// the system's folder for temporary files.
	Dir string
	// User is the name of the superuser. Default: postgres.
	User string
	// Password, when set, is asked of every connection (scram-sha-256).
	// Default: no password, everybody on this machine is trusted.
	Password string
	// Durable makes commits survive a crash of the machine (fsync). Without it
	// they survive every crash of the server itself.
	Durable bool
	// Settings are further settings of postgresql.conf, and override those made here.
	Settings map[string]string
	// Environment holds further variables for the server's programs ("NAME=value").
	Environment []string
	// Download ignores the binaries of this machine. The environment variable
	// JOBRUNNER_PG_DOWNLOAD=1 does the same.
	Download bool
	// Downloading is told of a download before it begins: what, and into which folder. Default:
	// nobody is told.
	Downloading func(what, folder string)
	// StartTimeout bounds the start of the server. Default: 60 s.
	StartTimeout time.Duration
}

// Mode is a way to stop the server.
type Mode uint8

const (
	// Fast disconnects all clients and shuts down cleanly.
	Fast Mode = iota
	// Immediate aborts; the next start recovers from the write-ahead log.
	Immediate
)

func (m Mode) signal() syscall.Signal {
	if m == Immediate {
		return syscall.SIGQUIT
	}
	return syscall.SIGINT
}

// Cluster is a running, or for the moment stopped, PostgreSQL cluster. It is
// safe for concurrent use.
type Cluster struct {
	opts  Options
	bin   string // folder of the binaries
	dir   string // everything of this cluster
	owner *owner // whom the server runs as; nil means the current user
	port  int

	mu     sync.Mutex     // one start or stop at a time
	server *child.Process // nil before the first start
}

// Start creates a cluster in a folder of its own and starts it on a free TCP
// port of 127.0.0.1 and on a Unix socket. ctx bounds the start only.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	if opts.User == "" {
		opts.User = "postgres"
	}
	if opts.StartTimeout == 0 {
		opts.StartTimeout = defaultStartTimeout
	}
	own, err := serverOwner()
	if err != nil {
		return nil, err
	}
	bin, err := binaries(ctx, opts.Download || os.Getenv(downloadVariable) == "1", opts.Downloading)
	if err != nil {
		return nil, fmt.Errorf("finding postgresql: %w", err)
	}
	c := &Cluster{opts: opts, bin: bin, owner: own}
	if err := c.create(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.startOnFreePort(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// create makes the folder and runs initdb in it.
func (c *Cluster) create(ctx context.Context) error {
	parent := c.opts.Dir
	if parent == "" {
		parent = os.TempDir()
		if c.owner != nil && !reachableByAll(parent) {
			parent = "/tmp"
		}
	}
	dir, err := os.MkdirTemp(parent, "jobrunner-pg-")
	if err != nil {
		return fmt.Errorf("making the cluster's folder: %w", err)
	}
	// Absolute, because the server runs in another working directory.
	if c.dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("making the cluster's folder: %w", err)
	}
	args := []string{
		"--pgdata=" + c.dataDir(), "--username=" + c.opts.User, "--encoding=UTF8", "--locale=C",
		"-N", // do not sync; its long name is not the same in all versions
		"--auth=trust",
	}
	if c.opts.Password != "" {
		file := filepath.Join(c.dir, "password")
		if err := os.WriteFile(file, []byte(c.opts.Password+"\n"), 0o600); err != nil {
			return fmt.Errorf("writing the password file: %w", err)
		}
		if err := c.owner.chown(file); err != nil {
			return err
		}
		defer os.Remove(file) // best effort: the folder goes with the cluster anyway
		args = append(args, "--auth=scram-sha-256", "--pwfile="+file)
	}
	if err := c.owner.chown(c.dir); err != nil {
		return err
	}
	template := os.Getenv(templateVariable)
	if template == "" || c.opts.Password != "" || c.opts.User != "postgres" {
		return c.initialize(ctx, args...)
	}
	if _, err := os.Stat(template); err == nil {
		return copyFolder(ctx, template, c.dataDir())
	}
	if err := c.initialize(ctx, args...); err != nil {
		return err
	}
	return copyFolder(ctx, c.dataDir(), template)
}

// templateVariable names a folder that keeps what initdb makes. A program that starts many clusters,
// one after the other, has it made once.
const templateVariable = "JOBRUNNER_PG_TEMPLATE"

func (c *Cluster) initialize(ctx context.Context, args ...string) error {
	cmd := c.command(ctx, "initdb", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running initdb: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// copyFolder copies a folder with owners and modes.
func copyFolder(ctx context.Context, from, to string) error {
	if out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// command prepares one of PostgreSQL's programs to run as the server's owner.
func (c *Cluster) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, program), args...)
	cmd.Dir = c.dir
	// PG* variables of the caller's environment are meant for another server.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
	cmd.Env = append(append(cmd.Env, "LC_ALL=C"), c.opts.Environment...)
	cmd.SysProcAttr = c.owner.sysProcAttr()
	return cmd
}

func (c *Cluster) startOnFreePort(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		port, err := freePort()
		if err != nil {
			return err
		}
		c.port = port
		err = c.StartAgain(ctx)
		if err == nil {
			return nil
		}
		if attempt == portAttempts || !strings.Contains(err.Error(), "Address already in use") {
			return err
		}
	}
}

// freePort returns a TCP port of 127.0.0.1 that nobody uses now.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("finding a free port: %w", err)
	}
	return port, nil
}

// settings returns the server's command line settings.
func (c *Cluster) settings() []string {
	s := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(c.port),
		"unix_socket_directories": c.dir,
		"max_connections":         "400",
		// So that pg_stat_activity has our statements as a whole.
		"track_activity_query_size": "16384",
		"logging_collector":         "off",
		"log_line_prefix":           "%m [%p] %a@%d ",
		"log_timezone":              "UTC",
		// The contract's timestamps are UTC whatever the server's zone is; an odd
		// zone brings a mistake to light.
		"timezone": "Asia/Kathmandu",
	}
	if !c.opts.Durable {
		s["fsync"] = "off"
		s["full_page_writes"] = "off"
	}
	maps.Copy(s, c.opts.Settings)
	args := make([]string, 0, 2*len(s))
	for _, name := range slices.Sorted(maps.Keys(s)) {
		args = append(args, "-c", name+"="+s[name])
	}
	return args
}

// StartAgain starts a stopped or killed cluster on its data folder and port, and
// waits until it accepts connections. It does nothing when the server runs.
func (c *Cluster) StartAgain(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start(ctx)
}

func (c *Cluster) start(ctx context.Context) error {
	if c.running() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.StartTimeout)
	defer cancel()
	log, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the server's log: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	from, err := log.Seek(0, 2)
	if err != nil {
		return fmt.Errorf("opening the server's log: %w", err)
	}
	args := append([]string{"-D", c.dataDir()}, c.settings()...)
	// Not bound to ctx: the server outlives its start.
	cmd := c.command(context.WithoutCancel(ctx), "postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Aborting the server ends its children as well.
	server, err := child.Start(cmd, syscall.SIGQUIT)
	if err != nil {
		return err
	}
	c.server = server
	if err := c.waitReady(ctx); err != nil {
		c.kill()
		return fmt.Errorf("starting postgres: %w: %s", err, c.logSince(from))
	}
	return nil
}

func (c *Cluster) waitReady(ctx context.Context) error {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	var last error
	for {
		conn, err := c.connect(ctx, maintenanceDB)
		if err == nil {
			return conn.Close(ctx)
		}
		last = err
		select {
		case <-c.server.Done():
			return fmt.Errorf("the server ended: %s", c.server.State())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// logSince returns what the server has logged since an offset, for error messages.
func (c *Cluster) logSince(offset int64) string {
	b, err := os.ReadFile(c.LogFile())
	if err != nil || int64(len(b)) < offset {
		return ""
	}
	return strings.TrimSpace(string(b[offset:]))
}

// PID is that of the server process; the cluster has to run.
func (c *Cluster) PID() int { return c.server.PID() }

// Running reports whether the server process lives.
func (c *Cluster) Running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running()
}

func (c *Cluster) running() bool { return c.server != nil && c.server.Running() }

// Stop stops the server and waits until it is gone. The data stay. It does
// nothing when the server does not run.
func (c *Cluster) Stop(ctx context.Context, mode Mode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stop(ctx, mode)
}

func (c *Cluster) stop(ctx context.Context, mode Mode) error {
	if !c.running() {
		return nil
	}
	if err := c.server.Signal(mode.signal()); err != nil {
		return fmt.Errorf("stopping postgres: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	select {
	case <-c.server.Done():
		return nil
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("stopping postgres: killed it: %w", ctx.Err())
	}
}

// Kill ends the server and all its processes with SIGKILL, as the kernel does
// when memory runs out. The data stay, and StartAgain recovers them.
func (c *Cluster) Kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill()
}

func (c *Cluster) kill() {
	if c.running() {
		c.server.KillTree()
	}
}

// Restart stops the server and starts it again on the same port.
func (c *Cluster) Restart(ctx context.Context, mode Mode) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.stop(ctx, mode); err != nil {
		return err
	}
	return c.start(ctx)
}

// Close ends the cluster and removes all of it. A closed cluster cannot be
// started again.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Nobody needs the data any more, so there is nothing to shut down cleanly.
	err := c.stop(context.Background(), Immediate)
	if c.dir == "" {
		return err
	}
	if rmErr := os.RemoveAll(c.dir); rmErr != nil {
		err = errors.Join(err, fmt.Errorf("removing the cluster's folder: %w", rmErr))
	}
	return err
}

func (c *Cluster) dataDir() string { return filepath.Join(c.dir, "data") }

// LogFile returns the path of the server's log.
func (c *Cluster) LogFile() string { return filepath.Join(c.dir, "postgres.log") }

// Dir returns the cluster's folder, which is also that of its Unix socket.
func (c *Cluster) Dir() string { return c.dir }

// Port returns the TCP port on 127.0.0.1.
func (c *Cluster) Port() int { return c.port }
