package odoostub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	defaultWorkers = 4
	// backlogPerWorker is how many connections prefork Odoo lets wait per worker.
	backlogPerWorker = 8
	firstPID         = 1000
)

// Options describes a server.
type Options struct {
	// Name stands in the records. Default: the address.
	Name string
	// Postgres returns how to connect to a database. Required.
	Postgres func(database string) *pgx.ConnConfig
	// Workers is the number of requests served at once. Default: 4.
	Workers int
	// Backlog is the number of accepted connections that wait for a worker; the
	// kernel is asked to keep as many again. Default: 8 per worker, as in Odoo.
	Backlog int
	// Listen opens the server's listener, also after [Server.Refuse]; it may be
	// one of TLS or of a Unix socket. Default: TCP on 127.0.0.1, on a free port
	// that is kept.
	Listen func() (net.Listener, error)
	// DBFilter, when set, makes the server of several databases one of Odoo 19
	// with that dbfilter: the database is that of the header X-Odoo-Database,
	// if the filter accepts it for the Host header; otherwise the answer is 404.
	// Default: the parameter db says it, or the header if there is none.
	DBFilter func(host, database string) bool
	// IdleTime is how long a connection is kept that no worker uses. Default: half an hour.
	IdleTime time.Duration
	// Recorder may be shared by several servers. Default: an own one.
	Recorder *Recorder
	// Gates may be shared by several servers. Default: own ones.
	Gates *Gates
}

// Server is an Odoo server with several worker processes: each serves one
// request at a time, and further connections wait in the order of their arrival.
// As in Odoo, a client that goes away does not end the job.
type Server struct {
	opts   Options
	faults faults
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	queue  chan net.Conn

	changed signal
	open    atomic.Int64 // accepted and not yet closed
	busy    atomic.Int64

	mu        sync.Mutex
	addr      net.Addr
	listener  net.Listener // nil while refusing
	runs      map[*context.CancelFunc]struct{}
	databases map[string]*database
	bound     map[string]string // databases by the session that is bound to them
}

// New starts a server.
func New(opts Options) (*Server, error) {
	if opts.Workers == 0 {
		opts.Workers = defaultWorkers
	}
	if opts.Backlog == 0 {
		opts.Backlog = backlogPerWorker * opts.Workers
	}
	if opts.Recorder == nil {
		opts.Recorder = &Recorder{}
	}
	if opts.Gates == nil {
		opts.Gates = &Gates{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		opts: opts, ctx: ctx, cancel: cancel,
		queue:     make(chan net.Conn, opts.Backlog),
		runs:      map[*context.CancelFunc]struct{}{},
		databases: map[string]*database{},
		bound:     map[string]string{},
	}
	if s.opts.Listen == nil {
		s.opts.Listen = s.listenTCP
	}
	if err := s.Accept(); err != nil {
		cancel()
		return nil, err
	}
	if s.opts.Name == "" {
		s.opts.Name = s.Addr()
	}
	for i := range opts.Workers {
		s.wg.Add(1)
		go s.work(firstPID + i)
	}
	return s, nil
}

// listenTCP listens on the port of before, if there is one.
func (s *Server) listenTCP() (net.Listener, error) {
	addr := "127.0.0.1:0"
	if s.addr != nil {
		addr = s.addr.String()
	}
	return net.Listen("tcp", addr)
}

// Accept listens again after [Server.Refuse].
func (s *Server) Accept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return errClosed
	}
	if s.listener != nil {
		return nil
	}
	l, err := s.opts.Listen()
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	s.listener, s.addr = l, l.Addr()
	shrinkBacklog(l, s.opts.Backlog)
	s.wg.Add(1)
	go s.accept(l)
	return nil
}

// shrinkBacklog sets the kernel's part of the backlog. It is best effort: a TLS
// or Unix listener keeps the system's default.
func shrinkBacklog(l net.Listener, n int) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = syscall.Listen(int(fd), n) })
}

