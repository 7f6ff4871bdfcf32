package runner_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-jobrunner/caddy-jobrunner/channels"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner"
	"github.com/caddy-jobrunner/caddy-jobrunner/runner/driver/mock"
)

// drowsing starts a runner whose database sleeps as soon as it may.
func (b *bench) drowsing(change func(*runner.Config)) (*runner.Runner, runner.Config) {
	b.AddDatabase("prod")
	b.LimitConnections(1000, 0)
	cfg := b.config("root:2,night:1")
	cfg.Hibernate = &runner.Hibernate{After: 10 * time.Second, Check: time.Hour}
	if change != nil {
		change(&cfg)
	}
	return b.start(cfg), cfg
}

// night is a job of that channel.
func night(j *mock.Job) { j.Channel = "root.night" }

// TestBarredJobsLetTheirDatabaseSleep: jobs that cannot start for long are no reason for a connection, and
// start at once when they can.
func TestBarredJobsLetTheirDatabaseSleep(t *testing.T) {
	until := func(d time.Duration) time.Time { return time.Now().Add(d) }
	for name, c := range map[string]struct {
		pause  func() runner.Pause
		sleeps bool // and the job does not run
	}{
		"a database":        {func() runner.Pause { return runner.Pause{Database: "prod"} }, true},
		"everything":        {func() runner.Pause { return runner.Pause{} }, true},
		"a channel":         {func() runner.Pause { return runner.Pause{Channel: "root.night"} }, true},
		"a channel above":   {func() runner.Pause { return runner.Pause{Channel: "root"} }, true},
		"another channel":   {func() runner.Pause { return runner.Pause{Channel: "root.day"} }, false},
		"another database":  {func() runner.Pause { return runner.Pause{Database: "other"} }, false},
		"not for long":      {func() runner.Pause { return runner.Pause{Database: "prod", Until: until(90 * time.Second)} }, false},
		"until it ends":     {func() runner.Pause { return runner.Pause{Database: "prod", Until: until(10 * time.Minute)} }, true},
		"a channel's until": {func() runner.Pause { return runner.Pause{Channel: "root.night", Until: until(10 * time.Minute)} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				r, _ := b.drowsing(nil)
				p := c.pause()
				b.control(r, p)
				key := b.one("prod", "a", night)
				b.settle(50 * time.Second)
				switch {
				case !c.sleeps && p.Until.IsZero():
					b.requireRanOnce(key)
					return
				case !c.sleeps:
					b.requireState(r, "prod", runner.DatabaseReady)
					return
				}
				b.requireState(r, "prod", runner.DatabaseAsleep)
				if p.Until.IsZero() {
					b.control(r)
				} else {
					b.settle(time.Until(p.Until) - 5*time.Second)
					require.Zero(b, b.started(key))
					b.requireState(r, "prod", runner.DatabaseReady)
					b.settle(5 * time.Second)
				}
				b.settle(2 * time.Second)
				b.requireRanOnce(key)
			})
		})
	}
}

// TestBarredByAWindow: a database sleeps until the window opens behind which its jobs wait.
func TestBarredByAWindow(t *testing.T) {
	inBubble(t, func(b *bench) {
		now := time.Now().UTC()
		opens := now.Truncate(time.Hour).Add(2 * time.Hour)
		closed := "0 daily 00:00-" + opens.Format("15:04") + " UTC"
		r, _ := b.drowsing(func(cfg *runner.Config) {
			cfg.Hibernate.Check = 24 * time.Hour
			cfg.Policies = b.window("root.night", closed)
		})
		key := b.one("prod", "a", night)
		b.settle(50 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		b.settle(time.Until(opens) - time.Second)
		require.Zero(b, b.started(key))
		b.settle(3 * time.Second)
		b.requireRanOnce(key)
	})
}

// TestBarredAndOthers: a job that can start has its database go on, or wakes it.
func TestBarredAndOthers(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, _ := b.drowsing(nil)
		b.control(r, runner.Pause{Channel: "root.night"})
		barred := b.one("prod", "a", night)
		b.settle(50 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		other := b.one("prod", "b")
		b.settle(5 * time.Second)
		b.requireRanOnce(other)
		b.settle(50 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)

		w, err := r.Why(b.Context(), barred)
		require.NoError(b, err)
		require.Equal(b, "database_asleep", w.Code)
		require.Contains(b, w.Text, "none of its jobs can start")
		b.settle(50 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		b.control(r, runner.Pause{Database: "prod"}, runner.Pause{Channel: "root.night"})
		b.settle(2 * time.Second)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		w, err = r.Why(b.Context(), barred)
		require.NoError(b, err)
		require.Equal(b, runner.WhyPausedDatabase, w.Code)
		b.requireState(r, "prod", runner.DatabaseAsleep)

		b.control(r)
		b.settle(2 * time.Second)
		b.requireRanOnce(barred)
	})
}

// TestBarredNoMore: another configuration wakes a database whose jobs can start by it.
func TestBarredNoMore(t *testing.T) {
	inBubble(t, func(b *bench) {
		var closed []channels.Config
		r, cfg := b.drowsing(func(cfg *runner.Config) {
			closed = slices.Clone(cfg.Channels)
			for i := range closed {
				closed[i].Paused = channels.Normalize(closed[i].Name) == "root.night"
			}
			cfg.Channels, closed = closed, cfg.Channels
		})
		key := b.one("prod", "a", night)
		b.settle(time.Minute)
		b.requireState(r, "prod", runner.DatabaseAsleep)
		require.Zero(b, b.started(key))
		cfg.Channels = closed
		require.NoError(b, r.Reconfigure(cfg))
		b.settle(2 * time.Second)
		b.requireRanOnce(key)
	})
}

// TestBarredNoMoreMeanwhile: a pause ends while a session looks for other jobs to do.
func TestBarredNoMoreMeanwhile(t *testing.T) {
	inBubble(t, func(b *bench) {
		r, _ := b.drowsing(nil)
		b.control(r, runner.Pause{Database: "prod"})
		key := b.one("prod", "a")
		ended := false
		b.BetweenLooks(func(string) {
			ended = true
			b.control(r)
		})
		b.settle(time.Minute)
		require.True(b, ended)
		b.requireRanOnce(key)
	})
}
