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
				if q.connect(ctx, log, new(turn), func(string) { told.Add(1) }, srv.connect) == nil {
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
		last := logs.All()[logs.Len()-1] // the minute may have been over before
		require.Equal(t, "PostgreSQL allows enough connections again", last.Message)
		require.NoError(t, q.connect(ctx, log, new(turn), nil, srv.connect), "the next one need not wait")
	})
}

// TestQueueIsLeftInBetween: one that is not the first may give up, too, and the others go on waiting.
func TestQueueIsLeftInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		var free atomic.Bool
		open := func() error {
			if free.Load() {
				return nil
			}
			return driver.ErrTooMany
		}
		ctx, cancel := context.WithCancel(t.Context())
		ends := make([]chan error, 3)
		for i, ctx := range []context.Context{t.Context(), ctx, t.Context()} {
			ends[i] = make(chan error, 1)
			go func() { ends[i] <- q.connect(ctx, zap.NewNop(), new(turn), func(string) {}, open) }()
			synctest.Wait()
		}
		require.Equal(t, 3, q.Pressure().Waiting)
		cancel()
		require.ErrorIs(t, <-ends[1], context.Canceled)
		require.Equal(t, 2, q.Pressure().Waiting)
		free.Store(true)
		require.NoError(t, <-ends[0])
		require.NoError(t, <-ends[2])
		require.Zero(t, q.Pressure().Waiting)
	})
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
		go func() { first <- q.connect(ctx, log, new(turn), waits, func() error { return full }) }()
		synctest.Wait()
		broken := errors.New("broken")
		go func() { second <- q.connect(t.Context(), log, new(turn), waits, func() error { return broken }) }()
		synctest.Wait()
		require.Equal(t, 2, q.Pressure().Waiting)
		require.Equal(t, 2, q.Pressure().Over(), "what is given up would help them")
		require.NotEmpty(t, q.Pressure().Refused)
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		require.ErrorIs(t, <-second, broken)
		require.Zero(t, q.Pressure())
		require.ErrorIs(t, (*Queue)(nil).connect(t.Context(), log, new(turn), waits, func() error { return full }), driver.ErrTooMany)
		require.Panics(t, func() {
			_ = q.connect(t.Context(), log, new(turn), waits, func() error { panic("driver") })
		})
		require.Zero(t, q.Pressure(), "what was for the one that panicked is free")
	})
}

// TestQueueLimit: no more connect than are allowed, the most urgent first; a line says so only once
// one has waited for long, and not more often than once a minute.
func TestQueueLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zapcore.InfoLevel)
		log := zap.New(core)
		pressed := 0
		q := Queue{Pressed: func() { pressed++ }}
		q.Limit(3, "so many are allowed")
		srv := &server{limit: 100}
		connected := make(chan int, 10)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		turns := make([]turn, 8)
		var told atomic.Int32
		for i := range turns {
			turns[i].urgency = Unknown
			go func() {
				if q.connect(ctx, log, &turns[i], func(why string) {
					if why == "so many are allowed" {
						told.Add(1)
					}
				}, srv.connect) == nil {
					connected <- i
				}
			}()
			synctest.Wait()
		}
		timing.Sleep(t.Context(), 50*time.Second)
		require.Len(t, connected, 3)
		require.EqualValues(t, 5, told.Load())
		require.Equal(t, 5, pressed)
		require.Equal(t, Pressure{Limit: 3, Held: 3, Waiting: 5, Longest: 50 * time.Second, Needy: 5, Stuck: 50 * time.Second}, q.Pressure())
		require.Equal(t, 5, q.Pressure().Over())
		q.Remind(log)
		require.Zero(t, logs.Len(), "they have not waited for long")
		for range 3 {
			timing.Sleep(t.Context(), 20*time.Second)
			q.Remind(log)
		}
		require.Equal(t, 1, logs.Len(), "one line a minute")

		q.raise(&turns[6], Pressing)
		q.raise(&turns[3], Routine)
		for range 3 {
			<-connected
		}
		for _, i := range []int{6, 4, 5, 7, 3} {
			q.release()
			require.Equal(t, i, <-connected)
		}
		require.Zero(t, q.Pressure().Over())
		q.Limit(2, "fewer")
		require.Equal(t, 1, q.Pressure().Over())
		q.Limit(0, "")
		require.Zero(t, q.Pressure().Over())
		require.NoError(t, q.connect(ctx, log, new(turn), nil, srv.connect))
	})
}

