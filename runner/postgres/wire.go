package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgproto3"
)

// MessageLimit is the size of the largest message, in bytes, that is read from a server. Our
// statements cut the texts that they select, so a row has some kilobytes; what is larger comes from
// a trigger or a value that others have chosen, and pgx would keep all of it in memory.
const MessageLimit = 4 << 20

// errTooLarge ends a connection whose server sends more than that.
var errTooLarge = fmt.Errorf("the server sent a message of more than %d MiB, such as an error raised by a trigger", MessageLimit>>20)

// frontend is what pgx reads messages with: it makes m the reader of the connection.
func (m *messages) frontend(r io.Reader, w io.Writer) *pgproto3.Frontend {
	m.from, m.head, m.body, m.ready, m.begun = r, nil, 0, false, 0
	return pgproto3.NewFrontend(m, w)
}

// headSize is that of a message's head: a type, and the length of the rest, which counts itself.
const headSize = 5

// messages is the stream of a server's messages, and ends with an error before one that is too
// large. Notifications may be taken out of it.
type messages struct {
	from io.Reader
	// head holds the bytes of a head that has begun, body the number of bytes of the present
	// message that are still to come.
	head []byte
	body int
	// ready is set once the connection is, and begun is how much came before: pgx keeps all of it.
	ready bool
	begun int
	// tooLarge is set when one was. pgx itself may then only say that the connection is closed.
	tooLarge atomic.Bool

	// hear is called for each notification, of which pgx learns nothing then; nil leaves them to pgx.
	hear func(pid uint32, payload []byte)
	// note holds the bytes of a notification that has begun.
	note []byte
	// waiting is set while nothing but notifications is waited for, heard when there was one.
	waiting, heard bool
}

func (m *messages) Read(p []byte) (int, error) {
	for {
		if m.waiting && m.heard {
			return 0, errHeard
		}
		n, err := m.from.Read(p)
		kept, failed := m.follow(p[:n])
		if failed != nil {
			return 0, failed
		}
		if kept > 0 || n == 0 || err != nil {
			return kept, err
		}
	}
}

// errHeard ends a wait. It looks like the end of a deadline, after which pgx goes on with the
// connection.
var errHeard net.Error = heard{}

type heard struct{}

func (heard) Error() string   { return "a notification has arrived" }
func (heard) Timeout() bool   { return true }
func (heard) Temporary() bool { return true }

const (
	// readyForQuery is the type of the message that ends the beginning of a connection.
	readyForQuery = 'Z'
	// notification is that of what LISTEN brings.
	notification = 'A'
)

// fits reports whether a message of the connection's beginning fits, all of which together may be
// as large as one message later.
func (m *messages) fits(length int) bool {
	if m.ready {
		return true
	}
	m.begun += length
	return m.begun <= MessageLimit
}

// follow goes from message to message, and takes notifications out. It returns how many bytes are left,
// which are then the first ones.
func (m *messages) follow(p []byte) (kept int, err error) {
	for at := 0; at < len(p); {
		if m.body > 0 {
			n := min(m.body, len(p)-at)
			m.body -= n
			if m.own() {
				m.note = append(m.note, p[at:at+n]...)
			} else {
				kept += copy(p[kept:], p[at:at+n])
			}
			at += n
		} else {
			n := min(headSize-len(m.head), len(p)-at)
			m.head = append(m.head, p[at:at+n]...)
			if !m.own() {
				kept += copy(p[kept:], p[at:at+n])
			}
			at += n
			if len(m.head) < headSize {
				return kept, nil
			}
			if err := m.begin(); err != nil {
				return kept, err
			}
		}
		if m.body > 0 {
			continue
		}
		if err := m.end(); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

// own reports whether the message that has begun is taken out.
func (m *messages) own() bool { return m.hear != nil && m.head[0] == notification }

// begin judges a message by its head.
func (m *messages) begin() error {
	length := binary.BigEndian.Uint32(m.head[1:])
	if length > MessageLimit || !m.fits(int(length)) {
		m.tooLarge.Store(true)
		return errTooLarge
	}
	m.ready = m.ready || m.head[0] == readyForQuery
	m.body = max(int(length)-4, 0)
	return nil
}

// noteLimit is how large the memory for notifications is that is kept. PostgreSQL's have less.
const noteLimit = 16 << 10

// end ends a message.
func (m *messages) end() error {
	own := m.own()
	m.head = m.head[:0]
	if !own {
		return nil
	}
	note := m.note
	m.note = note[:0]
	if cap(note) > noteLimit {
		m.note = nil
	}
	if len(note) < 4 {
		return errNotification
	}
	_, rest, _ := bytes.Cut(note[4:], []byte{0}) // the channel, of which there is one
	payload, _, ended := bytes.Cut(rest, []byte{0})
	if !ended {
		return errNotification
	}
	m.heard = true
	m.hear(binary.BigEndian.Uint32(note), payload)
	return nil
}

// errNotification ends a connection whose server does not speak the protocol.
var errNotification = errors.New("the server sent a notification that is none")

// Hear has f called for each notification that arrives from now on, whatever is being done with the
// connection. payload is valid until f returns. To wait for some, use [Conn.WaitHeard]: pgx learns of
// none. That saves five allocations for each, of which there are up to four for a job.
func (c *Conn) Hear(f func(pid uint32, payload []byte)) { c.messages.hear = f }

// WaitHeard waits until a notification has been heard, or ctx ends, which is no error.
func (c *Conn) WaitHeard(ctx context.Context) error {
	m := c.messages
	var err error
	if ctx.Err() == nil { // otherwise pgx would not read either
		m.waiting, m.heard = true, false
		err = c.PgConn().WaitForNotification(ctx)
		m.waiting = false
	}
	if c.IsClosed() || err != nil && !m.heard && ctx.Err() == nil {
		return err
	}
	return nil
}
