package jobrunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/api"
	"github.com/caddy-jobrunner/caddy-jobrunner/internal/guard"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

const (
	// controlsInterval is the time between two looks at what is stored, so that
	// an order given to one node is soon known to all that share the storage.
	controlsInterval = 2 * time.Second
	// controlsTimeout bounds one read or write. The storage may be anything.
	controlsTimeout = 2 * time.Second
)

// operated is what an engine that can be operated does, which is what a
// [runner.Runner] does.
type operated interface {
	Status(ctx context.Context) (runner.Status, error)
	Tasks(ctx context.Context) ([]runner.TaskStatus, error)
	Jobs(ctx context.Context, q runner.JobQuery) (runner.JobPage, error)
	Change(ctx context.Context, c runner.JobChange) (runner.ChangeResult, error)
	Control(ctx context.Context, c runner.Controls) error
	Resync(ctx context.Context, database string) (int, error)
	Why(ctx context.Context, key channels.Key) (runner.Why, error)
}

var _ operated = (*runner.Runner)(nil)

// keeper keeps what operators have ordered of one runner: in Caddy's storage,
// where it survives restarts and is seen by other nodes, and in the engine.
// Whatever is wrong with the storage, jobs are run.
type keeper struct {
	engine operated
	key    string
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards the following
	storage certmagic.Storage
	log     *zap.Logger
	now     runner.Controls
	// unsaved is set while now is newer than what is stored.
	unsaved bool
	// complaint is what was logged last.
	complaint string
}

// storedControls is the document in the storage.
type storedControls struct {
	Pauses []api.Pause `json:"pauses"`
	Drains []api.Drain `json:"drains"`
}

// newKeeper loads what is stored, so that the engine starts with it, and goes on
// to look until stop is called.
func newKeeper(name string, engine operated, storage certmagic.Storage, log *zap.Logger) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{
		engine: engine, key: "jobrunner/" + name + "/controls.json",
		cancel: cancel, ended: make(chan struct{}), storage: storage, log: log,
	}
	k.sync(ctx)
	go k.run(ctx)
	return k
}

// use makes another configuration's storage and logger the ones in use.
func (k *keeper) use(storage certmagic.Storage, log *zap.Logger) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.storage, k.log = storage, log
}

func (k *keeper) stop() {
	k.cancel()
	<-k.ended
}

func (k *keeper) run(ctx context.Context) {
	defer close(k.ended)
	ticker := time.NewTicker(controlsInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			_ = guard.Call(func() error { k.sync(ctx); return nil })
		case <-ctx.Done():
			return
		}
	}
}

// sync brings storage, memory and engine together.
func (k *keeper) sync(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var err error
	if k.unsaved {
		if err = k.save(ctx, k.now); err == nil {
			k.unsaved = false
		}
	} else {
		var stored runner.Controls
		if stored, err = k.load(ctx); err == nil {
			k.now = stored
		}
	}
	k.complain(err)
	// Also when nothing has changed: the engine may have been made anew.
	if err := k.engine.Control(ctx, k.now); err != nil && !errors.Is(err, runner.ErrStopped) && ctx.Err() == nil {
		k.log.Warn("pauses and drains could not be put into force", zap.Error(err))
	}
}

// elected brings what is stored into force when this process becomes the leader of
// a runner, before it starts anything: an order given to the leader before it died
// may be younger than the last look.
func elected(ctx context.Context, name string) {
	if k := snapshot(ctx)[name]; k != nil {
		_ = guard.Call(func() error { k.sync(ctx); return nil })
	}
}

// complain logs a problem with the storage once.
func (k *keeper) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.complaint {
		k.log.Error("the storage of pauses and drains is of no use now, going on with what is known", zap.Error(err))
	}
	k.complaint = text
}

// change applies a change to what is in force and stores it. A problem with the
// storage is told, and storing is tried again; the change is in force all the same.
func (k *keeper) change(ctx context.Context, f func(runner.Controls) runner.Controls) (unsaved error, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.unsaved {
		// Somebody may have ordered something on another node meanwhile.
		if stored, err := k.load(ctx); err == nil {
			k.now = stored
		}
	}
	next := f(k.now).At(time.Now())
	if err := k.engine.Control(ctx, next); err != nil {
		return nil, err
	}
	k.now = next
	unsaved = k.save(ctx, next)
	k.unsaved = unsaved != nil
	k.complain(unsaved)
	return unsaved, nil
}

func (k *keeper) load(ctx context.Context) (runner.Controls, error) {
	var c runner.Controls
	storage := k.storage
	raw, err := bounded(ctx, func(ctx context.Context) ([]byte, error) { return storage.Load(ctx, k.key) })
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("load %s: %w", k.key, err)
	}
	var doc storedControls
	if err := json.Unmarshal(raw, &doc); err != nil {
		return c, fmt.Errorf("load %s: %w", k.key, err)
	}
	for _, p := range doc.Pauses {
		c = c.WithPause(p.Order())
	}
	for _, d := range doc.Drains {
		c = c.WithDrain(runner.Drain{Upstream: d.Upstream, Since: d.Since, By: d.By, Note: d.Note})
	}
	return c.At(time.Now()), nil
}

func (k *keeper) save(ctx context.Context, c runner.Controls) error {
	raw, err := json.Marshal(storedControls{Pauses: api.NewPauses(c.Pauses), Drains: api.NewDrains(c.Drains)})
	if err != nil {
		return fmt.Errorf("store %s: %w", k.key, err)
	}
	storage := k.storage
	_, err = bounded(ctx, func(ctx context.Context) ([]byte, error) { return nil, storage.Store(ctx, k.key, raw) })
	if err != nil {
		return fmt.Errorf("store %s: %w", k.key, err)
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