// TestQueueIsPaced: a start with many databases is no storm, without any limit, too.
func TestQueueIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		srv := &server{limit: 1000, refused: 1} // so that it counts
		for range 100 {
			go func() { _ = q.connect(t.Context(), zap.NewNop(), new(turn), func(string) {}, srv.connect) }()
		}
		timing.Sleep(t.Context(), time.Second)
		_, most := srv.counts(func(*server) {})
		require.Equal(t, tryLimit, most)
		require.Equal(t, 100, q.Pressure().Held)
	})
}

// TestQueueOrder: whose jobs wait goes first, and those of which nothing is known have every other turn
// once they have waited for long.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		q.Limit(1, "one")
		connected := make(chan string, 1)
		enter := func(name string, u Urgency) {
			turn := &turn{urgency: u}
			go func() {
				if q.connect(t.Context(), zap.NewNop(), turn, func(string) {}, func() error { return nil }) == nil {
					connected <- name
				}
			}()
			synctest.Wait()
		}
		enter("first", Routine)
		enter("r1", Routine)
		for _, name := range []string{"u1", "u2", "u3"} {
			enter(name, Unknown)
		}
		enter("p1", Pressing)
		enter("p2", Pressing)
		order := func(want ...string) {
			t.Helper()
			for _, name := range want {
				<-connected
				q.release()
				synctest.Wait()
				require.Equal(t, name, <-connected)
				connected <- name
			}
		}
		order("p1", "p2")
		enter("p3", Pressing)
		timing.Sleep(t.Context(), 5*time.Second)
		order("p3")
		enter("p3", Pressing)
		timing.Sleep(t.Context(), 1)
		order("u1", "p3", "u2")
		enter("p4", Pressing)
		enter("p5", Pressing)
		order("p4", "u3", "p5")
		timing.Sleep(t.Context(), routineStart)
		enter("u4", Unknown)
		enter("p6", Pressing)
		order("r1", "p6", "u4")
		<-connected
		q.release()
	})
}

// TestPressure: how many connections are missing, or free, follows from what is held and what waits; while
// PostgreSQL refuses, none is free.
func TestPressure(t *testing.T) {
	for _, c := range []struct {
		p          Pressure
		over, free int
	}{
		{Pressure{}, 0, -1},
		{Pressure{Held: 5, Waiting: 2}, 0, -1},
		{Pressure{Limit: 8, Held: 5}, 0, 3},
		{Pressure{Limit: 8, Held: 5, Waiting: 2}, 0, 1},
		{Pressure{Limit: 8, Held: 5, Waiting: 3}, 0, 0},
		{Pressure{Limit: 8, Held: 5, Waiting: 5}, 2, 0},
		{Pressure{Limit: 4, Held: 5}, 1, 0},
		{Pressure{Limit: 8, Held: 1, Waiting: 2, Refused: "full"}, 2, 0},
		{Pressure{Held: 1, Refused: "full"}, 0, 0},
	} {
		require.Equal(t, c.over, c.p.Over(), "%+v", c.p)
		require.Equal(t, c.free, c.p.Free(), "%+v", c.p)
	}
}

// TestQueueAfterARefusal: what is released is had at once, also during the pause after a refusal.
func TestQueueAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		require.False(t, q.crowded())
		require.False(t, (*Queue)(nil).crowded())
		(*Queue)(nil).release()
		require.NoError(t, q.connect(t.Context(), zap.NewNop(), new(turn), nil, func() error { return nil }))
		srv := &server{limit: 0}
		waits := make(chan error, 2)
		for range 2 {
			go func() { waits <- q.connect(t.Context(), zap.NewNop(), new(turn), func(string) {}, srv.connect) }()
			timing.Sleep(t.Context(), 50*time.Millisecond)
		}
		refused, _ := srv.counts(func(s *server) { s.limit = 2 })
		require.Equal(t, 1, refused, "the second does not try during the pause")
		require.True(t, q.crowded())
		require.Equal(t, 1, q.Pressure().Held)
		began := time.Now()
		q.release()
		require.NoError(t, <-waits)
		require.Less(t, time.Since(began), queueFirst/4)
		require.NoError(t, <-waits, "and then the next one")
		require.Less(t, time.Since(began), queueFirst/4)
		require.Empty(t, q.Pressure().Refused)
	})
}

