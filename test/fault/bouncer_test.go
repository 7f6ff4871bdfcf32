//go:build fault

package fault

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/stretchr/testify/require"
)

// bouncer is a PgBouncer.
type bouncer struct {
	tb     *testBed
	config string
	addr   string
	// dsn leads through it.
	dsn string
	cmd *exec.Cmd
}

// behindBouncer starts a PgBouncer for all nodes to connect through.
func behindBouncer(tb *testBed, mode string) *bouncer {
	b := startBouncer(tb, mode)
	tb.dsn = b.dsn
	return b
}

// startBouncer starts a PgBouncer in front of PostgreSQL.
func startBouncer(tb *testBed, mode string) *bouncer {
	dir := tb.TempDir()
	b := &bouncer{tb: tb, config: filepath.Join(dir, "pgbouncer.ini"), addr: freeAddress(tb)}
	_, port, err := net.SplitHostPort(b.addr)
	require.NoError(tb, err)
	host, sockets := "127.0.0.1", ""
	b.dsn = tb.Postgres.ProxyDSN(b.addr, "postgres")
	if *transport == "unix" {
		host = tb.Postgres.Dir()
		sockets, err = tb.Folder("")
		require.NoError(tb, err)
		require.NoError(tb, os.Chmod(sockets, 0o777)) //nolint:gosec // another user runs it
		b.dsn = tb.Postgres.ProxySocketDSN(sockets, port, "postgres")
	}
	require.NoError(tb, os.WriteFile(b.config, fmt.Appendf(nil, `[databases]
* = host=%s port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir = %s
auth_type = any
pool_mode = %s
ignore_startup_parameters = extra_float_digits
`, host, tb.Postgres.Port(), port, sockets, mode), 0o600))
	b.start()
	return b
}

func (b *bouncer) start() {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer"
	}
	b.cmd = exec.Command(path, "-q", b.config)
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 { // it refuses to be root, and has to reach PostgreSQL's folder
		b.become()
	}
	require.NoError(b.tb, b.cmd.Start(), "the Debian package pgbouncer is needed")
	b.tb.Cleanup(b.kill)
	b.tb.until("PgBouncer listens", func() bool {
		conn, err := net.Dial("tcp", b.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// become lets the process run as the user of PostgreSQL, who may read its
// configuration.
func (b *bouncer) become() {
	info, err := os.Stat(b.tb.Postgres.Dir())
	require.NoError(b.tb, err)
	owner := info.Sys().(*syscall.Stat_t)
	for dir := filepath.Dir(b.config); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		require.NoError(b.tb, os.Chmod(dir, 0o755))
	}
	require.NoError(b.tb, os.Chown(b.config, int(owner.Uid), int(owner.Gid)))
	b.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
}

func (b *bouncer) kill() {
	if b.cmd.ProcessState == nil {
		require.NoError(b.tb, b.cmd.Process.Kill())
		_ = b.cmd.Wait() // killed, as it says
	}
}
