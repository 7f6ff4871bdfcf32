package oneshot

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is tried first on a connection that has ended already is not taken for an error of connecting:
// a driver would conclude that there was no connection.
func TestBrokenBeforeTheFirstByte(t *testing.T) {
	s, conn, peer := connectedPair(t)
	require.NoError(t, peer.SetLinger(0))
	require.NoError(t, peer.Close())
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	const closed = 7 // TCP_CLOSE
	require.NoError(t, raw.Read(func(fd uintptr) bool {
		info, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		return err != nil || info&0xff == closed
	}))
	var n int
	require.NoError(t, raw.Control(func(fd uintptr) { n, err = begin(int(fd), []byte(requestText)) }))
	require.NoError(t, err, "reset")
	require.Zero(t, n)
	connected, err := s.finish(conn, []byte(requestText), false)
	require.True(t, connected)
	require.ErrorIs(t, err, syscall.EPIPE)

	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Close(pair[1]))
	n, err = begin(pair[0], []byte(requestText))
	require.NoError(t, err, "closed")
	require.Zero(t, n)
	require.NoError(t, syscall.Close(pair[0]))
}

// Without a connection, an error is one of connecting.
func TestNothingToBeginOn(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	n, err := begin(fd, []byte(requestText))
	require.ErrorIs(t, err, syscall.ENOTCONN)
	require.Zero(t, n)
	require.NoError(t, syscall.Close(fd))
}

// Where there is not even a socket, nothing was sent.
func TestNoSocket(t *testing.T) {
	s := NewSender(Endpoint{Network: "unix", Address: "/run/odoo.sock"})
	s.family = -1
	_, connected, err := s.Send(t.Context(), []byte(requestText))
	dialFailed(t, connected, err, syscall.EAFNOSUPPORT)
}

// A request that does not fit into the socket at once arrives whole, and each part once.
func TestLongRequest(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/odoo.sock")
	require.NoError(t, err)
	defer l.Close()
	text := make([]byte, 4<<20)
	for i := range text {
		text[i] = byte(i % 251)
	}
	got := make(chan []byte, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			close(got)
			return
		}
		defer conn.Close()
		all := make([]byte, len(text))
		_, _ = io.ReadFull(conn, all)
		_, _ = io.WriteString(conn, usual)
		got <- all
	}()
	status, _, connected, err := sendOne(t.Context(), NewSender(Endpoint{Network: "unix", Address: l.Addr().String()}), string(text))
	require.NoError(t, err)
	require.True(t, connected)
	require.Equal(t, http.StatusOK, status)
	require.True(t, bytes.Equal(text, <-got))
}

// A request of which a part was sent counts as sent, although nothing was the matter with the
// connection: it was given up while the rest waited.
func TestGivenUpInTheMiddleOfARequest(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/odoo.sock") // it reads nothing
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, connected, err := NewSender(Endpoint{Network: "unix", Address: l.Addr().String()}).Send(ctx, make([]byte, 4<<20))
	require.True(t, connected)
	require.ErrorIs(t, err, context.Canceled)
}

// watched is a context that counts who waits for its end.
type watched struct {
	context.Context //nolint:containedctx // it is one
	waiting         *atomic.Int32
}

// Value keeps package context from finding the one below, which it would ask itself.
func (watched) Value(any) any { return nil }

// AfterFunc is what [context.AfterFunc] calls.
func (w watched) AfterFunc(f func()) func() bool {
	w.waiting.Add(1)
	stop := context.AfterFunc(w.Context, f)
	return func() bool {
		stopped := stop()
		if stopped {
			w.waiting.Add(-1)
		}
		return stopped
	}
}

// Nothing of an exchange that is over waits for the end of its context, which may serve others.
func TestNothingWaitsForTheContext(t *testing.T) {
	for name, c := range answerCases() {
		t.Run(name, func(t *testing.T) {
			e, _ := answering(t, c.answer, false)
			ctx := watched{t.Context(), new(atomic.Int32)}
			res, _, err := NewSender(e).Send(ctx, []byte(requestText))
			if err == nil && res.Body != http.NoBody {
				require.EqualValues(t, 1, ctx.waiting.Load())
				require.NoError(t, res.Body.Close())
			}
			require.Zero(t, ctx.waiting.Load())
		})
	}
}

// sockets counts the sockets of this process that are open.
func sockets(t *testing.T) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(to) > 7 && to[:7] == "socket:" {
			n++
		}
	}
	return n
}

// However an exchange ends, its socket is closed when its answer is.
func TestNoSocketIsLeft(t *testing.T) {
	none := t.TempDir() + "/none"
	l, err := net.Listen("unix", t.TempDir()+"/odoo.sock") // it accepts nothing; the kernel does
	require.NoError(t, err)
	defer l.Close()
	silent := NewSender(Endpoint{Network: "unix", Address: l.Addr().String()})
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would close what is left
	before := sockets(t)
	for range 3 {
		for _, c := range answerCases() {
			e, gone := answering(t, c.answer, false)
			_, _, _, _ = sendOne(t.Context(), NewSender(e), requestText)
			<-gone
		}
		_, _, err := NewSender(Endpoint{Network: "unix", Address: none}).Send(t.Context(), []byte(requestText))
		require.Error(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, connected, err := silent.Send(ctx, []byte(requestText))
		require.True(t, connected, "something may have been sent")
		require.ErrorIs(t, err, context.Canceled)
	}
	require.LessOrEqual(t, sockets(t), before)
}
