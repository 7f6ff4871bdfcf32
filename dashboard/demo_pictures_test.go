//go:build browser

package dashboard

import (
	"bufio"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/browsertest"
)

// demo is the one that runs with KEEP=1, from the beginning to the end of a test.
type demo struct {
	cmd   *exec.Cmd
	lines chan string
}

// startDemo needs what `make demo` has built: bin/caddy and bin/demo.
func startDemo(t *testing.T) (d *demo, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, filepath.Join("bin", "demo"), "-caddy", filepath.Join("bin", "caddy"), "-keep")
	cmd.Dir, cmd.WaitDelay = "..", time.Minute
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start(), "make build demo")
	d = &demo{cmd, make(chan string, 1000)}
	go func() {
		defer close(d.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			d.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cancel()
		for range d.lines { // until it has removed what it made
		}
		_ = cmd.Wait() // it was interrupted
	})
	_, address, found := strings.Cut(d.says(t, "the dashboard is at http://"), "http://")
	require.True(t, found)
	address, _, found = strings.Cut(address, "/")
	require.True(t, found)
	d.says(t, "Everything is still running")
	return d, address
}

// says waits until it has said that.
func (d *demo) says(t *testing.T, what string) string {
	t.Helper()
	for line := range d.lines {
		if strings.Contains(line, what) {
			return line
		}
	}
	require.Fail(t, "the demo has ended", "before %q", what)
	return ""
}

// enqueue lets it enqueue more jobs.
func (d *demo) enqueue(t *testing.T) {
	t.Helper()
	require.NoError(t, d.cmd.Process.Signal(syscall.SIGUSR2))
	d.says(t, "jobs more in")
}

// TestScreenshotsOfTheDemo takes pictures of what a newcomer sees: the list of jobs, one of them, and what
// another capacity would have meant, with the demo's own jobs.
func TestScreenshotsOfTheDemo(t *testing.T) {
	d, address := startDemo(t)
	open := func(device browsertest.Device, hash, drawn string) *browsertest.Page {
		p := browsertest.New(t)
		p.Use(device)
		p.Open("http://" + address + "/jobrunner/" + hash)
		p.Until(drawn)
		return p
	}
	shoot := func(p *browsertest.Page, name, at string) {
		browsertest.Eval[any](p, "document.activeElement.blur(), "+at+", null")
		p.Screenshot(filepath.Join("..", "docs", "demo-"+name+".png"))
		require.Empty(t, p.Problems())
		require.Equal(t, []string{address}, p.Hosts())
	}
	const top, row = "scrollTo(0, 0)", "document.querySelector('#jobs tbody tr')"
	wide, phone := browsertest.Device{Width: 1440, Height: 1000}, browsertest.Device{Width: 390, Height: 1100, Phone: true}
	shoot(open(phone, "#/jobs?state=failed", row), "phone", top)
	p := open(wide, "#/jobs?state=failed", row)
	p.Click("#jobs tbody tr a")
	p.Until("document.body.innerText.includes('Timeline')")
	shoot(p, "job", top)

	for range 6 {
		d.enqueue(t)
	}
	shoot(open(wide, "#/jobs?state=pending,enqueued,started,failed&database=demo_shop", "document.querySelector('#jobs tbody')?.innerText.includes('pending')"), "jobs", top)
	p = open(wide, "", "document.querySelector('#past')")
	browsertest.Eval[any](p, "document.querySelector('#past').open = true, null")
	p.Until("document.querySelector('#past-groups tbody tr') && document.querySelector('#past-forecast tbody tr')")
	whatIf(p, "root.mail", 12)
	p.Until("document.querySelector('#what-if-table tbody tr')")
	shoot(p, "what-if", "document.querySelector('#what-if-table').scrollIntoView({ block: 'end' }), scrollBy(0, 40)")
	shoot(open(browsertest.Device{Width: 1440, Height: 1180, Dark: true}, "", "document.querySelector('#latency path')"), "dark", top)
}
