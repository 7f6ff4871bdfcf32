package drivertest

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// PoolMode is how a [Pooler] assigns backends to clients.
type PoolMode uint8

const (
	// PoolSession keeps one backend per client.
	PoolSession PoolMode = iota
	// PoolTransaction gives each transaction the backend that was used last.
	PoolTransaction
	// PoolRoundRobin gives each transaction the backend not used for longest.
	PoolRoundRobin
)

// Pooler is a connection pooler for PostgreSQL with the manners of PgBouncer: it answers the start
// of a connection itself, with a process id that it makes up, and forwards transactions to whatever
// backend is free.
type Pooler struct {
	cfg      *pgx.ConnConfig
	mode     PoolMode
	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex // guards the following
	idle    []*backend
	all     []*backend
	clients []net.Conn
	closed  bool
}

type backend struct {
	conn     net.Conn
	frontend *pgproto3.Frontend
}

// NewPooler starts a pooler with two backends in the database that cfg names, and returns the
// configuration that leads through it. It ends with the test.
func NewPooler(tb testing.TB, cfg *pgx.ConnConfig, mode PoolMode) *pgx.ConnConfig {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(tb, err)
	p := &Pooler{cfg: cfg.Copy(), mode: mode, listener: listener}
	for range 2 {
		b, err := p.dial(tb)
		require.NoError(tb, err)
		p.idle = append(p.idle, b)
	}
	p.wg.Go(func() { p.accept(tb) })
	tb.Cleanup(p.close)
	through := cfg.Copy()
	addr := listener.Addr().(*net.TCPAddr)
	through.Host, through.Port = addr.IP.String(), uint16(addr.Port) //nolint:gosec // a port
	through.Fallbacks = nil
	return through
}

func (p *Pooler) dial(tb testing.TB) (*backend, error) {
	conn, err := pgconn.ConnectConfig(tb.Context(), &p.cfg.Config)
	if err != nil {
		return nil, err
	}
	h, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	b := &backend{conn: h.Conn, frontend: h.Frontend}
	p.mu.Lock()
	p.all = append(p.all, b)
	p.mu.Unlock()
	return b, nil
}

func (p *Pooler) close() {
	p.mu.Lock()
	p.closed = true
	_ = p.listener.Close()
	for _, c := range p.clients {
		_ = c.Close()
	}
	for _, b := range p.all {
		_ = b.conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Pooler) accept(tb testing.TB) {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		if p.closed {
			_ = conn.Close()
		}
		p.clients = append(p.clients, conn)
		p.mu.Unlock()
		p.wg.Go(func() {
			defer conn.Close()
			if err := p.serve(tb, conn); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, net.ErrClosed) {
				tb.Logf("pooler: %v", err)
			}
		})
	}
}

// serve talks to one client.
func (p *Pooler) serve(tb testing.TB, conn net.Conn) error {
	client := pgproto3.NewBackend(conn, conn)
	if _, err := client.ReceiveStartupMessage(); err != nil {
		return err
	}
	client.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{
		"client_encoding": "UTF8", "standard_conforming_strings": "on", "integer_datetimes": "on",
	} {
		client.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	client.Send(&pgproto3.BackendKeyData{ProcessID: 3_000_000_000, SecretKey: []byte{1, 2, 3, 4}})
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := client.Flush(); err != nil {
		return err
	}
	var held *backend
	defer func() { p.release(held) }()
	for {
		msg, err := client.Receive()
		if err != nil {
			return err
		}
		if _, over := msg.(*pgproto3.Terminate); over {
			return nil
		}
		if held == nil {
			if held, err = p.acquire(tb); err != nil {
				return err
			}
		}
		held.frontend.Send(msg)
		switch msg.(type) {
		case *pgproto3.Query, *pgproto3.Sync:
			status, err := forward(held, client)
			if err != nil {
				return err
			}
			if status == 'I' && p.mode != PoolSession {
				p.release(held)
				held = nil
			}
		}
	}
}

// forward brings the backend's answer to the client.
func forward(b *backend, client *pgproto3.Backend) (status byte, err error) {
	if err := b.frontend.Flush(); err != nil {
		return 0, err
	}
	for {
		msg, err := b.frontend.Receive()
		if err != nil {
			return 0, err
		}
		client.Send(msg)
		if ready, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return ready.TxStatus, client.Flush()
		}
	}
}

func (p *Pooler) acquire(tb testing.TB) (*backend, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		defer p.mu.Unlock()
		i := n - 1
		if p.mode == PoolRoundRobin {
			i = 0
		}
		b := p.idle[i]
		p.idle = slices.Delete(p.idle, i, i+1)
		return b, nil
	}
	p.mu.Unlock()
	return p.dial(tb)
}

func (p *Pooler) release(b *backend) {
	if b == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, b)
}
