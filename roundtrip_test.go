package jobrunner

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answering is a server that answers one request, on the first connection, with
// bytes, and tells when the client has gone. It hangs up if it shall not wait.
func answering(t *testing.T, answer string, waits bool) (endpoint, <-chan struct{}) {
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
	return endpoint{network: "tcp", address: l.Addr().String()}, gone
}

func oneExchange(t *testing.T, ctx context.Context, e endpoint) (status int, body string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.address+"/x?y=z", nil)
	require.NoError(t, err)
	res, err := newTransport(e).RoundTrip(req)
	require.False(t, req.Close, "the request is the caller's")
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

// Whatever a server sends, it is asked once, and either it is an answer or an
// error says why not.
func TestAnswers(t *testing.T) {
	hint := "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
	for name, c := range map[string]struct {
		answer string
		body   string
		fails  string
	}{
		"a length":             {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"nothing":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		"chunks":               {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", body: "ok"},
		"until the end":        {answer: "HTTP/1.0 200 OK\r\n\r\nuntil", body: "until"},
		"hints before":         {answer: hint + hint + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", body: "ok"},
		"hints for ever":       {answer: strings.Repeat(hint, 100), fails: "more than 5 informational answers"},
		"no answer":            {fails: "the connection was closed before the answer"},
		"half a head":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", fails: "the connection was closed before the answer"},
		"half a body":          {answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", fails: "unexpected EOF"},
		"another protocol":     {answer: "SSH-2.0-OpenSSH_9.6\r\n\r\n", fails: "malformed HTTP"},
		"a head without end":   {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxResponseHeader), fails: "the head of the answer is longer than 65536 bytes"},
		"a body beyond a head": {answer: "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", 2*maxResponseHeader), body: strings.Repeat("x", 2*maxResponseHeader)},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := answering(t, c.answer, false)
			status, body, err := oneExchange(t, t.Context(), e)
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
			require.Error(t, err)
			require.ErrorIs(t, context.Cause(ctx), reason)
			<-gone
		})
	}
}

// Closing a body ends a read of it, and what is read later is an error: the buffer
// may serve another exchange then.
func TestCloseEndsTheRead(t *testing.T) {
	e, gone := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", true)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+e.address, nil)
	require.NoError(t, err)
	res, err := newTransport(e).RoundTrip(req)
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
		tr := newTransport(endpoint{network: "tcp", address: address})
		require.Equal(t, direct, tr.direct, address)
		require.Equal(t, direct, tr.dialer.Timeout == 0, address)
	}
	require.True(t, newTransport(endpoint{network: "unix", address: "/run/odoo.sock"}).direct)
}
