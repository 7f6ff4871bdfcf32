package session

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/internal/timing"
)

// deafened is a database behind a pooler. A snapshot takes so long, and begins at times; rival fails
// what writes.
type deafened struct {
	script

	mu       sync.Mutex // guards the following
	takes    time.Duration
	times    []time.Duration
	probed   []time.Duration
	examined int
	rival    error
	began    time.Time
}

func (d *deafened) Capabilities() driver.Capabilities { return driver.Capabilities{Poolers: true} }
func (d *deafened) Polls() bool                       { return true }

func (d *deafened) OpenPooled(_ context.Context, cfg *pgx.ConnConfig, _ string) (driver.Session, error) {
	if cfg.Host != "pooler" {
		return nil, fmt.Errorf("the way is %s", cfg.Host)
	}
	return d, nil
}

func (d *deafened) Fingerprint(context.Context) (driver.Fingerprint, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.examined++
	return driver.Fingerprint{Health: driver.Healthy}, nil
}

func (d *deafened) Snapshot(ctx context.Context, _ func(driver.Row)) error {
	d.mu.Lock()
	d.times = append(d.times, time.Since(d.began).Truncate(time.Millisecond))
	takes := d.takes
	d.mu.Unlock()
	timing.Sleep(ctx, takes)
	return nil
}

func (d *deafened) Probe(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.probed = append(d.probed, time.Since(d.began))
	return d.rival
}

// set changes what it does, and forgets what it was asked.
func (d *deafened) set(takes time.Duration, rival error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takes, d.rival, d.times, d.probed, d.examined = takes, rival, nil, nil, 0
	d.began = time.Now()
}

func (d *deafened) asked() (snapshots, probes []time.Duration, examined int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.times, d.probed, d.examined
}

// polling runs a session behind a pooler.
func polling(t *testing.T, d *deafened, out Listener, log *zap.Logger) (s *Session, end func()) {
	t.Helper()
	s = New("prod", func() Config {
		pooler := &pgx.ConnConfig{}
		pooler.Host = "pooler"
		return Config{Driver: d, Pooler: pooler, Poll: 5 * time.Second, DiscoverInterval: time.Hour, Logger: log}
	}, out)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	d.set(0, nil)
	go func() {
		s.Run(ctx)
		close(done)
	}()
	synctest.Wait()
	return s, func() { cancel(); <-done }
}

// TestPoll: a session that hears nothing reads all jobs every few seconds, sooner if something was
// written, and less often if that takes long; it is probed and examined all the same.
func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, out := &deafened{}, &clerk{}
		s, end := polling(t, d, out, zap.NewNop())
		defer end()
		pass := func(to time.Duration) {
			timing.Sleep(t.Context(), to)
			synctest.Wait()
		}
		d.set(0, nil)
		pass(21 * time.Second)
		times, probes, _ := d.asked()
		require.Equal(t, []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 20 * time.Second}, times)
		require.NotEmpty(t, probes, "reads do not take the place of probes")

		pass(4200 * time.Millisecond) // a read has just been
		d.set(0, nil)
		s.Written()
		s.Written()
		pass(time.Second)
		times, _, _ = d.asked()
		require.Len(t, times, 1)
		require.Equal(t, 300*time.Millisecond, times[0], "half a second after the one before")

		d.set(time.Second, nil)
		pass(6 * time.Second)
		d.set(time.Second, nil)
		s.Written()
		pass(13 * time.Second)
		times, _, _ = d.asked()
		require.Empty(t, times, "a read that takes long is not repeated at once, whatever is written")
		pass(10 * time.Second)
		times, _, _ = d.asked()
		require.Len(t, times, 1)

		d.set(0, nil)
		pass(6 * time.Minute)
		_, _, examined := d.asked()
		require.Equal(t, 1, examined, "reads do not take the place of examinations")
	})
}

// TestPollingSessionAwaitsNoEcho: its own claims are not announced to it.
func TestPollingSessionAwaitsNoEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, out := &deafened{}, &clerk{}
		s, end := polling(t, d, out, zap.NewNop())
		defer end()
		s.Claim("a")
		timing.Sleep(t.Context(), time.Minute)
		synctest.Wait()
		states, _ := out.seen()
		require.NotContains(t, states, Lost)
		require.Contains(t, out.heard(), "1 claimed, 0 missed, 0 gone")
	})
}

// TestRivalOfAPollingSession: it yields to another runner, says so, and comes back.
func TestRivalOfAPollingSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		d, out := &deafened{}, &clerk{}
		_, end := polling(t, d, out, zap.New(core))
		defer end()
		d.set(0, fmt.Errorf("%w: %w", driver.ErrLost, driver.ErrRival))
		timing.Sleep(t.Context(), 11*time.Second)
		synctest.Wait()
		states, _ := out.seen()
		require.Contains(t, states, Standby)
		require.NotContains(t, states, Lost)
		require.Equal(t, 1, logs.FilterMessageSnippet("this one yields").Len())
		d.set(0, nil)
		timing.Sleep(t.Context(), 11*time.Second)
		times, _, _ := d.asked()
		require.NotEmpty(t, times)
	})
}
