package postgres

import (
	"encoding/binary"
	"fmt"
	"io"
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
// large.
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
}

func (m *messages) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if tooLarge := m.follow(p[:n]); tooLarge != nil {
		return 0, tooLarge
	}
	return n, err
}

// readyForQuery is the type of the message that ends the beginning of a connection.
const readyForQuery = 'Z'

// fits reports whether a message of the connection's beginning fits, all of which together may be
// as large as one message later.
func (m *messages) fits(length int) bool {
	if m.ready {
		return true
	}
	m.begun += length
	return m.begun <= MessageLimit
}

// follow goes from message to message.
func (m *messages) follow(p []byte) error {
	for len(p) > 0 {
		if m.body > 0 {
			n := min(m.body, len(p))
			m.body -= n
			p = p[n:]
			continue
		}
		n := min(headSize-len(m.head), len(p))
		m.head = append(m.head, p[:n]...)
		p = p[n:]
		if len(m.head) < headSize {
			return nil
		}
		length := binary.BigEndian.Uint32(m.head[1:])
		if length > MessageLimit || !m.fits(int(length)) {
			m.tooLarge.Store(true)
			return errTooLarge
		}
		m.ready = m.ready || m.head[0] == readyForQuery
		m.head, m.body = m.head[:0], max(int(length)-4, 0)
	}
	return nil
}