func (s *Server) accept(l net.Listener) {
	defer s.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed by Refuse or Close
		}
		s.open.Add(1)
		select {
		case s.queue <- c:
		case <-s.ctx.Done():
			s.close(c, true)
			return
		}
	}
}

// work is one worker process, and those that take its place when it dies.
func (s *Server) work(pid int) {
	defer s.wg.Done()
	for {
		select {
		case c := <-s.queue:
			s.busy.Add(1)
			s.changed.broadcast()
			s.serve(pid, c)
			s.busy.Add(-1)
			s.changed.broadcast()
		case <-s.ctx.Done():
			return
		}
	}
}

// serve handles a connection in a context that ends when the worker is killed.
func (s *Server) serve(pid int, c net.Conn) {
	ctx, kill := context.WithCancel(s.ctx)
	defer kill()
	s.mu.Lock()
	s.runs[&kill] = struct{}{}
	s.mu.Unlock()
	alive := s.handle(ctx, pid, c)
	s.mu.Lock()
	delete(s.runs, &kill)
	s.mu.Unlock()
	s.close(c, !alive)
}

// close ends a connection, with a reset if wanted.
func (s *Server) close(c net.Conn, reset bool) {
	if reset {
		abortConn(c)
	} else {
		_ = c.Close() // the client may have gone
	}
	s.open.Add(-1)
	s.changed.broadcast()
}

// abortConn closes a connection so that the other side sees a reset.
func abortConn(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// Refuse closes the listener, so that connections are refused, and resets those
// that wait. Requests that a worker has begun go on.
func (s *Server) Refuse() {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	s.mu.Unlock()
	if l != nil {
		_ = l.Close() // it only unblocks Accept
	}
	s.resetBacklog()
}

func (s *Server) resetBacklog() {
	for {
		select {
		case c := <-s.queue:
			s.close(c, true)
		default:
			return
		}
	}
}

// KillBusy kills all workers that serve a request, as kill -9 does, and returns
// how many these were. Others take their place.
func (s *Server) KillBusy() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for kill := range s.runs {
		(*kill)()
	}
	return len(s.runs)
}

// Crash kills the whole server. [Server.Accept] starts it again.
func (s *Server) Crash() {
	s.Refuse()
	s.KillBusy()
}

// Close ends the server. Jobs that run are killed.
func (s *Server) Close() error {
	s.cancel()
	s.Refuse()
	s.wg.Wait()
	s.resetBacklog()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.databases {
		d.pool.Close()
		delete(s.databases, name)
	}
	return nil
}

// Addr returns host and port, or the path of the Unix socket.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr.String()
}

// URL returns the server's address with the scheme http.
func (s *Server) URL() string { return "http://" + s.Addr() }

// Name returns the server's name in the records.
func (s *Server) Name() string { return s.opts.Name }

// Recorder returns the recorder that the server writes to.
func (s *Server) Recorder() *Recorder { return s.opts.Recorder }

// Gates returns the gates at which the server's jobs wait.
func (s *Server) Gates() *Gates { return s.opts.Gates }

// Busy returns the number of workers that serve a connection.
func (s *Server) Busy() int { return int(s.busy.Load()) }

// Backlog returns the number of accepted connections that wait for a worker.
func (s *Server) Backlog() int { return len(s.queue) }

// Await waits until a condition holds that depends on Busy and Backlog only.
func (s *Server) Await(ctx context.Context, condition func() bool) error {
	return s.changed.await(ctx, condition)
}

// WaitIdle waits until no accepted connection is unanswered.
func (s *Server) WaitIdle(ctx context.Context) error {
	if err := s.changed.await(ctx, func() bool { return s.open.Load() == 0 && s.busy.Load() == 0 }); err != nil {
		return fmt.Errorf("waiting for %s to be idle: %w", s.opts.Name, err)
	}
	return nil
}

var (
	// errKilled means that the worker died; there is nobody to answer.
	errKilled = errors.New("worker killed")
	errClosed = errors.New("server closed")
)