// TestQueueRemindsOfALimit: once a minute, if one has waited for a minute, and no connection is free.
func TestQueueRemindsOfALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			limit, held int
			waited      time.Duration
			said        bool
		}{
			"a minute":    {2, 2, queueReminder, true},
			"more":        {2, 3, time.Hour, true},
			"less":        {2, 2, queueReminder - 1, false},
			"one is free": {3, 2, time.Hour, false},
			"no limit":    {0, 2, time.Hour, false},
		} {
			core, logs := observer.New(zapcore.WarnLevel)
			q := Queue{limit: c.limit, held: c.held}
			q.lines[Routine] = []*turn{{since: time.Now().Add(-c.waited)}}
			q.Remind(zap.New(core))
			require.Equal(t, c.said, logs.Len() == 1, name)
			if !c.said {
				continue
			}
			timing.Sleep(t.Context(), queueReminder-1)
			q.Remind(zap.New(core))
			require.Equal(t, 1, logs.Len())
			timing.Sleep(t.Context(), 1)
			q.Remind(zap.New(core))
			require.Equal(t, 2, logs.Len())
		}
	})
}

// Who leaves the line in the moment in which it was granted a connection gives that back.
func TestQueueIsLeftInTheLastMoment(t *testing.T) {
	q := &Queue{}
	q.Limit(1, "one")
	late, next := &turn{blocked: make(chan string, 1)}, &turn{blocked: make(chan string, 1)}
	q.enter(late, true)
	q.enter(next, true)
	require.Equal(t, 1, q.Pressure().Held)
	q.leave(late)
	<-next.ready
	require.Equal(t, 1, q.held)
	require.Equal(t, 1, q.trying)
	q.leave(next)
	require.Zero(t, q.held)
	require.Zero(t, q.trying)
}

// Who is said to be as urgent as before keeps its place, and who does not wait need not.
func TestUrgencyThatStays(t *testing.T) {
	q := &Queue{}
	q.Limit(1, "one")
	turns := make([]*turn, 3)
	for i := range turns {
		turns[i] = &turn{blocked: make(chan string, 1)}
		q.enter(turns[i], true)
	}
	q.raise(turns[1], Routine)
	require.Equal(t, []*turn{turns[1], turns[2]}, q.lines[Routine])
	q.raise(turns[0], Pressing) // it has its connection
	require.Empty(t, q.lines[Pressing])
	q.raise(turns[2], Pressing)
	require.Equal(t, []*turn{turns[1]}, q.lines[Routine])
	require.Equal(t, []*turn{turns[2]}, q.lines[Pressing])
}

// Who waits only until others have connected is not told that no connection is free.
func TestWaitingForATryIsNotTold(t *testing.T) {
	q := &Queue{}
	q.Limit(tryLimit+2, "so many")
	turns := make([]*turn, tryLimit+1)
	for i := range turns {
		turns[i] = &turn{blocked: make(chan string, 1)}
		q.enter(turns[i], true)
	}
	require.Equal(t, 1, q.Pressure().Waiting)
	require.Empty(t, turns[tryLimit].blocked)
	q.Limit(tryLimit, "fewer")
	require.Equal(t, "fewer", <-turns[tryLimit].blocked)
}

// Those that may have something to do are stuck as long as only others connect.
func TestHowLongTheNeedyAreStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, u := range []Urgency{Routine, Unknown, Pressing} {
			q := &Queue{moved: time.Now().Add(-time.Hour)}
			q.enter(&turn{urgency: u, blocked: make(chan string, 1)}, true)
			require.Equal(t, u > Routine, time.Since(q.moved) == 0, u)
		}
	})
}
