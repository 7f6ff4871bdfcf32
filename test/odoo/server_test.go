//go:build odoo

package odootest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

const (
	// serverTimeout bounds the start of an Odoo server, and its stop.
	serverTimeout = 2 * time.Minute
	// requestTimeout bounds one request. The first one to a worker loads a registry.
	requestTimeout = time.Minute
	// installRequestTimeout bounds a request that installs a module.
	installRequestTimeout = 3 * time.Minute

	pollInterval = 50 * time.Millisecond

	// odooWorkers is the number of prefork workers.
	odooWorkers = 4
	// adminUser is the id of the administrator that every new database has; both
	// its name and its password are "admin".
	adminUser = 2
)

var client = &http.Client{
	Timeout:       requestTimeout,
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// serverOptions says how an Odoo server differs from the usual one.
type serverOptions struct {
	// ownRunner is the channels of upstream's runner. Default: it stays off.
	ownRunner string
	// options of odoo.conf.
	options map[string]any
}

// server is a running Odoo with prefork workers.
type server struct {
	*bed
	options serverOptions
	name    string
	port    int
	gevent  int

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// startServer starts an Odoo that is stopped when the test ends.
func (b *bed) startServer(t *testing.T, name string, options serverOptions) *server {
	t.Helper()
	s := &server{bed: b, options: options, name: name, port: freePort(t), gevent: freePort(t)}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

// start starts the processes; after stop or kill, on the same port again.
func (s *server) start(t *testing.T) {
	t.Helper()
	geventPort := "gevent_port"
	if s.series < 16 {
		geventPort = "longpolling_port"
	}
	options := map[string]any{
		"http_interface": "127.0.0.1", "http_port": s.port, geventPort: s.gevent, "workers": odooWorkers,
	}
	maps.Copy(options, s.options.options)
	channels := "root:0"
	if s.options.ownRunner != "" {
		channels = s.options.ownRunner
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close() // the child has its own descriptor
	s.cmd = s.command(context.WithoutCancel(t.Context()), []string{"ODOO_QUEUE_JOB_CHANNELS=" + channels},
		"--config", s.config(t, s.name, options))
	s.cmd.Stdout, s.cmd.Stderr = log, log
	require.NoError(t, s.cmd.Start())
	s.ended = make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended stands in its log
		close(s.ended)
	}()
	if !poll(serverTimeout, s.answers) {
		require.Fail(t, "Odoo does not start", lastLines(s.log()))
	}
}

func (s *server) logFile() string { return filepath.Join(s.root, s.run, s.name+".log") }

func (s *server) log() string {
	text, _ := os.ReadFile(s.logFile()) // a missing log says nothing yet
	return string(text)
}

// answers asks for a file that needs no database; that it does not exist is an
// answer too.
func (s *server) answers() bool {
	resp, err := client.Get(s.url("/web/static/nothing"))
	return err == nil && resp.Body.Close() == nil && resp.StatusCode < http.StatusInternalServerError
}

func (s *server) url(path string) string { return fmt.Sprintf("http://127.0.0.1:%d%s", s.port, path) }

// stop stops Odoo as a service manager does: running requests are finished.
func (s *server) stop(t *testing.T) {
	t.Helper()
	require.NoError(t, s.signal(syscall.SIGTERM))
	select {
	case <-s.ended:
	case <-time.After(serverTimeout):
		require.Fail(t, "Odoo does not stop", lastLines(s.log()))
	}
}

// kill ends all of Odoo's processes at once, as the kernel does when memory runs
// out, and waits until they are gone.
func (s *server) kill() {
	select {
	case <-s.ended:
		return
	default:
	}
	if s.signal(syscall.SIGKILL) != nil {
		_ = s.cmd.Process.Kill() // there is no Odoo yet, or none any more
	}
	<-s.ended
}

// signal sends a signal to Odoo's main process, the only child of unshare and
// the first process of its namespace: when it dies, all others are killed.
func (s *server) signal(sig syscall.Signal) error {
	pid := strconv.Itoa(s.cmd.Process.Pid)
	children, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return err
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil {
		return err
	}
	return syscall.Kill(child, sig)
}

// signalAll sends a signal to all of Odoo's processes.
func (s *server) signalAll(sig syscall.Signal) error {
	pids := children(s.cmd.Process.Pid)
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children(pids[i])...)
	}
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// children are the processes that a process has started.
func children(pid int) (pids []int) {
	name := strconv.Itoa(pid)
	list, _ := os.ReadFile(filepath.Join("/proc", name, "task", name, "children")) // it may have ended
	for _, field := range strings.Fields(string(list)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// runjob asks for a job as a runner does, and returns status and body.
func (s *server) runjob(t *testing.T, query url.Values, header http.Header) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url("/queue_job/runjob?"+query.Encode()), nil)
	require.NoError(t, err)
	maps.Copy(req.Header, header)
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

// call calls a method of a model as the administrator, at the address of an Odoo
// or of a proxy before it, and decodes what it returned into result.
func call(t *testing.T, base, db, model, method string, result any, args ...any) {
	t.Helper()
	status, text := ask(t, base, db, model, method, args...)
	require.Equal(t, http.StatusOK, status, string(text))
	var answer struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	require.NoError(t, json.Unmarshal(text, &answer), string(text))
	require.Empty(t, answer.Error, "%s.%s: %s", model, method, answer.Error)
	if result != nil {
		require.NoError(t, json.Unmarshal(answer.Result, result), string(answer.Result))
	}
}

// ask does that, and returns status and body.
func ask(t *testing.T, base, db, model, method string, args ...any) (status int, text []byte) {
	t.Helper()
	if args == nil {
		args = []any{}
	}
	limit := requestTimeout
	if method == "button_immediate_install" {
		limit = installRequestTimeout
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "method": "call", "id": 1,
		"params": map[string]any{
			"service": "object", "method": "execute_kw",
			"args": []any{db, adminUser, "admin", model, method, args},
		},
	})
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/jsonrpc", bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	patient := *client
	patient.Timeout = limit
	resp, err := patient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, text
}

// freePort returns a TCP port of 127.0.0.1 that no program uses now.
func freePort(t *testing.T) int {
	t.Helper()
	address, err := testbed.FreeAddress()
	require.NoError(t, err)
	port, err := strconv.Atoi(strings.TrimPrefix(address, "127.0.0.1:"))
	require.NoError(t, err)
	return port
}
