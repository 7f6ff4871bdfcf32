// Package fakerunner has runners of which tests decide what they do: a recorder of what the supervisor
// does with them, and one that the surfaces can ask and operate.
package fakerunner

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/caddy-jobrunner/caddy-jobrunner/internal/supervisor"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// Recorder makes fake engines and writes down what happens to them.
type Recorder struct {
	mu      sync.Mutex
	events  []string
	configs map[string]runner.Config // the last one seen, by runner
	started int

	// FailReconfigure is what Reconfigure returns, PanicIn the method that panics.
	FailReconfigure error
	PanicIn         string
	// Hold, if set, keeps Stop until it is closed. Stops gets one element for each Stop that
	// returned.
	Hold, Stops chan struct{}
}

// NewRecorder returns a recorder that has seen nothing.
func NewRecorder() *Recorder {
	return &Recorder{configs: make(map[string]runner.Config), Stops: make(chan struct{}, 1000)}
}

// New makes a fake engine.
func (r *Recorder) New(cfg runner.Config) (supervisor.Engine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.configs[cfg.Name] = cfg
	if r.PanicIn == "new" {
		panic("new")
	}
	return &recorded{rec: r, cfg: cfg}, nil
}

// Take returns the events since the last call.
func (r *Recorder) Take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}

func (r *Recorder) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

// Set changes the recorder while it is used.
func (r *Recorder) Set(f func(*Recorder)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// panics panics if it has been told to in this method.
func (r *Recorder) panics(method string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.PanicIn == method {
		panic(method)
	}
}

// Config returns the last configuration of a runner.
func (r *Recorder) Config(name string) runner.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.configs[name]
}

// recorded writes down what happens to it.
type recorded struct {
	rec *Recorder
	cfg runner.Config
	id  int
}

// describe shows what the tests change of a configuration.
func describe(cfg runner.Config) string {
	words := []string{cfg.Name}
	for _, c := range cfg.Channels {
		words = append(words, fmt.Sprintf("%s:%d", c.Name, c.Capacity))
	}
	return strings.Join(words, " ")
}

func (e *recorded) Start() {
	e.rec.Set(func(r *Recorder) {
		r.started++
		e.id = r.started
	})
	e.rec.add("start %d: %s", e.id, describe(e.cfg))
	e.rec.panics("start")
}

func (e *recorded) Reconfigure(cfg runner.Config) error {
	e.rec.panics("reconfigure")
	var err error
	e.rec.Set(func(r *Recorder) {
		if err = r.FailReconfigure; err == nil {
			r.configs[cfg.Name] = cfg
		}
	})
	if err == nil {
		e.rec.add("reconfigure %d: %s", e.id, describe(cfg))
	}
	return err
}

func (e *recorded) Stop(ctx context.Context) error {
	how := "at once"
	if ctx.Err() == nil {
		how = "waiting"
	}
	e.rec.add("stop %d %s", e.id, how)
	if e.rec.Hold != nil {
		<-e.rec.Hold
	}
	e.rec.Stops <- struct{}{}
	e.rec.panics("stop")
	return nil
}

// Configs is the number of runners of which the recorder has seen a configuration.
func (r *Recorder) Configs() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.configs)
}

// Wait waits for a number of engines to have stopped.
func (r *Recorder) Wait(n int) {
	for range n {
		<-r.Stops
	}
}
