package session

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// drowsy is a database that can sleep. looked is called between its two looks, and rest is what it
// then finds.
type drowsy struct {
	script

	looked func()
	rest   driver.Rest
	err    error
	closed bool
}

func (d *drowsy) OpenSession(context.Context, *pgx.ConnConfig, string) (driver.Session, error) {
	return d, nil
}

func (d *drowsy) Close(context.Context) error {
	d.closed = true
	return nil
}

func (d *drowsy) Sleep(_ context.Context, soon time.Duration, _ []string) (driver.Rest, error) {
	if d.looked != nil {
		d.looked()
	}
	if soon != SleepHorizon {
		return driver.Rest{}, errors.New("another horizon")
	}
	return d.rest, d.err
}

// sleeper is a listener that notes whether the session sleeps.
type sleeper struct {
	clerk

	asleep, awake int
	rest          driver.Rest
	told          func()
}

func (l *sleeper) Asleep(r driver.Rest) {
	l.asleep, l.rest = l.asleep+1, r
	if l.told != nil {
		l.told()
	}
}
func (l *sleeper) Awake()              { l.awake++ }
func (l *sleeper) State(State, string) {}

// TestSleep: a session ends if there is nothing to do, and says so when its connection is closed and
// free for another one; whatever there is to do has it go on.
func TestSleep(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(d *drowsy, s *Session, notify func())
		asleep bool
	}{
		"nothing to do":            {func(*drowsy, *Session, func()) {}, true},
		"a job is there":           {func(d *drowsy, _ *Session, _ func()) { d.rest.Busy = true }, false},
		"a notification meanwhile": {func(d *drowsy, _ *Session, notify func()) { d.looked = notify }, false},
		"an order meanwhile":       {func(d *drowsy, s *Session, _ func()) { d.looked = func() { s.Read("a") } }, false},
		"an echo is awaited":       {func(_ *drowsy, s *Session, _ func()) { s.echoSince = time.Now() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, out, q := &drowsy{rest: driver.Rest{Writes: driver.Writes{Rows: 7}}}, &sleeper{}, &Queue{}
				notified := make(chan struct{}, 1)
				d.wait = func(ctx context.Context) (driver.Notifications, error) {
					select {
					case <-notified:
						return driver.Notifications{Changed: []string{"a"}}, nil
					case <-ctx.Done():
						select {
						case <-notified:
							return driver.Notifications{Changed: []string{"a"}}, nil
						default:
							return driver.Notifications{}, nil
						}
					}
				}
				s := New("prod", func() Config {
					return Config{Driver: d, Queue: q, DiscoverInterval: time.Hour, Logger: zap.NewNop()}
				}, out)
				out.told = func() {
					require.True(t, d.closed)
					require.Zero(t, q.Pressure().Held)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan struct{})
				go func() {
					s.Run(ctx)
					close(done)
				}()
				synctest.Wait()
				require.Equal(t, 1, q.Pressure().Held)
				c.set(d, s, func() { notified <- struct{}{} })
				s.Sleep(nil)
				timing.Sleep(t.Context(), time.Millisecond)
				synctest.Wait()
				if c.asleep {
					<-done
					require.Equal(t, 1, out.asleep)
					require.Equal(t, d.rest, out.rest)
					return
				}
				require.Zero(t, out.asleep)
				require.Equal(t, 1, out.awake)
				require.False(t, d.closed)
			})
		})
	}
}

// TestOccupied: whatever is left to do keeps a session awake.
func TestOccupied(t *testing.T) {
	for name, set := range map[string]func(*Session){
		"nothing":                   func(*Session) {},
		"an order":                  func(s *Session) { s.Read("a") },
		"a job to be read":          func(s *Session) { s.dirty.add("a") },
		"more jobs than are kept":   func(s *Session) { s.overflow = true },
		"channels to be read":       func(s *Session) { s.reload = true },
		"jobs that wait for others": func(s *Session) { s.dependents = make([]dependents, 1) },
		"an echo":                   func(s *Session) { s.echoSince = time.Now() },
		"a job that will be read soon": func(s *Session) {
			s.foreseen.claimed("a")
			s.foreseen.wait("a", time.Now())
		},
	} {
		_, s := faultyOf(&sleeper{}, nil)
		set(s)
		require.Equal(t, name != "nothing", s.occupied(), name)
	}
}

// TestSleepFails: a look that fails ends the connection, as whatever fails does, and a driver that
// cannot look keeps it.
func TestSleepFails(t *testing.T) {
	failed := errors.New("failed")
	d, out := &drowsy{err: failed}, &sleeper{}
	_, s := faultyOf(out, nil)
	s.conn = d
	require.ErrorIs(t, s.sleep(t.Context(), nil), failed)
	require.Zero(t, out.awake+out.asleep)
	s.conn = &faulty{}
	require.NoError(t, s.sleep(t.Context(), nil))
	require.Equal(t, 1, out.awake)
}

// TestLockPatience: a session that waits for a lock gives its connection up if others wait for one, and
// only then.
func TestLockPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &Queue{}
		d, s := faultyOf(&sleeper{}, nil)
		d.held = 1 << 30
		config := s.config()
		config.Queue = q
		s.config = func() Config { return config }
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		wait := func() { failed <- s.lock(ctx) }
		go wait()
		timing.Sleep(t.Context(), time.Minute)
		synctest.Wait()
		require.Empty(t, failed, "it waits as long as it takes")
		q.Limit(1, "one")
		require.NoError(t, q.connect(ctx, zap.NewNop(), new(turn), func(string) {}, func() error { return nil }))
		go func() { _ = q.connect(ctx, zap.NewNop(), new(turn), func(string) {}, func() error { return nil }) }()
		require.ErrorIs(t, <-failed, errCrowded)
		go wait()
		timing.Sleep(t.Context(), 10*time.Second-1)
		synctest.Wait()
		require.Empty(t, failed, "a lock may be free in a moment")
		require.ErrorIs(t, <-failed, errCrowded)
		cancel()
		synctest.Wait()
	})
}
