package command

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/fakerunner"
)

// pty is a pseudo-terminal: what a program writes to it is collected.
type pty struct {
	user, program *os.File
	mu            sync.Mutex
	text          strings.Builder
	read          sync.WaitGroup
}

func newPTY(t *testing.T, width, height uint16) *pty {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	fd := int(user.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	p := &pty{user: user, program: program}
	p.read.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := user.Read(buf)
			p.mu.Lock()
			p.text.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return // the program's side is closed
			}
		}
	})
	t.Cleanup(func() {
		_ = program.Close()
		p.read.Wait()
		_ = user.Close()
	})
	return p
}

func (p *pty) shown() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// controls are the sequences by which a program draws.
var controls = regexp.MustCompile(`\x1b\[[0-9;?]*[a-zA-Z]`)

// TestTopOnATerminal: a person starts it, sees the runner, presses q, and has the terminal as it was.
func TestTopOnATerminal(t *testing.T) {
	fakerunner.Run(t, "default", scenes(time.Now())["held"], zap.NewNop())
	srv := adminServer(t)
	defer srv.Close()
	for _, width := range []uint16{60, 100, 160} {
		p := newPTY(t, width, 40)
		before, err := term.GetState(int(p.program.Fd()))
		require.NoError(t, err)
		jobrunner := &cobra.Command{Use: "jobrunner", Args: cobra.ArbitraryArgs, SilenceUsage: true}
		addCommands(jobrunner)
		jobrunner.SetOut(p.program)
		jobrunner.SetIn(p.program)
		jobrunner.SetArgs([]string{"top", "--address", srv.Listener.Addr().String(), "--interval", "100ms"})
		t.Setenv("TERM", "xterm-256color")
		ended := make(chan error, 1)
		go func() { ended <- jobrunner.ExecuteContext(t.Context()) }()
		require.Eventually(t, func() bool {
			text := controls.ReplaceAllString(p.shown(), "")
			return strings.Contains(text, "held back") && strings.Contains(text, running) && strings.Contains(text, "q quits")
		}, 30*time.Second, 10*time.Millisecond)
		_, err = p.user.WriteString("q")
		require.NoError(t, err)
		require.NoError(t, <-ended)
		after, err := term.GetState(int(p.program.Fd()))
		require.NoError(t, err)
		require.Equal(t, before, after, "the terminal is as it was")
		require.Eventually(t, func() bool { return strings.Contains(p.shown(), "\x1b[?1049l") }, 10*time.Second, 10*time.Millisecond, "so is the screen")
		require.Contains(t, p.shown(), "\x1b[?1049h")
	}
}
