package admin

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Observe hands an event on to those who read GET /jobrunner/events, and remembers attempts that did not
// end well. It does not block.
func Observe(ev runner.Event) {
	streams.publish(ev)
	attempts.note(&ev)
}

// streamBuffer is how many events a reader may be behind before it misses some.
const streamBuffer = 1024

// streams are the readers of events. They are global because the runners tell of events whatever
// configuration is in force, and Caddy makes the handlers of the admin API anew for each.
var streams = hub{readers: make(map[*reader]struct{})}

// hub spreads events over readers that come and go. One that is too slow misses
// events, and is told how many.
type hub struct {
	mu      sync.RWMutex // guards the following
	readers map[*reader]struct{}
}

// reader is one that listens.
type reader struct {
	wants   func(*runner.Event) bool
	events  chan runner.Event
	dropped atomic.Uint64
}

// subscribe adds a reader of the events that it wants.
func (h *hub) subscribe(wants func(*runner.Event) bool) *reader {
	r := &reader{wants: wants, events: make(chan runner.Event, streamBuffer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readers[r] = struct{}{}
	return r
}

// unsubscribe removes a reader.
func (h *hub) unsubscribe(r *reader) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, r)
}

func (h *hub) publish(ev runner.Event) {
	if h.len() > 0 {
		h.spread(ev)
	}
}

// spread is apart because its event escapes, which costs when nobody reads, too.
func (h *hub) spread(ev runner.Event) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for r := range h.readers {
		if !r.wants(&ev) {
			continue
		}
		select {
		case r.events <- ev:
		default:
			r.dropped.Add(1)
		}
	}
}

// len returns the number of readers.
func (h *hub) len() int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return len(h.readers)
}
