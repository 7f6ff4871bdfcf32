package odoo

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// inbox collects notifications, which pgx hands over whenever it reads from the connection, also
// while another statement runs.
type inbox struct {
	// own is the backend of this session.
	own             uint32
	changed, echoes set
	reload          bool
	// overflow is set when more jobs were named than are kept.
	overflow bool
}

// inboxLimit is how many different jobs an inbox keeps, some 20 MB of them. Every role that may
// connect can notify, as fast as it likes; beyond this limit, reading all jobs is cheaper than
// reading those that were named.
const inboxLimit = 100_000

// set is a list without duplicates, in the order of arrival.
type set struct {
	list []string
	seen map[string]struct{}
}

func (s *set) add(v string) {
	if s.seen == nil {
		s.seen = map[string]struct{}{}
	}
	if _, ok := s.seen[v]; !ok {
		s.seen[v] = struct{}{}
		s.list = append(s.list, v)
	}
}

// put is the handler that pgx calls.
func (b *inbox) put(_ *pgconn.PgConn, n *pgconn.Notification) {
	switch {
	case n.PID == b.own:
		b.echoes.add(n.Payload)
		return
	case len(n.Payload) > UUIDLimit:
		// No job has such a name, so all that it can announce is a configuration.
		b.reload = true
		return
	case len(b.changed.list) >= inboxLimit:
		b.overflow = true
		return
	}
	b.changed.add(n.Payload)
	b.reload = b.reload || isReload(n.Payload)
}

// isReload reports whether a payload announces a changed configuration: all that is known of that
// payload is that it is no uuid (docs/contract.md 6.2). As a job might have an odd uuid too, such a
// payload is also looked up as one.
func isReload(payload string) bool {
	return len(payload) != 36 || uuid.Validate(payload) != nil
}

// take empties the inbox.
func (b *inbox) take() driver.Notifications {
	n := driver.Notifications{Changed: b.changed.list, Echoes: b.echoes.list, Reload: b.reload, Overflow: b.overflow}
	b.changed, b.echoes, b.reload, b.overflow = set{}, set{}, false, false
	return n
}

func (b *inbox) empty() bool {
	return len(b.changed.list) == 0 && len(b.echoes.list) == 0 && !b.reload && !b.overflow
}

// Listen implements [driver.Session]. In series that expect it of their runner, it creates the
// trigger first.
func (s *session) Listen(ctx context.Context) error {
	if s.generation == nil {
		return errNoFingerprint
	}
	if s.conn.Pooled() {
		return nil
	}
	if err := s.createTrigger(ctx); err != nil {
		return err
	}
	_, err := s.conn.Exec(ctx, "LISTEN "+pgx.Identifier{s.generation.channel}.Sanitize())
	s.listening = s.listening || err == nil
	return s.conn.Failed(err, "listen")
}

// Wait implements [driver.Session]. pgx leaves the connection open when a context ends while
// nothing but notifications are waited for.
func (s *session) Wait(ctx context.Context) (driver.Notifications, error) {
	if s.conn.Pooled() {
		<-ctx.Done()
		return driver.Notifications{}, nil
	}
	for s.inbox.empty() {
		err := s.conn.PgConn().WaitForNotification(ctx)
		if err == nil {
			continue
		}
		if ctx.Err() != nil && !s.conn.IsClosed() {
			return s.inbox.take(), nil
		}
		return driver.Notifications{}, s.conn.Failed(err, "wait for notifications")
	}
	s.drain()
	return s.inbox.take(), nil
}

const (
	// drainTimeout bounds the wait for the rest of a message whose beginning has been read already.
	drainTimeout = 100 * time.Millisecond
	// drainLimit is how many jobs are enough to begin with. What follows them is read along with
	// the answer to the next statement.
	drainLimit = 200
)

// drain collects the notifications that have been read from the network. It does not care about
// errors: the next statement meets them again. The deadline is the connection's, since one of a
// context would cost more than a message.
func (s *session) drain() {
	pg := s.conn.PgConn()
	if pg.Frontend().ReadBufferLen() == 0 || pg.Conn().SetReadDeadline(time.Now().Add(drainTimeout)) != nil {
		return
	}
	for !s.conn.IsClosed() && pg.Frontend().ReadBufferLen() > 0 && len(s.inbox.changed.list) < drainLimit {
		if pg.WaitForNotification(context.Background()) != nil {
			break
		}
	}
	_ = pg.Conn().SetReadDeadline(time.Time{})
}
