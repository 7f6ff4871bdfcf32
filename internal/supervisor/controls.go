package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/history"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// controlsInterval is the time between two checks of what is stored, so that
	// an order given to one node is soon known to all that share the storage.
	controlsInterval = 2 * time.Second
	// controlsTimeout bounds one read or write. The storage may be anything.
	controlsTimeout = 2 * time.Second
	// ControlsLimit bounds the pauses, and the drains, of one runner. A stored file has no more than
	// controlsSize bytes, which suffice for as many with the longest names and notes.
	ControlsLimit = 1000
	controlsSize  = 4 << 20
)

// Operations is what a runner can be asked, and told, apart from pauses and drains.
// [runner.Runner] implements it, and says what the methods do.
type Operations interface {
	Status(ctx context.Context) (runner.Status, error)
	Tasks(ctx context.Context) ([]runner.TaskStatus, error)
	Coming(ctx context.Context, limit int) (list []channels.Coming, all bool, err error)
	Jobs(ctx context.Context, q runner.JobQuery) (runner.JobPage, error)
	Why(ctx context.Context, key channels.Key) (runner.Why, error)
	Job(ctx context.Context, key channels.Key) (runner.Why, error)
	Change(ctx context.Context, c runner.JobChange) (runner.ChangeResult, error)
	Resync(ctx context.Context, database string) (int, error)
}

// operated is an engine that can be operated.
type operated interface {
	Operations
	Control(ctx context.Context, c runner.Controls) error
}

var _ operated = (*runner.Runner)(nil)

// Runner is a runner at work that can be operated. It keeps what operators have ordered of it: in
// Caddy's storage, where it survives restarts and is seen by other nodes, and in the engine.
// Whatever is wrong with the storage, jobs are run.
type Runner struct {
	Operations

	engine operated
	name   string
	key    string
	cancel context.CancelFunc
	ended  chan struct{}
	// history is nil where nothing is remembered.
	history atomic.Pointer[history.Log]
	// outages say since when jobs wait that are in no queue.
	outages outages

	mu      sync.Mutex // guards the following
	storage certmagic.Storage
	log     *zap.Logger
	now     runner.Controls
	// failsOn is the health from which on the runner does not count as ready.
	failsOn runner.Health
	// config is the configuration in force.
	config runner.Config
	// backlogs are samples of what waited.
	backlogs []Backlog
	// unsaved is set while now is newer than what is stored.
	unsaved bool
	// complaint is what was logged last.
	complaint string
}

// document is what is stored. It is read by other nodes, which may run another version.
type document struct {
	Pauses []pause `json:"pauses"`
	Drains []drain `json:"drains"`
}

// pause and drain have the fields of [runner.Pause] and [runner.Drain], so that they can be
// converted.
type pause struct {
	Database string    `json:"database,omitempty"`
	Channel  string    `json:"channel,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Since    time.Time `json:"since,omitzero"`
	By       string    `json:"by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

type drain struct {
	Upstream string    `json:"upstream"`
	Since    time.Time `json:"since,omitzero"`
	By       string    `json:"by,omitempty"`
	Note     string    `json:"note,omitempty"`
}

// newRunner loads what is stored, so that the engine starts with it, and checks it from then on
// until stop is called.
func newRunner(name string, engine operated, storage certmagic.Storage, log *zap.Logger) *Runner {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Runner{
		Operations: engine, engine: engine, name: name, outages: outages{by: make(map[string]*outage)}, failsOn: runner.NotReady, key: "jobrunner/" + name + "/controls.json",
		cancel: cancel, ended: make(chan struct{}), storage: storage, log: log,
	}
	r.sync(ctx)
	observed.set(name, r)
	go r.run(ctx)
	return r
}

// use makes another configuration's storage, logger and idea of readiness the ones in use.
func (r *Runner) use(m *Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.storage, r.log, r.failsOn, r.config = m.Storage, m.Config.Logger, m.failsOn(), m.Config
}

// Config is the configuration in force.
func (r *Runner) Config() runner.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config
}

func (r *Runner) remember(l *history.Log) { r.history.Store(l) }

// History is what is remembered of the jobs; nil where the configuration switches that off.
func (r *Runner) History() *history.Log { return r.history.Load() }

func (r *Runner) stop() {
	observed.drop(r.name, r)
	r.cancel()
	<-r.ended
}

