package odoo

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
)

// inbox collects notifications, which arrive whenever something is read from the connection, also
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

// setFirst is how many texts a list has room for at first, setFew how many may have been in a set whose
// memory is used again.
const (
	setFirst = 16
	setFew   = 100
)

func (s *set) add(text []byte) {
	if s.seen == nil {
		s.seen = map[string]struct{}{}
	}
	if _, ok := s.seen[string(text)]; !ok {
		v := string(text)
		s.seen[v] = struct{}{}
		if s.list == nil {
			s.list = make([]string, 0, setFirst)
		}
		s.list = append(s.list, v)
	}
}

// take empties the set, and returns its list, which is the caller's.
func (s *set) take() (list []string) {
	list, s.list = s.list, nil
	if len(list) > setFew {
		s.seen = nil
	}
	clear(s.seen)
	return list
}

// put is called for each notification.
func (b *inbox) put(pid uint32, payload []byte) {
	switch {
	case pid == b.own:
		b.putEcho(payload)
		return
	case len(payload) > UUIDLimit:
		// No job has such a name, so all that it can announce is a configuration.
		b.reload = true
		return
	case len(b.changed.list) >= inboxLimit:
		b.overflow = true
		return
	}
	b.changed.add(payload)
	b.reload = b.reload || isReload(payload)
}

// putEcho is called for what a statement of ours has caused. Triggers of others may notify in it, too.
func (b *inbox) putEcho(payload []byte) {
	switch {
	case len(payload) > UUIDLimit:
	case len(b.echoes.list) >= inboxLimit:
		b.overflow = true
	default:
		b.echoes.add(payload)
	}
}

// isReload reports whether a payload announces a changed configuration: all that is known of that
// payload is that it is no uuid (docs/contract.md 6.2). As a job might have an odd uuid too, such a
// payload is also looked up as one.
func isReload(payload []byte) bool {
	if len(payload) != uuidSize {
		return true
	}
	_, err := uuid.ParseBytes(payload)
	return err != nil
}

// take empties the inbox.
func (b *inbox) take() driver.Notifications {
	n := driver.Notifications{Changed: b.changed.take(), Echoes: b.echoes.take(), Reload: b.reload, Overflow: b.overflow}
	b.reload, b.overflow = false, false
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
	if s.inbox.empty() {
		if err := s.conn.WaitHeard(ctx); err != nil {
			return driver.Notifications{}, s.conn.Failed(err, "wait for notifications")
		}
	}
	return s.inbox.take(), nil
}
