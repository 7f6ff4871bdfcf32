package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// server allows so many connections.
type server struct {
	mu                   sync.Mutex // guards the following
	limit, open, refused int
	// trying and most count the attempts under way at once, after the first refusal.
	trying, most int
}

func (s *server) connect() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused > 0 {
		s.trying++
		s.most = max(s.most, s.trying)
		defer func() { s.trying-- }()
	}
	s.mu.Unlock()
	timing.Sleep(context.Background(), 10*time.Millisecond)
	s.mu.Lock()
	if s.open >= s.limit {
		s.refused++
		return fmt.Errorf("connect: %w", errors.Join(driver.ErrTooMany, driver.ErrLost))
	}
	s.open++
	return nil
}

// counts returns what has been counted, and changes the server then.
func (s *server) counts(change func(*server)) (refused, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refused, most = s.refused, s.most
	change(s)
	return refused, most
}

// TestQueue: while PostgreSQL allows fewer connections than there are databases, one at a time
// tries, one line says so, and as soon as it allows more, all connect.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		log := zap.New(core)
		var q Queue
		srv := &server{limit: 10}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var connected, told atomic.Int32
		for range 60 {
			go func() {
				if q.connect(ctx, log, func(string) { told.Add(1) }, srv.connect) == nil {
					connected.Add(1)
				}
			}()
			timing.Sleep(context.Background(), time.Millisecond) // they are found one after the other
		}
		timing.Sleep(context.Background(), 50*time.Second)
		synctest.Wait()
		require.EqualValues(t, 10, connected.Load())
		require.EqualValues(t, 50, told.Load(), "each says once that it waits")
		require.Equal(t, 1, logs.Len(), "one line says why")
		before, _ := srv.counts(func(s *server) { s.most = 0 })
		require.LessOrEqual(t, before, 30)
		timing.Sleep(context.Background(), time.Minute)
		refused, most := srv.counts(func(s *server) { s.limit = 30 })
		require.InDelta(t, 6, refused-before, 3, "the pause grows")
		require.Equal(t, 1, most, "one at a time tries")
		require.Equal(t, 2, logs.Len(), "one line a minute")
		require.EqualValues(t, 50, logs.All()[1].ContextMap()["waiting"])

		timing.Sleep(context.Background(), 15*time.Second)
		synctest.Wait()
		require.EqualValues(t, 30, connected.Load())
		require.True(t, q.full, "the others wait")
		require.Zero(t, logs.FilterMessage("PostgreSQL allows enough connections again").Len())
		srv.counts(func(s *server) { s.limit = 61 })
		timing.Sleep(context.Background(), 15*time.Second)
		synctest.Wait()
		require.EqualValues(t, 60, connected.Load())
		require.False(t, q.full)
		require.Equal(t, "PostgreSQL allows enough connections again", logs.All()[2].Message)
		require.NoError(t, q.connect(ctx, log, nil, srv.connect), "the next one need not wait")
	})
}

// TestQueueIsLeftInBetween: who is not the first may give up, too, and the others go on waiting.
func TestQueueIsLeftInBetween(t *testing.T) {
	t.Parallel()
	var q Queue
	turns := make([]chan struct{}, 3)
	for i := range turns {
		turns[i], _ = q.refused(driver.ErrTooMany)
	}
	q.leave(turns[1])
	require.Equal(t, []chan struct{}{turns[0], turns[2]}, q.waiting)
	require.True(t, q.full)
	q.leave(turns[0])
	require.True(t, q.full)
	<-turns[2] // it is its turn
	q.leave(turns[2])
	require.False(t, q.full)
}

// TestQueueReminds: once a minute.
func TestQueueReminds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.WarnLevel)
		var q Queue
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{0, 1}, {queueReminder - 1, 1}, {1, 2}, {1, 2}} {
			timing.Sleep(context.Background(), c.after)
			q.remind(zap.New(core))
			require.Equal(t, c.want, logs.Len())
		}
	})
}

// TestQueueIsLeft: whoever gives up gives his turn away, and another error is no refusal.
func TestQueueIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		log, waits := zap.NewNop(), func(string) {}
		full := fmt.Errorf("%w: full", driver.ErrTooMany)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan error)
		go func() { first <- q.connect(ctx, log, waits, func() error { return full }) }()
		synctest.Wait()
		broken := errors.New("broken")
		go func() { second <- q.connect(t.Context(), log, waits, func() error { return broken }) }()
		synctest.Wait()
		require.Len(t, q.waiting, 2)
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		require.ErrorIs(t, <-second, broken)
		require.Empty(t, q.waiting)
		require.False(t, q.full)
		require.ErrorIs(t, (*Queue)(nil).connect(t.Context(), log, waits, func() error { return full }), driver.ErrTooMany)
	})
}
