package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/child"
)

// BouncerOptions says how a PgBouncer is.
type BouncerOptions struct {
	// Mode is its pool_mode. Default: transaction.
	Mode string
	// User and Password are those of its connections to PostgreSQL, whoever connects to it. Default: the
	// cluster's superuser.
	User, Password string
	// Sockets, if set, is a folder for its Unix socket, and has it reach PostgreSQL by one, too.
	Sockets string
}

// Bouncer is a PgBouncer before a cluster. It asks nobody for a password.
type Bouncer struct {
	cluster *Cluster
	config  string
	port    int
	process *child.Process
}

// StartBouncer starts a PgBouncer on a free port. It needs the Debian package pgbouncer, or what others
// call it. Whoever starts it has to kill it.
func (c *Cluster) StartBouncer(ctx context.Context, o BouncerOptions) (*Bouncer, error) {
	dir, err := os.MkdirTemp(c.dir, "pgbouncer-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for PgBouncer: %w", err)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	b := &Bouncer{cluster: c, config: filepath.Join(dir, "pgbouncer.ini"), port: port}
	if err := errors.Join(os.WriteFile(b.config, []byte(c.bouncerConfig(o, port)), 0o600), c.owner.chown(dir), c.owner.chown(b.config)); err != nil {
		return nil, fmt.Errorf("configuring PgBouncer: %w", err)
	}
	return b, b.Start(ctx)
}

// bouncerConfig is its configuration file.
func (c *Cluster) bouncerConfig(o BouncerOptions, port int) string {
	host, mode, user, password := "127.0.0.1", "transaction", c.opts.User, c.opts.Password
	if o.Sockets != "" {
		host = c.dir
	}
	if o.Mode != "" {
		mode = o.Mode
	}
	if o.User != "" {
		user, password = o.User, o.Password
	}
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
	login := "user=" + quote(user)
	if password != "" {
		login += " password=" + quote(password)
	}
	return fmt.Sprintf(`[databases]
* = host=%s port=%d %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir = %s
auth_type = any
pool_mode = %s
ignore_startup_parameters = extra_float_digits
`, host, c.port, login, port, o.Sockets, mode)
}

// Start starts it again after Kill, at the same port.
func (b *Bouncer) Start(ctx context.Context) error {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer"
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "-q", b.config)
	cmd.SysProcAttr = b.cluster.owner.sysProcAttr() // it refuses to be root, and has to reach PostgreSQL's folder
	if b.process, err = child.Start(cmd, syscall.SIGKILL); err != nil {
		return fmt.Errorf("the Debian package pgbouncer is needed: %w", err)
	}
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		var dialer net.Dialer
		if conn, err := dialer.DialContext(ctx, "tcp", b.Addr()); err == nil {
			return conn.Close()
		}
		select {
		case <-b.process.Done():
			return fmt.Errorf("PgBouncer ended: %s", b.process.State())
		case <-ctx.Done():
			b.Kill()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Kill ends it as kill -9 does.
func (b *Bouncer) Kill() {
	if b.process != nil && b.process.Running() {
		b.process.Kill()
	}
}

// Addr is where it listens.
func (b *Bouncer) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.port)) }

// Port is the port of that.
func (b *Bouncer) Port() int { return b.port }
