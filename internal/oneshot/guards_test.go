package oneshot

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	for want, e := range map[string]Endpoint{
		"http://10.0.0.5:8069":      {Network: "tcp", Address: "10.0.0.5:8069"},
		"https://odoo.internal:443": {Network: "tcp4", Address: "odoo.internal:443", TLS: &tls.Config{MinVersion: tls.VersionTLS12}},
		"unix//run/odoo.sock":       {Network: "unix", Address: "/run/odoo.sock"},
	} {
		require.Equal(t, want, e.Name())
		require.Equal(t, strings.HasPrefix(want, "https"), e.Scheme() == "https")
	}
	named := &tls.Config{ServerName: "other", MinVersion: tls.VersionTLS12}
	require.Equal(t, "other", New(Endpoint{Network: "tcp", Address: "odoo:443", TLS: named}).tls.ServerName)
	require.Equal(t, "odoo", New(Endpoint{Network: "tcp", Address: "odoo:443", TLS: &tls.Config{MinVersion: tls.VersionTLS12}}).tls.ServerName)
	require.Empty(t, named.NextProtos, "the configuration is the caller's")
}

// traced sends a request and returns what its trace was told: whether a request was delivered is
// judged by that.
func traced(t *testing.T, ctx context.Context, e Endpoint) (told []string, err error) {
	t.Helper()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { told = append(told, "get") },
		GotConn: func(i httptrace.GotConnInfo) {
			require.NotNil(t, i.Conn)
			told = append(told, "got")
		},
	})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://odoo/", nil)
	require.NoError(t, err)
	res, err := New(e).RoundTrip(req)
	if err == nil {
		require.NoError(t, res.Body.Close())
	}
	return told, err
}

// A trace is told that a connection is wanted, and that there is one, once TLS is done.
func TestTraceOfAConnection(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	plain := Endpoint{Network: "tcp", Address: server.Listener.Addr().String()}
	told, err := traced(t, t.Context(), plain)
	require.NoError(t, err)
	require.Equal(t, []string{"get", "got"}, told)

	secure := plain
	secure.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	told, err = traced(t, t.Context(), secure)
	require.ErrorContains(t, err, "TLS handshake with https://")
	require.Equal(t, []string{"get"}, told)

	server.Close()
	told, err = traced(t, t.Context(), plain)
	require.Error(t, err)
	require.Equal(t, []string{"get"}, told)

	// A trace may care about one of them, or none.
	for _, trace := range []*httptrace.ClientTrace{{}, {GetConn: func(string) {}}, {GotConn: func(httptrace.GotConnInfo) {}}} {
		e, _ := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)
		status, _, err := oneExchange(t, httptrace.WithClientTrace(t.Context(), trace), e)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status)
	}
}

// A request that is given up says why, and leaves no connection.
func TestGivenUpWhileItWaits(t *testing.T) {
	e, gone := answering(t, "", true)
	reason := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { cancel(reason) }})
	_, _, err := oneExchange(t, ctx, e)
	require.ErrorIs(t, err, reason)
	<-gone
}

// The server switches protocols, and so ends what can be understood.
func TestSwitchedProtocols(t *testing.T) {
	e, _ := answering(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", false)
	status, _, err := oneExchange(t, t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, status)
}

// mute is a connection that cannot be written to.
type mute struct{ net.Conn }

func (mute) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestRequestThatCannotBeSent(t *testing.T) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://odoo/", nil)
	require.NoError(t, err)
	_, _, err = exchange(mute{}, req)
	require.ErrorIs(t, err, io.ErrClosedPipe)
	require.ErrorContains(t, err, "send the request")
}

// Of two deadlines the earlier one counts.
func TestEarlierDeadline(t *testing.T) {
	until := time.Unix(1_700_000_000, 0)
	for after, want := range map[time.Duration]time.Time{
		-time.Second: until.Add(-time.Second), time.Second: until,
	} {
		ctx, cancel := context.WithDeadline(t.Context(), until.Add(after))
		got, ok := dialContext{ctx, until}.Deadline()
		cancel()
		require.True(t, ok)
		require.Equal(t, want, got)
	}
	got, ok := dialContext{t.Context(), until}.Deadline()
	require.True(t, ok)
	require.False(t, got.After(until))
}

// TestVanishedHosts: a host that has vanished is noticed within a minute.
func TestVanishedHosts(t *testing.T) {
	for _, address := range []string{"10.0.0.5:8069", "odoo:8069"} {
		d := New(Endpoint{Network: "tcp", Address: address}).dialer
		require.Equal(t, net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}, d.KeepAliveConfig)
	}
}
