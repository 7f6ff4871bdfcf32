package odoo_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/odoostub"
)

// deadlines notes the read deadlines of a connection.
type deadlines struct {
	net.Conn

	mu  sync.Mutex // guards the following
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set = append(d.set, t)
	return d.Conn.SetReadDeadline(t)
}

func (d *deadlines) last() (n int, t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n = len(d.set); n > 0 {
		t = d.set[n-1]
	}
	return n, t
}

// The rest of a burst is waited for with a deadline, and what is waited for after it has none.
func TestDeadlineOfABurst(t *testing.T) {
	h := newHarness(t, odoostub.QueueJobLock)
	cfg := h.Postgres()
	var seen *deadlines
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		seen = &deadlines{Conn: conn}
		return seen, err
	}
	s, err := h.Driver().OpenSession(h.deadline(), cfg, h.db)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close(context.Background())) }()
	_, err = s.Fingerprint(h.deadline())
	require.NoError(t, err)
	require.NoError(t, s.Listen(h.deadline()))
	before, _ := seen.last()
	h.exec("SELECT pg_notify('queue_job', n::text) FROM generate_series(1, 50) n")
	n, err := s.Wait(h.deadline())
	require.NoError(t, err)
	require.Len(t, n.Changed, 50)
	after, deadline := seen.last()
	require.Greater(t, after, before, "the rest had a deadline")
	require.True(t, deadline.IsZero(), deadline)
}
