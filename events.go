package jobrunner

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// sinks are told every event of every runner, in the order of their happening.
// They are called from the runners' loops and must not block. Whoever wants to
// be one adds itself in an init function.
var sinks []func(runner.Event)

func init() {
	sinks = append(sinks, streams.publish, alerts.publish)
}

// publish is what runners call.
func publish(ev runner.Event) {
	for _, sink := range sinks {
		sink(ev)
	}
}

// streamBuffer is how many events a reader may be behind before it misses some.
const streamBuffer = 1024

// streams are the readers of events.
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
