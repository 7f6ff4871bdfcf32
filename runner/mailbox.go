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
	spare   []func() // memory for letters
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

// spareLimit is how many letters fit into the memory that is used again.
const spareLimit = 1000

// take empties the mailbox.
func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	letters := m.letters
	m.letters, m.spare = m.spare, nil
	return letters
}

// giveBack returns the memory of letters that were taken and have been read.
func (m *mailbox) giveBack(letters []func()) {
	clear(letters) // or it would keep what they refer to
	m.mu.Lock()
	defer m.mu.Unlock()
	if cap(letters) <= spareLimit && !m.closed {
		m.spare = letters[:0]
	}
}

// close drops what was left and makes every later post fail.
func (m *mailbox) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed, m.letters, m.spare = true, nil, nil
		close(m.gone)
	}
}
