package faultproxy

import (
	"bufio"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds whatever a test waits for.
const patience = 10 * time.Second

// echo starts a server that sends every line back in capitals, and a last word
// when the client has said its own.
func echo(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					if _, err := io.WriteString(c, strings.ToUpper(lines.Text())+"\n"); err != nil {
						return
					}
				}
				_, _ = io.WriteString(c, "bye\n")
			}()
		}
	}()
	return l
}

func start(t *testing.T) *Proxy {
	t.Helper()
	p, err := New(echo(t, "tcp", "127.0.0.1:0").Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", p.Addr(), patience)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	return c
}

// dialAndRead waits for the end of a new connection, which may come before the
// dialer has seen its beginning.
func dialAndRead(p *Proxy) error {
	c, err := net.DialTimeout("tcp", p.Addr(), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

// talk sends a line and reads the answer.
func talk(c net.Conn, line string) (string, error) {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func requireWorks(t *testing.T, c net.Conn) {
	t.Helper()
	got, err := talk(c, "hello")
	require.NoError(t, err)
	require.Equal(t, "HELLO\n", got)
}

func TestForwards(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := dial(t, p)
	requireWorks(t, c)
	require.Equal(t, 1, p.Open())
	// The end of one direction is passed on, and the other goes on.
	require.NoError(t, c.(*net.TCPConn).CloseWrite())
	rest, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "bye\n", string(rest))
	require.Eventually(t, func() bool { return p.Open() == 0 }, patience, time.Millisecond)
	require.Equal(t, 1, p.Total())
	require.Zero(t, p.Swallowed())
}

func TestUnixTarget(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	echo(t, "unix", socket)
	p, err := NewNetwork("unix", socket)
	require.NoError(t, err)
	requireWorks(t, dial(t, p))
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Pass(), net.ErrClosed)
}

// In a black hole a connection looks alive: writing works, and nothing comes back.
func TestBlackhole(t *testing.T) {
	t.Parallel()
	for name, d := range map[string]Direction{"to server": ToServer, "to client": ToClient, "both": Both} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			old := dial(t, p)
			requireWorks(t, old)
			p.Blackhole(d)
			for _, c := range []net.Conn{old, dial(t, p)} {
				before := p.Swallowed()
				_, err := io.WriteString(c, "hello\n")
				require.NoError(t, err)
				require.Eventually(t, func() bool { return p.Swallowed() > before }, patience, time.Millisecond)
				require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
				var netErr net.Error
				_, err = c.Read(make([]byte, 1))
				require.ErrorAs(t, err, &netErr)
				require.True(t, netErr.Timeout())
			}
			require.NoError(t, p.Pass())
			requireWorks(t, dial(t, p))
		})
	}
}

// Who is behind a black hole does not learn that the other side has gone.
func TestBlackholeHidesTheEnd(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := dial(t, p)
	requireWorks(t, c)
	p.Blackhole(Both)
	reset(c)
	other := dial(t, p)
	_, err := io.WriteString(other, "hello\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.Swallowed() > 0 }, patience, time.Millisecond)
	require.Equal(t, 2, p.Open())
}

func TestReset(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := dial(t, p)
	requireWorks(t, c)
	p.Reset()
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	requireWorks(t, dial(t, p))
	require.Equal(t, 2, p.Total())
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := dial(t, p)
	requireWorks(t, c)
	p.Refuse()
	_, err := net.DialTimeout("tcp", p.Addr(), patience)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	requireWorks(t, c)
	require.NoError(t, p.Pass())
	requireWorks(t, dial(t, p))
}

func TestCutIdle(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := dial(t, p)
	requireWorks(t, c)
	p.CutIdle(time.Hour)
	requireWorks(t, c)
	p.CutIdle(time.Millisecond)
	_, err := c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	require.ErrorIs(t, dialAndRead(p), syscall.ECONNRESET)
	require.NoError(t, p.Pass())
	requireWorks(t, dial(t, p))
}

// A target that is down looks like a server that accepts and goes away.
func TestTargetDown(t *testing.T) {
	t.Parallel()
	l := echo(t, "tcp", "127.0.0.1:0")
	p, err := New(l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	require.NoError(t, l.Close())
	require.ErrorIs(t, dialAndRead(p), syscall.ECONNRESET)
}
