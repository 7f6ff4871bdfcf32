package oneshot

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const requestText = "GET /x?y=z HTTP/1.1\r\nHost: odoo\r\nConnection: close\r\n\r\n"

// sendOne sends a request and reads the body of its answer.
func sendOne(ctx context.Context, s *Sender, text string) (status int, body string, connected bool, err error) {
	res, connected, err := s.Send(ctx, []byte(text))
	if err != nil {
		return 0, "", connected, err
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	return res.StatusCode, string(all), connected, err
}

// Only what needs no look-up and no TLS has a sender.
func TestWhatIsSimple(t *testing.T) {
	for want, list := range map[bool][]Endpoint{
		true: {
			{Network: "tcp", Address: "127.0.0.1:8069"}, {Network: "tcp4", Address: "127.0.0.1:8069"},
			{Network: "tcp", Address: "[::1]:8069"}, {Network: "tcp6", Address: "[::1]:8069"},
			{Network: "tcp", Address: "[::ffff:127.0.0.1]:8069"}, {Network: "unix", Address: "/run/odoo.sock"},
		},
		false: {
			{Network: "tcp", Address: "odoo:8069"}, {Network: "tcp", Address: "127.0.0.1:http"}, {Network: "tcp", Address: "127.0.0.1:0"},
			{Network: "tcp6", Address: "127.0.0.1:8069"}, {Network: "tcp4", Address: "[::1]:8069"}, {Network: "tcp", Address: ":8069"},
			{Network: "tcp", Address: "0.0.0.0:8069"}, {Network: "tcp", Address: "[::]:8069"}, {Network: "tcp", Address: "[fe80::1%lo]:8069"},
			{Network: "unix", Address: "@odoo"}, {Network: "unix", Address: ""}, {Network: "udp", Address: "127.0.0.1:8069"},
			{Network: "tcp", Address: "127.0.0.1:8069", TLS: &tls.Config{MinVersion: tls.VersionTLS12}},
			{Network: "tcp", Address: "127.0.0.1:8069", Local: &net.TCPAddr{}},
		},
	} {
		for _, e := range list {
			require.Equal(t, want, NewSender(e) != nil, "%+v", e)
		}
	}
}

// What a server sends means the same as with a [Transport].
func TestAnswersToASender(t *testing.T) {
	eachAnswer(t, func(t *testing.T, e Endpoint) (int, string, error) {
		t.Helper()
		status, body, connected, err := sendOne(t.Context(), NewSender(e), requestText)
		require.True(t, connected)
		return status, body, err
	})
}

// An answer may come in any parts.
func TestAnswerInParts(t *testing.T) {
	l, err := net.Listen("unix", t.TempDir()+"/odoo.sock")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = http.ReadRequest(bufio.NewReader(conn))
		for i := range len(usual) {
			_, _ = io.WriteString(conn, usual[i:i+1])
		}
	}()
	status, body, _, err := sendOne(t.Context(), NewSender(Endpoint{Network: "unix", Address: l.Addr().String()}), requestText)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Empty(t, body)
}

// TestAnswerInPartsIsReadInPlace: the usual answer is not left to net/http because its end comes later.
func TestAnswerInPartsIsReadInPlace(t *testing.T) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	conn, peer := os.NewFile(uintptr(fds[0]), ""), os.NewFile(uintptr(fds[1]), "")
	defer conn.Close()
	defer peer.Close()
	for _, part := range []string{usual[:1], usual[1:20], usual[20:]} { // each is read for itself
		_, err := peer.WriteString(part)
		require.NoError(t, err)
	}
	s := NewSender(Endpoint{Network: "unix", Address: "/run/odoo.sock"})
	res, connected, err := s.answer(conn, func() bool { return true })
	require.NoError(t, err)
	require.True(t, connected)
	require.Same(t, emptyAnswer, res)
}

// The context ends an exchange wherever it is, and the server notices.
func TestSendEndsWithItsContext(t *testing.T) {
	reason := errors.New("given up")
	for name, answer := range map[string]string{
		"waiting for the answer":  "",
		"in the middle of a head": "HTTP/1.1 200 OK\r\n",
		"in the middle of a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			e, gone := answering(t, answer, true)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
			res, connected, err := NewSender(e).Send(ctx, []byte(requestText))
			require.True(t, connected)
			if res == nil {
				require.ErrorIs(t, err, reason)
			} else {
				_, err = io.ReadAll(res.Body)
				require.ErrorIs(t, err, os.ErrClosed)
				_ = res.Body.Close() // the context has closed the connection
			}
			require.Equal(t, name == "in the middle of a body", res != nil)
			<-gone
		})
	}
	t.Run("connecting", func(t *testing.T) {
		s := NewSender(Endpoint{Network: "tcp", Address: deafAndFull(t)})
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
		_, connected, err := s.Send(ctx, []byte(requestText))
		require.False(t, connected)
		require.ErrorIs(t, err, reason)
	})
}

