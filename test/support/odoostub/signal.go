package odoostub

import (
	"context"
	"sync"
)

// signal wakes those who wait for a condition to become true.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// broadcast must be called after every change that a condition may depend on.
func (s *signal) broadcast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// await returns when the condition holds, or with an error when ctx ends first.
func (s *signal) await(ctx context.Context, condition func() bool) error {
	for {
		s.mu.Lock()
		if s.ch == nil {
			s.ch = make(chan struct{})
		}
		changed := s.ch
		s.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Gates hold jobs back until somebody opens them. The zero value is ready, with
// all gates closed.
type Gates struct {
	signal signal
	mu     sync.Mutex
	open   map[string]bool
}

// Open lets the jobs of a gate go on, now and later.
func (g *Gates) Open(name string) {
	g.mu.Lock()
	if g.open == nil {
		g.open = map[string]bool{}
	}
	g.open[name] = true
	g.mu.Unlock()
	g.signal.broadcast()
}

// pass waits until the gate is open.
func (g *Gates) pass(ctx context.Context, name string) error {
	return g.signal.await(ctx, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.open[name]
	})
}