func (r *Runner) run(ctx context.Context) {
	defer close(r.ended)
	ticker := time.NewTicker(controlsInterval)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ticker.C:
			_ = guard.Call(func() error { r.sync(ctx); return nil })
			if n%int(backlogInterval/controlsInterval) == 0 {
				_ = guard.Call(func() error { r.sample(ctx); return nil })
			}
		case <-ctx.Done():
			return
		}
	}
}

// sync brings storage, memory and engine together.
func (r *Runner) sync(ctx context.Context) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.unsaved {
		if err = r.save(ctx, r.now); err == nil {
			r.unsaved = false
		}
	} else {
		var stored runner.Controls
		if stored, err = r.load(ctx); err == nil {
			r.now = stored
		}
	}
	r.complain(err)
	// Also when nothing has changed: the engine may have been made anew.
	if err := r.engine.Control(ctx, r.now); err != nil && !errors.Is(err, runner.ErrStopped) && ctx.Err() == nil {
		r.log.Warn("pauses and drains could not be put into force", zap.Error(err))
	}
}

// elected brings what is stored into force when this process becomes the leader of
// a runner, before it starts anything: an order given to the leader before it died
// may be younger than the last check.
func elected(ctx context.Context, name string) {
	if r := Runners(ctx)[name]; r != nil {
		_ = guard.Call(func() error { r.sync(ctx); return nil })
	}
}

// complain logs a problem with the storage once.
func (r *Runner) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != r.complaint {
		r.log.Error("the storage of pauses and drains cannot be used now, going on with what is known", zap.Error(err))
	}
	r.complaint = text
}

// Order changes what operators have ordered: it puts what f returns into force and stores it. A
// problem with the storage is unsaved, and storing is tried again; the change is in force all the
// same. With err nothing has changed.
func (r *Runner) Order(ctx context.Context, f func(runner.Controls) runner.Controls) (unsaved error, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.unsaved {
		// Another node may have stored something meanwhile.
		if stored, err := r.load(ctx); err == nil {
			r.now = stored
		}
	}
	next := f(r.now).At(time.Now())
	if err := r.engine.Control(ctx, next); err != nil {
		return nil, err
	}
	r.now = next
	unsaved = r.save(ctx, next)
	r.unsaved = unsaved != nil
	r.complain(unsaved)
	return unsaved, nil
}

func (r *Runner) load(ctx context.Context) (runner.Controls, error) {
	var c runner.Controls
	storage := r.storage
	raw, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return storage.Load(ctx, r.key) })
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("load %s: %w", r.key, err)
	}
	if len(raw) > controlsSize {
		return c, fmt.Errorf("load %s: it has %d bytes, more than %d", r.key, len(raw), controlsSize)
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return c, fmt.Errorf("load %s: %w", r.key, err)
	}
	for _, p := range doc.Pauses[:min(len(doc.Pauses), ControlsLimit)] {
		c = c.WithPause(runner.Pause(p))
	}
	for _, d := range doc.Drains[:min(len(doc.Drains), ControlsLimit)] {
		c = c.WithDrain(runner.Drain(d))
	}
	return c.At(time.Now()), nil
}

func (r *Runner) save(ctx context.Context, c runner.Controls) error {
	doc := document{Pauses: make([]pause, 0, len(c.Pauses)), Drains: make([]drain, 0, len(c.Drains))}
	for _, p := range c.Pauses {
		doc.Pauses = append(doc.Pauses, pause(p))
	}
	for _, d := range c.Drains {
		doc.Drains = append(doc.Drains, drain(d))
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("store %s: %w", r.key, err)
	}
	storage := r.storage
	_, err = bounded(ctx, func(ctx context.Context) ([]byte, error) { return nil, storage.Store(ctx, r.key, raw) })
	if err != nil {
		return fmt.Errorf("store %s: %w", r.key, err)
	}
	return nil
}

// bounded runs f and does not wait for it longer than controlsTimeout: a storage
// module may ignore the context.
func bounded(ctx context.Context, f func(context.Context) ([]byte, error)) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, controlsTimeout, fmt.Errorf("no answer within %s", controlsTimeout))
	defer cancel()
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = guard.Call(func() (err error) {
			r.raw, err = f(ctx)
			return err
		})
		done <- r
	}()
	select {
	case r := <-done:
		return r.raw, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
