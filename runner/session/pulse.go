package session

import (
	"sync/atomic"
	"time"
)

// Pulse is what a session shows of its connection.
type Pulse struct {
	// Connected is since when the database is served; zero if it is not. Heard is when PostgreSQL was
	// last heard, and Synced when the last snapshot ended.
	Connected, Heard, Synced time.Time
	// Notifications is how many of others' changes have arrived.
	Notifications uint64
}

// Pulse returns what it is now.
func (s *Session) Pulse() Pulse {
	p := &s.pulse
	return Pulse{
		Connected: moment(&p.since), Heard: moment(&p.heard), Synced: moment(&p.synced),
		Notifications: p.notified.Load(),
	}
}

// pulse is written by the session's goroutine and may be read by all.
type pulse struct {
	since, heard, synced atomic.Int64 // microseconds since the Unix epoch
	notified             atomic.Uint64
}

// begin notes a new connection, end its loss.
func (p *pulse) begin() { p.since.Store(time.Now().UnixMicro()) }

func (p *pulse) end() { p.since.Store(0) }

// beat notes when PostgreSQL was last heard.
func (p *pulse) beat(t time.Time) { p.heard.Store(t.UnixMicro()) }

// moment returns a time, the zero time if there has been none.
func moment(micros *atomic.Int64) time.Time {
	if n := micros.Load(); n != 0 {
		return time.UnixMicro(n)
	}
	return time.Time{}
}
