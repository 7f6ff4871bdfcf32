//go:build attack

package attack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/test/support/testbed"
)

// falseAttacks are those of servers that are not what they seem. They have a runner
// of their own in the same Caddy.
var falseAttacks = []attack{
	falsePostgres("false PostgreSQL: a message of 1 GB", func(c net.Conn) {
		startUp(c)
		_, _ = c.Write(message('R', make([]byte, 4)))
		head := make([]byte, 5)
		head[0] = 'E'
		binary.BigEndian.PutUint32(head[1:], 1<<30)
		_, _ = c.Write(head)
		endless(c, bytes.Repeat([]byte{'x'}, 64<<10))
	}),
	falsePostgres("false PostgreSQL: hangs in the handshake", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }),
	falsePostgres("false PostgreSQL: endless parameters", func(c net.Conn) {
		startUp(c)
		_, _ = c.Write(message('R', make([]byte, 4)))
		for i := 0; ; i++ {
			if _, err := c.Write(message('S', fmt.Appendf(nil, "name%d\x00%s\x00", i, strings.Repeat("x", 10_000)))); err != nil {
				return
			}
		}
	}),
	falsePostgres("false PostgreSQL: endless notices", func(c net.Conn) {
		startUp(c)
		_, _ = c.Write(message('R', make([]byte, 4)))
		endless(c, message('N', []byte("SWARNING\x00M"+strings.Repeat("x", 60_000)+"\x00\x00")))
	}),
	falseOdoo("false Odoo: redirects to itself", func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 302 Found\r\nLocation: /queue_job/runjob\r\nContent-Length: 0\r\n\r\n")
	}),
	falseOdoo("false Odoo: login page", func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
	}),
	falseOdoo("false Odoo: endless headers", func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		endless(c, []byte("X-More: "+strings.Repeat("x", 1000)+"\r\n"))
	}),
	falseOdoo("false Odoo: one endless header", func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX-More: ")
		endless(c, bytes.Repeat([]byte{'x'}, 64<<10))
	}),
	falseOdoo("false Odoo: endless body", func(c net.Conn) {
		request(c)
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
		endless(c, bytes.Repeat([]byte{'x'}, 64<<10))
	}),
	falseOdoo("false Odoo: endless answers 100", func(c net.Conn) {
		request(c)
		endless(c, []byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}),
	falseOdoo("false Odoo: a byte a second", func(c net.Conn) {
		request(c)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for range 60 {
			if _, err := c.Write([]byte("H")); err != nil {
				return
			}
			<-tick.C
		}
	}),
}

// falseTime is how long a false server is put up with.
const falseTime = 12 * time.Second

func falsePostgres(name string, serve func(net.Conn)) attack {
	return attack{
		name: name, strike: func(b *bed) { b.wait(falseTime) },
		runner: func(b *bed) testbed.Runner {
			return testbed.Runner{
				Name: "false", Postgres: "postgres://jobrunner@" + listen(b, serve) + "/x?sslmode=disable", Databases: "x",
				Options: "upstream http://" + b.Odoo[0].Addr() + "\ndiscover_interval 1s",
			}
		},
	}
}

func falseOdoo(name string, serve func(net.Conn)) attack {
	return attack{
		name: name, strike: func(b *bed) {
			b.evilJobs(200)
			b.wait(falseTime)
		},
		runner: func(b *bed) testbed.Runner {
			return testbed.Runner{
				Name: "false", Postgres: b.dsn(), Databases: evilDB, Channels: "root:20",
				Options: "upstream http://" + listen(b, serve) + "\ndiscover_interval 1s",
			}
		},
	}
}

// listen serves connections until the attack is over, and returns the address.
func listen(b *bed, serve func(net.Conn)) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	var all sync.WaitGroup
	var mu sync.Mutex
	conns := make(map[net.Conn]bool)
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			all.Go(func() {
				serve(c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr().String()
}

// startUp reads what a client of PostgreSQL says first.
func startUp(c net.Conn) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(c, head); err == nil {
		_, _ = io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head))-4)
	}
}

// message is one of PostgreSQL's.
func message(kind byte, body []byte) []byte {
	head := []byte{kind, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(head[1:], uint32(len(body)+4)) //nolint:gosec // short
	return append(head, body...)
}

// request reads the beginning of a request.
func request(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }

// endless writes the same until nobody reads it.
func endless(c net.Conn, text []byte) {
	for {
		if _, err := c.Write(text); err != nil {
			return
		}
	}
}
