package runner

import "sync"

// mailbox is an unbounded queue of closures with one consumer, so that no
// producer ever waits for the engine loop.
type mailbox struct {
	// signal holds one token while letters wait.
	signal chan struct{}
	// gone is closed by close.
	gone chan struct{}

	mu      sync.Mutex // guards the following
	letters []func()
	closed  bool
}

func newMailbox() *mailbox {
	return &mailbox{signal: make(chan struct{}, 1), gone: make(chan struct{})}
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

// close drops what was left and makes every later post fail.
func (m *mailbox) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed, m.letters = true, nil
		close(m.gone)
	}
}
