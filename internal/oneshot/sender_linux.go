package oneshot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"syscall"
	"time"
)

// Sender sends requests that have been written already, to an address that need not be looked up,
// without TLS. What package net does for every kind of connection, and net/http for every kind of
// request and answer, costs more than half of what the runner does for a job: so the socket is
// opened here, the request is the first thing that is tried on it, and the usual answer is read in
// place. All other answers are left to net/http.
type Sender struct {
	endpoint Endpoint
	family   int
	ip       netip.AddrPort // of a socket that is no Unix one
	peer     net.Addr       // for errors
	// patience is how long connecting may take.
	patience time.Duration
}

// NewSender returns a sender to e, nil if e is not as simple as that.
func NewSender(e Endpoint) *Sender {
	s := &Sender{endpoint: e, patience: dialTimeout}
	if e.TLS != nil || e.Local != nil {
		return nil
	}
	if e.Network == "unix" {
		if len(e.Address) == 0 || e.Address[0] != '/' {
			return nil // abstract names have their rules
		}
		s.family = syscall.AF_UNIX
		s.peer = &net.UnixAddr{Net: e.Network, Name: e.Address}
		return s
	}
	at, err := netip.ParseAddrPort(e.Address)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsUnspecified() {
		return nil
	}
	ip := at.Addr().Unmap()
	s.ip = netip.AddrPortFrom(ip, at.Port())
	s.peer = net.TCPAddrFromAddrPort(s.ip)
	switch {
	case ip.Is4() && (e.Network == "tcp" || e.Network == "tcp4"):
		s.family = syscall.AF_INET
	case ip.Is6() && (e.Network == "tcp" || e.Network == "tcp6"):
		s.family = syscall.AF_INET6
	default:
		return nil
	}
	return s
}

// address is the server's. Each call gets its own: package syscall writes into it.
func (s *Sender) address() syscall.Sockaddr {
	switch s.family {
	case syscall.AF_UNIX:
		return &syscall.SockaddrUnix{Name: s.endpoint.Address}
	case syscall.AF_INET:
		return &syscall.SockaddrInet4{Port: int(s.ip.Port()), Addr: s.ip.Addr().As4()}
	}
	return &syscall.SockaddrInet6{Port: int(s.ip.Port()), Addr: s.ip.Addr().As16()}
}

// emptyAnswer is every answer that is no other one.
var emptyAnswer = &http.Response{
	Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Close: true, Body: http.NoBody,
}

// Send sends a GET request, of which text is all, once, and waits for its answer until ctx ends.
// text is not kept. The answer must not be changed: it may be that of others. If connected is false,
// there was no connection, and certainly not a byte was delivered.
func (s *Sender) Send(ctx context.Context, text []byte) (res *http.Response, connected bool, err error) {
	fd, n, err := s.open(text)
	if err != nil {
		return nil, false, err
	}
	conn := os.NewFile(uintptr(fd), s.endpoint.Address)
	// Closing, and no deadline that has passed: finish sets one, too.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if connected, err = s.finish(conn, text[n:], n > 0); err == nil {
		res, connected, err = s.answer(conn, stop)
	}
	if res == nil || res.Body == http.NoBody {
		stop()
		_ = conn.Close()
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return res, connected, err
}

// open makes a socket, has it connect, and tries to send: to a server on the same machine that mostly
// succeeds at once. It returns how much was sent.
func (s *Sender) open(text []byte) (fd, n int, err error) {
	fd, err = syscall.Socket(s.family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, s.failed("dial", os.NewSyscallError("socket", err))
	}
	if s.family != syscall.AF_UNIX {
		keepAlive(fd)
	}
	err = syscall.Connect(fd, s.address())
	if err == nil || errors.Is(err, syscall.EINPROGRESS) || errors.Is(err, syscall.EINTR) {
		n, err = begin(fd, text)
	}
	if err != nil {
		_ = syscall.Close(fd)
		return 0, 0, s.failed("dial", os.NewSyscallError("connect", err))
	}
	return fd, n, nil
}

// begin tries to send, and returns how much was sent. An error is one of connecting. What else is in
// the way, finish comes upon: there is no connection yet, or none any more.
func begin(fd int, text []byte) (n int, err error) {
	n, err = syscall.Write(fd, text)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, syscall.EAGAIN), broken(err):
		return 0, nil
	}
	return 0, err
}

// keepAlive has the kernel notice that a host has vanished. As in package net, it need not succeed.
func keepAlive(fd int) {
	_ = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, int(keepAliveIdle/time.Second))
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, int(keepAliveInterval/time.Second))
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, keepAliveCount)
}

// finish sends the rest of a request, in most cases all of it because connecting takes a while. begun
// is set if something has been sent. An error before the first byte is one of connecting, except those
// of a connection that has ended.
func (s *Sender) finish(conn *os.File, rest []byte, begun bool) (connected bool, err error) {
	if len(rest) == 0 {
		return true, nil
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.patience))
	n, err := conn.Write(rest)
	switch {
	case err == nil:
		return true, nil
	case begun, n > 0, broken(err):
		return true, s.failed("write", bare(err))
	}
	return false, s.failed("dial", bare(err))
}

// broken reports whether an error is that of a connection which there was.
func broken(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// failed makes the error that package net would make.
func (s *Sender) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: s.endpoint.Network, Addr: s.peer, Err: err}
}

// bare is an error of a file without its name, because it is no file.
func bare(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	return err
}

// answers are the buffers that answers are read into. One is in use as long as the job runs.
var answers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// answer reads the answer, to its end if it is an empty one.
func (s *Sender) answer(conn *os.File, stop func() bool) (res *http.Response, connected bool, err error) {
	buf, _ := answers.Get().(*[bufferSize]byte)
	defer answers.Put(buf)
	for n := 0; ; {
		m, err := conn.Read(buf[n:])
		n += m
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, true, s.failed("read", bare(err))
		}
		v := judge(buf[:n])
		switch {
		case v == empty:
			return emptyAnswer, true, nil
		case v == unfinished && err == nil && n < len(buf):
			continue
		case bytes.HasPrefix(buf[:n], []byte("GET ")) && toItself(conn):
			return nil, false, s.failed("dial", os.NewSyscallError("connect", syscall.ECONNREFUSED))
		}
		res, err = readOther(conn, bytes.Clone(buf[:n]), stop)
		return res, true, err
	}
}

// readOther has net/http read an answer that has begun with some bytes.
func readOther(conn io.ReadCloser, begun []byte, stop func() bool) (*http.Response, error) {
	res, body, err := readAnswer(conn, io.MultiReader(bytes.NewReader(begun), conn), &http.Request{Method: http.MethodGet})
	if err != nil {
		return nil, err
	}
	body.stop = stop
	return body.of(res), nil
}

// toItself reports whether a socket has connected to itself, as happens where nothing listens and the
// kernel chooses the very port to connect from.
func toItself(conn syscall.Conn) (self bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) {
		here, _ := syscall.Getsockname(int(fd)) // nil if that fails
		there, err := syscall.Getpeername(int(fd))
		self = err == nil && reflect.DeepEqual(here, there)
	})
	return self
}
