// Package oneshot sends an HTTP request once, on a new connection that is closed after the answer.
//
// A job's request must not be sent a second time, and it stays open as long as the job runs.
// [http.Transport] would do with DisableKeepAlives: it repeats a GET only when a connection that has
// been used before breaks, and then there is none. But it is made to share connections, with two
// goroutines for each, and nothing here needs that. This package exists to save what that costs.
// A [Transport] leaves HTTP to net/http. A [Sender], for servers without TLS that are named by their
// address, saves most of that, too. For each job, with Go 1.26 on two cores; processor time varies from
// machine to machine, so only its ratio is given:
//
//	                                Sender   Transport   http.Transport
//	processor time, one at a time     0.69           1             1.33
//	processor time, 16 at a time      0.67           1             1.13
//	allocations                         13          61               93
//	memory allocated                1.1 kB      4.4 kB           9.0 kB
//	memory while it is open              -      9.4 kB          14.8 kB
//	goroutines while it is open          1           1                3
//
// Medians of four runs. The caller's goroutine and the driver are part of all figures. To measure
// again:
//
//	go test -run '^$' -bench 'Exchange|Open' -benchmem -count 8 ./internal/oneshot
package oneshot

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"time"
)

// The limits of a connection to a server. None of them limits how long a job
// may run: once the request is sent, only the two ends or TCP keepalive end it.
const (
	dialTimeout         = 5 * time.Second
	tlsHandshakeTimeout = 10 * time.Second

	// A host that vanished is noticed after keepAliveIdle + keepAliveCount *
	// keepAliveInterval: one minute, as in Odoo's own runner (docs/contract.md 1.6).
	keepAliveIdle     = 30 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 3

	maxResponseHeader = 64 << 10
	// bufferSize is the size of each of an exchange's two buffers, in bytes. Each serves one request of
	// some hundred bytes and one answer without a body.
	bufferSize = 1 << 10
)

// Transport sends each request once, on a new connection that is closed after the answer.
type Transport struct {
	endpoint Endpoint
	dialer   *net.Dialer
	// direct is set when there is no name to be resolved.
	direct  bool
	tls     *tls.Config // nil for plain HTTP
	address string      // that traces are told
}

// New returns a transport to e. It waits for an answer until the request's context ends.
func New(e Endpoint) *Transport {
	t := &Transport{
		endpoint: e,
		address:  e.Name(),
		dialer: &net.Dialer{
			LocalAddr: e.Local,
			KeepAliveConfig: net.KeepAliveConfig{
				Enable:   true,
				Idle:     keepAliveIdle,
				Interval: keepAliveInterval,
				Count:    keepAliveCount,
			},
		},
	}
	host, _, _ := net.SplitHostPort(e.Address)
	if _, err := netip.ParseAddr(host); err == nil || e.Network == "unix" {
		t.direct = true
	} else {
		t.dialer.Timeout = dialTimeout
	}
	if e.TLS != nil {
		t.tls = e.TLS.Clone()
		t.tls.NextProtos = []string{"http/1.1"}
		if t.tls.ServerName == "" {
			t.tls.ServerName = host
		}
	}
	return t
}

