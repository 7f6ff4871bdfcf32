// Package faultproxy is a TCP proxy that breaks connections on demand: it resets
// them, refuses them, cuts idle ones, or swallows bytes while the connection
// looks alive, as a firewall does that has forgotten it.
package faultproxy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// dialTimeout bounds the connection to the target.
	dialTimeout = 5 * time.Second
	bufferSize  = 32 << 10
)

// Direction says which bytes a black hole swallows.
type Direction uint8

const (
	// ToServer is what clients send.
	ToServer Direction = 1 << iota
	// ToClient is what the target sends.
	ToClient
	// Both directions.
	Both = ToServer | ToClient
)

// Proxy forwards connections to one target. It is safe for concurrent use.
type Proxy struct {
	network, target string // of the server
	listens, addr   string // network and address of the clients
	wg              sync.WaitGroup

	swallow atomic.Value // a Direction
	idle    atomic.Int64 // nanoseconds after which an idle connection is cut, or 0

	idleChanged chan struct{} // holds one
	done        chan struct{} // closed by Close

	total, dropped atomic.Int64

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil while refusing
	links    map[*link]struct{}
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn // server is nil until the target is connected
	touched        atomic.Int64
}

// New starts a proxy to a TCP address, on a free port of 127.0.0.1.
func New(target string) (*Proxy, error) { return NewNetwork("tcp", target) }

// NewNetwork is New for a target of another network, such as "unix".
func NewNetwork(network, target string) (*Proxy, error) {
	return open(network, target, "tcp", "127.0.0.1:0")
}

// NewSocket is New for a target that is a Unix socket, on another Unix socket.
func NewSocket(target, path string) (*Proxy, error) { return open("unix", target, "unix", path) }

func open(network, target, listens, addr string) (*Proxy, error) {
	p := &Proxy{
		network: network, target: target, listens: listens, addr: addr,
		idleChanged: make(chan struct{}, 1), done: make(chan struct{}), links: map[*link]struct{}{},
	}
	if err := p.listen(); err != nil {
		return nil, err
	}
	p.wg.Add(1)
	go p.watch()
	return p, nil
}

// listen accepts connections, on the address of before.
func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	if p.listener != nil {
		return nil
	}
	l, err := net.Listen(p.listens, p.addr)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	p.listener, p.addr = l, l.Addr().String()
	p.wg.Add(1)
	go p.accept(l)
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	defer p.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed by Refuse or Close
		}
		p.total.Add(1)
		k := &link{client: c}
		k.touched.Store(time.Now().UnixNano())
		p.mu.Lock()
		refused := p.listener != l
		if !refused {
			p.links[k] = struct{}{}
			p.wg.Add(1)
		}
		p.mu.Unlock()
		if refused {
			reset(c)
			continue
		}
		go p.serve(k)
	}
}

// serve connects a link to the target and forwards until both sides are done.
func (p *Proxy) serve(k *link) {
	defer p.wg.Done()
	defer p.drop(k)
	server, err := net.DialTimeout(p.network, p.target, dialTimeout)
	if err != nil {
		return
	}
	p.mu.Lock()
	k.server = server
	_, alive := p.links[k]
	p.mu.Unlock()
	if !alive { // reset meanwhile
		_ = server.Close()
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.forward(k, k.server, k.client, ToServer) })
	both.Go(func() { p.forward(k, k.client, k.server, ToClient) })
	both.Wait()
	// Not a reset: what was written last may still be on its way.
	p.end(k, func(c net.Conn) { _ = c.Close() })
}

// forward copies bytes one way until the source ends, and passes that end on.
func (p *Proxy) forward(k *link, dst, src net.Conn, d Direction) {
	buf := make([]byte, bufferSize)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			k.touched.Store(time.Now().UnixNano())
			if !p.pass(dst, buf[:n], d) {
				p.drop(k)
				return
			}
		}
		switch {
		case err == nil:
		case p.swallows(d):
			return // the other side does not learn of it
		case errors.Is(err, io.EOF):
			closeWrite(dst)
			return
		default:
			p.drop(k)
			return
		}
	}
}

// pass writes to dst, unless a black hole swallows the bytes.
func (p *Proxy) pass(dst net.Conn, b []byte, d Direction) bool {
	if p.swallows(d) {
		p.dropped.Add(int64(len(b)))
		return true
	}
	_, err := dst.Write(b)
	return err == nil
}

func (p *Proxy) swallows(d Direction) bool {
	swallowed, _ := p.swallow.Load().(Direction) // nothing stored is no direction
	return swallowed&d != 0
}

// watch resets idle connections until the proxy is closed.
func (p *Proxy) watch() {
	defer p.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		if idle := time.Duration(p.idle.Load()); idle > 0 {
			timer.Reset(p.cutExpired(idle))
		}
		select {
		case <-timer.C:
		case <-p.idleChanged:
		case <-p.done:
			return
		}
	}
}

// cutExpired resets the connections that have been idle for too long, and
// returns the time until the next one may be.
func (p *Proxy) cutExpired(idle time.Duration) time.Duration {
	next := idle // a connection made from now on
	for _, k := range p.all() {
		left := time.Until(time.Unix(0, k.touched.Load())) + idle
		if left <= 0 {
			p.drop(k)
			continue
		}
		next = min(next, left)
	}
	return next
}

func (p *Proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.links))
}

// drop resets both sides of a link.
func (p *Proxy) drop(k *link) { p.end(k, reset) }

// end takes a link out of the books and closes both sides; the second call does
// nothing.
func (p *Proxy) end(k *link, closeConn func(net.Conn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.links[k]; !ok {
		return
	}
	delete(p.links, k)
	closeConn(k.client)
	if k.server != nil {
		closeConn(k.server)
	}
}

// reset closes a connection so that the other side sees a reset.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails only on a closed connection
	}
	_ = c.Close()
}

func closeWrite(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // the connection may be gone
	}
}

// Addr returns the proxy's host and port.
func (p *Proxy) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// Pass ends all faults. What was swallowed is lost, and so a connection that
// went through a black hole is of little use afterwards.
func (p *Proxy) Pass() error {
	p.swallow.Store(Direction(0))
	p.CutIdle(0)
	return p.listen()
}

// Blackhole swallows the bytes of a direction, on present and future
// connections, and lets them look alive.
func (p *Proxy) Blackhole(d Direction) { p.swallow.Store(d) }

// Reset resets all connections. New ones are accepted.
func (p *Proxy) Reset() {
	for _, k := range p.all() {
		p.drop(k)
	}
}

// Refuse refuses new connections, and leaves those that exist alone.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close() // it only unblocks accept
		p.listener = nil
	}
}

// CutIdle resets connections on which nothing passes for a time; 0 ends that.
func (p *Proxy) CutIdle(after time.Duration) {
	p.idle.Store(int64(after))
	select {
	case p.idleChanged <- struct{}{}:
	default: // the watch has not seen the change before this one yet
	}
}

// Close ends the proxy and resets all connections.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.done)
	}
	p.mu.Unlock()
	p.Refuse()
	p.Reset()
	p.wg.Wait()
	return nil
}

// Open returns the number of connections that exist.
func (p *Proxy) Open() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Total returns the number of connections that were ever accepted.
func (p *Proxy) Total() int { return int(p.total.Load()) }

// Swallowed returns the number of bytes that black holes swallowed.
func (p *Proxy) Swallowed() int64 { return p.dropped.Load() }