// deafAndFull is deaf whose queue is full already.
func deafAndFull(t *testing.T) string {
	t.Helper()
	address := deaf(t)
	for range 2 {
		conn, err := (&net.Dialer{Timeout: 200 * time.Millisecond}).DialContext(t.Context(), "tcp", address)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	return address
}

// dialFailed is the error by which a driver knows that nothing was sent.
func dialFailed(t *testing.T, connected bool, err, want error) {
	t.Helper()
	require.False(t, connected)
	require.ErrorIs(t, err, want)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "dial", op.Op)
}

// Connecting takes no longer than it may, and what cannot be reached was sent nothing.
func TestUnreachable(t *testing.T) {
	s := NewSender(Endpoint{Network: "tcp", Address: deafAndFull(t)})
	require.Equal(t, dialTimeout, s.patience)
	s.patience = 300 * time.Millisecond
	_, connected, err := s.Send(t.Context(), []byte(requestText))
	dialFailed(t, connected, err, os.ErrDeadlineExceeded)
	require.ErrorContains(t, err, "dial tcp "+s.endpoint.Address+": i/o timeout")

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	_, connected, err = NewSender(Endpoint{Network: "tcp", Address: l.Addr().String()}).Send(t.Context(), []byte(requestText))
	dialFailed(t, connected, err, syscall.ECONNREFUSED)
	require.ErrorContains(t, err, "connect: connection refused")

	_, connected, err = NewSender(Endpoint{Network: "unix", Address: t.TempDir() + "/none"}).Send(t.Context(), []byte(requestText))
	dialFailed(t, connected, err, syscall.ENOENT)
}

// connectedPair is a connection as a sender has it, and its other end.
func connectedPair(t *testing.T) (s *Sender, conn *os.File, peer *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s = NewSender(Endpoint{Network: "tcp", Address: l.Addr().String()})
	fd, n, err := s.open([]byte(requestText))
	require.NoError(t, err)
	conn = os.NewFile(uintptr(fd), "")
	t.Cleanup(func() { _ = conn.Close() })
	accepted, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = accepted.Close() })
	if n == 0 {
		_, err = conn.WriteString(requestText)
		require.NoError(t, err)
	}
	_, err = io.ReadFull(accepted, make([]byte, len(requestText)))
	require.NoError(t, err)
	return s, conn, accepted.(*net.TCPConn)
}

// A connection that breaks is one that there was: something may have been delivered.
func TestBrokenConnection(t *testing.T) {
	s, conn, peer := connectedPair(t)
	require.NoError(t, peer.SetLinger(0))
	require.NoError(t, peer.Close())
	_, connected, err := s.answer(conn, func() bool { return true })
	require.True(t, connected)
	require.ErrorIs(t, err, syscall.ECONNRESET)
	connected, err = s.finish(conn, []byte(requestText), false)
	require.True(t, connected)
	require.ErrorIs(t, err, syscall.EPIPE)

	// So is one that has taken a part and no more, now or before.
	s, conn, _ = connectedPair(t)
	s.patience = 50 * time.Millisecond
	connected, err = s.finish(conn, make([]byte, 64<<20), false)
	require.True(t, connected)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	s = NewSender(Endpoint{Network: "tcp", Address: deafAndFull(t)})
	s.patience = 50 * time.Millisecond
	for _, begun := range []bool{false, true} {
		fd, n, err := s.open([]byte(requestText))
		require.NoError(t, err)
		require.Zero(t, n)
		silent := os.NewFile(uintptr(fd), "")
		connected, err = s.finish(silent, []byte(requestText), begun)
		require.Equal(t, begun, connected)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, silent.Close())
	}
}

// TestVanishedPeers: a host that has vanished is noticed within a minute.
func TestVanishedPeers(t *testing.T) {
	_, conn, _ := connectedPair(t)
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	for _, o := range [][3]int{
		{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1}, {syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 30},
		{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 10}, {syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 3},
	} {
		require.NoError(t, raw.Control(func(fd uintptr) {
			got, err := syscall.GetsockoptInt(int(fd), o[0], o[1])
			require.NoError(t, err)
			require.Equal(t, o[2], got, o)
		}))
	}
}

// A socket that has connected to itself reaches no server.
func TestConnectedToItself(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	self, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	require.NoError(t, syscall.Connect(fd, self))
	conn := os.NewFile(uintptr(fd), "")
	defer conn.Close()
	_, err = conn.WriteString(requestText)
	require.NoError(t, err)
	s := NewSender(Endpoint{Network: "tcp", Address: fmt.Sprintf("127.0.0.1:%d", self.(*syscall.SockaddrInet4).Port)})
	_, connected, err := s.answer(conn, func() bool { return true })
	dialFailed(t, connected, err, syscall.ECONNREFUSED)
}

// Exchanges that are under way together have nothing in common.
func TestManySends(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := r.URL.Query().Get("n"); !strings.HasSuffix(n, "0") {
			_, _ = io.WriteString(w, n)
		}
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	s := NewSender(Endpoint{Network: "tcp", Address: l.Addr().String()})
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 50 {
				n := fmt.Sprint(worker*50 + i)
				_, body, _, err := sendOne(t.Context(), s, strings.Replace(requestText, "y=z", "n="+n, 1))
				if err != nil || body != n && !strings.HasSuffix(n, "0") {
					t.Errorf("%s: %q, %v", n, body, err)
				}
			}
		})
	}
	all.Wait()
}