// RoundTrip implements [http.RoundTripper]. The context bounds everything, the
// reading of the body included.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if !req.Close {
		req = req.WithContext(ctx) // a copy
		req.Close = true
	}
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(t.address)
	}
	conn, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	if trace != nil && trace.GotConn != nil {
		trace.GotConn(httptrace.GotConnInfo{Conn: conn})
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // long ago
	res, body, err := exchange(conn, req)
	if err != nil {
		stop()
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	body.stop = stop
	return body.of(res), nil
}

// dialContext bounds a dial by the deadline that the dialer sets for the socket: to
// connect to an address, it asks for Deadline. A context with a timer, which the
// resolution of a name needs, costs a tenth of the exchange. The dialer sets a deadline
// only where the context can end, which it always can here.
type dialContext struct {
	context.Context //nolint:containedctx // it is one
	until           time.Time
}

// Deadline implements [context.Context].
func (c dialContext) Deadline() (time.Time, bool) {
	if earlier, ok := c.Context.Deadline(); ok && earlier.Before(c.until) {
		return earlier, true
	}
	return c.until, true
}

// dial opens a connection.
func (t *Transport) dial(ctx context.Context) (net.Conn, error) {
	if t.direct {
		ctx = dialContext{ctx, time.Now().Add(dialTimeout)}
	}
	return t.dialer.DialContext(ctx, t.endpoint.Network, t.endpoint.Address)
}

// connect opens a connection, with TLS if the endpoint has it.
func (t *Transport) connect(ctx context.Context) (net.Conn, error) {
	conn, err := t.dial(ctx)
	if err != nil || t.tls == nil {
		return conn, err
	}
	ctx, cancel := context.WithTimeout(ctx, tlsHandshakeTimeout)
	defer cancel()
	secure := tls.Client(conn, t.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", t.address, err)
	}
	return secure, nil
}

// writers and readers are the buffers of exchanges. A reader is in use as long
// as the job runs.
var (
	writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferSize) }}
	readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, bufferSize) }}
)

// exchange writes the request and reads the head of its answer.
func exchange(conn net.Conn, req *http.Request) (*http.Response, *responseBody, error) {
	if err := writeRequest(conn, req); err != nil {
		return nil, nil, err
	}
	return readAnswer(conn, conn, req)
}

// readAnswer reads the head of an answer that comes from r. conn is closed with its body.
func readAnswer(conn io.Closer, r io.Reader, req *http.Request) (*http.Response, *responseBody, error) {
	body := &responseBody{conn: conn, head: io.LimitedReader{R: r, N: maxResponseHeader}}
	body.reader, _ = readers.Get().(*bufio.Reader)
	body.reader.Reset(&body.head)
	res, err := readHead(body.reader, req)
	if err != nil {
		body.release()
		if body.head.N <= 0 {
			err = fmt.Errorf("the head of the answer is longer than %d bytes", maxResponseHeader)
		}
		return nil, nil, err
	}
	body.head.N = math.MaxInt64 // the driver bounds what it reads
	return res, body, nil
}

func writeRequest(conn net.Conn, req *http.Request) error {
	w, _ := writers.Get().(*bufio.Writer)
	w.Reset(conn)
	err := req.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	writers.Put(w)
	if err != nil {
		return fmt.Errorf("send the request: %w", err)
	}
	return nil
}

// informational answers come before the answer, and there are few of them.
const informationalLimit = 5

func readHead(r *bufio.Reader, req *http.Request) (*http.Response, error) {
	for range informationalLimit + 1 {
		res, err := http.ReadResponse(r, req)
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("the connection was closed before the answer: %w", io.ErrUnexpectedEOF)
			}
			return nil, err
		}
		if res.StatusCode >= http.StatusOK || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
	}
	return nil, fmt.Errorf("more than %d informational answers", informationalLimit)
}

// responseBody is an answer's body. Closing it closes the connection.
type responseBody struct {
	io.ReadCloser
	conn io.Closer
	head io.LimitedReader
	stop func() bool
	once sync.Once

	mu     sync.Mutex    // guards reading, and the following
	reader *bufio.Reader // nil when it has been given back
}

// of makes it the body of the answer whose head was read. What has no body is closed at once.
func (b *responseBody) of(res *http.Response) *http.Response {
	if res.Body == http.NoBody {
		_ = b.Close()
		return res
	}
	b.ReadCloser, res.Body = res.Body, b
	return res
}

// Read implements [io.Reader].
func (b *responseBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reader == nil {
		return 0, net.ErrClosed
	}
	return b.ReadCloser.Read(p)
}

// Close implements [io.Closer]. It ends a Read that is under way.
func (b *responseBody) Close() (err error) {
	b.once.Do(func() {
		b.stop()
		// Not the body's own Close, which would read the rest.
		err = b.conn.Close()
		b.release()
	})
	return err
}

// release gives the buffer back.
func (b *responseBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reader.Reset(nil)
	readers.Put(b.reader)
	b.reader = nil
}
