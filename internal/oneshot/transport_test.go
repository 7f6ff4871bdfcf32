package oneshot

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answering is a server that answers one request, on the first connection, with
// bytes, and tells when the client has gone. It hangs up if it shall not wait.
func answering(t *testing.T, answer string, waits bool) (Endpoint, <-chan struct{}) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil || !waits {
			return
		}
		_, _ = r.ReadByte()
	}()
	t.Cleanup(func() { _ = l.Close(); <-gone })
	return Endpoint{Network: "tcp", Address: l.Addr().String()}, gone
}

func oneExchange(t *testing.T, ctx context.Context, e Endpoint) (status int, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.Address+"/x?y=z", nil)
	require.NoError(t, err)
	res, err := New(e).RoundTrip(req)
	require.False(t, req.Close, "the request is the caller's")
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// answerCases are what servers may send, and what is made of it.
func answerCases() map[string]answerCase {
	const hint = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
	return map[string]answerCase{
		"a length":             {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"nothing":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"nothing by chunks":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		"chunks":               {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "ok"},
		"trailers":             {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n", body: "ok"},
		"trailers for ever":    {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: " + strings.Repeat("x", 2*bufferSize), fails: "trailer"},
		"a chunk without end":  {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 2*bufferSize), fails: "header line too long"},
		"two lengths":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 2\r\n\r\nok", fails: "Content-Length"},
		"chunks and a length":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "ok"},
		"more than nothing":    {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n"},
		"until the end":        {answer: "HTTP/1.0 200 OK\r\n\r\nuntil", body: "until"},
		"hints before":         {answer: hint + hint + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"five hints before":    {answer: strings.Repeat(hint, 5) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"six hints before":     {answer: strings.Repeat(hint, 6) + "HTTP/1.1 200 OK\r\n\r\n", fails: "more than 5 informational answers"},
		"hints for ever":       {answer: strings.Repeat(hint, 100), fails: "more than 5 informational answers"},
		"no answer":            {fails: "the connection was closed before the answer"},
		"half a head":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", fails: "the connection was closed before the answer"},
		"half an empty answer": {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", fails: "the connection was closed before the answer"},
		"half a body":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", fails: "unexpected EOF"},
		"another protocol":     {answer: "SSH-2.0-OpenSSH_9.6\r\n\r\n", fails: "malformed HTTP"},
		"the request":          {answer: "GET / HTTP/1.1\r\n\r\n", fails: "malformed HTTP"},
		"a long head":          {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*bufferSize) + "\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"a head without end":   {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxResponseHeader), fails: "the head of the answer is longer than 65536 bytes"},
		"a body beyond a head": {answer: "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", 2*maxResponseHeader), body: strings.Repeat("x", 2*maxResponseHeader)},
	}
}

type answerCase struct {
	answer string
	body   string
	fails  string
}

// Whatever a server sends, it is asked once, and either it is an answer or an
// error says why not.
func TestAnswers(t *testing.T) {
	eachAnswer(t, func(t *testing.T, e Endpoint) (int, string, error) {
		t.Helper()
		return oneExchange(t, t.Context(), e)
	})
}

// eachAnswer sends a request to a server for each of answerCases.
func eachAnswer(t *testing.T, send func(*testing.T, Endpoint) (status int, body string, err error)) {
	t.Helper()
	for name, c := range answerCases() {
		t.Run(name, func(t *testing.T) {
			e, _ := answering(t, c.answer, false)
			status, body, err := send(t, e)
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, c.body, body)
		})
	}
}

// The context ends an exchange wherever it is, and the server notices.
func TestExchangeEndsWithItsContext(t *testing.T) {
	reason := errors.New("given up")
	for name, answer := range map[string]string{
		"waiting for the answer":   "",
		"in the middle of a head":  "HTTP/1.1 200 OK\r\n",
		"in the middle of a body":  "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
		"between hints and answer": "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			e, gone := answering(t, answer, true)
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
			_, _, err := oneExchange(t, ctx, e)
			want := reason
			if name == "in the middle of a body" { // whose reader knows the context
				want = os.ErrDeadlineExceeded
			}
			require.ErrorIs(t, err, want)
			<-gone
		})
	}
}

// Closing a body ends a read of it, and what is read later is an error: the buffer
// may serve another exchange then.
func TestCloseEndsTheRead(t *testing.T) {
	e, gone := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.Address, nil)
	require.NoError(t, err)
	res, err := New(e).RoundTrip(req)
	require.NoError(t, err)
	time.AfterFunc(50*time.Millisecond, func() { _ = res.Body.Close() })
	text, err := io.ReadAll(res.Body)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Equal(t, "ok", string(text))
	_, err = res.Body.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	require.NoError(t, res.Body.Close())
	<-gone
}

// Only a name needs a timer.
func TestDialTimeout(t *testing.T) {
	for address, direct := range map[string]bool{
		"127.0.0.1:8069": true, "[::1]:8069": true, "[fe80::1%eth0]:8069": true, "odoo:8069": false, "localhost:80": false,
	} {
		tr := New(Endpoint{Network: "tcp", Address: address})
		require.Equal(t, direct, tr.direct, address)
		require.Equal(t, direct, tr.dialer.Timeout == 0, address)
	}
	require.True(t, New(Endpoint{Network: "unix", Address: "/run/odoo.sock"}).direct)
}

// get sends a request as a driver would.
func get(t *testing.T, e Endpoint) (*http.Response, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.Scheme()+"://localhost/x?y=z", http.NoBody)
	require.NoError(t, err)
	r.Host = "odoo.example.com"
	return New(e).RoundTrip(r)
}

// TestTransport sends requests over everything that can be configured.
func TestTransport(t *testing.T) {
	var seen atomic.Pointer[http.Request]
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r)
		_, _ = io.WriteString(w, "ok")
	})
	// A proxy in the environment must not get to see jobs.
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")

	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(handler)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(secure.Close)
	socket := filepath.Join(t.TempDir(), "odoo.sock")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	require.NoError(t, err)
	local := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	go func() { _ = local.Serve(listener) }()
	t.Cleanup(func() { _ = local.Close() })

	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	for name, e := range map[string]Endpoint{
		"http":  {Network: "tcp", Address: plain.Listener.Addr().String()},
		"https": {Network: "tcp", Address: secure.Listener.Addr().String(), TLS: &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}},
		"unix":  {Network: "unix", Address: socket},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := get(t, e)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, "ok", string(body))
			r := seen.Load()
			require.Equal(t, "odoo.example.com", r.Host)
			require.Equal(t, "HTTP/1.1", r.Proto)
			require.True(t, r.Close, "the connection is not used again")
		})
	}
}

// TestSentOnce: a server that breaks the connection gets the request once.
func TestSentOnce(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if requests.Add(1) > 1 {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	e := Endpoint{Network: "tcp", Address: server.Listener.Addr().String()}
	resp, err := get(t, e)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	_, err = get(t, e)
	require.Error(t, err)
	require.EqualValues(t, 2, requests.Load())
}
