package supervisor

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
)

// memory is a storage with one document, which can be out of order.
type memory struct {
	certmagic.Storage
	mu   sync.Mutex // guards the following
	doc  []byte
	err  error
	hang chan struct{}
}

func (m *memory) Load(context.Context, string) ([]byte, error) {
	if m.hang != nil {
		<-m.hang
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if m.doc == nil {
		return nil, fs.ErrNotExist
	}
	return m.doc, nil
}

func (m *memory) Store(_ context.Context, _ string, doc []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.doc = doc
	}
	return m.err
}

// repair brings the storage back.
func (m *memory) repair() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = nil
}

func (m *memory) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return string(m.doc)
}

// obedient is an engine that remembers what it was told.
type obedient struct {
	operated
	mu  sync.Mutex // guards the following
	now runner.Controls
}

func (o *obedient) Control(_ context.Context, c runner.Controls) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = c
	return nil
}

func (o *obedient) told() runner.Controls {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func TestControlsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{}
		core, logs := observer.New(zap.WarnLevel)
		first, second := &obedient{}, &obedient{}
		r := newRunner("default", first, store, zap.New(core))
		defer r.stop()
		pause := runner.Pause{Channel: "root.mail", Until: time.Now().Add(time.Hour).UTC(), By: "operator", Note: "x"}
		set := func(c runner.Controls) runner.Controls {
			return c.WithPause(pause).WithDrain(runner.Drain{Upstream: "http://a"})
		}
		unsaved, err := r.Order(t.Context(), set)
		require.NoError(t, errors.Join(unsaved, err))
		require.Len(t, first.told().Pauses, 1)

		// Another node reads the same, and hears of changes.
		other := newRunner("default", second, store, zap.New(core))
		defer other.stop()
		require.Equal(t, first.told(), second.told())
		_, err = r.Order(t.Context(), func(c runner.Controls) runner.Controls {
			c, _ = c.WithoutPause(pause)
			return c
		})
		require.NoError(t, err)
		<-time.After(2 * controlsInterval) // the bubble's time
		require.Empty(t, second.told().Pauses)
		require.Len(t, second.told().Drains, 1)

		// A storage that is down, or corrupt, changes nothing, and is told once.
		for _, broken := range []*memory{{err: errors.New("down")}, {doc: []byte("{")}} {
			other.use(&Member{Storage: broken, Config: runner.Config{Logger: zap.New(core)}})
			<-time.After(5 * controlsInterval)
			require.Len(t, second.told().Drains, 1)
		}
		require.Equal(t, 2, logs.Len())

		// What could not be stored is in force, and stored later.
		down := &memory{err: errors.New("down")}
		r.use(&Member{Storage: down, Config: runner.Config{Logger: zap.New(core)}})
		unsaved, err = r.Order(t.Context(), set)
		require.NoError(t, err)
		require.Error(t, unsaved)
		require.Len(t, first.told().Pauses, 1)
		<-time.After(2 * controlsInterval)
		require.Len(t, first.told().Pauses, 1)
		down.repair()
		<-time.After(2 * controlsInterval)
		require.Contains(t, down.text(), "root.mail")
	})
}

// TestStorageThatHangs: jobs do not wait for it.
func TestStorageThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memory{hang: make(chan struct{})}
		began := time.Now()
		r := newRunner("default", &obedient{}, store, zap.NewNop())
		require.Equal(t, controlsTimeout, time.Since(began))
		r.stop()
		close(store.hang)
	})
}
