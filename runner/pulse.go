package runner

import (
	"sync/atomic"
	"time"
)

// pulse is what a session lets everybody know about its connection.
type pulse struct {
	since, heard, synced atomic.Int64 // microseconds since the Unix epoch
	notified             atomic.Uint64
}

// begin notes a new connection, end its loss.
func (p *pulse) begin() { p.since.Store(time.Now().UnixMicro()) }

func (p *pulse) end() { p.since.Store(0) }

// beat notes when the server was last heard.
func (p *pulse) beat(t time.Time) { p.heard.Store(t.UnixMicro()) }

// moment returns a time, the zero time if there has been none.
func moment(micros *atomic.Int64) time.Time {
	if n := micros.Load(); n != 0 {
		return time.UnixMicro(n)
	}
	return time.Time{}
}
