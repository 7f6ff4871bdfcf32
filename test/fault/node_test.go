package fault

import (
	"bytes"
	"cmp"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/faultproxy"
)

// node is one Caddy in a process of its own: this test binary, see TestMain.
type node struct {
	p *plant
	// name is its application_name in PostgreSQL, which no other node has.
	name        string
	site, admin string
	// proxy stands between the node and PostgreSQL, if the fault wants one.
	proxy *faultproxy.Proxy
	// dsn is what the configuration says.
	dsn string
	// more is what its jobrunner blocks have besides what those of every node have.
	more string

	cmd   *exec.Cmd
	ended <-chan struct{} // closed when it has ended
	stdin io.Closer
	log   string
}

// addNode makes another node. It does not start it.
func (p *plant) addNode() *node {
	n := &node{
		p: p, name: p.id + "-" + strconv.Itoa(len(p.nodes)+1),
		site: freeAddress(p), admin: freeAddress(p),
	}
	n.log = filepath.Join(p.ArtifactDir(), n.name+".log")
	n.dsn = p.pg.DSN("postgres")
	if p.fault.proxied {
		var err error
		n.proxy, err = faultproxy.New(net.JoinHostPort("127.0.0.1", strconv.Itoa(p.pg.Port())))
		require.NoError(p, err)
		p.Cleanup(func() { require.NoError(p, n.proxy.Close()) })
		n.dsn = p.pg.ProxyDSN(n.proxy.Addr(), "postgres")
	}
	p.nodes = append(p.nodes, n)
	return n
}

// freeAddress returns an address that nobody listens on.
func freeAddress(p *plant) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(p, err)
	defer l.Close()
	return l.Addr().String()
}

var configuration = template.Must(template.New("").Parse(`{
	admin {{.admin}}
	persist_config off
	auto_https off
	grace_period 1s
	{{range .runners}}
	jobrunner {{.Name}} {
		postgres {{$.dsn}}
		databases {{.Databases}}
		channels {{.Tree}}
		discover_interval 500ms
		{{$.more}}
	}
	{{end}}
}

http://{{.site}} {
	reverse_proxy {{.upstreams}}
}
`))

// runner is one block of the configuration.
type runner struct{ Name, Databases, Tree string }

// caddyfile is the node's configuration as it stands now.
func (n *node) caddyfile() []byte {
	var b bytes.Buffer
	err := configuration.Execute(&b, map[string]any{
		"admin": n.admin, "site": n.site, "more": n.p.more + "\n" + n.more,
		"dsn":     strconv.Quote(cmp.Or(n.p.dsn, n.dsn) + "&application_name=" + n.name),
		"runners": n.p.runners(), "upstreams": strings.Join(n.p.upstreams(), " "),
	})
	require.NoError(n.p, err)
	return b.Bytes()
}

// start starts the node and waits until it serves its site.
func (n *node) start() {
	n.p.Helper()
	self, err := os.Executable()
	require.NoError(n.p, err)
	home := n.p.TempDir()
	config := filepath.Join(home, "Caddyfile")
	require.NoError(n.p, os.WriteFile(config, n.caddyfile(), 0o600))
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(n.p, err)
	defer log.Close() // the child has its own descriptor
	n.cmd = exec.Command(self, "run", "--config", config, "--adapter", "caddyfile")
	n.cmd.Env = append(os.Environ(), beCaddy+"=1", "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// Not in our group: a signal from the terminal is for the test.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	n.stdin, err = n.cmd.StdinPipe()
	require.NoError(n.p, err)
	require.NoError(n.p, n.cmd.Start())
	ended := make(chan struct{})
	n.ended = ended
	cmd := n.cmd
	go func() {
		_ = cmd.Wait() // whoever cares looks at its ProcessState
		close(ended)
	}()
	n.p.Cleanup(n.kill)
	n.p.until("Caddy listens", func() bool {
		require.True(n.p, n.alive(), "Caddy does not start: %s", n.tail())
		conn, err := net.Dial("tcp", n.site)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// alive reports whether the process runs, stopped or not.
func (n *node) alive() bool {
	if n.ended == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends the process as kill -9 does.
func (n *node) kill() {
	if n.alive() {
		n.signal(syscall.SIGKILL)
		<-n.ended
	}
}

func (n *node) signal(s syscall.Signal) {
	require.NoError(n.p, n.cmd.Process.Signal(s))
}

// logged counts the lines of the node's log that contain a text.
func (n *node) logged(text string) int {
	b, err := os.ReadFile(n.log)
	require.NoError(n.p, err)
	return bytes.Count(b, []byte(text))
}

// tail returns the last lines of the node's log, without those on single jobs.
func (n *node) tail() string {
	const lines = 60
	b, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.Split(string(b), "\n"), func(line string) bool {
		return strings.Contains(line, "asking Odoo to run job") || strings.Contains(line, "jobrunner.attempt")
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
