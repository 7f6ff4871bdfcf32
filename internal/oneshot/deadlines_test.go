package oneshot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var errSeen = errors.New("seen")

// Connecting has a deadline, to an address and to a name, and a context that ends earlier counts.
func TestConnectingHasADeadline(t *testing.T) {
	for _, address := range []string{"127.0.0.1:1", "localhost:1"} {
		tr := New(Endpoint{Network: "tcp", Address: address})
		var until time.Time
		tr.dialer.ControlContext = func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
			until, _ = ctx.Deadline()
			return errSeen
		}
		begin := time.Now()
		_, err := tr.dial(t.Context())
		require.ErrorIs(t, err, errSeen)
		require.WithinRange(t, until, begin.Add(dialTimeout/4), time.Now().Add(dialTimeout), address)

		ctx, cancel := context.WithDeadline(t.Context(), begin.Add(dialTimeout/8))
		_, err = tr.dial(ctx)
		cancel()
		require.ErrorIs(t, err, errSeen)
		require.False(t, until.After(begin.Add(dialTimeout/8)), address)
	}
}

// So has the handshake. It is seen where the server asks for a certificate.
func TestHandshakeHasADeadline(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	var until time.Time
	e := Endpoint{Network: "tcp", Address: server.Listener.Addr().String(), TLS: &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			until, _ = r.Context().Deadline()
			return &tls.Certificate{}, nil
		},
	}}
	begin := time.Now()
	conn, err := New(e).connect(t.Context())
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.WithinRange(t, until, begin.Add(tlsHandshakeTimeout), time.Now().Add(tlsHandshakeTimeout))
}
