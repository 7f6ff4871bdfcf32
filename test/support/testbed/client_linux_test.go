package testbed

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestClientAfterALoad: while two sockets listen on a port, nothing is sent, because the older one may
// get it and never read it.
func TestClientAfterALoad(t *testing.T) {
	shared := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return err
	}}
	older, err := shared.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := older.Addr().String()
	newer, err := shared.Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	require.NoError(t, server.Listener.Close())
	server.Listener = newer
	server.Start()
	defer server.Close()
	require.Equal(t, 2, listeners(address))

	look := listeners
	defer func() { listeners = look }()
	var looked sync.Once
	listeners = func(address string) int {
		n := look(address)
		looked.Do(func() { require.NoError(t, older.Close()) }) // after it was seen
		return n
	}
	defer Client.CloseIdleConnections()
	for range 20 { // the kernel spreads connections over both
		res, err := Client.Get("http://" + address)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		Client.CloseIdleConnections()
	}
	require.Equal(t, 1, look(address))
	require.Zero(t, look("127.0.0.1:1"))
	require.Zero(t, look("[::1]:80"))
}
