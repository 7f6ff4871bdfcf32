package runner

import "sync"

// mailbox is an unbounded queue of closures with one consumer, so that no
// producer ever waits for the engine loop.
type mailbox struct {
	// signal holds one token while letters wait.
	signal chan struct{}

	mu      sync.Mutex // guards the following
	letters []func()
	closed  bool
}

func newMailbox() *mailbox {
	return &mailbox{signal: make(chan struct{}, 1)}
}

// post leaves a closure to be run by the consumer. It reports false, and drops
// the closure, after close.
func (m *mailbox) post(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.letters = append(m.letters, f)
	select {
	case m.signal <- struct{}{}:
	default:
	}
	return true
}

// take empties the mailbox.
func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters = nil
	return letters
}

// close makes every later post fail and returns what was left.
func (m *mailbox) close() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	letters := m.letters
	m.letters = nil
	return letters
}
