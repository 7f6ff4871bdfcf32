package runner

import (
	"math"
	"time"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/session"
)

// never is when a bar ends that does not end by itself, in microseconds since the Unix epoch, as the
// times of jobs are.
const never = math.MaxInt64

// bars finds out which jobs of a database cannot start for long, whatever becomes of others: because of
// a pause, or of a capacity of 0 at this time. Until then they are no reason to keep a connection.
type bars struct {
	e   *engine
	db  *database
	all int64 // of the whole database
	// of are those of channels, by their full names, with what is above.
	of map[string]int64
}

// barsOf begins with what concerns all jobs. Bars last until a time; 0 for none.
func (e *engine) barsOf(db *database) *bars {
	b := &bars{e: e, db: db, of: make(map[string]int64)}
	for _, p := range []*Pause{e.pausedAll, db.pause} {
		if p != nil {
			b.all = max(b.all, barUntil(p.Until))
		}
	}
	return b
}

// barUntil is the end of a bar, of which the zero time is that it does not end by itself.
func barUntil(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixMicro()
}

// job returns how long a job is barred.
func (b *bars) job(key channels.Key) int64 {
	return max(b.all, b.channel(b.e.notes.channelOf(key)))
}

// channel returns how long a channel is barred.
func (b *bars) channel(name string) (until int64) {
	if name == "" {
		return 0
	}
	until, known := b.of[name]
	if known {
		return until
	}
	if c, ok := b.e.tree.Channel(b.db.Name, name); ok {
		switch {
		case c.Paused:
			until = never
		case c.Stopped:
			until = never
			if p := b.e.controls.pause("", name); p != nil {
				until = barUntil(p.Until)
			}
		case c.Window != nil && c.Window.Capacity == 0:
			until = barUntil(c.WindowUntil)
		}
	}
	until = max(until, b.channel(channels.Parent(name)))
	b.of[name] = until
	return until
}

// barred are the pending jobs of a database that cannot start before a time.
type barred struct {
	uuids []string
	// opens is when the first of them can; never if that takes an order.
	opens int64
}

// unbarred reports whether a job of a database that sleeps can start after all, or soon.
func (e *engine) unbarred(db *database, now time.Time) bool {
	if len(db.barred.uuids) == 0 {
		return false
	}
	b, soon := e.barsOf(db), now.Add(session.SleepHorizon).UnixMicro()
	for _, uuid := range db.barred.uuids {
		key := channels.Key{DB: db.Name, UUID: uuid}
		if _, state, ok := e.tree.Lookup(key); ok && state == channels.Pending && b.job(key) < soon {
			return true
		}
	}
	return false
}

// wakeUnbarred has those databases connect whose jobs can start since operators, or a configuration, say
// something else.
func (e *engine) wakeUnbarred(now time.Time) {
	for db := range e.rotation.asleep {
		if e.unbarred(db, now) {
			e.wake(db, session.Pressing)
		}
	}
}
