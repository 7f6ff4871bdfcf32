package oneshot

import (
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// deaf returns the address of a host that does not answer: its queue of
// connections is full, so that the kernel drops what comes further.
func deaf(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	raw, err := l.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }))
	require.NoError(t, err)
	return l.Addr().String()
}

// Connecting takes no longer than it may, although no timer runs.
func TestDialDeadline(t *testing.T) {
	tr := New(Endpoint{Network: "tcp", Address: deaf(t)})
	require.True(t, tr.direct)
	for range 3 { // the queue holds the first
		begin := time.Now()
		conn, err := tr.dial(dialContext{t.Context(), begin.Add(300 * time.Millisecond)})
		if err == nil {
			defer conn.Close()
			continue
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var op *net.OpError
		require.ErrorAs(t, err, &op)
		require.Equal(t, "dial", op.Op)
		require.Less(t, time.Since(begin), dialTimeout)
		return
	}
	t.Fatal("the host answered")
}
